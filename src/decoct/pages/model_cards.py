"""The cards of teachers, variational estimators, diffusion priors and IGDS pipelines, from the files of their folders.

What a file does not say is left out: no field is invented.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from decoct.config import TrainingConfig, fields_that_matter_for
from decoct.methods import method_name
from decoct.pages.local_paths import without_local_paths
from decoct.pages.markdown import code, escape, listed_labels, one_line, python_string, render, sealed
from decoct.pages.source import GivenInfo, Source, licence_fields, source_of
from decoct.results.records import is_accuracy_record, read_results, setting_of
from decoct.results.tables import percent
from decoct.run.folder import identity_of, read_json

__all__ = ["model_card"]

TITLES = {
    "teacher": "Image classifier {}",
    "estimator": "Variational estimator {}",
    "prior": "{} diffusion prior",
    "pipeline": "IGDS pipeline{}",
}
LIBRARIES = {"teacher": "transformers", "estimator": "transformers", "prior": "diffusers", "pipeline": "diffusers"}
TASKS = {
    "teacher": "image-classification",
    "estimator": "image-feature-extraction",
    "prior": "unconditional-image-generation",
    "pipeline": "unconditional-image-generation",
}
TAGS = {
    "teacher": ["dataset-distillation", "decoct", "teacher"],
    "estimator": ["dataset-distillation", "decoct", "contrastive-learning"],
    "prior": ["dataset-distillation", "decoct", "diffusion"],
    "pipeline": ["dataset-distillation", "decoct", "diffusion", "igds"],
}


def model_card(kind: str, folder: str | Path, location: str, given: GivenInfo | None = None) -> str:
    """The card of a trained network or of a pipeline for a repository, YAML header included and sealed at its end.

    Args:
        kind: `teacher`, `estimator`, `prior` or `pipeline`.
        folder: What was trained or saved: configurations, and `training.json` where there is one.
        location: What the examples load: a Hub id or a folder.
        given: What only the user knows.

    Raises:
        ValueError: If there is no such kind.
    """
    if kind not in TITLES:
        raise ValueError(f"kind must be one of {list(TITLES)}. Got {kind!r}.")
    folder = Path(folder)
    training = without_local_paths(json_of(folder / "training.json"))
    config = training.get("config") or {}
    attribution = GivenInfo(attribution=given.attribution if given else None)
    source = source_of(config["dataset"], training.get("source"), attribution) if config.get("dataset") else None
    facts = {
        "teacher": teacher_facts,
        "estimator": estimator_facts,
        "prior": prior_facts,
        "pipeline": pipeline_facts,
    }[kind](folder, training)
    made_from = f", trained on {source.name}" if source else ""
    title = (given and given.pretty_name) or f"{TITLES[kind].format(facts.pop('name')).strip()}{made_from}"
    data = header(kind, location, source, given, evaluations(kind, folder, training, source))
    card = render(
        ModelCard,
        f"{kind}_card.md",
        data,
        title=escape(title),
        location=python_string(location),
        source=described_source(source, given),
        settings=[(code(name), code(json.dumps(value, ensure_ascii=False))) for name, value in settings_of(config)],
        versions=", ".join(
            f"{escape(name)} {escape(version)}" for name, version in (training.get("versions") or {}).items()
        ),
        **facts,
    )
    return sealed(card)


def header(
    kind: str, location: str, source: Source | None, given: GivenInfo | None, results: list[EvalResult]
) -> ModelCardData:
    """The YAML header. Its licence is the one that the user gave: that of the data does not settle the network's."""
    return ModelCardData(
        **licence_fields(given.license if given else None),  # type: ignore[arg-type]
        library_name=LIBRARIES[kind],
        pipeline_tag=TASKS[kind],
        tags=TAGS[kind],
        datasets=[source.hub_id] if source and source.hub_id else None,
        model_name=one_line(location.rstrip("/").rpartition("/")[2]) or kind if results else None,
        eval_results=results or None,
    )


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


def settings_of(config: dict[str, Any]) -> list[tuple[str, Any]]:
    """The training settings, without those of the machine."""
    machine = fields_that_matter_for(TrainingConfig, "machine")
    return [(name, value) for name, value in identity_of(config).items() if name not in machine]


