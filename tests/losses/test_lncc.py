"""Local correlation of images whose correlation is known; see ``test_icon_parity`` for icon-registration."""

from __future__ import annotations

import pytest
import torch

from crosswarp.losses import LNCCLoss

SHAPES = [(40, 33), (16, 18, 20)]


@pytest.mark.parametrize("spatial_shape", SHAPES)
def test_identical_images_cost_nothing_and_inverted_ones_two(spatial_shape):
    image = torch.randn(2, 1, *spatial_shape)  # variance 1, against which epsilon is 1e-5
    assert LNCCLoss()(image, image).abs() < 5e-5
    assert (LNCCLoss()(image, -image) - 2).abs() < 5e-5


@pytest.mark.parametrize("spatial_shape", SHAPES)
def test_gain_costs_nothing_and_offset_nothing_but_at_the_border(spatial_shape):
    image = torch.randn(2, 1, *spatial_shape)
    assert LNCCLoss()(image, 3 * image).abs() < 5e-5
    # Beyond the image the window sees zeros, so that an offset is an edge to the windows that reach there.
    loss, unrelated = LNCCLoss(sigma=1.0), torch.randn_like(image)
    assert 5e-5 < loss(image, image + 0.5) < 0.05 < 0.9 < loss(image, unrelated)


def test_is_local():
    """A change of contrast from one half to the other matters to the whole image's correlation only."""
    image = torch.randn(1, 1, 64, 400)
    other = image * torch.where(torch.arange(400) < 200, 1.0, 10.0)
    assert 1 - torch.corrcoef(torch.stack([image.flatten(), other.flatten()]))[0, 1] > 0.2
    assert LNCCLoss(sigma=1.0)(image, other) < 0.01  # of the windows at the seam


def test_flat_images_cost_one_and_have_finite_gradients():
    image = torch.full((1, 1, 30, 30), 0.3, requires_grad=True)
    loss = LNCCLoss()(image * 0, torch.rand(1, 1, 30, 30))
    loss.backward()
    assert loss.item() == 1 and image.grad.isfinite().all()


def test_bright_flat_images_are_finite():
    """Rounding makes their variances, differences of numbers around 1e6, negative."""
    first, second = 1000 + torch.rand(2, 1, 1, 40, 40)
    assert LNCCLoss()(first, second).isfinite()


@pytest.mark.parametrize("spatial_shape", SHAPES)
def test_without_reduction_gives_one_value_per_image(spatial_shape):
    first, second = torch.rand(2, 3, 2, *spatial_shape)
    values = LNCCLoss(reduction="none")(first, second)
    assert values.shape == (3,)
    for index in range(3):
        alone = LNCCLoss()(first[index : index + 1], second[index : index + 1])
        torch.testing.assert_close(values[index], alone, atol=1e-6, rtol=0)
    torch.testing.assert_close(values.mean(), LNCCLoss()(first, second), atol=1e-6, rtol=0)


def test_is_the_same_under_autocast():
    first, second = torch.rand(2, 2, 1, 24, 24)
    expected = LNCCLoss()(first, second)
    with torch.autocast("cpu", torch.bfloat16):
        loss = LNCCLoss()(first, second)
    assert loss.dtype == torch.float32 and torch.equal(loss, expected)


def test_faulty_arguments_are_named():
    with pytest.raises(ValueError, match="'mean' or 'none', got 'sum'"):
        LNCCLoss(reduction="sum")
    with pytest.raises(ValueError, match=r"\(1, 1, 8, 8\) and \(1, 1, 8, 9\)"):
        LNCCLoss()(torch.rand(1, 1, 8, 8), torch.rand(1, 1, 8, 9))
