"""The cards of teachers, variational estimators, diffusion priors and IGDS pipelines, from the files of their folders.

What a file does not say is left out: no field is invented.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, ModelCardData, eval_result_entries_to_yaml
from huggingface_hub.constants import DEFAULT_REVISION

from decoct.config import TrainingConfig, fields_that_matter_for
from decoct.files import read_object
from decoct.methods import method_name
from decoct.pages.describe import color_of, counted
from decoct.pages.local_paths import without_local_paths
from decoct.pages.markdown import (
    code,
    escape,
    listed_labels,
    one_line,
    python_string,
    render,
    revision_argument,
    sealed,
)
from decoct.pages.source import GivenInfo, Source, licence_fields, source_of
from decoct.results.records import is_accuracy_record, read_results, setting_of
from decoct.results.tables import percent
from decoct.run.folder import identity_of

__all__ = ["EVAL_RESULTS", "eval_results", "model_card"]

EVAL_RESULTS = ".eval_results/decoct.yaml"  # where the Hub looks for a model's evaluation results


@dataclass(frozen=True)
class Kind:
    """What all cards of one kind share."""

    title: str  # around the name that the facts tell
    library: str
    task: str  # as the Hub calls it
    tags: tuple[str, ...]
    facts: Callable[[Path, dict[str, Any]], dict[str, Any]]  # from the folder and its `training.json`, for the template
    measured: dict[str, str] = field(default_factory=dict)  # accuracies in `training.json`, and how the Hub calls them


def model_card(
    kind: str, folder: str | Path, location: str, given: GivenInfo | None = None, revision: str = DEFAULT_REVISION
) -> str:
    """The card of a trained network or of a pipeline for a repository, YAML header included and sealed at its end.

    Args:
        kind: `teacher`, `estimator`, `prior` or `pipeline`.
        folder: What was trained or saved: configurations, and `training.json` where there is one.
        location: What the examples load: a Hub id or a folder.
        given: What only the user knows.
        revision: The branch that the card lies in.

    Raises:
        ValueError: If there is no such kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {list(KINDS)}. Got {kind!r}.")
    known, folder = KINDS[kind], Path(folder)
    training = without_local_paths(json_of(folder / "training.json"))
    config = training.get("config") or {}
    attribution = GivenInfo(attribution=given.attribution if given else None)
    source = source_of(config["dataset"], training.get("source"), attribution) if config.get("dataset") else None
    facts = known.facts(folder, training)
    made_from = f", trained on {source.name}" if source else ""
    title = (given and given.pretty_name) or f"{known.title.format(facts.pop('name')).strip()}{made_from}"
    # Of a pipeline, the accuracies are those of the sets sampled with it, if `decoct evaluate` wrote them there.
    records = accuracy_records(folder) if kind == "pipeline" else []
    results = [*map(result_of, records), *(training_results(known, training, source) if source else [])]
    data = ModelCardData(
        # The licence that the user gave: that of the data does not settle the network's.
        **licence_fields(given.license if given else None),  # type: ignore[arg-type]
        library_name=known.library,
        pipeline_tag=known.task,
        tags=["dataset-distillation", "decoct", *known.tags],
        datasets=[source.hub_id] if source and source.hub_id else None,
        model_name=one_line(location.rstrip("/").rpartition("/")[2]) or kind if results else None,
        eval_results=results or None,
    )
    card = render(
        ModelCard,
        f"{kind}_card.md",
        data,
        title=escape(title),
        location=python_string(location),
        at_revision=revision_argument(revision),
        source=described_source(source, given),
        settings=training_settings(config),
        versions=", ".join(
            f"{escape(name)} {escape(version)}" for name, version in (training.get("versions") or {}).items()
        ),
        **facts,
    )
    return sealed(card)


def described_source(source: Source | None, given: GivenInfo | None) -> dict[str, str] | None:
    """Name, licence and attribution of the training data, for the body; None if nothing is known."""
    license, attribution = source.license if source else None, (source or given or GivenInfo()).attribution
    if source is None and not attribution:
        return None
    return {
        "name": code(source.name) if source else "",
        "license": code(license) if license else "",
        "attribution": escape(attribution) if attribution else "",
    }


def training_settings(config: dict[str, Any]) -> list[tuple[str, str]]:
    """The training settings and their values, without those of the machine."""
    machine = fields_that_matter_for(TrainingConfig, "machine")
    settings = {name: value for name, value in identity_of(config).items() if name not in machine}
    return [(code(name), code(json.dumps(value, ensure_ascii=False))) for name, value in settings.items()]


