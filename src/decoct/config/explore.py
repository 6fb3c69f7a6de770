"""Looking at distilled sets in a browser."""

from __future__ import annotations

from dataclasses import dataclass

from decoct.config.options import check_choices, option, require

__all__ = ["ExploreConfig"]


@dataclass(kw_only=True)
class ExploreConfig:
    """A page served on this machine: distilled sets, samples of the embedded prior over beta, two sets compared."""

    sets: list[str] = option(
        [], "Run folders or Hub ids of distilled sets. Default: none, the embedded prior alone.", group="data"
    )
    host: str = option(
        "127.0.0.1", "Address to listen on; 0.0.0.0 is for everybody who reaches this machine.", matters="command"
    )
    port: int | None = option(None, "Port to listen on. Default: the first free one from 7860 on.", matters="command")

    def __post_init__(self) -> None:
        check_choices(self)
        require(self.port is None or 0 < self.port < 65536, "port", "in [1, 65535]", self.port)
        require(len(set(self.sets)) == len(self.sets), "sets", "each set once", self.sets)
