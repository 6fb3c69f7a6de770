"""The facts of a distilled set, from its manifest and the records of its evaluation, for all pages.

`describe` finds each fact once. What the pages show of it, and how its text is escaped, is theirs.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from decoct.config import (
    DistillConfig,
    ImportConfig,
    default_values,
    distill_without_effect,
    fields_that_matter_for,
    without_effect,
)
from decoct.methods import METHODS, method_name
from decoct.results.records import group_by_setting, is_accuracy_record
from decoct.results.statistics import verdict
from decoct.results.tables import decimals, percent, record_cell

__all__ = [
    "Network",
    "Run",
    "SettingTable",
    "color_of",
    "command_of",
    "counted",
    "describe",
    "method_sentence",
    "run_settings",
]

Record = dict[str, Any]

CROPS = {
    "kernel_shap": "Windows of real images where a heat map of Shapley values (KernelSHAP) speaks most for the class",
    "exact_shapley": "Windows of real images where a heat map of exact Shapley values speaks most for the class",
    "captum_kernel_shap": "Windows of real images where a heat map of Shapley values (KernelSHAP of Captum) speaks "
    "most for the class",
    "grad_cam": "Windows of real images where a Grad-CAM heat map speaks most for the class",
    "random": "Random crops of real images",
}
UTILITIES = {
    "grad_norm": "by the gradient norm of the teacher's loss",
    "grad_norm_last": "by the gradient norm of the teacher's loss in its last layer",
    "loss": "by the teacher's loss",
    "gradient_flow": "by their effect on the teacher's gradient flow",
    "forgetting": "by how often the teacher forgot the image while it was trained",
}
DIVERSE = {"herding": "herding", "k_center": "k-center", "k_means": "k-means", "coverage": "coverage"}
JOINTLY = "those of all classes from which a regression best predicts the teacher's logits"
SAMPLED = (
    "Images sampled from a diffusion prior under information guidance, which raises the prototype information and, by "
    "the weight beta, the contextual information of each sample; then packed and labelled by the teacher."
)


@dataclass(frozen=True)
class Network:
    """A network that a run used: its name, and the first digits of its weights' fingerprint."""

    name: str
    weights: str


@dataclass(frozen=True)
class SettingTable:
    """What one table shows: the setting that all its numbers share, its rows as text, and the records behind them."""

    dataset: str
    protocol: str
    labels: str
    epoch: str
    rows: list[dict[str, str]]
    records: list[Record]


@dataclass(frozen=True)
class Run:
    """A distilled set in facts."""

    config: dict[str, Any]  # resolved
    method: str  # as tables show it
    way: str  # what it was distilled by, within a sentence
    paper: str | None  # who the method is from, as Markdown
    sentence: str  # how the images were made
    sampled: bool  # from a diffusion prior, and not from real images
    classes: list[str]  # label names, in label order
    color: str  # RGB or grey
    ipcs: list[int]  # the smallest first
    tiles: int  # of an image
    views: int  # of an image, whose labels are stored
    slots: int  # mixed views of an image, whose labels are stored
    teacher: Network | None
    labellers: list[tuple[Network | None, list[int]]]  # each with the IPCs whose images it labelled
    samplers: dict[str, Network | None]  # prior and estimator of sampled images
    tile_accuracy: dict[int, float | None]  # the teacher's on the tiles, by IPC, as a fraction
    betas: dict[int, float]  # weight of the contextual information of sampled images, by IPC
    information: dict[int, dict[str, float]]  # their mean prototype and contextual information in nats, by IPC
    settings: list[tuple[str, str, str]]  # name, value as JSON and meaning of all that the method depends on
    tables: list[SettingTable]  # accuracies
    other_records: list[Record]  # of other tasks
    bytes: dict[int, dict[str, int]]  # of the images and of each kind of labels, by IPC; none of older sets
    imported: bool  # from what others published, and not made here
    soft: bool  # whether soft labels are stored

    @property
    def labels(self) -> str:
        """The label mode that the set was made for: that of the richest labels that it stores."""
        return "mixed" if self.slots else "views" if self.views else "tiles" if self.soft else "hard"

    @property
    def images(self) -> dict[int, int]:
        """Images in all, by IPC."""
        return {ipc: ipc * len(self.classes) for ipc in self.ipcs}


