"""What a network must know about the images it was trained on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["ImageSpec"]


@dataclass(frozen=True)
class ImageSpec:
    """Size, channels, normalisation and label names of an image-classification dataset.

    Args:
        image_size: Side of the square images, in pixels.
        channels: 1 (grey) or 3 (RGB).
        mean: Per-channel mean of pixels in [0, 1].
        std: Per-channel standard deviation of pixels in [0, 1].
        label_names: Class names in label order.
    """

    image_size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    label_names: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise ValueError(f"channels must be one of [1, 3]. Got {self.channels}.")
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError(
                f"mean and std must have {self.channels} values, one per channel. "
                f"Got {len(self.mean)} and {len(self.std)}."
            )

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.label_names)

    def to_dict(self) -> dict[str, Any]:
        """The spec as JSON-ready values."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ImageSpec:
        """The inverse of `to_dict`."""
        fields: dict[str, Any] = {key: tuple(each) if isinstance(each, list) else each for key, each in values.items()}
        return cls(**fields)
