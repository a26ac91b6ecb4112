"""Jacobian determinants of maps whose derivatives are known."""

from __future__ import annotations

import pytest
import torch

from crosswarp.spatial import fold_fraction, identity_map, jacobian_determinant

SHAPES = [(5, 9), (6, 4, 7)]


@pytest.mark.parametrize("spatial_shape", SHAPES)
def test_identity_gives_one_exactly_on_any_grid(spatial_shape):
    assert torch.equal(jacobian_determinant(identity_map(spatial_shape)), torch.ones(1, *spatial_shape))
    assert fold_fraction(identity_map(spatial_shape)).tolist() == [0.0]


@pytest.mark.parametrize("spatial_shape", SHAPES)
@pytest.mark.parametrize("seed", range(3))
def test_affine_map_gives_its_determinant_everywhere(spatial_shape, seed):
    dims = len(spatial_shape)
    matrices = torch.randn(4, dims, dims, generator=torch.Generator().manual_seed(seed))
    phi = torch.einsum("bij,nj...->bi...", matrices, identity_map(spatial_shape)) + 0.3
    expected = torch.linalg.det(matrices).view(-1, *[1] * dims).expand(-1, *spatial_shape)
    torch.testing.assert_close(jacobian_determinant(phi), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(fold_fraction(phi), (torch.linalg.det(matrices) <= 0).float())


@pytest.mark.parametrize("spatial_shape", SHAPES)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_reflected_axis_folds_everywhere(spatial_shape, axis):
    phi = identity_map(spatial_shape)
    phi[:, axis] = 1 - phi[:, axis]
    torch.testing.assert_close(jacobian_determinant(phi), -torch.ones(1, *spatial_shape))
    assert fold_fraction(phi).tolist() == [1.0]


def test_quadratic_map_central_inside_one_sided_at_the_border():
    phi = identity_map((6, 3))
    x = torch.linspace(0, 1, 6)
    phi[:, 0] += 0.4 * phi[:, 0] ** 2
    expected = 1 + 0.8 * x  # central differences are exact for a quadratic function
    expected[0], expected[-1] = (
        1 + 0.4 * 0.2,
        1 + 0.4 * (2 - 0.2),
    )  # (f(0.2) - f(0)) / 0.2, (f(1) - f(0.8)) / 0.2
    torch.testing.assert_close(jacobian_determinant(phi), expected.view(1, 6, 1).expand(1, 6, 3))


def test_fold_fraction_counts_points_of_each_map():
    vee = identity_map((9, 4))
    vee[:, 0] = (vee[:, 0] - 0.5).abs()  # slope -1 at 4 rows, 0 at the middle one, 1 at 4 rows
    maps = torch.cat([vee, identity_map((9, 4))])
    torch.testing.assert_close(fold_fraction(maps), torch.tensor([5 / 9, 0.0]))


def test_axis_of_length_one_counts_as_identity():
    phi = identity_map((1, 6, 5))
    phi[:, 1] *= 2
    torch.testing.assert_close(jacobian_determinant(phi), torch.full((1, 1, 6, 5), 2.0))


def test_is_float32_under_autocast():
    phi = identity_map((5, 6, 7)) + 0.05 * torch.randn(2, 3, 5, 6, 7)
    expected = jacobian_determinant(phi)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(jacobian_determinant(phi), expected)


@pytest.mark.parametrize("shape", [(1, 1, 5), (1, 3, 5, 5), (2, 5, 5)])
def test_what_is_no_map_is_named(shape):
    with pytest.raises(ValueError, match=r"Expected a map \[B, D, \*spatial\].*got shape"):
        jacobian_determinant(torch.rand(shape))
