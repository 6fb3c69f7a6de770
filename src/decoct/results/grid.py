"""InfoUtil's ablation grid as data: combinations of its factors, what each table needs, and what is trained for it.

Random crops are RDED's in all that belongs to cropping: scale, zero padding when they are scored, order in the mosaic.
Attribution crops are InfoUtil's. Nothing else differs but the factor: all settings take the best tiles (`selection
top`) of the same candidates and state attribution, score, order and noise, so that no method's default has a say.
The baseline packs whole images, drawn at random, into as many tiles.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from decoct.config import AblateConfig

__all__ = [
    "BASELINE",
    "KEY",
    "NOISE",
    "RDED",
    "SHAPLEY",
    "Cell",
    "Setting",
    "cells_of",
    "infoutil",
    "key_of",
    "keys_of",
    "settings_of",
    "table_settings",
]

NOISE = 2.0  # InfoUtil, App. B.1
SHAPLEY = "kernel_shap"

# What tells the records of one ablation apart.
KEY = ("setting", "label_teacher", "labels", "ipc", "student", "seed")


@dataclass(frozen=True)
class Setting:
    """One combination of the factors that decide which tiles are chosen.

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
        """Name of the scores of the candidates, which settings share that differ in their order alone."""
        noise = "no_noise" if self.noise == 0 else None
        return "-".join(part for part in (self.scoring, self.attribution or "random_crops", noise) if part)

    @property
    def name(self) -> str:
        """Name of the setting in records and folders."""
        if self == BASELINE:
            return "random"
        return "rded" if self == RDED else f"{self.scores}-{self.order}"

    def distill_options(self, config: AblateConfig) -> dict[str, Any]:
        """Fields of `DistillConfig` that belong to the setting."""
        if self.cropping == "whole":
            return {"method": "random"}
        options = {"utility": self.scoring, "utility_order": self.order, "selection": "top"}
        if self.cropping == "random":
            return {"method": "rded", "attribution": "random", **options}
        windows = {"attribution": self.attribution, "noise_scale": self.noise, "crop_fraction": config.crop_fraction}
        return {"method": "infoutil", **windows, **options}


BASELINE = Setting(None, None, None, None)
RDED = Setting("loss", "lowest", None, None)


def infoutil(order: str) -> Setting:
    """InfoUtil itself, with the given order of gradient norms."""
    return Setting("grad_norm", order, SHAPLEY, NOISE)


def table_settings(table: str, order: str) -> list[Setting]:
    """The settings of one table of the paper for one order of gradient norms; random whole images are in each."""
    full = infoutil(order)
    needed = {
        "6": [RDED, Setting("loss", "lowest", SHAPLEY, NOISE), replace(full, attribution=None, noise=None), full],
        "7": [full, replace(full, noise=0.0)],
        "8": [replace(full, attribution="grad_cam"), full],
        "11": [RDED, full],
    }
    return [BASELINE, *needed[table]]


def settings_of(tables: Iterable[str], orders: Iterable[str], full_grid: bool) -> list[Setting]:
    """The settings that the tables need, or all; each once. Loss is always lowest first, as in RDED."""
    if not full_grid:
        needed = (table_settings(table, order) for table, order in itertools.product(tables, list(orders)))
        return list(dict.fromkeys(itertools.chain.from_iterable(needed)))
    scorings = [("loss", "lowest"), *(("grad_norm", order) for order in orders)]
    crops = [(None, None), *itertools.product((SHAPLEY, "grad_cam"), (NOISE, 0.0))]
    every = [Setting(*scoring, *crop) for scoring, crop in itertools.product(scorings, crops)]
    return [BASELINE, *dict.fromkeys(every)]


@dataclass(frozen=True)
class Cell:
    """One distilled set: a setting, the teacher that labels it, and the seed that draws its candidates."""

    setting: Setting
    label_teacher: str
    seed: int


def cells_of(config: AblateConfig) -> list[Cell]:
    """The distilled sets of an ablation, seed by seed; sets that no student would be trained on are left out."""
    settings = settings_of(config.tables, config.utility_orders, config.full_grid)
    seeds = range(config.seed, config.seed + config.seeds)
    return [
        Cell(setting, teacher, seed)
        for seed, setting, teacher in itertools.product(seeds, settings, config.label_teachers)
        if label_modes(config, teacher)
    ]


def label_modes(config: AblateConfig, label_teacher: str) -> list[str]:
    """The label modes of a set; hard labels come from no teacher, so one teacher's sets serve them."""
    return [mode for mode in config.labels if mode != "hard" or label_teacher == config.label_teachers[0]]


def keys_of(cell: Cell, config: AblateConfig) -> list[tuple[Any, ...]]:
    """The keys of a set's records, one per label mode, IPC and student."""
    return [
        (cell.setting.name, None if labels == "hard" else cell.label_teacher, labels, ipc, student, cell.seed)
        for labels in label_modes(config, cell.label_teacher)
        for ipc, student in itertools.product(config.ipc, config.students)
    ]


def key_of(record: dict[str, Any]) -> tuple[Any, ...]:
    """A record's key."""
    return tuple(record[name] for name in KEY)
