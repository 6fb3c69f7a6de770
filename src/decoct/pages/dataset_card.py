"""The card (README.md) of a distilled dataset: what it is, how it loads, what it is worth, how it was made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData
from huggingface_hub.constants import DEFAULT_REVISION

from decoct.config import DistillConfig, fields_that_matter_for
from decoct.distilled.logit_codes import kept_classes
from decoct.models.zoo import depth_of
from decoct.pages.dataset_info import add_dataset_info
from decoct.pages.describe import Network, Run, SettingTable, command_of, describe
from decoct.pages.local_paths import PLACE
from decoct.pages.markdown import (
    code,
    escape,
    listed_labels,
    python_string,
    render,
    revision_argument,
    shell_block,
    shell_word,
)
from decoct.pages.source import GivenInfo, Source, licence_fields, source_of
from decoct.pages.training_example import PROTOCOLS, eval_split_of, training_example

__all__ = ["dataset_card"]


def dataset_card(
    manifest: dict[str, Any],
    location: str = ".",
    results: Sequence[dict[str, Any]] | None = None,
    given: GivenInfo | None = None,
    *,
    folder: Path | None = None,
    revision: str = DEFAULT_REVISION,
) -> str:
    """The card of a run folder, YAML header included.

    Args:
        manifest: Content of the folder's `manifest.json`.
        location: What the examples load: a Hub id or a folder.
        results: Records of `results.json`.
        given: What only the user knows.
        folder: Where the data lies, for the header's features and sizes; None leaves them out.
        revision: The branch that the card lies in.

    Returns:
        Markdown whose YAML header declares one configuration `ipc_N` per IPC.
    """
    run = describe(manifest, results or [])
    recorded = manifest.get("source")
    source = source_of(manifest["dataset"], recorded if isinstance(recorded, dict) else None, given)
    measured = {ipc: f"{value:.3f}" for ipc, value in run.tile_accuracy.items() if value is not None}
    title = (given and given.pretty_name) or f"{source.name}, distilled by {run.way}"
    # What others made of a dataset need not be under the dataset's licence.
    license = (given.license if given else None) if run.imported else source.license
    data = card_data(run, manifest.get("files") or {}, source, license, title)
    if folder is not None:
        add_dataset_info(data, folder, run.ipcs)
    return render(
        DatasetCard,
        "dataset_card.md",
        data,
        title=escape(title),
        method=escape(run.way),
        dataset=code(source.name),
        decoct_version=escape(manifest["decoct_version"]),
        classes=len(run.classes),
        images=run.images,
        ipcs=" or ".join(map(str, run.ipcs)) + (" image" if run.ipcs == [1] else " images"),
        location=python_string(location),
        at_revision=revision_argument(revision),
        example_config=f"ipc_{run.ipcs[-1]}",
        measured=measured,
        sizes={ipc: kilobytes(columns) for ipc, columns in run.bytes.items()},
        preview="preview.png" in (manifest.get("files") or {}),
        image_size=manifest["image_size"],
        **{
            name: getattr(run, name)
            for name in ("color", "tiles", "views", "slots", "sampled", "paper", "imported", "soft")
        },
        sentence=escape(run.sentence),
        labels=listed_labels(run.classes),
        label_bits=int(run.config.get("label_bits") or 8),
        top_k=kept_classes(int(run.config.get("label_top_k") or 0), len(run.classes)),
        example=training_example(run, manifest, source, results or []),
        evaluate=evaluate_commands(run, location, revision, manifest["image_size"], eval_split_of(manifest)),
        source=source_words(source),
        tables=[escaped_table(table) for table in run.tables],
        others=len(run.other_records),
        **origin_of(run),
    )


def card_data(
    run: Run, hashes: dict[str, str], source: Source, license: str | None, pretty_name: str
) -> DatasetCardData:
    """The YAML header without features and sizes; `hashes` are those of the files by name."""
    configs = []
    for ipc in run.ipcs:
        data = [digest for name, digest in sorted(hashes.items()) if name.startswith(f"data/ipc_{ipc}/")]
        # `datasets` tells local folders of one name apart by this header alone, so it must change with the content.
        content = {"description": f"sha256 {' '.join(data)}"} if data else {}
        data_files = [{"split": "train", "path": f"data/ipc_{ipc}/*.parquet"}]
        configs.append({"config_name": f"ipc_{ipc}", "data_files": data_files, **content})
    return DatasetCardData(
        pretty_name=pretty_name,
        **licence_fields(license),  # type: ignore[arg-type]
        tags=card_tags(run),
        task_categories=["image-classification"],
        size_categories=[size_category(run.images[run.ipcs[-1]])],
        source_datasets=[source.hub_id] if source.hub_id else None,
        configs=configs,
    )


def card_tags(run: Run) -> list[str]:
    """The Hub's tags; the name that somebody gave an imported set is none."""
    labels = ["soft-labels"] if run.soft else []
    return ["dataset-distillation", *labels, "decoct", "imported" if run.imported else str(run.config["method"])]


