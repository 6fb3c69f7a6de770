"""The card (README.md) of a distilled dataset: what it is, how it loads, what it is worth, how it was made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData

from decoct.config import DistillConfig, fields_that_matter_for
from decoct.methods import METHODS
from decoct.pages.dataset_info import add_dataset_info
from decoct.pages.local_paths import PLACE
from decoct.pages.markdown import code, escape, listed_labels, python_string, render, shell_block, shell_word
from decoct.pages.source import GivenInfo, Source, licence_fields, source_of
from decoct.pages.training_example import depth_of, training_example

__all__ = ["dataset_card"]


def dataset_card(
    manifest: dict[str, Any],
    location: str = ".",
    results: Sequence[dict[str, Any]] | None = None,
    given: GivenInfo | None = None,
    *,
    folder: Path | None = None,
) -> str:
    """The card of a run folder, YAML header included.

    Args:
        manifest: Content of the folder's `manifest.json`.
        location: What the examples load: a Hub id or a folder.
        results: Records of `results.json`.
        given: What only the user knows.
        folder: Where the data lies, for the header's features and sizes; None leaves them out.

    Returns:
        Markdown whose YAML header declares one configuration `ipc_N` per IPC.
    """
    config, names = manifest["config"], manifest["label_names"]
    ipcs = sorted(int(ipc) for ipc in manifest["ipcs"])
    method, tiles = str(config["method"]), int(config.get("tiles_per_image") or 1)
    way = (METHODS[method].way or METHODS[method].title) if method in METHODS else method
    recorded = manifest.get("source")
    source = source_of(manifest["dataset"], recorded if isinstance(recorded, dict) else None, given)
    measured = {int(ipc): value for ipc, value in manifest.get("tile_accuracy", {}).items() if value is not None}
    title = f"{source.name}, distilled by {way}"
    data = card_data(manifest, ipcs, source, (given and given.pretty_name) or title)
    if folder is not None:
        add_dataset_info(data, folder, ipcs)
    return render(
        DatasetCard,
        "dataset_card.md",
        data,
        title=escape(data.pretty_name),
        method=escape(way),
        dataset=code(source.name),
        decoct_version=escape(manifest["decoct_version"]),
        classes=len(names),
        ipcs=" or ".join(map(str, ipcs)) + (" image" if ipcs == [1] else " images"),
        location=python_string(location),
        example_config=f"ipc_{ipcs[-1]}",
        configs=[
            {"ipc": ipc, "images": ipc * len(names), "accuracy": f"{measured[ipc]:.3f}" if ipc in measured else ""}
            for ipc in ipcs
        ],
        accuracy=bool(measured),
        preview="preview.png" in (manifest.get("files") or {}),
        image_size=manifest["image_size"],
        color="RGB" if manifest["channels"] == 3 else "grey",
        views=int(config.get("views") or 0),
        tiles=tiles,
        labels=listed_labels(names),
        example=training_example(manifest, source, results or []),
        evaluate=" ".join(evaluate_command(config, location, manifest["image_size"])),
        source=source_words(source),
        **tables_of(results or []),
        **origin_of(manifest, method),
    )


def card_data(manifest: dict[str, Any], ipcs: list[int], source: Source, pretty_name: str) -> DatasetCardData:
    """The YAML header without features and sizes."""
    configs = []
    for ipc in ipcs:
        hashes = [
            digest
            for name, digest in sorted((manifest.get("files") or {}).items())
            if name.startswith(f"data/ipc_{ipc}/")
        ]
        # `datasets` tells local folders of one name apart by this header alone, so it must change with the content.
        content = {"description": f"sha256 {' '.join(hashes)}"} if hashes else {}
        data_files = [{"split": "train", "path": f"data/ipc_{ipc}/*.parquet"}]
        configs.append({"config_name": f"ipc_{ipc}", "data_files": data_files, **content})
    return DatasetCardData(
        pretty_name=pretty_name,
        **licence_fields(source.license),  # type: ignore[arg-type]
        tags=["dataset-distillation", "soft-labels", "decoct", str(manifest["config"]["method"])],
        task_categories=["image-classification"],
        size_categories=[size_category(ipcs[-1] * len(manifest["label_names"]))],
        source_datasets=[source.hub_id] if source.hub_id else None,
        configs=configs,
    )


def size_category(images: int) -> str:
    """The Hub's name for a number of rows, from `n<1K` to `100K<n<1M` and beyond."""
    bounds = [(10**3, "1K"), (10**4, "10K"), (10**5, "100K"), (10**6, "1M"), (10**7, "10M")]
    lower = ""
    for bound, name in bounds:
        if images < bound:
            return f"{lower}<n<{name}" if lower else f"n<{name}"
        lower = name
    return "10M<n<100M"


