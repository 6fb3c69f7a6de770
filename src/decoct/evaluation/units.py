"""What an evaluation consists of: settings, each one record, and units, each one student to train."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from decoct.config import EvaluateConfig
from decoct.training.protocols import Protocol, epoch_count, load_protocol, student_name

__all__ = ["Setting", "Unit", "load_protocols", "overrides_of", "settings_of"]


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


def load_protocols(names: Iterable[str]) -> dict[str, Protocol]:
    """Protocols by the name that they state.

    Raises:
        ValueError: If there is no such protocol, or two files state the same name.
    """
    protocols: dict[str, Protocol] = {}
    for name in dict.fromkeys(names):
        protocol = load_protocol(name)
        if protocol.name in protocols:
            raise ValueError(f"protocols must have names of their own. Got {protocol.name!r} twice.")
        protocols[protocol.name] = protocol
    return protocols


def settings_of(config: EvaluateConfig, protocols: dict[str, Protocol], ipcs: list[int]) -> list[Setting]:
    """All settings: a label mode is trained by the protocols that are defined for it.

    With `ranking`, hard labels are among them wherever a protocol has them, for HLR compares with these.

    Raises:
        ValueError: If a protocol is defined for none of the label modes.
    """
    for protocol in protocols.values():
        if not set(config.labels) & set(protocol.labels):
            raise ValueError(
                f"labels must hold one of {list(protocol.labels)}, which protocol {protocol.name!r} is defined for. "
                f"Got {config.labels}."
            )
    settings = []
    for ipc, student, protocol in itertools.product(ipcs, config.students, protocols.values()):
        modes = [*config.labels, *(["hard"] if config.ranking else [])]
        name = student_name(protocol, student)
        settings += [Setting(ipc, name, protocol.name, mode) for mode in modes if mode in protocol.labels]
    return list(dict.fromkeys(settings))


def overrides_of(config: EvaluateConfig, protocol: Protocol, setting: Setting) -> dict[str, Any]:
    """What is not trained as the protocol says."""
    values = {
        "epochs": None if config.epochs == epoch_count(protocol, setting.ipc) else config.epochs,
        "rrc_scale": None if setting.labels == "views" else config.rrc_scale,  # views bring their own boxes
        "mixed_precision": None if config.mixed_precision == "no" else config.mixed_precision,
    }
    return {key: value for key, value in values.items() if value is not None}
