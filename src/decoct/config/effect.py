"""Options that change nothing in a command as it is given."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from decoct.config.distill import DistillConfig
from decoct.config.evaluate import EvaluateConfig
from decoct.config.importing import ImportConfig
from decoct.config.options import fields_that_matter_for
from decoct.config.publishing import PublishConfig, PublishingConfig, VerifyConfig
from decoct.config.study import BetaStudyConfig, InformationConfig
from decoct.config.training import PriorConfig
from decoct.config.whole import WholeConfig

__all__ = ["distill_without_effect", "require_effect", "without_effect"]

CROPS = ("crop_center", "crops_per_image", "noise_scale")
SHAPLEY = ("kernel_shap", "captum_kernel_shap", "exact_shapley")


def require_effect(config: Any, given: Mapping[str, Any]) -> None:
    """Raises ValueError for the first option that was given, with its value, and changes nothing."""
    for name, why in without_effect(config).items():
        if name in given:
            raise ValueError(f"{name} must be left out {why}, where it changes nothing. Got {given[name]!r}.")


def without_effect(config: Any) -> dict[str, str]:
    """The fields of a configuration that change nothing, each with the reason in words."""
    values = {each.name: getattr(config, each.name) for each in dataclasses.fields(config)}
    found: dict[str, str] = {}
    if isinstance(config, PublishingConfig) and not isinstance(config, PublishConfig) and config.push_to_hub is None:
        found |= dict.fromkeys(("private", "revision", "commit_message"), "without --push_to_hub")
    if isinstance(config, DistillConfig):
        found |= distill_without_effect(values)
        alone = config.world_size is None and not config.merge
        found |= {"wait": "without --world_size"} if alone else {}
    if isinstance(config, EvaluateConfig):
        found |= evaluate_without_effect(config)
    if isinstance(config, ImportConfig):
        found |= dict.fromkeys(("mixed_precision", "num_workers", "seed"), "for a set that is imported")
    if isinstance(config, VerifyConfig):
        found |= {"sample": "without --teacher"} if not config.teacher else {}
    if isinstance(config, PriorConfig):
        found |= {"label_dropout": "with --no_conditional"} if not config.conditional else {}
        found |= {"sample_steps": "with --sample_every 0"} if config.sample_every == 0 else {}
    if isinstance(config, WholeConfig):
        found |= {"epochs": "with --teacher"} if config.teacher is not None else {}
    if isinstance(config, BetaStudyConfig):
        found |= {"teacher": "with hard labels"} if config.labels == "hard" else {}
    if isinstance(config, EvaluateConfig | BetaStudyConfig | InformationConfig):
        found |= {"overwrite": "here: results are added to"}
    return found


def distill_without_effect(values: Mapping[str, Any]) -> dict[str, str]:
    """The fields of `DistillConfig` that change nothing, each with the reason, from the values of a run."""
    method, found = values["method"], dict[str, str]()

    def useless(names: Collection[str], why: str) -> None:
        for name in names:
            found.setdefault(name, why)

    if method == "igds":
        useless(fields_that_matter_for(DistillConfig, "selection"), "with method 'igds'")
    else:
        useless(fields_that_matter_for(DistillConfig, "sampling"), f"with method {method!r}")
        attribution = values.get("attribution")
        if attribution in ("random", "whole"):
            maps = ("grid_size", "coalitions", "baseline", "value", "crop_center", "noise_scale")
            useless(maps, f"with attribution {attribution!r}")
        if attribution == "random":
            useless(["crop_fraction"], "with attribution 'random'")
        elif attribution == "whole" or values.get("crop_fraction") == 1:
            useless(CROPS, "where whole images are taken (crop_fraction 1)")
        if attribution not in ("kernel_shap", "captum_kernel_shap"):
            useless(["coalitions"], f"with attribution {attribution!r}")
        if attribution not in SHAPLEY:
            useless(["baseline", "value"], f"with attribution {attribution!r}")
        if values.get("utility_order") != "quantile":
            useless(["utility_quantile"], f"with utility_order {values.get('utility_order')!r}")
        if values.get("utility") != "gradient_flow":
            useless(["gradient_flow_references"], f"with utility {values.get('utility')!r}")
        if values.get("tune"):
            order = [] if values.get("utility") == "forgetting" else ["utility_order", "utility_quantile"]
            useless(["selection", "pool_factor", "pool_share", *order], "with --tune, which chooses them")
        else:
            useless(["tune_budget"], "without --tune")
            if values.get("selection") not in ("herding", "k_center", "k_means"):
                useless(["pool_factor"], f"with selection {values.get('selection')!r}")
            if values.get("selection") != "coverage":
                useless(["coverage_kernel"], f"with selection {values.get('selection')!r}")
            if values.get("selection") not in ("coverage", "regression"):
                useless(["pool_share", "coverage_noise"], f"with selection {values.get('selection')!r}")
    if not values.get("slots"):
        useless(["label_bits", "label_top_k"], "with --slots 0")
        if not values.get("views"):
            useless(["view_scale"], "without --views and --slots")
    return found


def evaluate_without_effect(config: EvaluateConfig) -> dict[str, str]:
    """Likewise for `EvaluateConfig`."""
    found: dict[str, str] = {}
    if config.task != "continual":
        found |= dict.fromkeys(("steps", "orders"), f"for task {config.task!r}")
    else:
        found |= {"seeds": "for task 'continual', which has --orders"}
    if config.task != "transfer":
        target = [each.name for each in dataclasses.fields(config) if each.name.startswith(("target_", "finetune_"))]
        found |= dict.fromkeys(target, f"for task {config.task!r}")
    if config.task != "accuracy":
        found |= dict.fromkeys(("ranking", "real_accuracy"), f"for task {config.task!r}")
    elif not config.ranking:
        found |= {"real_accuracy": "with --no_ranking"}
    if not config.baseline:
        found |= {"baseline_dir": "with --no_baseline"}
    if set(config.labels) <= {"views", "mixed"}:
        found |= {"rrc_scale": f"with labels {config.labels}, which bring their own boxes"}
    return found
