"""The algebra of maps: affine maps, which linear interpolation carries exactly, and random smooth fields."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from crosswarp.spatial import compose, displacement, identity_map, invert, maps, resize_map, sample

grids = st.one_of(st.tuples(*[st.integers(4, 14)] * 2), st.tuples(*[st.integers(4, 9)] * 3))
seeds = st.integers(0, 2**31 - 1)
few = settings(max_examples=15, deadline=None)


def affine(matrix, spatial_shape):
    """The map ``x -> centre + matrix (x - centre)`` for ``[B, D, D]`` matrices."""
    return torch.einsum("bij,nj...->bi...", matrix, identity_map(spatial_shape) - 0.5) + 0.5


def random_matrices(dims, scale, generator, batch=2):
    """Matrices that move no point of the unit cube further than ``1.5 * scale`` from its scaled place."""
    return scale * (
        torch.eye(dims) + 0.2 * (2 * torch.rand(batch, dims, dims, generator=generator) - 1) / dims
    )


def smooth_map(spatial_shape, generator, amplitude=0.02, batch=2):
    """The identity plus noise of 4 points per axis, interpolated: strain at most 6 * D * amplitude."""
    dims = len(spatial_shape)
    noise = amplitude * (2 * torch.rand(batch, dims, *[4] * dims, generator=generator) - 1)
    return resize_map(identity_map([4] * dims) + noise, spatial_shape)


def test_identity_map_addresses_array_axes_from_0_to_1():
    expected = [[[0.0, 0.0], [0.5, 0.5], [1.0, 1.0]], [[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]]
    torch.testing.assert_close(identity_map((3, 2)), torch.tensor([expected]))
    assert identity_map((4, 5, 6)).shape == (1, 3, 4, 5, 6)
    assert identity_map((1, 3))[0, 0].abs().max() == 0
    assert identity_map((2, 2), "cpu").dtype == torch.float32


@few
@given(grids, seeds)
def test_warping_by_the_identity_and_composing_with_it_change_nothing(spatial_shape, seed):
    generator = torch.Generator().manual_seed(seed)
    image, phi = torch.rand(2, 1, *spatial_shape, generator=generator), smooth_map(spatial_shape, generator)
    identity = identity_map(spatial_shape)
    torch.testing.assert_close(sample(image, identity), image, atol=1e-5, rtol=0)
    torch.testing.assert_close(compose(phi, identity), phi, atol=1e-6, rtol=0)
    torch.testing.assert_close(compose(identity, phi), phi, atol=0, rtol=0)
    assert displacement(identity).abs().max() == 0


@few
@given(grids, seeds)
def test_composition_of_affine_maps_is_the_matrix_product_and_associative(spatial_shape, seed):
    generator = torch.Generator().manual_seed(seed)
    dims = len(spatial_shape)
    first, second = (random_matrices(dims, 0.8, generator) for _ in range(2))  # these stay inside the grid
    third = random_matrices(dims, 1.3, generator)
    f, g, h = (affine(matrix, spatial_shape) for matrix in (third, second, first))
    torch.testing.assert_close(compose(f, g), affine(third @ second, spatial_shape), atol=1e-5, rtol=0)
    torch.testing.assert_close(compose(compose(f, g), h), compose(f, compose(g, h)), atol=1e-5, rtol=0)


def test_composition_applies_the_inner_map_first():
    squeeze = affine(torch.diag(torch.tensor([0.5, 1.0]))[None], (9, 9))
    shift = identity_map((9, 9)) - torch.tensor([0.25, 0.0]).view(1, 2, 1, 1)
    # shift, then squeeze: 0.5 (x - 0.25 - 0.5) + 0.5 = 0.5 x + 0.125, where the shift stays inside
    torch.testing.assert_close(
        compose(squeeze, shift)[0, 0, 2:], 0.5 * identity_map((9, 9))[0, 0, 2:] + 0.125
    )
    # squeeze, then shift: 0.5 x + 0.25 - 0.25
    torch.testing.assert_close(compose(shift, squeeze)[0, 0], 0.5 * identity_map((9, 9))[0, 0])


def test_composition_warps_by_the_outer_map_first():
    """Ramps: (I ∘ outer) ∘ inner = I ∘ (outer ∘ inner) where linear interpolation is exact."""
    generator = torch.Generator().manual_seed(0)
    ramp = identity_map((8, 11)).sum(1, keepdim=True)
    outer, inner = (affine(random_matrices(2, 0.8, generator, batch=1), (8, 11)) for _ in range(2))
    warped_twice = sample(sample(ramp, outer), inner)
    torch.testing.assert_close(sample(ramp, compose(outer, inner)), warped_twice, atol=1e-5, rtol=0)


@few
@given(grids, seeds)
def test_inverse_undoes_a_smooth_map(spatial_shape, seed):
    phi = smooth_map(spatial_shape, torch.Generator().manual_seed(seed))
    inverse = invert(phi)
    assert inverse.dtype == torch.float32 and inverse.shape == phi.shape
    # the iteration stops where it moves no point by more than 1e-5, which is the residual one step before
    assert displacement(compose(phi, inverse)).abs().max() <= 1e-5


@pytest.mark.parametrize("spatial_shape", [(9, 17), (7, 8, 9)])
def test_inverse_of_shift_and_of_expansion_is_exact(spatial_shape, monkeypatch):
    identity = identity_map(spatial_shape)
    torch.testing.assert_close(invert(identity + 0.1), identity - 0.1, atol=1e-6, rtol=0)
    expansion, contraction = 0.5 + 1.25 * (identity - 0.5), 0.5 + (identity - 0.5) / 1.25
    torch.testing.assert_close(invert(expansion), contraction, atol=1e-5, rtol=0)
    monkeypatch.setattr(maps, "DAMPING", (1.0,))
    # after n iterations of an affine map of strain s the error is s^(n + 1) of the displacement
    error = (invert(expansion, max_iterations=2) - contraction).abs().max().item()
    assert error == pytest.approx(0.25**3 * 0.1, rel=0.01)


@pytest.mark.parametrize("steepest", [2.5, 4.5, 8.0])
@pytest.mark.parametrize("spatial_shape", [(96, 7), (90, 5, 6)])
def test_inverse_of_a_map_that_stretches_much_somewhere(spatial_shape, steepest):
    """A smooth step: points about the middle are spread out, none is folded; plain iteration runs away."""
    identity = identity_map(spatial_shape)
    x, amount = identity[:, :1], 0.06
    wave = torch.tanh((x - 0.5) * (steepest - 1) / amount) - torch.tanh(
        torch.tensor(0.5 * (steepest - 1) / amount)
    )
    phi = identity.clone()
    phi[:, :1] += amount * wave
    slope = (phi[:, 0].diff(dim=1) * (spatial_shape[0] - 1)).flatten()
    assert slope.min() > 0.5 and slope.max() > 0.8 * steepest
    assert displacement(compose(phi, invert(phi))).abs().max() < 2e-5


def test_inverse_of_a_folding_map_ends_and_is_finite():
    assert invert(1 - identity_map((6, 6))).isfinite().all()


def test_points_that_stand_still_are_not_read_again(monkeypatch):
    phi = smooth_map((20, 24), torch.Generator().manual_seed(0))[:1]
    expected, read = invert(phi), []
    monkeypatch.setattr(
        maps, "sample", lambda image, points: read.append(points[0, 0]) or sample(image, points)
    )
    invert(phi)
    usual = sum(map(torch.numel, read))
    phi[0, :, 10, 12] += 0.5  # the places around it do not converge
    read.clear()
    inverse = invert(phi)
    assert len(read) == 150 and sum(map(torch.numel, read)) < 5 * usual
    same = (inverse - expected).abs().amax(1) < 2e-5
    assert same.float().mean() > 0.9


@few
@given(grids, grids, seeds)
def test_resized_affine_map_is_the_same_affine_map(spatial_shape, other_shape, seed):
    other_shape = (*other_shape, 5, 5)[: len(spatial_shape)]
    matrix = random_matrices(len(spatial_shape), 1.2, torch.Generator().manual_seed(seed))
    resized = resize_map(affine(matrix, spatial_shape), other_shape)
    torch.testing.assert_close(resized, affine(matrix, other_shape), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("spatial_shape", "mode"), [((6, 9), "bilinear"), ((4, 5, 6), "trilinear")])
def test_resizing_is_torchs_linear_interpolation_of_the_displacement(spatial_shape, mode):
    phi = identity_map(spatial_shape) + 0.1 * torch.randn(2, len(spatial_shape), *spatial_shape)
    target = [size + 3 for size in spatial_shape]
    expected = F.interpolate(displacement(phi), size=target, mode=mode, align_corners=True)
    torch.testing.assert_close(resize_map(phi, target), expected + identity_map(target), atol=1e-5, rtol=0)


def test_resizing_an_axis_of_length_one_keeps_the_identity():
    assert torch.equal(resize_map(identity_map((1, 5)), (4, 5)), identity_map((4, 5)))


@pytest.mark.parametrize("spatial_shape", [(6, 9), (4, 5, 6)])
def test_field_algebra_is_the_same_under_autocast(spatial_shape):
    phi = smooth_map(spatial_shape, torch.Generator().manual_seed(0), batch=1)
    functions = [
        displacement,
        lambda phi: compose(phi, phi),
        invert,
        lambda phi: resize_map(phi, [5] * phi.shape[1]),
    ]
    for function in functions:
        expected = function(phi)
        with torch.autocast("cpu", torch.bfloat16):
            result = function(phi)
        assert result.dtype == torch.float32
        torch.testing.assert_close(result, expected, atol=0, rtol=0)


def test_gradients_flow_through_composition_and_inverse():
    shift = torch.full((1, 2, 1, 1), 0.05, requires_grad=True)
    phi = identity_map((8, 8)) + shift
    torch.testing.assert_close(
        torch.autograd.grad(compose(phi, phi).mean(), shift, retain_graph=True)[0], torch.ones(1, 2, 1, 1)
    )  # the mean over both components of x + 2 shift
    torch.testing.assert_close(
        torch.autograd.grad(invert(phi).sum(), shift)[0], torch.full((1, 2, 1, 1), -64.0)
    )
