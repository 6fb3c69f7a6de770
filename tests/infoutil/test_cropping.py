"""Windows and boxes against naive loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from decoct.infoutil.cropping import distinct_boxes, pad_to, pool_heatmap, random_boxes, window_boxes
from decoct.run.seeding import numpy_generator, torch_generator


@pytest.fixture
def heatmap() -> torch.Tensor:
    return torch.randn(6, 4, 4, generator=torch.Generator().manual_seed(0))


def generators(rows: int, kind=numpy_generator) -> list:
    return [kind(0, "crops", row) for row in range(rows)]


@pytest.mark.parametrize(
    ("grid", "fraction", "kernel"),
    [(4, 0.5, 2), (4, 0.75, 3), (4, 1.0, 4), (4, 0.25, 1), (5, 0.6, 3), (7, 3 / 7, 3)],
)
def test_pooling_equals_a_loop(grid, fraction, kernel):
    heatmap = torch.randn(3, grid, grid, generator=torch.Generator().manual_seed(1))
    pooled = pool_heatmap(heatmap, fraction)
    cells = grid - kernel + 1
    assert pooled.shape == (3, cells, cells)
    for row in range(cells):
        for column in range(cells):
            window = heatmap[:, row : row + kernel, column : column + kernel]
            torch.testing.assert_close(pooled[:, row, column], window.mean((1, 2)))


@pytest.mark.parametrize(("grid", "side", "fraction"), [(4, 32, 0.875), (4, 48, 0.625), (3, 24, 0.875), (4, 32, 0.125)])
def test_a_windows_score_is_the_heat_maps_mean_inside_it(grid, side, fraction):
    """For any share of the image: windows and their scores are compared pixel by pixel."""
    heatmap = torch.randn(5, grid, grid, generator=torch.Generator().manual_seed(3))
    boxes = window_boxes(heatmap, side, fraction, 200, 50.0, generators(5))
    pixels = heatmap.repeat_interleave(side // grid, 1).repeat_interleave(side // grid, 2)
    pooled = pool_heatmap(heatmap, fraction)
    for row in range(5):
        windows = boxes[row].unique(dim=0).tolist()
        assert len(windows) == pooled.shape[-1] ** 2 > 1
        means = [pixels[row, top : top + h, left : left + w].mean() for top, left, h, w in windows]
        torch.testing.assert_close(torch.stack(means), pooled[row].flatten())
        top, left, height, width = boxes[row, -1].tolist()
        best = pixels[row, top : top + height, left : left + width].mean()
        torch.testing.assert_close(best, pooled[row].max())
        mirrored = window_boxes(heatmap.flip(2), side, fraction, 1, 0.0, generators(5))[row, -1].tolist()
        assert mirrored == [top, side - width - left, height, width]


@pytest.mark.parametrize("fraction", [0.0, -0.5, 1.5])
def test_fraction_out_of_range(heatmap, fraction):
    with pytest.raises(ValueError, match="crop_fraction"):
        pool_heatmap(heatmap, fraction)
    with pytest.raises(ValueError, match="crop_fraction"):
        window_boxes(heatmap, 32, fraction, 5, 2.0, generators(6))


@pytest.mark.parametrize("center", ["pooled", "patch"])
@pytest.mark.parametrize(("grid", "size", "fraction"), [(4, 32, 0.5), (4, 30, 0.75), (4, 33, 0.3), (5, 32, 0.5)])
def test_windows_equal_a_loop(grid, size, fraction, center):
    heatmap = torch.randn(6, grid, grid, generator=torch.Generator().manual_seed(2))
    boxes = window_boxes(heatmap, size, fraction, 5, 2.0, generators(6), center)
    assert boxes.shape == (6, 5, 4) and boxes.dtype == torch.int64
    room = grid * (1 - fraction)
    starts = np.linspace(0, room, int(np.ceil(room)) + 1) if center == "pooled" else np.arange(grid)
    side = int(fraction * size + 0.5)
    for row in range(6):
        generator = numpy_generator(0, "crops", row)
        pooled = pool_heatmap(heatmap[row : row + 1], fraction)[0].numpy()
        field, span = (pooled, fraction * grid) if center == "pooled" else (heatmap[row].numpy(), 1)
        noise = generator.standard_normal((4, field.size)).astype(np.float32)
        for crop in range(5):
            scores = field.ravel() + (2.0 * pooled.std() * noise[crop] if crop < 4 else 0)
            cell = int(np.argmax(scores))
            expected = []
            for index in divmod(cell, field.shape[1]):
                middle = (starts[index] + span / 2) * size / grid
                expected.append(min(max(int(np.floor(middle - side / 2 + 0.5)), 0), size - side))
            assert boxes[row, crop].tolist() == [*expected, side, side]


def test_half_side_windows_are_the_cells_of_the_pooled_map(heatmap):
    boxes = window_boxes(heatmap, 32, 0.5, 200, 50.0, generators(6))
    corners = {tuple(box[:2]) for box in boxes.view(-1, 4).tolist()}
    assert corners == {(top, left) for top in (0, 8, 16) for left in (0, 8, 16)}
    for row in range(6):
        top, left = divmod(int(pool_heatmap(heatmap, 0.5)[row].argmax()), 3)
        assert boxes[row, -1].tolist() == [8 * top, 8 * left, 16, 16]


def test_whole_image_and_single_crop(heatmap):
    assert window_boxes(heatmap, 31, 1.0, 5, 2.0, generators(6)).unique(dim=1).tolist() == [[[0, 0, 31, 31]]] * 6
    assert window_boxes(heatmap, 32, 0.5, 1, 2.0, generators(6)).shape == (6, 1, 4)


def test_no_noise_repeats_the_clean_maximum(heatmap):
    boxes = window_boxes(heatmap, 32, 0.5, 5, 0.0, generators(6))
    assert torch.equal(boxes, boxes[:, -1:].expand(-1, 5, -1))


@pytest.mark.parametrize("kind", [numpy_generator, torch_generator])
def test_boxes_do_not_depend_on_the_batch(heatmap, kind):
    together = window_boxes(heatmap, 32, 0.5, 5, 2.0, generators(6, kind))
    for row in (4, 1):
        alone = window_boxes(heatmap[row : row + 1], 32, 0.5, 5, 2.0, [kind(0, "crops", row)])
        assert torch.equal(alone[0], together[row])
    other = window_boxes(heatmap, 32, 0.5, 5, 2.0, [kind(1, "crops", row) for row in range(6)])
    assert not torch.equal(other, together) and torch.equal(other[:, -1], together[:, -1])


def test_bad_arguments(heatmap):
    with pytest.raises(ValueError, match="one per image, 6. Got 5"):
        window_boxes(heatmap, 32, 0.5, 5, 2.0, generators(5))
    with pytest.raises(ValueError, match="crop_center must be one of"):
        window_boxes(heatmap, 32, 0.5, 5, 2.0, generators(6), "middle")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [numpy_generator, torch_generator])
def test_random_boxes_are_squares_inside_the_image(kind):
    boxes = random_boxes(32, 4000, kind(0, "random", 1))
    top, left, height, width = boxes.T
    assert boxes.dtype == torch.int64 and torch.equal(height, width)
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + height <= 32).all() and (left + width <= 32).all()
    area = (height / 32).square()
    assert height.min() == 9 and height.max() == 32  # sqrt(0.08) * 32 = 9.05
    assert abs(area.mean().item() - 0.54) < 0.015 and abs(area.quantile(0.25).item() - 0.31) < 0.03
    assert abs((top / (32 - height).clamp_min(1))[height < 30].mean().item() - 0.5) < 0.02
    assert torch.equal(boxes[:3], random_boxes(32, 3, kind(0, "random", 1)))


def test_distinct_boxes_restore_all_crops(heatmap):
    boxes = window_boxes(heatmap[:1], 32, 0.5, 20, 2.0, generators(1))[0]
    unique, inverse = distinct_boxes(boxes)
    assert len(unique) == len({tuple(box) for box in boxes.tolist()}) < 20
    assert torch.equal(unique[inverse], boxes)


@pytest.mark.parametrize(("side", "size"), [(10, 16), (11, 16), (16, 16)])
def test_padding_is_centred_and_takes_the_channels_values(side, size):
    crop = torch.rand(2, 3, side, side)
    padded = pad_to(crop, size, (0.1, 0.2, 0.3))
    start = (size - side) // 2
    assert padded.shape == (2, 3, size, size)
    assert torch.equal(padded[:, :, start : start + side, start : start + side], crop)
    inside = torch.zeros(size, size, dtype=torch.bool)
    inside[start : start + side, start : start + side] = True
    outside = padded[:, :, ~inside]
    assert torch.equal(outside, torch.tensor([0.1, 0.2, 0.3])[None, :, None].expand_as(outside))
    with pytest.raises(ValueError, match="size must be at least"):
        pad_to(crop, side - 1, (0, 0, 0))
