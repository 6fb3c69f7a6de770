"""The methods that make a distilled set: how they are called, what they set by default, and where they come from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["BASELINE", "METHODS", "Method", "method_name", "method_order"]


@dataclass(frozen=True)
class Method:
    """One method.

    Args:
        title: As tables and figures show it.
        defaults: Its values for the fields of `DistillConfig` that were left at None.
        paper: Who it is from, as Markdown; None for random images.
        way: What a set was distilled by, in a sentence. Default: the title.
    """

    title: str
    defaults: dict[str, Any] = field(default_factory=dict)
    paper: str | None = None
    way: str = ""


def _whole_images(
    utility: str = "random", order: str = "lowest", selection: str = "top", **more: Any
) -> dict[str, Any]:
    return {"attribution": "whole", "utility": utility, "utility_order": order, "selection": selection, **more}


# In the order in which tables show them.
METHODS = {
    "infoutil": Method(
        "InfoUtil",
        {"attribution": "kernel_shap", "utility": "grad_norm", "utility_order": "lowest", "selection": "k_center"},
        "InfoUtil: *Grounding and Enhancing Informativeness and Utility in Dataset Distillation*.",
    ),
    "igds": Method(
        "IGDS",
        _whole_images(),
        "IGDS: *Information-Guided Diffusion Sampling for Image Classification Dataset Distillation*.",
    ),
    "rded": Method(
        "RDED",
        {"attribution": "random", "utility": "loss", "utility_order": "lowest", "selection": "top"},
        "RDED: Sun, Shi, Yu and Lin, *On the Diversity and Realism of Distilled Dataset: An Efficient Dataset "
        "Distillation Paradigm*, CVPR 2024, arXiv 2312.03526.",
    ),
    "k_center": Method(
        "k-center",
        _whole_images(selection="k_center", pool_factor=0.0),
        "k-center: Gonzalez, *Clustering to Minimize the Maximum Intercluster Distance*, Theoretical Computer "
        "Science 38, 1985; as a coreset: Sener and Savarese, *Active Learning for Convolutional Neural Networks: A "
        "Core-Set Approach*, ICLR 2018, arXiv 1708.00489.",
    ),
    "k_means": Method(
        "k-means",
        _whole_images(selection="k_means", pool_factor=0.0),
        "k-means: Lloyd, *Least Squares Quantization in PCM*, IEEE Transactions on Information Theory 28, 1982.",
    ),
    "herding": Method(
        "herding",
        _whole_images(selection="herding", pool_factor=0.0),
        "Herding: Welling, *Herding Dynamical Weights to Learn*, ICML 2009.",
    ),
    "forgetting": Method(
        "forgetting",
        _whole_images("forgetting", "highest"),
        "Forgetting events: Toneva et al., *An Empirical Study of Example Forgetting during Deep Neural "
        "Network Learning*, ICLR 2019, arXiv 1812.05159.",
        way="forgetting events",
    ),
    "random": Method("random images", _whole_images(), way="random choice"),
}

# The `method` of what `decoct evaluate` measured on random images beside a distilled set.
BASELINE = "random images (baseline)"


def method_name(method: str) -> str:
    """A method as people write it: `infoutil` is InfoUtil."""
    return METHODS[method].title if method in METHODS else method


def method_order(method: str) -> int:
    """Its place in tables; one that is not known stands beside random images, the baseline last."""
    names = list(METHODS)
    return len(names) if method == BASELINE else names.index(method if method in METHODS else "random")
