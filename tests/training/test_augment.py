import numpy as np
import pytest
import torch

from decoct.data.crops import random_resized_boxes
from decoct.training.augment import (
    add_lighting,
    color_jitter_choices,
    crop_and_flip,
    cutmix,
    cutmix_box,
    jitter_colors,
    padded_crops,
    rand_augment,
    shuffle_tiles,
    tile_orders,
    tile_shares,
)


def test_cutmix_against_a_pixel_loop():
    pixels = torch.rand(5, 3, 8, 8)
    partners = torch.tensor([3, 4, 2, 0, 1])
    generator = np.random.default_rng(0)
    for _ in range(20):
        top, bottom, left, right = box = cutmix_box(generator, 8, 1.0)
        mixed, kept = cutmix(pixels, partners, box)
        taken = 0
        for row in range(8):
            for column in range(8):
                inside = top <= row < bottom and left <= column < right
                taken += inside
                source = partners if inside else torch.arange(5)
                assert torch.equal(mixed[:, :, row, column], pixels[source, :, row, column])
        assert kept == pytest.approx(1 - taken / 64)


def test_cutmix_boxes_stay_inside_and_vary():
    generator = np.random.default_rng(1)
    boxes = [cutmix_box(generator, 16, 1.0) for _ in range(300)]
    assert all(0 <= top <= bottom <= 16 and 0 <= left <= right <= 16 for top, bottom, left, right in boxes)
    areas = [(bottom - top) * (right - left) / 256 for top, bottom, left, right in boxes]
    assert min(areas) < 0.05 and max(areas) > 0.7


def drawn_one_by_one(generator, scale):
    """torchvision's `RandomResizedCrop`, in shares of a square image's side."""
    for _ in range(10):
        area = generator.uniform(*scale)
        aspect = np.exp(generator.uniform(np.log(3 / 4), np.log(4 / 3)))
        width, height = np.sqrt(area * aspect), np.sqrt(area / aspect)
        if width <= 1 and height <= 1:
            return generator.uniform(0, 1 - height), generator.uniform(0, 1 - width), height, width
    return 0.0, 0.0, 1.0, 1.0


def test_random_resized_boxes_are_distributed_like_single_ones():
    count, scale = 4000, (0.08, 1.0)
    boxes = random_resized_boxes(np.random.default_rng(0), count, scale).numpy()
    generator = np.random.default_rng(1)
    single = np.array([drawn_one_by_one(generator, scale) for _ in range(count)])
    assert (boxes >= 0).all() and (boxes[:, :2] + boxes[:, 2:] <= 1 + 1e-6).all()
    for quantile in (0.1, 0.5, 0.9):
        np.testing.assert_allclose(np.quantile(boxes, quantile, 0), np.quantile(single, quantile, 0), atol=0.03)


def test_boxes_without_a_fitting_proposal_are_whole_images():
    boxes = random_resized_boxes(np.random.default_rng(0), 50, (1.0, 1.0))
    assert torch.equal(boxes, torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(50, 4))


def test_tiles_are_shuffled_as_a_loop_does():
    pixels = torch.rand(30, 2, 8, 8)
    orders = tile_orders(np.random.default_rng(0), 30, 4)
    assert len({tuple(order) for order in orders.tolist()}) == 4  # rows x columns
    shuffled = shuffle_tiles(pixels, orders)
    for image in range(30):
        assert sorted(orders[image].tolist()) == [0, 1, 2, 3]
        for place, tile in enumerate(orders[image].tolist()):
            (row, column), (old_row, old_column) = divmod(place, 2), divmod(tile, 2)
            now = shuffled[image, :, row * 4 : row * 4 + 4, column * 4 : column * 4 + 4]
            before = pixels[image, :, old_row * 4 : old_row * 4 + 4, old_column * 4 : old_column * 4 + 4]
            assert torch.equal(now, before)


def test_a_side_that_tiles_do_not_divide_is_an_error():
    with pytest.raises(ValueError, match="multiple of 2.*Got 9"):
        shuffle_tiles(torch.rand(1, 1, 9, 9), torch.tensor([[0, 1, 2, 3]]))


