"""The evaluation split: the real images that students and teachers are measured on."""

from __future__ import annotations

import logging
from functools import cached_property

from datasets import Dataset

from decoct.config import DataConfig
from decoct.data.columns import listed
from decoct.data.loading import check_label_names, class_counts, eval_split_name, load_split, side_of
from decoct.data.source import dataset_fingerprint
from decoct.data.spec import ImageSpec
from decoct.data.tensors import PixelDataset

__all__ = ["EvalSplit"]

logger = logging.getLogger(__name__)


class EvalSplit:
    """The split of a dataset that measures; it is loaded on first use.

    Args:
        config: Names the dataset and the split.
        spec: Images and label names of the distilled set, which those of the split are to have.
    """

    def __init__(self, config: DataConfig, spec: ImageSpec) -> None:
        self.config, self.spec = config, spec

    @cached_property
    def name(self) -> str:
        """Name of the split."""
        config = self.config
        return eval_split_name(config.dataset, config.dataset_config, config.eval_split, config.label_column)

    @cached_property
    def images(self) -> Dataset:
        """Its images at the set's size, with their labels."""
        side_of(self.config.image_size, self.spec.image_size, "the distilled set")
        return load_split(self.config, self.name, self.spec.image_size, self.spec.label_names)

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of `images`."""
        return dataset_fingerprint(self.images)

    @cached_property
    def pixels(self) -> PixelDataset:
        """What a student of the set is measured on."""
        return PixelDataset(self.images, self.spec.image_size, self.spec.channels)

    def pixels_for(self, spec: ImageSpec) -> PixelDataset:
        """What a network that takes images of another size or other channels is measured on."""
        size, channels = spec.image_size, spec.channels
        same = (size, channels) == (self.spec.image_size, self.spec.channels)
        return self.pixels if same else PixelDataset(self.images, size, channels)

    def check(self, distilled: str) -> None:
        """Raises ValueError unless the split has the set's label names; says which classes it has no image of.

        Args:
            distilled: Name of the set.
        """
        names = self.images.features["label"].names
        check_label_names(self.spec.label_names, names, distilled, self.config.dataset)
        if absent := [name for name, count in zip(names, class_counts(self.images), strict=True) if not count]:
            logger.warning(
                "%d of %d classes have no image in the split %r, so that nothing is measured on them: %s.",
                len(absent), len(names), self.name, listed(absent),
            )  # fmt: skip
