"""The cards (README.md) that published repositories open with."""

from __future__ import annotations

from decoct.hub.dataset_card import NOT_SETTINGS, dataset_card
from decoct.hub.model_cards import model_card
from decoct.hub.source import GivenInfo, source_record

__all__ = ["NOT_SETTINGS", "GivenInfo", "dataset_card", "model_card", "source_record"]
