"""Training students on a distilled set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from decoct.config.data import DataConfig
from decoct.config.options import option, require

__all__ = ["LABEL_MODES", "EvaluateConfig"]


@dataclass(kw_only=True)
class EvaluateConfig(DataConfig):
    """Training students on a distilled set and measuring them on real images."""

    output_dir: str | None = option(None, "Folder for results.json. Default: the distilled run folder.")  # type: ignore[assignment]
    distilled: str = option("runs/distilled", "Distilled run folder or Hub id.")
    ipc: list[int] = option([], "IPCs to evaluate. Default: all in the distilled set.")
    students: list[str] = option(["convnet3"], "Student architectures.")
    teacher: str | None = option(None, "Teacher of `online` labels. Default: the one named in the manifest.")
    protocol: str = option("rded_kd", "Training protocol by name.")
    labels: list[str] = option(["views"], "Label modes: hard, tiles, views, online.")
    seeds: int = option(1, "Students trained per setting.")
    epochs: int | None = option(None, "Epochs, instead of the protocol's; recorded as an override.")
    rrc_scale: float | None = option(
        None, "Smallest area of random-resized crops, instead of the protocol's; recorded as an override."
    )
    compile: bool = option(False, "Compile networks with torch.compile (about 16 s at start, then up to 1.7x faster).")
    epoch: Literal["last", "best"] = option("last", "Which epoch's accuracy is reported; `best` looks at the test set.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for mode in self.labels:
            require(mode in LABEL_MODES, "labels", f"one of {list(LABEL_MODES)}", mode)
        require(self.seeds >= 1, "seeds", "at least 1", self.seeds)
        require(self.epochs is None or self.epochs >= 1, "epochs", "at least 1", self.epochs)
        require(self.rrc_scale is None or 0 < self.rrc_scale <= 1, "rrc_scale", "in (0, 1]", self.rrc_scale)


LABEL_MODES = ("hard", "tiles", "views", "online")
