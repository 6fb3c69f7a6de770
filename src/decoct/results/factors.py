"""The factors of InfoUtil's ablation, their combinations, and what each table needs.

Random crops are RDED's in all that belongs to cropping: scale, zero padding when they are scored, order in the mosaic.
Attribution crops are InfoUtil's. Nothing else differs but the factor: all combinations take the best tiles (`selection
top`) of the same candidates and state attribution, score, order and noise, so that no method's default has a say.
The baseline packs whole images, drawn at random, into as many tiles.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

__all__ = [
    "KEY",
    "NOISE",
    "RANDOM_IMAGES",
    "RDED",
    "SHAPLEY",
    "Factors",
    "infoutil",
    "table_combinations",
    "combinations_of",
]

NOISE = 2.0  # InfoUtil, App. B.1
SHAPLEY = "kernel_shap"

# What tells the records of one ablation apart.
KEY = ("setting", "label_teacher", "labels", "ipc", "student", "seed")


@dataclass(frozen=True)
class Factors:
    """One combination of the factors that decide which tiles are chosen; records call it `setting`.

    Args:
        scoring: `grad_norm` or `loss`; None: random whole images, not scored.
        order: Scores that are taken first, `highest` or `lowest`; None where nothing is scored.
        attribution: `kernel_shap` or `grad_cam`; None: no heat map.
        noise: Noise on the heat map, in its own standard deviations; None where there is none.
    """

    scoring: str | None
    order: str | None
    attribution: str | None
    noise: float | None

    @property
    def cropping(self) -> str:
        """What the crops come from: `whole` images, `random` crops or `attribution`."""
        if self.scoring is None:
            return "whole"
        return "random" if self.attribution is None else "attribution"

    @property
    def scores(self) -> str:
        """Name of the scores of the candidates, which combinations share that differ in their order alone."""
        noise = "no_noise" if self.noise == 0 else None
        return "-".join(part for part in (self.scoring, self.attribution or "random_crops", noise) if part)

    @property
    def name(self) -> str:
        """Name in records and folders."""
        if self == RANDOM_IMAGES:
            return "random"
        return "rded" if self == RDED else f"{self.scores}-{self.order}"

    def distill_options(self, crop_fraction: float) -> dict[str, Any]:
        """Fields of `DistillConfig` that belong to the combination.

        Args:
            crop_fraction: Side of attribution windows as a share of the image's.
        """
        if self.cropping == "whole":
            return {"method": "random"}
        options = {"utility": self.scoring, "utility_order": self.order, "selection": "top"}
        if self.cropping == "random":
            return {"method": "rded", "attribution": "random", **options}
        windows = {"attribution": self.attribution, "noise_scale": self.noise, "crop_fraction": crop_fraction}
        return {"method": "infoutil", **windows, **options}


RANDOM_IMAGES = Factors(None, None, None, None)
RDED = Factors("loss", "lowest", None, None)


def infoutil(order: str) -> Factors:
    """InfoUtil itself, with the given order of gradient norms."""
    return Factors("grad_norm", order, SHAPLEY, NOISE)


def table_combinations(table: str, order: str) -> list[Factors]:
    """The combinations of one table of the paper for one order of gradient norms; random whole images are in each."""
    full = infoutil(order)
    needed = {
        "6": [RDED, Factors("loss", "lowest", SHAPLEY, NOISE), replace(full, attribution=None, noise=None), full],
        "7": [full, replace(full, noise=0.0)],
        "8": [replace(full, attribution="grad_cam"), full],
        "11": [RDED, full],
    }
    return [RANDOM_IMAGES, *needed[table]]


def combinations_of(tables: Iterable[str], orders: Iterable[str], full_grid: bool) -> list[Factors]:
    """The combinations that the tables need, or all; each once. Loss is always lowest first, as in RDED."""
    if not full_grid:
        needed = (table_combinations(table, order) for table, order in itertools.product(tables, list(orders)))
        return list(dict.fromkeys(itertools.chain.from_iterable(needed)))
    scorings = [("loss", "lowest"), *(("grad_norm", order) for order in orders)]
    crops = [(None, None), *itertools.product((SHAPLEY, "grad_cam"), (NOISE, 0.0))]
    every = [Factors(*scoring, *crop) for scoring, crop in itertools.product(scorings, crops)]
    return [RANDOM_IMAGES, *dict.fromkeys(every)]
