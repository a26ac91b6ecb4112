"""GradICON: affine maps worked out by hand. Agreement with icon-registration is in ``test_icon_parity``."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from crosswarp.losses import GradICONLoss
from crosswarp.spatial import identity_map, invert

SHAPES = [(16, 21), (9, 12, 10)]


def affine(matrix, spatial_shape, shift=0.0):
    return torch.einsum("ij,nj...->ni...", matrix, identity_map(spatial_shape) - 0.5) + 0.5 + shift


def inward_noise(spatial_shape):
    """Jitter that puts the points into [0.2, 0.8], where no step of the differences leaves the grid."""
    points = identity_map(spatial_shape)[(..., *[slice(None, None, 2)] * len(spatial_shape))]
    return 0.5 + 0.6 * (points - 0.5) - points


@pytest.mark.parametrize("spatial_shape", SHAPES)
def test_affine_maps_cost_the_squared_norm_of_the_product_minus_identity(spatial_shape):
    dims = len(spatial_shape)
    first, second = (torch.eye(dims) + 0.1 * torch.randn(dims, dims) for _ in range(2))
    loss = GradICONLoss()(
        affine(first, spatial_shape), affine(second, spatial_shape), inward_noise(spatial_shape)
    )
    expected = (torch.eye(dims) - first @ second).square().sum() / dims
    assert expected > 0.005
    torch.testing.assert_close(loss, expected, atol=0, rtol=1e-3)


def test_order_of_the_two_maps_matters():
    """diag(2/3, 1) after a shear, by hand: [[2/3, 1/3], [0, 1]]; before it: [[2/3, 1/2], [0, 1]]."""
    squeeze, shear = torch.tensor([[2 / 3, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.5], [0.0, 1.0]])
    maps, noise = [affine(matrix, (11, 11)) for matrix in (squeeze, shear)], inward_noise((11, 11))
    assert GradICONLoss()(*maps, noise).item() == pytest.approx((1 / 9 + 1 / 9) / 2, rel=1e-3)
    assert GradICONLoss()(*maps[::-1], noise).item() == pytest.approx((1 / 9 + 1 / 4) / 2, rel=1e-3)


@pytest.mark.parametrize("spatial_shape", SHAPES)
def test_identity_costs_nothing_and_shifts_next_to_nothing(spatial_shape):
    identity = identity_map(spatial_shape)
    assert GradICONLoss()(identity, identity).item() == 0
    # float32 rounding of a coordinate, 6e-8, over delta, 1e-3, squared
    assert GradICONLoss()(identity + 0.2, identity + 0.05).item() < 1e-7


def test_inverse_costs_far_less_than_identity():
    coarse = 0.03 * torch.randn(2, 2, 5, 5)
    smooth = torch.nn.functional.interpolate(coarse, (40, 33), mode="bicubic", align_corners=True)
    phi = identity_map((40, 33)) + smooth
    loss = GradICONLoss()
    assert loss(phi, invert(phi)) < 0.05 * loss(phi, identity_map((40, 33)))


@pytest.mark.parametrize("spatial_shape", [(16, 31), (9, 5, 12)])
def test_noise_is_measured_in_voxels_of_each_axis(spatial_shape, monkeypatch):
    maps = [
        identity_map(spatial_shape) + 0.05 * torch.randn(2, len(spatial_shape), *spatial_shape)
        for _ in range(2)
    ]
    voxel = torch.tensor([1 / (size - 1) for size in spatial_shape]).view(1, -1, *[1] * len(spatial_shape))
    thinned = [len(range(0, size, 3)) for size in spatial_shape]
    expected = GradICONLoss(stride=3)(*maps, noise=1.5 * voxel.expand(1, -1, *thinned))
    monkeypatch.setattr(torch, "randn", lambda *shape, **kwargs: torch.ones(*shape, **kwargs))
    torch.testing.assert_close(GradICONLoss(noise_voxels=1.5, stride=3)(*maps), expected, atol=0, rtol=1e-3)


def test_noise_follows_the_seed_and_differs_between_the_pairs_of_a_batch():
    phi, loss = identity_map((16, 16)) + 0.05 * torch.randn(1, 2, 16, 16), GradICONLoss()
    values = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        values.append(loss(phi, phi).item())
    assert values[0] == values[1] != values[2]
    torch.manual_seed(1)
    assert loss(phi.expand(2, -1, -1, -1), phi.expand(2, -1, -1, -1)).item() != pytest.approx(
        values[0], rel=1e-4
    )


def test_is_float32_under_autocast_and_has_finite_gradients():
    maps = (identity_map((9, 9)) + 0.05 * torch.randn(2, 2, 2, 9, 9)).requires_grad_()
    noise = torch.zeros(1, 2, 5, 5)
    expected = GradICONLoss()(*maps, noise)
    with torch.autocast("cpu", torch.bfloat16):
        loss = GradICONLoss()(*maps, noise)
    assert loss.dtype == torch.float32 and torch.equal(loss, expected)
    loss.backward()
    assert maps.grad.isfinite().all() and maps.grad.abs().max() > 0


@pytest.mark.parametrize("spatial_shape", SHAPES)
def test_all_differences_are_one_evaluation_of_the_two_maps(spatial_shape):
    identity, calls = identity_map(spatial_shape), []

    class Samplings(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if "grid_sampler" in str(function):
                calls.append(function)
            return function(*args, **(kwargs or {}))

    with Samplings():
        GradICONLoss()(identity, identity)
    assert len(calls) == 2
