"""What must hold for every image that is made of real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import decoct
from decoct.data.mosaic import cut_tiles, unpack
from decoct.synthesis.relabel import view_crops

from ..runs import CLASSES, SIDE, VIEWS, columns


def check_images(folder: Path, ipc: int, count: int, teacher: decoct.Classifier, source: torch.Tensor) -> None:
    """Every stored value of an IPC follows from the real images and the labelling teacher."""
    values = columns(folder, ipc)
    assert values["label"].tolist() == np.repeat(range(CLASSES), ipc).tolist()
    pixels = values["pixels"].float() / 255
    tiles = unpack(values["pixels"], count)
    resized = F.interpolate(tiles.flatten(0, 1).float() / 255, (SIDE, SIDE), mode="bilinear", align_corners=False)
    expected = teacher(resized if count > 1 else pixels).view(-1, count, CLASSES)
    assert np.allclose(values["tile_logits"], expected.numpy(), rtol=2e-3, atol=2e-3)
    for number, (members, cut) in enumerate(zip(values["tiles"], tiles, strict=True)):
        assert len(members) == count
        rows = torch.tensor([member["source_index"] for member in members])
        places = torch.tensor([member["box"] for member in members])
        assert torch.equal(cut, cut_tiles(source, rows, places, cut.shape[-1]))
        boxes = torch.from_numpy(values["view_boxes"][number])
        crops = view_crops(pixels[number : number + 1], torch.zeros(VIEWS, dtype=torch.long), boxes)
        assert np.allclose(values["view_logits"][number], teacher(crops).numpy(), rtol=2e-3, atol=2e-3)
    used = [member["source_index"] for members in values["tiles"] for member in members]
    assert len(set(used)) == len(used) == CLASSES * ipc * count, "an image gives at most one tile"
