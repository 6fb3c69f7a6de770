"""What an evaluation trains: the settings that records stand for, and the students of each."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

__all__ = ["Setting", "Unit"]


@dataclass(frozen=True)
class Setting:
    """What the students of one record share.

    Args:
        ipc: Images per class.
        student: Architecture, under the protocol's norm.
        protocol: Name of the protocol.
        labels: Label mode.
    """

    ipc: int
    student: str
    protocol: str
    labels: str

    def __str__(self) -> str:
        return f"IPC {self.ipc}, {self.student}, {self.protocol}, {self.labels} labels"


@dataclass(frozen=True)
class Unit:
    """One student to train: the smallest piece of work that is saved and resumed.

    Args:
        setting: How it is trained.
        seed: Of its weights and its training and, for random images, of their draw.
        random: On random images in place of the distilled ones.
    """

    setting: Setting
    seed: int
    random: bool = False

    @property
    def title(self) -> str:
        """How it is trained, and on what, in words; students that differ by their seeds share it."""
        return f"{self.setting}, random images" if self.random else str(self.setting)

    def to_dict(self) -> dict[str, Any]:
        """How it was trained, as the file of its accuracy states it."""
        return {**dataclasses.asdict(self.setting), "seed": self.seed, "random": self.random}
