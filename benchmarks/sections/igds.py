"""IGDS: what guidance is worth to students, the estimators, and the schedulers that carry guidance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from decoct.config.data import HELD_OUT
from decoct.results.tables import percent
from sections.cells import (
    LABELS,
    NO_RECORDS,
    Columns,
    Record,
    accuracies,
    conditions,
    grouped,
    mean_of,
    read,
    row_each,
    same,
    span,
    table,
)

# The data of the sweeps over beta, and what stands in them beside guided samples.
SWEEPS = {"sample": "Embedded sample (Fashion-MNIST, 28 px, 4,000 images)", "cifar10": "CIFAR-10"}
CLASS_WEIGHT = ", classifier-free "  # in the names of sets whose prior weighs the class against none
UNGUIDED = {"random": "random real images", "infoutil": "InfoUtil, real images", "guidance off": "prior alone"}


# Guided samples


def igds_section(results: Path) -> str:
    """Accuracies without packing, guided on samples: a table per dataset and IPC."""
    parts = []
    for dataset, title in SWEEPS.items():
        records = [record for record in read(results / f"beta_sweep_{dataset}.json") if record["tiles"] == 1]
        records = [record for record in records if record.get("guide_on", "sample") == "sample"]
        for (ipc,), members in sorted(grouped(records, "ipc").items()):
            parts += [f"{title}, IPC {ipc}, accuracy in %:", guidance_table(members)]
        parts += [conditions(records)] if records else []
    return "\n\n".join(parts) or NO_RECORDS


def evidence_section(results: Path, name: str) -> str:
    """Guidance on one dataset: what its settings were chosen by, the final table, and the prior's samples."""
    parts = []
    records = read(results / f"{name}.json")
    tables = grouped(records, "eval_split", "ipc", "mixed_precision")
    for split, ipc, precision_of in sorted(tables, key=lambda each: (each[0] != HELD_OUT, *each[1:])):
        members = tables[split, ipc, precision_of]
        images = "validation images, which the settings are chosen by" if split == HELD_OUT else "test images"
        parts += [f"IPC {ipc}, accuracy in % on {images}:", guidance_table(members), conditions(members)]
    columns: Columns = {
        "images": lambda each: each["prior"],
        "classifier-free": lambda each: (
            f"{each.get('classifier_free_guidance_scale', 1):g}" if each["fingerprint"] else "–"
        ),
        "recognised %": lambda each: percent(each["recognised"]),
        "Frechet distance": lambda each: f"{each['frechet_distance']:.2f}",
    }
    measured = {record["dataset"] for record in records}
    if quality := [each for each in read(results / "prior_quality.json") if each["dataset"] in measured]:
        one = same(quality, "judge", "judge_accuracy", "per_class", "steps", "held_out_images")
        labels = one["judge"] in {record.get("teacher") for record in records}
        judge = "the teacher that labels" if labels else "a network with no part in the rest"
        parts += [
            "The prior, named by what it was trained on:",
            row_each(quality, columns),
            f"By {judge} ({percent(one['judge_accuracy'])} % on {one['held_out_images']:,} validation images), on "
            f"{one['per_class']} images a class; {one['steps']} DDIM steps, not guided.",
        ]
    return "\n\n".join(parts) or NO_RECORDS


def beta_section(results: Path) -> str:
    """All records of the sweeps with both estimates, a table per dataset, IPC and tiles."""
    parts = []
    for dataset, title in SWEEPS.items():
        records = read(results / f"beta_sweep_{dataset}.json")
        for (ipc, tiles), members in sorted(grouped(records, "ipc", "tiles").items()):
            packed = f", {tiles} tiles an image" if tiles > 1 else ""
            parts += [f"{title}, IPC {ipc}{packed}:", guidance_table(members, estimates=True), conditions(members)]
    return "\n\n".join(parts) or NO_RECORDS


