"""Tiles and mosaics."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from decoct.data.mosaic import compose, cut_tiles, tile_ranks, unpack


def pixels(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.mark.parametrize("count", [1, 4, 9])
@pytest.mark.parametrize("channels", [1, 3])
def test_compose_and_unpack_are_exact_inverses(count, channels):
    tiles = pixels(5, count, channels, 6, 6)
    mosaics = compose(tiles)
    side = 6 * int(count**0.5)
    assert mosaics.shape == (5, channels, side, side)
    assert mosaics.dtype == torch.uint8
    assert torch.equal(unpack(mosaics, count), tiles)
    images = pixels(5, channels, side, side)
    assert torch.equal(compose(unpack(images, count)), images)


def test_tiles_lie_row_by_row():
    mosaic = compose(torch.arange(4).view(1, 4, 1, 1, 1))
    assert mosaic[0, 0].tolist() == [[0, 1], [2, 3]]
    tiles = unpack(pixels(2, 3, 8, 8), 4)
    image = pixels(2, 3, 8, 8)
    assert torch.equal(tiles[1, 1], image[1, :, :4, 4:])
    assert torch.equal(tiles[1, 2], image[1, :, 4:, :4])


def test_ranks_in_order_and_strided():
    assert tile_ranks(3, 4).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert tile_ranks(3, 4, strided=True).tolist() == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]
    assert tile_ranks(3, 1).tolist() == tile_ranks(3, 1, strided=True).tolist() == [[0], [1], [2]]


def test_a_box_of_the_tiles_size_is_copied():
    image = pixels(3, 12, 12)
    tile = cut_tiles(image[None], torch.tensor([0]), torch.tensor([[2, 5, 6, 6]]), 6)[0]
    assert torch.equal(tile, image[:, 2:8, 5:11])
    tile[:] = 0
    assert image[:, 2:8, 5:11].any(), "the tile must not share the image's memory"


def test_other_boxes_are_resized():
    images, rows = pixels(2, 3, 12, 12), torch.tensor([1, 0, 1, 0, 0, 1])
    boxes = [(0, 0, 12, 12), (1, 2, 9, 9), (4, 4, 3, 3), (0, 3, 12, 7), (11, 11, 1, 1), (2, 0, 9, 9)]
    tiles = cut_tiles(images, rows, torch.tensor(boxes), 6)
    assert tiles.dtype == torch.uint8
    for row, (top, left, height, width), tile in zip(rows, boxes, tiles, strict=True):
        crop = images[row, None, :, top : top + height, left : left + width].float()
        expected = F.interpolate(crop, (6, 6), mode="bilinear", align_corners=False, antialias=True)[0]
        assert (tile.float() - expected).abs().max() <= 0.5 + 1e-4


def test_tiles_that_make_no_square_are_an_error():
    with pytest.raises(ValueError, match="tiles_per_image must be a square number. Got 3."):
        compose(pixels(1, 3, 1, 2, 2))
    with pytest.raises(ValueError, match="must be a multiple of 2. Got 7."):
        unpack(pixels(1, 1, 7, 7), 4)
