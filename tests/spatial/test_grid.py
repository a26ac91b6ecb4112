"""Where the points of an image lie, against ITK, for any shape, spacing, direction and origin."""

from __future__ import annotations

from typing import Any

import itk
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor

from crosswarp.spatial.grid import Grid, distance_in_voxels
from crosswarp.spatial.itk import grid_of, itk_image
from tests.spatial.places import oblique


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    """Of 2D and 3D images, with axes of length 1, turned and mirrored."""
    dims = draw(st.integers(2, 3))
    shape = draw(st.tuples(*[st.integers(1, 9)] * dims))
    spacing = draw(st.tuples(*[st.floats(0.1, 9)] * dims))
    return Grid.from_ras(oblique(spacing, draw(st.integers(0, 99))), shape)


def place(image: Any, index: list[float]) -> list[float]:
    """Where ITK says that an index lies."""
    continuous = itk.ContinuousIndex[itk.D, len(index)]()
    for axis, value in enumerate(index):
        continuous[axis] = value
    return list(image.TransformContinuousIndexToPhysicalPoint(continuous))


@settings(deadline=None, max_examples=30)
@given(grids(), st.integers(0, 99))
def test_points_and_indices_are_those_of_itk(grid: Grid, seed: int) -> None:
    image = itk_image(np.zeros(grid.shape), grid)
    index = np.random.default_rng(seed).uniform(-3, 12, (5, grid.dims))
    points = [place(image, each) for each in index.tolist()]
    np.testing.assert_allclose(grid.to_mm(index), points, atol=1e-9)
    np.testing.assert_allclose(grid.to_index(np.array(points)), index, atol=1e-9)
    size = np.maximum(np.array(grid.shape) - 1, 1)
    np.testing.assert_allclose(grid.fractions_to_mm(index / size), points, atol=1e-9)
    np.testing.assert_allclose(grid.to_fractions(np.array(points)) * size, index, atol=1e-9)
    region = image.GetBufferedRegion()
    inside = [region.IsInside(image.TransformPhysicalPointToIndex(point)) for point in points]
    assert grid.contains(np.array(points)).tolist() == inside


@settings(deadline=None, max_examples=30)
@given(grids())
def test_the_geometry_is_that_of_itk_and_comes_back(grid: Grid) -> None:
    image = itk_image(np.zeros(grid.shape), grid)
    np.testing.assert_allclose(grid.origin, list(image.GetOrigin()), atol=1e-9)
    np.testing.assert_allclose(grid.spacing, list(image.GetSpacing()), atol=1e-9)
    np.testing.assert_allclose(grid.direction, itk.array_from_matrix(image.GetDirection()), atol=1e-9)
    found = grid_of(image)
    assert found.shape == grid.shape and found.same_place(grid)
    np.testing.assert_allclose(found.affine, grid.affine, atol=1e-9)
    values = np.random.default_rng(0).random(grid.shape).astype(np.float32)
    np.testing.assert_array_equal(itk.array_from_image(itk_image(values, grid)).T, values)


@settings(deadline=None, max_examples=30)
@given(grids(), st.data())
def test_another_shape_has_the_same_extent(grid: Grid, data: st.DataObject) -> None:
    shape = data.draw(st.tuples(*[st.integers(2, 30)] * grid.dims))
    other = grid.resized(shape)
    assert other.shape == shape
    np.testing.assert_allclose(other.extent, grid.extent, atol=1e-9)
    np.testing.assert_allclose(grid.resized(grid.shape).affine, grid.affine, atol=1e-9)


@settings(deadline=None, max_examples=30)
@given(grids(), st.data())
def test_another_spacing_keeps_centre_and_faces(grid: Grid, data: st.DataObject) -> None:
    spacing = np.array(data.draw(st.tuples(*[st.floats(0.3, 4)] * grid.dims)))
    other = grid.with_spacing(spacing)
    np.testing.assert_allclose(other.spacing, spacing)
    np.testing.assert_allclose(other.direction, grid.direction, atol=1e-9)
    middles = [each.to_mm((np.array(each.shape) - 1) / 2) for each in (grid, other)]
    np.testing.assert_allclose(*middles, atol=1e-9)
    long = np.array(grid.shape) * grid.spacing >= spacing
    assert (abs(other.shape * spacing - grid.shape * grid.spacing)[long] <= spacing[long] / 2 + 1e-9).all()


def test_lengths_and_places_by_hand() -> None:
    grid = Grid.from_ras(np.diag([-2.0, -3.0, 5.0, 1.0]), (4, 3))  # nibabel has four rows of a 2D image, too
    assert grid.spacing.tolist() == [2, 3] and grid.origin.tolist() == [0, 0] and grid.dims == 2
    assert grid.direction.tolist() == [[1, 0], [0, 1]] and grid.extent.tolist() == np.diag([6, 6, 1]).tolist()
    assert grid.diagonal == pytest.approx(6 * 2**0.5)
    points = np.array([[0, 0], [6, 6], [-0.9, 7.4], [-1.1, 0], [6.5, 3]])
    assert grid.contains(points).tolist() == [True, True, True, False, True]
    assert grid.contains(points, margin=0).tolist() == [True, True, False, False, False]


def test_of_an_image_as_it_is_and_as_its_file_has_it() -> None:
    turned = np.array([[0, -1.0, 4], [-2, 0, 5], [0, 0, 1]])
    image = MetaTensor(np.zeros((3, 5, 4)), affine=np.diag([-1.0, -2, 1]))
    assert Grid.of(image).shape == (5, 4) and Grid.of(image).spacing.tolist() == [1, 2]
    image.meta |= {"original_affine": turned, "spatial_shape": np.array([4, 5])}
    found = Grid.of_file(image)
    assert found.shape == (4, 5) and found.affine.tolist() == [[0, 1, -4], [2, 0, -5], [0, 0, 1]]


def test_places_are_the_same_within_half_a_voxel_at_every_corner() -> None:
    grid = Grid.from_ras(oblique((0.5, 2.0, 1.0), 0), (9, 8, 7))
    moved = Grid(grid.shape, grid.affine + 0.2 * np.eye(4)[:, [3, 1, 2, 0]] * [0, 0, 0, 1])
    assert distance_in_voxels(grid.affine, moved.affine, grid.shape) == pytest.approx(0.4)
    assert grid.same_place(moved)
    longer = Grid((21, 8, 7), grid.affine @ np.diag([1.05, 1, 1, 1]))
    assert distance_in_voxels(grid.affine, longer.affine, longer.shape) == pytest.approx(1.0)
    assert not Grid(longer.shape, grid.affine).same_place(longer)


def test_what_is_no_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="invertible"):
        Grid.from_ras(np.diag([1, 0, 1]), (4, 4))
    with pytest.raises(ValueError, match=r"3 rows and columns .* \[4, 4\]"):
        Grid((4, 4), np.eye(4))
    with pytest.raises(ValueError, match="without shear"):
        _ = Grid((4, 4), np.array([[1, 0.5, 0], [0, 1, 0], [0, 0, 1]])).direction