def json_of(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one if there is no such file."""
    return read_object(path) if path.is_file() else {}


# What each kind's folder says


def label_names(config: dict[str, Any]) -> list[str]:
    """The label names of a network's configuration, in label order."""
    return [str(name) for _, name in sorted((config.get("id2label") or {}).items(), key=lambda item: int(item[0]))]


def image_facts(config: dict[str, Any]) -> dict[str, Any]:
    """Images, normalisation and label names in a network's configuration, where decoct has put them."""
    names, channels = label_names(config), int(config.get("num_channels") or 3)
    return {
        "classes": len(names),
        "labels": listed_labels(names),
        "side": int(config["image_size"]),
        "channels": channels,
        "color": color_of(channels),
        "mean": [round(value, 4) for value in config.get("image_mean") or []],
        "std": [round(value, 4) for value in config.get("image_std") or []],
        "remote_code": bool(config.get("auto_map")),
    }


def teacher_facts(folder: Path, training: dict[str, Any]) -> dict[str, Any]:
    """Of a classifier; `epochs` is None where `training.json` does not say."""
    config, settings = read_object(folder / "config.json"), training.get("config") or {}
    epochs = training.get("epoch") or settings.get("epochs")
    accuracy = training.get("accuracy")
    return {
        **image_facts(config),
        "name": settings.get("model") or config.get("model_type") or "",
        "architecture": code((config.get("architectures") or ["an image classifier"])[0]),
        "epochs": epochs,
        "accuracy": "" if accuracy is None else f"{100 * accuracy:.2f} %",
    }


def estimator_facts(folder: Path, training: dict[str, Any]) -> dict[str, Any]:
    """Of a variational estimator, with what `decoct information` wrote beside it, if it did."""
    config, settings = read_object(folder / "config.json"), training.get("config") or {}
    accuracies = {
        "linear classifier": "linear_accuracy",
        "linear classifier with Softplus, as it guides": "softplus_accuracy",
        "20 nearest neighbours": "knn_accuracy",
    }
    return {
        **image_facts(config),
        "name": settings.get("encoder") or (config.get("encoder") or {}).get("model_type") or "",
        "encoder": code((config.get("encoder") or {}).get("model_type", "unknown")),
        "projection": config.get("projection_dim"),
        "accuracies": [(name, f"{100 * training[key]:.2f} %") for name, key in accuracies.items() if key in training],
        "rank": training.get("rank"),
        "full_rank": training.get("full_rank"),
        "information": information_of(folder),
    }


def information_of(folder: Path) -> dict[str, str] | None:
    """Prototype and contextual information of the dataset in `information.json`, if this estimator measured it."""
    measured = json_of(folder / "information.json")
    config = measured.get("config") or {}
    if not measured or Path(config.get("estimator", "")).resolve() != folder.resolve():
        return None
    report = measured["source"]
    return {
        "dataset": code(source_of(config["dataset"]).name),
        "images": f"{report['images']:,}",
        "prototype": f"{report['prototype']:.3f}",
        "label_entropy": f"{report['label_entropy']:.3f}",
        "contextual": f"{report['contextual']:.3f}",
        "bound": f"{measured['contextual_bound']:.3f}",
        "temperature": f"{config['temperature']:g}",
    }


def prior_facts(folder: Path, training: dict[str, Any]) -> dict[str, Any]:
    """Of a diffusion prior of pixels; a conditional one has a null class after the others if it was trained with it."""
    unet, scheduler = read_object(folder / "unet/config.json"), json_of(folder / "scheduler/scheduler_config.json")
    settings, names = training.get("config") or {}, training.get("label_names") or []
    entries = unet.get("num_class_embeds") or 0
    return {
        "name": "Conditional" if entries else "Unconditional",
        "side": int(unet["sample_size"]),
        "channels": int(unet["in_channels"]),
        "color": color_of(unet["in_channels"]),
        "labels": listed_labels(names) if entries else "",
        "classes": len(names) or entries,
        "entries": entries,
        "null_class": bool(entries and settings and entries == len(names) + 1),
        "steps": scheduler.get("num_train_timesteps"),
        "epochs": settings.get("epochs"),
    }


def pipeline_facts(folder: Path, training: dict[str, Any]) -> dict[str, Any]:
    """Of a self-contained IGDS pipeline: its components, and the estimator's classes and the prior's images."""
    index = read_object(folder / "model_index.json")
    parts = {name: value for name, value in index.items() if isinstance(value, list) and not name.startswith("_")}
    components = [(code(name), code(value[1])) for name, value in parts.items() if all(value)]
    guided = all(parts.get("estimator") or [None])
    prior = "unet" if all(parts.get("unet") or [None]) else "transformer"
    estimator = json_of(folder / "estimator/config.json") if guided else {}
    names = label_names(estimator)
    network = read_object(folder / prior / "config.json")
    entries = network.get("num_class_embeds") or network.get("num_embeds_ada_norm") or 0
    return {
        "name": "",
        "components": components,
        "guided": guided,
        "labels": listed_labels(names),
        "classes": len(names) or int(entries),
        "side": network.get("sample_size") if prior == "unet" else None,
        "results": [
            (
                *(code(record["student"]), record["ipc"], code(record["labels"]), code(setting_of(record)[1])),
                *(percent(record["accuracy_mean"]), percent(record["accuracy_std"]), len(record["seeds"])),
            )
            for record in accuracy_records(folder)
        ],
    }


SAMPLING = "unconditional-image-generation"
KINDS = {
    "teacher": Kind(
        "Image classifier {}",
        "transformers",
        "image-classification",
        ("teacher",),
        teacher_facts,
        {"accuracy": "accuracy"},
    ),
    "estimator": Kind(
        "Variational estimator {}",
        "transformers",
        "image-feature-extraction",
        ("contrastive-learning",),
        estimator_facts,
        {"linear_accuracy": "linear probe accuracy", "knn_accuracy": "20-NN accuracy"},
    ),
    "prior": Kind("{} diffusion prior", "diffusers", SAMPLING, ("diffusion",), prior_facts),
    "pipeline": Kind("IGDS pipeline{}", "diffusers", SAMPLING, ("diffusion", "igds"), pipeline_facts),
}


# Results


def accuracy_records(folder: Path) -> list[dict[str, Any]]:
    """The accuracies in a folder's `results.json`, without paths of this machine."""
    return [
        record for record in without_local_paths(read_results(folder / "results.json")) if is_accuracy_record(record)
    ]


def training_results(kind: Kind, training: dict[str, Any], source: Source) -> list[EvalResult]:
    """What `training.json` says was measured, as results of the Hub."""
    config = training["config"]
    return [
        EvalResult(
            **task_of(source),
            dataset_config=config.get("dataset_config"),
            dataset_split=config.get("eval_split"),
            metric_name=name,
            metric_value=training[key],
        )
        for key, name in kind.measured.items()
        if key in training
    ]


def eval_results(folder: str | Path) -> str | None:
    """A teacher's accuracy in the Hub's format of evaluation results (`EVAL_RESULTS`).

    None where it was not measured, or on a dataset that is not on the Hub: each result belongs to a dataset there.
    """
    training = without_local_paths(json_of(Path(folder) / "training.json"))
    config = training.get("config") or {}
    if "accuracy" not in training or not config.get("dataset"):
        return None
    source = source_of(config["dataset"], training.get("source"))
    if source.hub_id is None:
        return None
    version = (training.get("versions") or {}).get("decoct", "")
    split = f"split {config['eval_split']}" if config.get("eval_split") else "evaluation split"
    entry = EvalResultEntry(
        dataset_id=source.hub_id,
        task_id=config.get("dataset_config") or "default",
        value=training["accuracy"],
        notes=one_line(f"accuracy as a fraction, {split}; measured by decoct {version}".strip()),
    )
    return yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False, allow_unicode=True)


def result_of(record: dict[str, Any]) -> EvalResult:
    """A record of `decoct evaluate`."""
    return EvalResult(
        **task_of(source_of(record["dataset"])),
        metric_name=f"accuracy of {record['student']} trained on {record['ipc']} images per class "
        f"({method_name(record['method'])}, {record['labels']} labels, protocol {setting_of(record)[1]}, "
        f"{record['epoch']} epoch, {counted(len(record['seeds']), 'seed')})",
        metric_value=record["accuracy_mean"],
    )


def task_of(source: Source) -> dict[str, Any]:
    """What all accuracies on a dataset have in common."""
    return {
        "task_type": "image-classification",
        "dataset_type": source.hub_id or source.name,
        "dataset_name": source.name,
        "metric_type": "accuracy",
    }