def kilobytes(columns: dict[str, int]) -> dict[str, str]:
    """kB of the images and of all labels of an IPC."""
    labels = sum(size for name, size in columns.items() if name != "image")
    return {"images": f"{columns.get('image', 0) / 1000:,.1f}", "labels": f"{labels / 1000:,.1f}"}


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


def evaluate_commands(run: Run, location: str, revision: str, side: int, eval_split: str | None) -> str:
    """The command that measures a student on this set, after one that fetches a branch other than the main one."""
    repository = shell_word(location)
    fetch = ""
    if revision != DEFAULT_REVISION:
        location = location.rpartition("/")[2]
        branch = f"--revision {shell_word(revision)} --local-dir {shell_word(location)}"
        fetch = f"hf download {repository} --repo-type dataset {branch}\n"
    words = ["decoct evaluate --distilled", shell_word(location), "--dataset", shell_word(run.config["dataset"])]
    settings = {**run.config, "eval_split": eval_split}
    for name in ("dataset_config", "eval_split", "image_column", "label_column", "image_size"):
        if settings.get(name) is not None:
            words += [f"--{name}", shell_word(str(settings[name]))]
    words.append(f"--labels {run.labels} --students convnet{depth_of(side)}")
    words += [] if run.labels == "mixed" else ["--protocols", PROTOCOLS[run.labels]]  # of sets that were made for it
    words += ["--seeds 3", *(["--output_dir runs/evaluation"] if "/" in location else [])]
    return fetch + " ".join(words)


def escaped_table(table: SettingTable) -> dict[str, Any]:
    """A table of accuracies, its text escaped."""
    return {
        "dataset": code(source_of(table.dataset).name),
        "protocol": code(table.protocol),
        "labels": code(table.labels),
        "best": table.epoch == "best",
        "rows": [{name: escape(value) for name, value in row.items()} for row in table.rows],
    }


def origin_of(run: Run) -> dict[str, Any]:
    """How the set was made: networks, settings, the command that repeats it."""
    # Where the result goes, on this machine or on the Hub, is not part of how it is made.
    elsewhere = {"output_dir", *fields_that_matter_for(DistillConfig, "publishing")}
    repeated = {name: value for name, value in run.config.items() if name not in elsewhere}
    return {
        "guided": run.config.get("guidance_scale") != 0,
        "teacher": network(run.teacher),
        "label_teachers": label_teachers(run.labellers),
        **{role: network(run.samplers.get(role)) for role in ("prior", "estimator")},
        "betas": ", ".join(f"{beta:g} (IPC {ipc})" for ipc, beta in run.betas.items()),
        "settings": [(code(name), code(value)) for name, value, _ in run.settings],
        "command": shell_block(command_of(repeated) or []),
        "local": any(str(value).startswith(PLACE) for value in repeated.values()),
    }


def network(known: Network | None) -> str:
    """Name and fingerprint of a network, or `none`."""
    return f"{code(known.name)} (weights {code(known.weights)})" if known else "none"


def label_teachers(labellers: list[tuple[Network | None, list[int]]]) -> str:
    """The label teachers, once where all IPCs share one."""
    if len(labellers) < 2:
        return network(labellers[0][0]) if labellers else "none"
    described = {ipc: network(known) for known, ipcs in labellers for ipc in ipcs}
    return "; ".join(f"IPC {ipc}: {text}" for ipc, text in sorted(described.items()))