def json_of(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one if there is no such file."""
    return read_json(path) if path.is_file() else {}


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
        "color": "grey" if channels == 1 else "RGB",
        "mean": [round(value, 4) for value in config.get("image_mean") or []],
        "std": [round(value, 4) for value in config.get("image_std") or []],
        "remote_code": bool(config.get("auto_map")),
    }


def teacher_facts(folder: Path, training: dict[str, Any]) -> dict[str, Any]:
    """Of a classifier; `epochs` is None where `training.json` does not say."""
    config, settings = read_json(folder / "config.json"), training.get("config") or {}
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
    config, settings = read_json(folder / "config.json"), training.get("config") or {}
    accuracies = {"linear classifier": "linear_accuracy", "20 nearest neighbours": "knn_accuracy"}
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
    unet, scheduler = read_json(folder / "unet/config.json"), json_of(folder / "scheduler/scheduler_config.json")
    settings, names = training.get("config") or {}, training.get("label_names") or []
    entries = unet.get("num_class_embeds") or 0
    return {
        "name": "Conditional" if entries else "Unconditional",
        "side": int(unet["sample_size"]),
        "channels": int(unet["in_channels"]),
        "color": "grey" if unet["in_channels"] == 1 else "RGB",
        "labels": listed_labels(names) if entries else "",
        "classes": len(names) or entries,
        "entries": entries,
        "null_class": bool(entries and settings and entries == len(names) + 1),
        "steps": scheduler.get("num_train_timesteps"),
        "epochs": settings.get("epochs"),
    }


def pipeline_facts(folder: Path, training: dict[str, Any]) -> dict[str, Any]:
    """Of a self-contained IGDS pipeline: its components, and the estimator's classes and the prior's images."""
    index = read_json(folder / "model_index.json")
    parts = {name: value for name, value in index.items() if isinstance(value, list) and not name.startswith("_")}
    components = [(code(name), code(value[1])) for name, value in parts.items() if all(value)]
    guided = all(parts.get("estimator") or [None])
    prior = "unet" if all(parts.get("unet") or [None]) else "transformer"
    estimator = json_of(folder / "estimator/config.json") if guided else {}
    names = label_names(estimator)
    network = read_json(folder / prior / "config.json")
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
            for record in without_local_paths(read_results(folder / "results.json"))
            if is_accuracy_record(record)
        ],
    }


# Results


def evaluations(kind: str, folder: Path, training: dict[str, Any], source: Source | None) -> list[EvalResult]:
    """What the folder says was measured, as results of the Hub; none of a prior, of which no accuracy is measured.

    A pipeline's are those of the sets sampled with it, if `decoct evaluate` wrote its `results.json` there.
    """
    if kind == "pipeline":
        records = without_local_paths(read_results(folder / "results.json"))
        return [result_of(record) for record in records if is_accuracy_record(record)]
    measured = {
        "teacher": [("accuracy", "accuracy")],
        "estimator": [("linear_accuracy", "linear probe accuracy"), ("knn_accuracy", "20-NN accuracy")],
    }.get(kind, [])
    if source is None:
        return []
    config = training["config"]
    return [
        EvalResult(
            task_type="image-classification",
            dataset_type=source.hub_id or source.name,
            dataset_name=source.name,
            dataset_config=config.get("dataset_config"),
            dataset_split=config.get("eval_split"),
            metric_type="accuracy",
            metric_name=name,
            metric_value=training[key],
        )
        for key, name in measured
        if key in training
    ]


def result_of(record: dict[str, Any]) -> EvalResult:
    """A record of `decoct evaluate`."""
    source, seeds = source_of(record["dataset"]), len(record["seeds"])
    return EvalResult(
        task_type="image-classification",
        dataset_type=source.hub_id or source.name,
        dataset_name=source.name,
        metric_type="accuracy",
        metric_name=f"accuracy of {record['student']} trained on {record['ipc']} images per class "
        f"({method_name(record['method'])}, {record['labels']} labels, protocol {setting_of(record)[1]}, "
        f"{record['epoch']} epoch, {seeds} seed{'s' if seeds > 1 else ''})",
        metric_value=record["accuracy_mean"],
    )