def source_words(source: Source) -> dict[str, Any]:
    """Repository, attribution and licence of the source for the body, as far as they are known."""
    words = [
        f"[{escape(source.hub_id)}](https://huggingface.co/datasets/{source.hub_id}) on the Hub."
        if source.hub_id
        else "",
        escape(source.attribution) if source.attribution else "",
        f"Licence of the source: {code(source.license)}." if source.license else "",
    ]
    return {"words": [each for each in words if each], "license_text": source.license_text}


def evaluate_command(config: dict[str, Any], location: str, side: int) -> list[str]:
    """The words of the command that measures a student on this set."""
    words = ["decoct evaluate --distilled", shell_word(location), "--dataset", shell_word(config["dataset"])]
    for name in ("dataset_config", "eval_split", "image_column", "label_column", "image_size"):
        if config.get(name) is not None:
            words += [f"--{name}", shell_word(str(config[name]))]
    words.append(f"--labels {'views' if config.get('views') else 'tiles'} --students convnet{min(depth_of(side), 6)}")
    return [*words, "--seeds 3", *(["--output_dir runs/evaluation"] if "/" in location else [])]


def tables_of(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A table for each setting of the records, its cells escaped, and the number of records of other tasks."""
    # Here and not above, because the report shows the same settings.
    from decoct.pages.accuracy import setting_tables

    found = setting_tables(results)
    tables = [
        {
            "dataset": code(source_of(table.dataset).name),
            "protocol": code(table.protocol),
            "labels": code(table.labels),
            "best": table.epoch == "best",
            "rows": [{name: escape(value) for name, value in row.items()} for row in table.rows],
        }
        for table in found
    ]
    return {"tables": tables, "others": len(results) - sum(len(table.rows) for table in found)}


def origin_of(manifest: dict[str, Any], method: str) -> dict[str, Any]:
    """How the set was made: networks, settings, the command that repeats it, the method's paper."""
    from decoct.pages.describe import command_of, settings_of

    config = manifest["config"]
    # Where the result goes, on this machine or on the Hub, is not part of how it is made.
    elsewhere = {"output_dir", *fields_that_matter_for(DistillConfig, "publishing")}
    repeated = {name: value for name, value in config.items() if name not in elsewhere}
    return {
        "sampled": method == "igds",
        "guided": config.get("guidance_scale") != 0,
        "teacher": network(manifest.get("teacher")),
        "label_teachers": label_teachers(manifest.get("label_teachers") or {}),
        "prior": network(manifest.get("prior")),
        "estimator": network(manifest.get("estimator")),
        "betas": ", ".join(f"{beta:g} (IPC {ipc})" for ipc, beta in (manifest.get("betas") or {}).items()),
        "settings": [(code(name), code(value)) for name, value, _ in settings_of(config)],
        "command": shell_block(command_of(repeated) or []),
        "local": any(str(value).startswith(PLACE) for value in repeated.values()),
        "paper": METHODS[method].paper if method in METHODS else None,
    }


def network(record: dict[str, Any] | None) -> str:
    """Name and fingerprint of a network, or `none`."""
    if not record:
        return "none"
    return f"{code(record['name'])} (weights {code(str(record['fingerprint'])[:12])})"


def label_teachers(records: dict[Any, dict[str, Any] | None]) -> str:
    """The label teachers, once where all IPCs share one."""
    described = {int(ipc): network(record) for ipc, record in records.items()}
    if len(set(described.values())) < 2:
        return next(iter(described.values()), "none")
    return "; ".join(f"IPC {ipc}: {text}" for ipc, text in sorted(described.items()))
