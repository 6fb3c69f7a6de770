"""What of a run folder is published: its kind and its files."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from decoct.distilled.manifest import MANIFEST, check_manifest
from decoct.files import read_object
from decoct.run.folder import RUN_FILE

__all__ = [
    "CARD",
    "KINDS",
    "PICKLES",
    "Contents",
    "contents_of",
    "kind_of",
    "repo_type_of",
]

KINDS = {
    "dataset": "a distilled dataset with manifest.json",
    "teacher": "a teacher with config.json, model.safetensors and training.json",
    "estimator": "a variational estimator with config.json and model.safetensors",
    "prior": "a diffusion prior with model_index.json",
    "pipeline": "a saved IGDSPipeline with model_index.json and pipeline.py",
}
CARD = "README.md"
DATA_FILE = re.compile(r"data/ipc_[1-9][0-9]*/[A-Za-z0-9_][A-Za-z0-9_.-]*\.parquet")
WORK_FOLDERS = re.compile(r"checkpoints|trackers|samples|shards|evaluation|epoch_\d+|\..*")
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
# The code that goes with the weights, so that they load where decoct is not installed.
CODE = {
    "teacher": ("convnet.py", "resnet.py", "vgg.py"),
    "estimator": ("estimator.py",),
    "prior": (),
    "pipeline": (
        *("pipeline.py", "guidance.py", "estimates.py", "information.py", "reverse.py", "schedulers.py"),
        "estimator/estimator.py",
    ),
}


@dataclass(frozen=True)
class Contents:
    """What is published of a folder.

    Args:
        kind: One of `KINDS`.
        files: Name in the repository to local file, sorted; the card, and a dataset's manifest, are written for the
            repository and are not among them.
        left_out: Names at the folder's top level of which nothing is published, but for the run's own `run.json`.
    """

    kind: str
    folder: Path
    files: dict[str, Path]
    left_out: list[str]


def repo_type_of(kind: str) -> str:
    """The Hub's type of repository for a kind."""
    return "dataset" if kind == "dataset" else "model"


def kind_of(folder: str | Path) -> str:
    """What a finished run folder holds: one of `KINDS`.

    Raises:
        ValueError: If it is none of them, or of a run that is not finished.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"folder must be an existing run folder. Got '{folder}'.")
    if (folder / MANIFEST).is_file():
        return "dataset"
    trained = (folder / "training.json").is_file()
    if (folder / RUN_FILE).is_file() and not trained:
        raise ValueError(f"folder must hold a finished run. Got {folder}: run the command that began it again.")
    if (folder / "model_index.json").is_file():
        name = read_object(folder / "model_index.json").get("_class_name")
        if name == ["pipeline", "IGDSPipeline"]:
            return "pipeline"
        if name == "DDPMPipeline":
            return "prior"
    if (folder / "config.json").is_file() and (folder / "model.safetensors").is_file():
        if read_object(folder / "config.json").get("model_type") == "decoct_estimator":
            return "estimator"
        if trained:
            return "teacher"
    reject_pickles(folder)
    found = sorted(path.name for path in folder.iterdir())[:8]
    raise ValueError(
        f"folder must hold one of {sorted(KINDS)}: {'; '.join(KINDS.values())}. Got {folder}, which holds {found}."
    )


def contents_of(folder: str | Path) -> Contents:
    """The files that are published of a finished run folder.

    Raises:
        ValueError: If the folder is of no known kind, misses a file, holds weights as pickle, a link that leads out of
            it, or data that its manifest does not name.
    """
    kind, folder = kind_of(folder), Path(folder)
    if kind == "dataset":
        names = dataset_files(folder)
    else:
        reject_pickles(folder)
        names = model_files(folder, kind)
    files = {name: inside(folder, name) for name in sorted(names)}
    published = {CARD, MANIFEST, RUN_FILE, *(name.split("/")[0] for name in files)}
    left_out = sorted(path.name for path in folder.iterdir() if path.name not in published)
    return Contents(kind, folder, files, left_out)


def dataset_files(folder: Path) -> list[str]:
    """Data and preview that the manifest names, and the pages beside them; without card and manifest."""
    manifest = read_object(folder / MANIFEST)
    for problem in check_manifest(manifest):
        raise ValueError(f"{folder / MANIFEST} must describe a distilled dataset. {problem}")
    named = manifest["files"]
    for name in named:
        if name not in (CARD, "preview.png") and not DATA_FILE.fullmatch(name):
            raise ValueError(f"{folder / MANIFEST} must name preview.png and data/ipc_N/*.parquet alone. Got {name!r}.")
    present = {path.relative_to(folder).as_posix() for path in folder.glob("data/ipc_*/*.parquet")}
    if unnamed := sorted(present - set(named)):
        raise ValueError(f"data/ must hold what {MANIFEST} names alone. Got {folder / unnamed[0]}: move it away.")
    pages = [name for name in ("report.html", "results.json") if (folder / name).exists()]
    return [*(name for name in named if name != CARD), *pages]


def model_files(folder: Path, kind: str) -> list[str]:
    """Weights, configurations and decoct's code of a model or pipeline; of other formats nothing."""
    code = [name for name in CODE[kind] if (folder / name).exists()]
    names = [*code, *files_in(folder, "", ("config.json", "model_index.json", "training.json", "results.json"))]
    if (folder / "model_index.json").is_file():
        index = read_object(folder / "model_index.json")
        components = [name for name, value in index.items() if isinstance(value, list) and all(value)]
        for component in components:
            if component == "_class_name":
                continue
            own = files_in(folder, component, ("config.json", "scheduler_config.json", "training.json"))
            if not own:
                raise ValueError(f"{folder} must have the component {component!r} of its model_index.json. Got none.")
            names += own
    for name in names:
        if name.endswith("config.json"):
            check_code(folder, name, names)
    return names


