"""Writes the IGDS tables of README.md and benchmarks/README.md from the records in benchmarks/results/.

    python benchmarks/igds_tables.py
    python benchmarks/igds_tables.py --check     # exit code 1 if a table is not what the records say; writes nothing

Only what stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->` is replaced, NAME being `igds` in README.md and
`beta`, `estimator` and `guidance` in benchmarks/README.md.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tables import NO_RECORDS, Section, markdown, mean_and_spread, read, section_command, span

Record = dict[str, Any]

# One table holds records that agree in all of these.
CONDITIONS = ("dataset", "student", "protocol", "epochs", "rrc_scale", "mixed_precision", "epoch", "eval_split")
SAMPLING = ("scheduler", "sampling_steps", "fingerprints")
DATASETS = {"sample": "Embedded sample (Fashion-MNIST, 28 px, 4,000 images)", "cifar10": "CIFAR-10"}


def beta_section(results: Path) -> str:
    """All records of the sweeps, a table per dataset, IPC and tiles."""
    parts = []
    for dataset, title in DATASETS.items():
        records = read(results / f"beta_sweep_{dataset}.json")
        for ipc, tiles in sorted({(record["ipc"], record["tiles"]) for record in records}):
            members = [record for record in records if (record["ipc"], record["tiles"]) == (ipc, tiles)]
            packed = f", {tiles} tiles an image" if tiles > 1 else ""
            parts += [f"{title}, IPC {ipc}{packed}:", sweep_table(members, full=True), conditions_sentence(members)]
    return "\n\n".join(parts) or NO_RECORDS


def igds_section(results: Path) -> str:
    """The README's part: accuracies without packing, a table per dataset and IPC."""
    parts = []
    for dataset, title in DATASETS.items():
        records = [record for record in read(results / f"beta_sweep_{dataset}.json") if record["tiles"] == 1]
        records = [record for record in records if record.get("guide_on", "sample") == "sample"]
        for ipc in sorted({record["ipc"] for record in records}):
            members = [record for record in records if record["ipc"] == ipc]
            parts += [f"{title}, IPC {ipc}, accuracy in %:", sweep_table(members, full=False)]
        if records:
            parts.append(conditions_sentence(records))
    return "\n\n".join(parts) or NO_RECORDS


def sweep_table(records: Sequence[Record], full: bool) -> str:
    """Settings by label mode; with `full` also both estimates and what the teacher recognises."""
    check_conditions(records)
    modes = sorted({record["labels"] for record in records}, key=("hard", "views", "online").index)
    header = ["", *(f"`{mode}`" for mode in modes)]
    if full:
        header += ["log P(y given x)", "contextual score", "teacher on tiles %"]
    rows = []
    for setting in sorted({record["setting"] for record in records}, key=order_of):
        members = [record for record in records if record["setting"] == setting]
        cells = [[record for record in members if record["labels"] == mode] for mode in modes]
        row = [
            name_of(setting),
            *(mean_and_spread([100 * r["accuracy"] for r in cell]) if cell else "–" for cell in cells),
        ]
        if full:
            for key, scale, form in (("prototype", 1, ".2f"), ("contextual", 1, ".2f"), ("tile_accuracy", 100, ".0f")):
                row.append(format(scale * statistics.fmean(record[key] for record in members), form))
        rows.append(row)
    return markdown(header, rows)


def order_of(setting: str) -> tuple[int, str, float]:
    """Random images, the prior alone, then guided samples by what is guided and beta."""
    if not setting.startswith("beta"):
        return (0 if setting == "random" else 1, "", 0.0)
    beta, scale, guide_on = setting.split(", ")
    return (2, f"{guide_on} {scale}", float(beta.removeprefix("beta ")))


def name_of(setting: str) -> str:
    """A setting as a table shows it."""
    return {"random": "random real images", "guidance off": "prior alone"}.get(setting, setting)


def check_conditions(records: Sequence[Record]) -> None:
    """Raises ValueError if records of one table differ in a condition."""
    for name in (*CONDITIONS, *SAMPLING):
        found = sorted({repr(record.get(name)) for record in records})
        if len(found) > 1:
            raise ValueError(f"{name} must be the same in all records of a table. Got {', '.join(found)}.")


def conditions_sentence(records: Sequence[Record]) -> str:
    """How the records of a table were made."""
    check_conditions(records)
    one = records[0]
    counts: dict[tuple[Any, ...], int] = {}
    for record in records:
        key = record["setting"], record["ipc"], record["tiles"], record["labels"]
        counts[key] = counts.get(key, 0) + 1
    return (
        f"{one['sampling_steps']} {one['scheduler'].upper()} steps. Student {one['student']}, protocol "
        f"`{one['protocol']}` with {one['epochs']} epochs and rrc_scale {one['rrc_scale']:g}, {one['epoch']} epoch, "
        f"{one['mixed_precision']}. Teacher that labels: {span((100 * r['teacher_accuracy'] for r in records), '.1f')} "
        f"%. Mean ± standard deviation over seeds (their number, {span(counts.values())} here)."
    )


def estimator_section(results: Path) -> str:
    """Accuracy of estimators and their two estimates, by contextual weight and epochs."""
    records = read(results / "estimator.json")
    if not records:
        return NO_RECORDS
    rows = [
        [
            "lambda 0 (MoCo)" if not record["kl_weight"] else f"lambda {record['kl_weight']:g}, `{record['q_mode']}`",
            str(record["epochs"]),
            f"{100 * record['linear_accuracy']:.1f}",
            f"{100 * record['knn_accuracy']:.1f}",
            f"{record['prototype']:.3f}",
            f"{record['contextual']:.3f}",
        ]
        for record in sorted(records, key=lambda r: (r["epochs"], r["kl_weight"], str(r["q_mode"])))
    ]
    header = ["setting", "epochs", "linear %", "kNN %", "prototype information", "contextual score"]
    one = records[0]
    where = (
        f"{one['dataset']}, `{one['train_split']}`, encoder {one['encoder']}, batch {one['batch_size']}, one seed each."
    )
    return "\n\n".join([markdown(header, rows), where])


def guidance_section(results: Path) -> str:
    """Time and memory of guided over unguided sampling."""
    records = read(results / "guidance.json")
    rows = [
        [
            f"{record['prior']} with {record['estimator']}",
            f"`{record['guide_on']}`",
            f"{record['steps']} x {record['batch']}",
            f"{record['ratio']:.2f} ({min(record['ratios']):.2f} to {max(record['ratios']):.2f})",
            f"{record['unguided_memory']['peak_mb']:.0f}, {record['guided_memory']['peak_mb']:.0f}",
        ]
        for record in records
    ]
    header = [
        "prior and estimator",
        "guides on",
        "steps x images",
        "time, guided over unguided",
        "peak MB, un- and guided",
    ]
    return markdown(header, rows) if rows else NO_RECORDS


SECTIONS: list[Section] = [
    ("README.md", "igds", igds_section),
    ("benchmarks/README.md", "beta", beta_section),
    ("benchmarks/README.md", "estimator", estimator_section),
    ("benchmarks/README.md", "guidance", guidance_section),
]


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the tables, or compares them with the records."""
    return section_command(__doc__, SECTIONS, Path(__file__).name, argv)


if __name__ == "__main__":
    sys.exit(main())