def describe(manifest: dict[str, Any], records: Sequence[Record] = ()) -> Run:
    """The facts of a distilled set.

    Args:
        manifest: Content of its `manifest.json`; of older versions, which say less, too.
        records: Of `results.json`.
    """
    config = manifest["config"]
    name = str(config["method"])
    known, imported = METHODS.get(name), manifest.get("imported")
    sizes = {int(ipc): columns for ipc, columns in (manifest.get("bytes") or {}).items()}
    return Run(
        config=config,
        method=method_name(name),
        way=(known.way or known.title) if known else name,
        paper=known.paper if known else None,
        sentence=imported_sentence(manifest) if imported else method_sentence(config, manifest.get("tuned") or {}),
        sampled=name == "igds",
        classes=manifest["label_names"],
        color=color_of(manifest.get("channels", 3)),
        ipcs=sorted(int(ipc) for ipc in manifest["ipcs"]),
        tiles=int(config.get("tiles_per_image") or 1),
        views=int(config.get("views") or 0),
        slots=int(config.get("slots") or 0),
        teacher=network_of(manifest.get("teacher")),
        labellers=labellers_of(manifest.get("label_teachers") or {}),
        samplers={role: network_of(manifest[role]) for role in ("prior", "estimator") if role in manifest},
        tile_accuracy={int(ipc): value for ipc, value in (manifest.get("tile_accuracy") or {}).items()},
        betas={int(ipc): beta for ipc, beta in (manifest.get("betas") or {}).items()},
        information={int(ipc): means for ipc, means in (manifest.get("information") or {}).items()},
        settings=import_settings(config) if imported else run_settings(config),
        tables=setting_tables(records, sizes),
        other_records=[record for record in records if not is_accuracy_record(record)],
        bytes=sizes,
        imported=bool(imported),
        soft=not imported or imported["labels"] == "soft",
    )


# Words


def color_of(channels: int) -> str:
    """What images of that many channels are."""
    return "grey" if channels == 1 else "RGB"


def counted(number: int, noun: str) -> str:
    """`1 seed`, `2 seeds`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


# How it was made


def method_sentence(config: dict[str, Any], tuned: dict[str, Any] | None = None) -> str:
    """How the images of a run were made, in words.

    Args:
        tuned: The manifest's entry of that name: the selection of each IPC that `tune` chose.
    """
    if config["method"] == "igds":
        return SAMPLED
    whole = config.get("attribution") == "whole" or (
        config.get("attribution") != "random" and config.get("crop_fraction") == 1
    )
    crops = "Whole real images" if whole else CROPS.get(config.get("attribution", ""), "Crops of real images")
    order = {"highest": ", highest first", "lowest": ", lowest first"}.get(config.get("utility_order", ""), "")
    utility, diverse = config.get("utility", ""), DIVERSE.get(config.get("selection", ""))
    outputs = "gradients" if config.get("coverage_kernel") == "gradients" else "features"
    if tuned:
        chosen = ", ".join(f"{each['selection']} at IPC {ipc}" for ipc, each in tuned.items())
        ranked = f"chosen by short trainings on validation images: {chosen}"
    elif config.get("selection") == "random":
        ranked = "drawn at random"
    elif utility == "random":
        ranked = f"chosen for diversity of the teacher's {outputs} ({diverse})" if diverse else "drawn at random"
        if config.get("selection") == "regression":
            ranked = f"chosen as {JOINTLY}"
    else:
        ranked = f"ranked {UTILITIES.get(utility, 'by a score')}{order}"
        ranked += f", and of the best those most diverse in the teacher's {outputs} ({diverse})" if diverse else ""
        if config.get("selection") == "regression":
            ranked += f", and of the best {JOINTLY}"
    return f"{crops}, {ranked}; then packed and labelled by the teacher."


def imported_sentence(manifest: dict[str, Any]) -> str:
    """Where the images of an imported set are from, and what reading them changed, in words."""
    imported = manifest["imported"]
    told = "Images that others made and published, read as they are"
    if imported.get("clipped"):
        count, share = f"{imported['clipped']:,} of {imported['values']:,}", imported["clipped"] / imported["values"]
        told = (
            f"Images that others made and published as tensors; {count} values ({100 * share:.2g} %) lay "
            f"outside [0, 1], by at most {imported['clipped_by_at_most']:g}, and were clipped"
        )
    labels = "soft labels" if imported["labels"] == "soft" else "hard labels"
    return f"{told}; with the {labels} that came with them."


def import_settings(config: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Likewise of an imported set."""
    irrelevant = {"method", "overwrite", "dry_run", "output_dir", "views", "slots"}
    helps = {field.name: field.metadata["help"] for field in dataclasses.fields(ImportConfig)}
    return [
        (name, json.dumps(value, ensure_ascii=False), helps.get(name, ""))
        for name, value in config.items()
        if name not in irrelevant
    ]


def network_of(record: dict[str, Any] | None) -> Network | None:
    """A network as a manifest names it."""
    return Network(str(record["name"]), str(record.get("fingerprint") or "unknown")[:12]) if record else None


def labellers_of(records: dict[Any, dict[str, Any] | None]) -> list[tuple[Network | None, list[int]]]:
    """The networks that labelled, each once, with the IPCs whose images it labelled; `records` are by IPC."""
    found: dict[Network | None, list[int]] = {}
    for ipc, record in records.items():
        found.setdefault(network_of(record), []).append(int(ipc))
    return list(found.items())


