"""Agreement of soft maps: zero at equality, symmetric, Dice for hard maps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from monai.losses import DiceLoss

from crosswarp.losses import SoftAgreementLoss

SHAPES = [(12, 9), (6, 7, 5)]


def random_probabilities(spatial_shape, sharpness=1.0):
    return (sharpness * torch.randn(2, 4, *spatial_shape)).softmax(1)


@pytest.mark.parametrize("spatial_shape", SHAPES)
def test_equal_soft_maps_cost_nothing_and_their_gradient_is_finite(spatial_shape):
    first = random_probabilities(spatial_shape).requires_grad_()
    second = first.detach().clone().requires_grad_()
    loss = SoftAgreementLoss()(first, second)
    loss.backward()
    assert loss.item() == 0
    assert first.grad.isfinite().all() and second.grad.isfinite().all()
    assert DiceLoss()(first, second) > 0.3, "what the usual soft Dice makes of them"


@pytest.mark.parametrize("spatial_shape", SHAPES)
def test_symmetric_bounded_and_smallest_at_equality(spatial_shape):
    loss, first = SoftAgreementLoss(), random_probabilities(spatial_shape)
    for sharpness in (0.1, 1.0, 10.0):
        second = random_probabilities(spatial_shape, sharpness)
        assert 0 < loss(first, second) < 1
        assert loss(first, second) == loss(second, first)


def test_worked_example():
    """Two voxels, two classes: |differences| .2 + .1 over the sums of both maps, for each class."""
    first = torch.tensor([[[0.5, 0.4], [0.5, 0.6]]])
    second = torch.tensor([[[0.7, 0.3], [0.3, 0.7]]])
    background, structure = 0.3 / (0.9 + 1.0), 0.3 / (1.1 + 1.0)
    assert SoftAgreementLoss()(first, second).item() == pytest.approx((background + structure) / 2, abs=1e-5)
    only = SoftAgreementLoss(include_background=False)(first, second)
    assert only.item() == pytest.approx(structure, abs=1e-5)


@pytest.mark.parametrize("spatial_shape", SHAPES)
@pytest.mark.parametrize("include_background", [True, False])
def test_hard_maps_cost_one_minus_dice(spatial_shape, include_background):
    first, second = (
        F.one_hot(torch.randint(0, 4, (2, *spatial_shape)), 4).movedim(-1, 1).float() for _ in range(2)
    )
    expected = DiceLoss(include_background, smooth_nr=0, smooth_dr=1e-5)(first, second)
    loss = SoftAgreementLoss(include_background)(first, second)
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=0)


def test_class_in_neither_map_costs_nothing_and_disjoint_maps_cost_one():
    first, second = torch.zeros(2, 1, 3, 4, 4)
    first[:, 0], second[:, 1] = 1, 1
    assert SoftAgreementLoss()(first, second).item() == pytest.approx(2 / 3, abs=1e-5)


def test_is_float32_under_autocast():
    first, second = (random_probabilities((8, 8)).bfloat16() for _ in range(2))
    with torch.autocast("cpu", torch.bfloat16):
        loss = SoftAgreementLoss()(first, second)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, SoftAgreementLoss()(first.float(), second.float()))


def test_different_shapes_are_named():
    with pytest.raises(ValueError, match=r"\(1, 2, 4, 4\) and \(1, 3, 4, 4\)"):
        SoftAgreementLoss()(torch.rand(1, 2, 4, 4), torch.rand(1, 3, 4, 4))
