"""Evidence on rectangles, discs and balls whose edges, sizes and shapes are known."""

from __future__ import annotations

import math

import pytest
import torch

from crosswarp.metrics.evidence import edge_rank, gradient_magnitude, shape_fit, sizes

SIZES = [(48, 40), (26, 30, 28)]


def ball(size, spacing, centre, radius):
    """A mask ``[1, 1, *size]`` of a disc or ball; centre and radius in mm from the middle of the image."""
    axes = [(torch.arange(n) - (n - 1) / 2) * s for n, s in zip(size, spacing, strict=True)]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    return ((points - torch.tensor(centre)).norm(dim=-1) < radius)[None, None]


def pair_of_balls(size, spacing, angle=0.0, shift=0.0, scale=1.0):
    """Class 1 and a smaller class 2 beside it, turned by an angle and shifted along the first axis, mm."""
    turn = [math.cos(angle), math.sin(angle), 0.0][: len(size)]
    first = [-6 * scale * each for each in turn]
    second = [8 * scale * each for each in turn]
    first[0] += shift
    second[0] += shift
    labels = ball(size, spacing, first, 7.0 * scale).long()
    return torch.where(ball(size, spacing, second, 4.0 * scale), 2, labels)


def lengths(*spacing):
    return torch.tensor([spacing], dtype=torch.float64)


@pytest.mark.parametrize("size", SIZES)
def test_the_gradient_of_a_ramp_is_its_slope(size):
    ramp = 0.1 * torch.arange(size[0]).reshape(-1, *[1] * (len(size) - 1)).expand(size)
    steep = gradient_magnitude(torch.stack([ramp, 2 * ramp])[None])
    inner = steep[0, 0, 2:-2]
    assert steep.shape == (1, 1, *size)
    torch.testing.assert_close(inner, torch.full_like(inner, 0.1 * math.sqrt(5)))


@pytest.mark.parametrize("size", SIZES)
def test_an_outline_on_the_edge_ranks_first_and_elsewhere_by_chance(size):
    spacing = [1.0] * len(size)
    mask = ball(size, spacing, [0.0] * len(size), 8.0)
    image = mask.float()
    assert edge_rank(image, mask.long(), 2).item() == 1.0
    torch.manual_seed(0)
    assert edge_rank(torch.rand(image.shape), mask.long(), 2).item() == pytest.approx(0.5, abs=0.1)
    grown = ball(size, spacing, [0.0] * len(size), 11.5).long()
    assert edge_rank(image, grown, 2).item() < 0.5, "the edge lies beside it"
    ranks = edge_rank(image.expand(2, *image.shape[1:]), torch.cat([mask.long(), 0 * mask]), 3)
    assert ranks[0, 0] == 1.0 and ranks[0, 1].isnan() and ranks[1].isnan().all()


def test_sizes_of_rectangles_and_boxes():
    flat = torch.zeros(2, 1, 10, 12, dtype=torch.uint8)
    flat[0, :, 2:6, 1:11] = 1  # 4 x 10 points of 2 x 3 mm
    flat[1, :, 3:5] = 1  # a strip across the image, 2 points of 1.5 mm wide
    found = sizes(flat, torch.tensor([[2.0, 3.0], [1.5, 4.0]]), 3)
    assert found["volume"][:, 0].tolist() == [8 * 30, 3 * 48]
    assert found["thickness"][:, 0].tolist() == pytest.approx([2 * 240 / (2 * (8 + 30)), 3.0])
    assert found["volume"][:, 1].isnan().all() and found["thickness"][:, 1].isnan().all()
    box = torch.zeros(1, 1, 8, 8, 8, dtype=torch.uint8)
    box[0, 0, 1:5, 2:5, 3:5] = 1  # 4 x 3 x 2 points of 1 x 2 x 3 mm
    found = sizes(box, lengths(1, 2, 3), 2)
    assert found["volume"].item() == 4 * 6 * 6
    assert found["thickness"].item() == pytest.approx(2 * 144 / (2 * (24 + 24 + 36)))


@pytest.mark.parametrize("size", SIZES)
def test_a_shape_fits_itself_shifted_and_turned_on_another_grid(size):
    dims = len(size)
    fine, coarse = [0.8, 1.0, 0.9][:dims], [1.1, 0.9, 1.2][:dims]
    reference = pair_of_balls(size, fine)
    label = pair_of_balls(size, coarse, angle=0.3, shift=3.0)
    fit = shape_fit(label, lengths(*coarse), reference, lengths(*fine), 3)
    assert fit.shape == (1, 2) and (fit > 0.9).all()


@pytest.mark.parametrize("size", SIZES)
def test_size_counts_where_lengths_are_known(size):
    dims = len(size)
    spacing = lengths(*[1.0] * dims)
    small, large = (pair_of_balls(size, [1.0] * dims, scale=scale) for scale in (0.6, 1.0))
    volumes = sizes(torch.cat([small, large]), spacing.expand(2, -1), 3)["volume"]
    ratio = (volumes[0] / volumes[1])[0].item()
    # the larger class lies over the smaller one, which it holds but for a rim: Dice 2 v / (v + V)
    assert shape_fit(small, spacing, large, spacing, 3)[0, 0].item() == pytest.approx(
        2 * ratio / (1 + ratio), abs=0.12
    )
    assert (shape_fit(small, spacing, large, spacing, 3, same_scale=False) > 0.85).all()


def test_one_disc_of_twice_the_radius_has_the_dice_of_its_area():
    size, spacing = (64, 64), lengths(1, 1)
    small, large = (ball(size, (1, 1), (0.0, 0.0), radius).long() for radius in (10.0, 20.0))
    assert shape_fit(small, spacing, large, spacing, 2).item() == pytest.approx(2 / (1 + 4), abs=0.01)
    assert shape_fit(small, spacing, large, spacing, 2, same_scale=False).item() > 0.95


def test_the_best_reference_counts_of_those_to_be_compared():
    size, spacing = (48, 40), lengths(1, 1)
    label = pair_of_balls(size, (1, 1))
    references = torch.cat([pair_of_balls(size, (1, 1), scale=0.5), label])
    lengths_of_both = spacing.expand(2, 2)
    assert (shape_fit(label, spacing, references, lengths_of_both, 3) > 0.99).all()
    only = torch.tensor([[True, False]])
    assert (shape_fit(label, spacing, references, lengths_of_both, 3, only) < 0.5).all()


def test_what_one_image_does_not_show_does_not_count():
    spacing = lengths(1, 1)
    bar = torch.zeros(1, 1, 60, 20, dtype=torch.uint8)
    bar[..., 5:15] = 1  # goes on beyond the image
    assert shape_fit(bar[:, :, :30], spacing, bar, spacing, 2).item() == 1.0


def test_a_missing_class_fits_nothing():
    size, spacing = (48, 40), lengths(1, 1)
    whole = pair_of_balls(size, (1, 1))
    lacking = torch.where(whole == 2, 0, whole)
    fit = shape_fit(lacking, spacing, whole, spacing, 4)[0]
    assert fit[0] > 0.99 and fit[1] == 0 and fit[2].isnan()
    assert shape_fit(0 * whole, spacing, whole, spacing, 3)[0].tolist() == [0, 0]