def files_in(folder: Path, component: str, described: tuple[str, ...]) -> list[str]:
    """Names of the weights, and of the files in `described`, that lie in the folder or in one of its components."""
    if not re.fullmatch(r"[A-Za-z0-9_]*", component):
        raise ValueError(f"{folder / 'model_index.json'} must name components by identifiers. Got {component!r}.")
    place = folder / component
    names = [path.name for path in place.iterdir()] if place.is_dir() else []
    kept = [name for name in names if name.endswith((".safetensors", ".safetensors.index.json")) or name in described]
    return [f"{component}/{name}" if component else name for name in kept]


def check_code(folder: Path, name: str, names: list[str]) -> None:
    """Raises ValueError if a configuration asks for a code file that does not lie beside it."""
    classes = read_object(folder / name).get("auto_map", {})
    place = f"{Path(name).parent.as_posix()}/" if "/" in name else ""
    for reference in classes.values() if isinstance(classes, dict) else []:
        file = f"{place}{str(reference).split('.')[0]}.py"
        if file not in names:
            raise ValueError(f"{folder / name} must have the code that its `auto_map` names beside it. Got no {file}.")


def inside(folder: Path, name: str) -> Path:
    """The file of that name, which is one and lies in the folder.

    Raises:
        ValueError: If it is missing, no regular file, or a link to somewhere outside.
    """
    path = folder / name
    if not path.is_file():
        raise ValueError(f"{path} must be a file. Got {'something else' if path.exists() else 'nothing of that name'}.")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(
            f"{path} must lie in the folder. Got a link to {path.resolve()}: put a copy of the file in its place."
        )
    return path


def reject_pickles(folder: Path) -> None:
    """Raises ValueError for weights that execute code when they are loaded."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(each for each in folders if not WORK_FOLDERS.fullmatch(each))
        for name in sorted(names):
            if name.lower().endswith(PICKLES):
                raise ValueError(
                    f"weights must be safetensors. Got {Path(place) / name}, a pickle, which can execute code when "
                    "it is loaded: save the model again with `save_pretrained`, and remove this file."
                )