def test_tile_shares_against_counting_points():
    boxes = random_resized_boxes(np.random.default_rng(2), 12, (0.1, 0.9))
    shares = tile_shares(boxes, 4)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(12))
    points = (np.arange(200) + 0.5) / 200
    for (top, left, height, width), share in zip(boxes.tolist(), shares, strict=True):
        rows = (top + points * height >= 0.5).astype(int)
        columns = (left + points * width >= 0.5).astype(int)
        counted = np.bincount((rows[:, None] * 2 + columns[None]).ravel(), minlength=4) / 200**2
        np.testing.assert_allclose(share.numpy(), counted, atol=0.01)
    torch.testing.assert_close(tile_shares(boxes, 1), torch.ones(12, 1))


def test_crop_and_flip_cuts_whole_pixels_exactly():
    pixels = torch.rand(2, 3, 8, 8)
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]])
    flips = torch.tensor([False, True])
    torch.testing.assert_close(crop_and_flip(pixels, boxes, flips)[0], pixels[0])
    torch.testing.assert_close(crop_and_flip(pixels, boxes, flips)[1], pixels[1].flip(-1))
    assert torch.equal(crop_and_flip(pixels, None, flips)[1], pixels[1].flip(-1))


def grey_of(image: np.ndarray) -> np.ndarray:
    return 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2] if len(image) == 3 else image[0]


@pytest.mark.parametrize("channels", [1, 3])
def test_colors_are_jittered_as_image_by_image(channels):
    pixels = torch.rand(24, channels, 6, 6, dtype=torch.float64)
    shares, orders = color_jitter_choices(np.random.default_rng(0), 24, 0.4)
    jittered = jitter_colors(pixels, shares.double(), orders)
    for row in range(24):
        image = pixels[row].numpy().copy()
        for change in orders[row].tolist():
            share = float(shares[row, change])
            if change == 0:
                image = (1 - share) * image
            elif change == 1:
                image = (1 - share) * image + share * grey_of(image).mean()
            else:
                image = (1 - share) * image + share * grey_of(image)
        np.testing.assert_allclose(jittered[row].numpy(), image, rtol=1e-6, atol=1e-7)
    assert jittered.max() > 1  # not clamped


def test_choices_of_color_jitter_are_uniform_and_in_all_orders():
    shares, orders = color_jitter_choices(np.random.default_rng(3), 3000, 0.4)
    assert shares.shape == orders.shape == (3000, 3)
    assert float(shares.min()) == pytest.approx(-0.4, abs=0.01) and float(shares.max()) == pytest.approx(0.4, abs=0.01)
    np.testing.assert_allclose(shares.mean(dim=0).numpy(), 0, atol=0.02)
    _, counts = np.unique(orders.numpy(), axis=0, return_counts=True)
    assert len(counts) == 6 and counts.min() > 3000 / 6 * 0.8


def test_lighting_adds_one_colour_along_the_principal_ones():
    directions = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
    np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=1e-3)
    deviations = [0.2175, 0.0188, 0.0045]
    pixels, strengths = torch.rand(7, 3, 4, 4), torch.randn(7, 3)
    lit = add_lighting(pixels, strengths)
    for row in range(7):
        colour = sum(directions[:, k] * deviations[k] * float(strengths[row, k]) for k in range(3))
        expected = pixels[row].numpy() + colour[:, None, None]
        np.testing.assert_allclose(lit[row].numpy(), expected, rtol=1e-5, atol=1e-6)
    grey = torch.rand(2, 1, 4, 4)
    assert torch.equal(add_lighting(grey, strengths[:2]), grey)


def test_rand_augment_has_the_operations_that_protocols_allow():
    pixels = torch.rand(2, 3, 16, 16)
    assert rand_augment(pixels, 15, 29).shape == pixels.shape
    with pytest.raises(ValueError, match=r"\[1, 15\]"):
        rand_augment(pixels, 16, 29)


def test_crops_of_the_padded_image():
    pixels = torch.rand(64, 1, 16, 16, generator=torch.Generator().manual_seed(0)) + 1
    assert torch.equal(padded_crops(16, padding=0, flip=False)(pixels), pixels)
    torch.manual_seed(0)
    cropped = padded_crops(16, flip=False)(pixels)
    black_rows = (cropped == 0).all(dim=3).sum(dim=2)
    assert cropped.shape == pixels.shape and set(black_rows.flatten().tolist()) == {0, 1, 2}
    torch.manual_seed(0)
    flipped = padded_crops(16, padding=0)(pixels)
    same = [torch.equal(one, other) for one, other in zip(flipped, pixels, strict=True)]
    back = [torch.equal(one, other.flip(-1)) for one, other in zip(flipped, pixels, strict=True)]
    assert 16 < sum(same) < 48 and all(one or other for one, other in zip(same, back, strict=True))
