"""The facts of a distilling run in words: its method, its settings, its networks, the command that repeats it."""

from __future__ import annotations

import dataclasses
import json
import shlex
from typing import Any

from decoct.config import DistillConfig, default_values, fields_that_matter_for
from decoct.methods import METHODS

__all__ = ["command_of", "label_teachers_of", "method_sentence", "settings_of"]


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


DIVERSE = {"herding": "herding", "k_center": "k-center", "k_means": "k-means"}


def method_sentence(config: dict[str, Any]) -> str:
    """How the images of a run were made, in words."""
    if config["method"] == "igds":
        return (
            "Images sampled from a diffusion prior under information guidance, which raises the prototype information "
            "and, by the weight beta, the contextual information of each sample; then packed and labelled by the "
            "teacher."
        )
    whole = config.get("attribution") == "whole" or (
        config.get("attribution") != "random" and config.get("crop_fraction") == 1
    )
    crops = "Whole real images" if whole else CROPS.get(config.get("attribution", ""), "Crops of real images")
    order = {"highest": ", highest first", "lowest": ", lowest first"}.get(config.get("utility_order", ""), "")
    utility, diverse = config.get("utility", ""), DIVERSE.get(config.get("selection", ""))
    if utility == "random":
        ranked = f"chosen for diversity of the teacher's features ({diverse})" if diverse else "drawn at random"
    else:
        ranked = f"ranked {UTILITIES.get(utility, 'by a score')}{order}"
        ranked += f", and of the best those most diverse in the teacher's features ({diverse})" if diverse else ""
    return f"{crops}, {ranked}; then packed and labelled by the teacher."


def settings_of(config: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Name, value and meaning of every setting that the method depends on."""
    irrelevant = {"ipc", *fields_that_matter_for(DistillConfig, "command", "machine", "publishing")}
    irrelevant.update(fields_that_matter_for(DistillConfig, "selection" if config["method"] == "igds" else "sampling"))
    helps = {field.name: field.metadata["help"] for field in dataclasses.fields(DistillConfig)}
    return [
        (name, json.dumps(value, ensure_ascii=False), helps.get(name, ""))
        for name, value in config.items()
        if name not in irrelevant
    ]


def label_teachers_of(manifest: dict[str, Any]) -> list[tuple[dict[str, Any] | None, list[str]]]:
    """The networks that labelled, each with the IPCs whose images it labelled."""
    found: list[tuple[dict[str, Any] | None, list[str]]] = []
    for ipc, record in (manifest.get("label_teachers") or {}).items():
        ipcs = next((ipcs for known, ipcs in found if known == record), None)
        if ipcs is None:
            found.append((record, [ipc]))
        else:
            ipcs.append(ipc)
    return found


def command_of(config: dict[str, Any]) -> list[str] | None:
    """The command that repeats a run: what differs from the method's defaults.

    Returns:
        The command and its options, each quoted for a shell, to be joined by spaces. None for a run from
        Python whose data or networks have no name, or a method that this version does not know.
    """
    named = [config.get(name) for name in ("dataset", "teacher", "prior", "estimator")]
    if "in memory" in named or config["method"] not in METHODS:
        return None
    tiles = config.get("tiles_per_image", 1)
    defaults = default_values(config["method"], tiles)
    always = [name for name in ("method", "dataset", "teacher", "ipc", "tiles_per_image") if name in config]
    changed = [
        name
        for name, value in config.items()
        if name in defaults and value != defaults[name] and name not in {*always, "overwrite", "dry_run", "output_dir"}
    ]
    parts = ["decoct distill"]
    for name in [*always, *changed, *(["output_dir"] if "output_dir" in config else [])]:
        value = config[name]
        if value is None:
            value = 0  # the one field that can be turned off, `candidates_per_class`, says so by 0
        parts.append(shlex.join([f"--{name}", *map(str, value if isinstance(value, list) else [value])]))
    return parts