def guidance_table(records: Sequence[Record], estimates: bool = False) -> str:
    """Settings by label mode, with both estimates and what the teacher recognises if `estimates`."""
    same(records)
    settings = sorted({record["setting"] for record in records}, key=setting_order)
    titles = {setting: guidance_title(setting) for setting in settings}
    modes = sorted({record["labels"] for record in records}, key=("mixed", *LABELS).index, reverse=True)
    header, rows = ["", *modes], accuracies(records, "setting", titles, "labels", modes)
    if estimates:
        header += ["log P(y given x)", "contextual score", "teacher on tiles %"]
        members = grouped(records, "setting")
        for setting, row in zip(settings, rows, strict=True):
            row += [f"{mean_of(members[setting,], name):.2f}" for name in ("prototype", "contextual")]
            row.append(f"{100 * mean_of(members[setting,], 'tile_accuracy'):.0f}")
    return table(header, rows)


def guidance_title(setting: str) -> str:
    """The setting's name in a table."""
    name, comma, weight = setting.partition(CLASS_WEIGHT)
    return UNGUIDED.get(name, name) + comma + weight


def setting_order(setting: str) -> tuple[int, str, float, float]:
    """Random images, the prior alone, then guided samples by what is guided, step, beta, class weight."""
    name, _, weight = setting.partition(CLASS_WEIGHT)
    if not name.startswith("beta"):
        return (list(UNGUIDED).index(name), "", 0.0, float(weight or 1))
    beta, scale, *guide_on = name.split(", ")
    return (len(UNGUIDED), " ".join([*guide_on, scale]), float(beta.removeprefix("beta ")), float(weight or 1))


# Estimators and schedulers


def estimator_section(results: Path) -> str:
    """Accuracy of estimators and their two estimates, by contextual weight and epochs."""
    records = read(results / "estimator.json")
    if not records:
        return NO_RECORDS
    one = same(records, "dataset", "train_split", "encoder", "batch_size")
    columns: Columns = {
        "setting": lambda each: (
            f"lambda {each['kl_weight']:g}, {each['q_mode']}" if each["q_mode"] else "lambda 0 (MoCo)"
        ),
        "epochs": lambda each: str(each["epochs"]),
        "linear %": lambda each: percent(each["linear_accuracy"]),
        "kNN %": lambda each: percent(each["knn_accuracy"]),
        "prototype information": lambda each: f"{each['prototype']:.3f}",
        "contextual score": lambda each: f"{each['contextual']:.3f}",
    }
    ordered = sorted(records, key=lambda each: (each["epochs"], each["kl_weight"], str(each["q_mode"])))
    where = f"{one['dataset']}, `{one['train_split']}`, encoder {one['encoder']}, batch {one['batch_size']}"
    return f"{row_each(ordered, columns)}\n\n{where}, one seed each."


def schedulers_section(results: Path) -> str:
    """How much of a step's guidance reaches the final sample, by scheduler; other configurations if they differ."""

    def cells(record: Record) -> list[str]:
        found = [record[place].get("shares") for place in ("sample", "prediction")]
        return ["refused" if each is None else span((round(value, 2) for value in each), ".2f") for each in found]

    def name(record: Record) -> str:
        options = ", ".join(f"{option}={value}" for option, value in record["options"].items())
        return record["scheduler"] + (f" ({options})" if options else "")

    records = read(results / "schedulers.json")
    if not records:
        return NO_RECORDS
    plain = {record["scheduler"]: cells(record) for record in records if not record["options"]}
    refused = [scheduler for scheduler, each in plain.items() if set(each) == {"refused"}]
    rows = [
        [name(record), *cells(record)]
        for record in records
        if record["scheduler"] not in refused
        and not (record["options"] and cells(record) == plain[record["scheduler"]])
    ]
    header = ["scheduler", "sample, x0_pred", "prediction"]
    return f"{table(header, rows)}\n\nRefused either way: {', '.join(refused)}."
