"""The card (README.md) of a distilled dataset: what it is, how it loads, how it was made."""

from __future__ import annotations

import json
import re
import shlex
from importlib.resources import files
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData

from decoct.config import SAMPLING_FIELDS, SELECTION_FIELDS

__all__ = ["dataset_card"]

METHODS = {
    "infoutil": "InfoUtil",
    "igds": "IGDS",
    "rded": "RDED",
    "random": "random choice",
    "herding": "herding",
    "k_center": "k-center",
    "k_means": "k-means",
    "forgetting": "forgetting events",
}
PAPERS = {
    "infoutil": "InfoUtil: *Grounding and Enhancing Informativeness and Utility in Dataset Distillation*.",
    "igds": "IGDS: *Information-Guided Diffusion Sampling for Image Classification Dataset Distillation*.",
    "rded": "RDED: Sun, Shi, Yu and Lin, *On the Diversity and Realism of Distilled Dataset: An Efficient Dataset "
    "Distillation Paradigm*, CVPR 2024, arXiv 2312.03526.",
    "herding": "Herding: Welling, *Herding Dynamical Weights to Learn*, ICML 2009.",
    "k_center": "k-center: Gonzalez, *Clustering to Minimize the Maximum Intercluster Distance*, Theoretical Computer "
    "Science 38, 1985; as a coreset: Sener and Savarese, *Active Learning for Convolutional Neural Networks: A "
    "Core-Set Approach*, ICLR 2018, arXiv 1708.00489.",
    "k_means": "k-means: Lloyd, *Least Squares Quantization in PCM*, IEEE Transactions on Information Theory 28, 1982.",
    "forgetting": "Forgetting events: Toneva et al., *An Empirical Study of Example Forgetting during Deep Neural "
    "Network Learning*, ICLR 2019, arXiv 1812.05159.",
}
# Settings of the machine or of the command, which do not change what the dataset is.
NOT_SETTINGS = {"output_dir", "overwrite", "dry_run", "num_workers", "compile", "batch_size", "shard_size", "ipc"}
LABELS_SHOWN = 50


def dataset_card(manifest: dict[str, Any], location: str = ".") -> str:
    """The card of a run folder, YAML header included.

    Args:
        manifest: Content of the folder's `manifest.json`.
        location: What the examples load: a Hub id or a folder.

    Returns:
        Markdown whose YAML header declares one configuration `ipc_N` per IPC.
    """
    config, names = manifest["config"], manifest["label_names"]
    ipcs = sorted(int(ipc) for ipc in manifest["ipcs"])
    method = str(config["method"])
    tiles = int(config.get("tiles_per_image") or 1)
    measured = {int(ipc): value for ipc, value in manifest.get("tile_accuracy", {}).items() if value is not None}
    rows = [
        {
            "name": f"ipc_{ipc}",
            "ipc": ipc,
            "images": ipc * len(names),
            "accuracy": f"{measured[ipc]:.3f}" if ipc in measured else "",
        }
        for ipc in ipcs
    ]
    hidden_settings = {*NOT_SETTINGS, *(SELECTION_FIELDS if method == "igds" else (*SAMPLING_FIELDS, "beta"))}
    shown = ", ".join(escape(name) for name in names[:LABELS_SHOWN])
    hidden = len(names) - LABELS_SHOWN
    card = DatasetCard.from_template(
        card_data(manifest["dataset"], method, ipcs, ipcs[-1] * len(names), manifest.get("files") or {}),
        template_str=(files("decoct.hub_cards") / "dataset_card.md").read_text(encoding="utf-8"),
        title=f"{escape(manifest['dataset'])}, distilled by {escape(METHODS.get(method, method))}",
        method=escape(METHODS.get(method, method)),
        dataset=code(manifest["dataset"]),
        decoct_version=escape(manifest["decoct_version"]),
        classes=len(names),
        ipcs=" or ".join(map(str, ipcs)) + (" image" if ipcs == [1] else " images"),
        location=json.dumps(location),
        shell_location=shell_word(location),
        shell_dataset=shell_word(manifest["dataset"]),
        example_config=rows[-1]["name"],
        configs=rows,
        accuracy=bool(measured),
        image_size=manifest["image_size"],
        color="RGB" if manifest["channels"] == 3 else "grey",
        views=int(config.get("views") or 0),
        mosaic=f"; a mosaic of {tiles} tiles" if tiles > 1 else "",
        labels=shown + (f", and {hidden} more" if hidden > 0 else ""),
        image_mean=[round(value, 4) for value in manifest["image_mean"]],
        image_std=[round(value, 4) for value in manifest["image_std"]],
        teacher=network(manifest.get("teacher")),
        label_teachers=label_teachers(manifest.get("label_teachers") or {}),
        prior=network(manifest.get("prior")),
        estimator=network(manifest.get("estimator")),
        betas=", ".join(f"{beta:g} (IPC {ipc})" for ipc, beta in (manifest.get("betas") or {}).items()),
        sampled=method == "igds",
        settings=[(name, code(json.dumps(value))) for name, value in config.items() if name not in hidden_settings],
        paper=PAPERS.get(method),
    )
    return card.content


def card_data(dataset: str, method: str, ipcs: list[int], largest: int, files: dict[str, str]) -> DatasetCardData:
    """The YAML header; `largest` is the number of images of the largest configuration, `files` maps names to sha256."""
    configs = []
    for ipc in ipcs:
        hashes = [digest for name, digest in sorted(files.items()) if name.startswith(f"data/ipc_{ipc}/")]
        # `datasets` tells local folders of one name apart by this header alone, so it must change with the content.
        content = {"description": f"sha256 {' '.join(hashes)}"} if hashes else {}
        data_files = [{"split": "train", "path": f"data/ipc_{ipc}/*.parquet"}]
        configs.append({"config_name": f"ipc_{ipc}", "data_files": data_files, **content})
    return DatasetCardData(
        pretty_name=f"{dataset}, distilled by {METHODS.get(method, method)}",
        tags=["dataset-distillation", "soft-labels", "decoct", method],
        task_categories=["image-classification"],
        size_categories=[size_category(largest)],
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


def escape(text: object) -> str:
    """Text that Markdown shows as it is, on one line."""
    line = " ".join(str(text).split())
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~$&])", r"\\\1", line)


def code(text: object) -> str:
    """Text as a Markdown code span that is safe in a table cell."""
    line = " ".join(str(text).split()).replace("|", r"\|")
    fence = "`" * (max((len(run) for run in re.findall("`+", line)), default=0) + 1)
    return f"{fence} {line} {fence}" if "`" in line else f"{fence}{line}{fence}"


def shell_word(text: str) -> str:
    """Text as one word of a shell command, on one line."""
    return shlex.quote(" ".join(text.split()))