def run_settings(config: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Name, value and meaning of every setting that the method depends on."""
    irrelevant = {"ipc", *fields_that_matter_for(DistillConfig, "command", "machine", "publishing")}
    irrelevant.update(fields_that_matter_for(DistillConfig, "selection" if config["method"] == "igds" else "sampling"))
    irrelevant.update(distill_without_effect(config))
    helps = {field.name: field.metadata["help"] for field in dataclasses.fields(DistillConfig)}
    return [
        (name, json.dumps(value, ensure_ascii=False), helps.get(name, ""))
        for name, value in config.items()
        if name not in irrelevant
    ]


def command_of(config: dict[str, Any]) -> list[str] | None:
    """The command that repeats a run: what differs from the method's defaults.

    Returns:
        The command and its options, each quoted for a shell, to be joined by spaces. None for a run from
        Python whose data or networks have no name, or a method that this version does not know.
    """
    if "source" in config:
        return import_command(config)
    named = [config.get(name) for name in ("dataset", "teacher", "prior", "estimator")]
    if "in memory" in named or config["method"] not in METHODS:
        return None
    tiles = config.get("tiles_per_image", 1)
    defaults = default_values(config["method"], tiles)
    always = [name for name in ("method", "dataset", "teacher", "ipc", "tiles_per_image") if name in config]
    skipped = {*always, "output_dir", "overwrite", "dry_run", *distill_without_effect(config)}
    changed = [name for name, value in config.items() if name not in skipped and value != defaults.get(name, value)]
    parts = ["decoct distill"]
    for name in [*always, *changed, *(["output_dir"] if "output_dir" in config else [])]:
        value = config[name]
        if value is None:
            value = 0  # the one field that can be turned off, `candidates_per_class`, says so by 0
        parts.append(shlex.join([f"--{name}", *map(str, value if isinstance(value, list) else [value])]))
    return parts


def import_command(config: dict[str, Any]) -> list[str]:
    """The command that imports a set again."""
    default = ImportConfig(source=str(config["source"]), method="imported")
    skipped = {"source", "views", "slots", "overwrite", "dry_run", *without_effect(default)}
    changed = {
        name: value
        for name, value in config.items()
        if name not in skipped and (name in ("dataset", "output_dir") or value != getattr(default, name, value))
    }
    options = [
        shlex.join([f"--{name}", *map(str, value if isinstance(value, list) else [] if value is True else [value])])
        for name, value in changed.items()
    ]
    return ["decoct import", shlex.quote(str(config["source"])), *options]


# What it is worth


def setting_tables(records: Sequence[Record], sizes: Mapping[int, Mapping[str, int]]) -> list[SettingTable]:
    """A table for each setting of the records that are accuracies; different settings are never mixed.

    Args:
        sizes: Bytes of the set's columns, by IPC.
    """
    groups = group_by_setting(record for record in records if is_accuracy_record(record))
    tables = []
    for (dataset, protocol, labels, epoch), members in groups.items():
        ordered = sorted(members, key=lambda record: (record["student"], record["method"], record["ipc"]))
        tables.append(
            SettingTable(dataset, protocol, labels, epoch, [table_row(each, sizes) for each in ordered], ordered)
        )
    return tables


def trained_bytes(columns: Mapping[str, int], labels: str) -> int | None:
    """Bytes of the images and of the labels that students of a label mode are trained on; None if some are not stored.

    The classes of `hard` labels are among all of them; `online` labels take a teacher, whose bytes are not counted.
    """
    from decoct.distilled.schema import SLOT_COLUMNS  # brings torch, which no command needs for its help

    needed = {"hard": (), "tiles": ("tile_logits",), "views": ("view_logits", "view_boxes"), "mixed": SLOT_COLUMNS}
    if labels not in needed or "image" not in columns:
        return None
    return sum(columns.get(name, 0) for name in ("image", "label", *needed[labels]))


def table_row(record: Record, sizes: Mapping[int, Mapping[str, int]]) -> dict[str, str]:
    """A record's cells, its verdict and notes; `sizes` are the bytes of the set's columns, by IPC."""
    ranking = record.get("dd_ranking") or {}
    size = trained_bytes(sizes.get(int(record["ipc"]), {}), record["labels"])
    return {
        "method": method_name(record["method"]),
        "tiles": str(record.get("tiles", 1)),
        "ipc": str(record["ipc"]),
        "student": record["student"],
        "teacher": percent(record.get("teacher_accuracy")),
        "accuracy": record_cell(record),
        "seeds": str(len(record["seeds"])),
        "kilobytes": "–" if size is None else f"{size / 1000:,.1f}",
        "per_kilobyte": f"{100 * record['accuracy_mean'] / (size / 1000):.2g}" if size else "–",
        "random": record_cell(record.get("baseline")),
        **{name: decimals(ranking.get(name)) for name in ("hlr", "ior", "lrs")},
        "ranking_note": ranking.get("note") or "",
        "verdict": verdict(record),
    }
