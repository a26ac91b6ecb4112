import numpy as np
import pytest
import torch
from monai.networks.layers import gaussian_1d, separable_filtering
from numpy.testing import assert_allclose
from scipy.ndimage import affine_transform, map_coordinates

from crosswarp.spatial import identity_map
from crosswarp.spatial.frame import body_axes, content, frame_of, on_images, part, see, slabs
from crosswarp.spatial.grid import Grid


def turned(degrees: float, dims: int = 2) -> np.ndarray:
    """A turn in the plane of the first two axes."""
    angle, matrix = np.deg2rad(degrees), np.eye(dims)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return matrix


def grid_of(shape, spacing, direction=None, origin=None) -> Grid:
    dims = len(shape)
    affine = np.eye(dims + 1)
    affine[:-1, :-1] = (np.eye(dims) if direction is None else direction) * np.asarray(spacing)
    affine[:-1, -1] = np.arange(dims) * 7.0 - 3 if origin is None else origin
    return Grid(shape, affine)


GRIDS = [
    grid_of((20, 31), (1.5, 0.8)),
    grid_of((20, 31), (1.5, 0.8), np.diag([-1.0, 1.0])),
    grid_of((12, 9, 15), (1.0, 2.5, 0.7)),
    grid_of((20, 31), (1.5, 0.8), turned(10)),
]


@pytest.mark.parametrize("grid", GRIDS)
def test_a_frame_has_its_size_and_spacing_and_the_middle_of_the_image(grid: Grid) -> None:
    size, spacing = [16, 24, 8][: grid.dims], [2.0, 1.5, 3.0][: grid.dims]
    frame = frame_of(grid, size, spacing)
    assert frame.shape == tuple(size)
    assert_allclose(frame.spacing, spacing)
    middle = (grid.corners.min(0) + grid.corners.max(0)) / 2
    assert_allclose((frame.corners.min(0) + frame.corners.max(0)) / 2, middle, atol=1e-9)
    assert_allclose(np.abs(frame.direction), np.eye(grid.dims), atol=1e-12)  # along the body, not the array
    assert (np.diag(frame.direction) * np.diag(grid.direction) > 0).all()


@pytest.mark.parametrize("grid", GRIDS)
def test_without_a_spacing_the_whole_extent_is_stretched(grid: Grid) -> None:
    frame = frame_of(grid, [16, 24, 8][: grid.dims])
    assert_allclose(frame.corners, grid.corners, atol=1e-9)


def test_a_turned_extent_is_that_of_the_other_axis() -> None:
    frame = frame_of(GRIDS[0], (16, 24), turn=turned(90))
    assert_allclose(sorted(map(tuple, frame.corners)), sorted(map(tuple, GRIDS[0].corners)), atol=1e-9)


def test_every_axis_of_the_body_is_taken_once() -> None:
    for degrees in (0, 44, 45, 46, 90, 135, 180):
        axes = body_axes(grid_of((4, 5), (1, 1), turned(degrees)))
        assert_allclose(axes @ axes.T, np.eye(2))


@pytest.mark.parametrize("margins", [((0, 0), (0, 0)), ((5, 0), (2, 7)), ((1, 1), (0, 3))])
def test_margins_of_one_value_show_nothing(margins) -> None:
    inside = torch.rand(2, 9, 12)
    padded = torch.nn.functional.pad(inside, [n for pair in reversed(margins) for n in pair], value=0.25)
    starts = [pair[0] for pair in margins]
    box = tuple(slice(start, start + size) for start, size in zip(starts, (9, 12), strict=True))
    assert content(padded) == box
    grid = grid_of(padded.shape[1:], (1.0, 2.0), turned(10))
    assert_allclose(part(grid, box).to_mm(np.array([3.0, 2.0])), grid.to_mm(np.array(starts) + [3.0, 2.0]))


def test_an_image_of_one_value_is_whole() -> None:
    assert content(torch.ones(1, 5, 8)) == (slice(0, 5), slice(0, 8))


@pytest.mark.parametrize(
    ("degrees", "mode"), [(0, "linear"), (10, "linear"), (90, "linear"), (10, "nearest"), (30, "nearest")]
)
def test_what_is_seen_is_what_scipy_finds_there(degrees: float, mode: str) -> None:
    image = torch.rand(1, 20, 31)
    grid, frame = GRIDS[0], grid_of((14, 17), (0.7, 0.6), turned(degrees), origin=(8.05, 12.03))
    to_index = np.linalg.solve(grid.affine, frame.affine)
    expected = affine_transform(
        image[0].numpy(), to_index, output_shape=frame.shape, order=mode == "linear", mode="nearest"
    )
    difference = (see(image, grid, frame, mode)[0].numpy() - expected).__abs__()
    assert (difference < 1e-4).mean() > 0.99


def test_a_coarser_frame_sees_no_more_than_its_points_can_hold() -> None:
    stripes = (torch.arange(64) % 2).float().expand(1, 64, 64).contiguous()
    seen = see(stripes, grid_of((64, 64), (1, 1)), grid_of((16, 16), (4, 4)))
    assert seen[:, 2:-2, 2:-2].std() < 0.05 < stripes.std()


@pytest.mark.parametrize("dims", [2, 3])
def test_a_map_between_frames_is_the_same_map_between_the_images(dims: int) -> None:
    fixed, moving = (
        grid_of((20, 31, 9)[:dims], (1.5, 0.8, 2)[:dims]),
        grid_of((11, 18, 7)[:dims], (2, 1, 1)[:dims]),
    )
    flip = np.diag([-1.0, *[1.0] * (dims - 1)])
    fixed_frame = frame_of(fixed, [16, 12, 8][:dims], [1.1, 1.3, 2][:dims], turned(20, dims) @ flip)
    moving_frame = frame_of(moving, [16, 12, 8][:dims], [0.9, 1.3, 1][:dims], turned(-30, dims))
    phi = identity_map(fixed_frame.shape) + 0.04  # a shift, alike beyond the frame
    found = on_images(phi, fixed_frame, fixed, moving_frame, moving)[0].double().numpy()
    points = np.moveaxis(found, 0, -1)
    index = np.moveaxis(np.indices(fixed.shape), 0, -1).astype(float)
    fractions = fixed_frame.to_fractions(fixed.to_mm(index)) + 0.04
    assert_allclose(points, moving.to_fractions(moving_frame.fractions_to_mm(fractions)), atol=1e-4)


@pytest.mark.parametrize("shape", [(40, 33), (21, 17, 30)])
def test_what_is_seen_coarsely_is_smoothed_as_by_monais_convolutions(shape) -> None:
    image, factors = torch.rand(2, *shape), [5.0, 2.0, 1.0][: len(shape)]
    grid = grid_of(shape, [1.0] * len(shape))
    size = [max(1, int((n - 1) / factor)) for n, factor in zip(shape, factors, strict=True)]
    frame = frame_of(grid, size, factors)
    kernels = [gaussian_1d(torch.tensor(max((factor - 1) / 2, 1e-3))) for factor in factors]
    smooth = separable_filtering(image[None], kernels, mode="replicate")[0]
    places = np.stack(np.meshgrid(*map(np.arange, frame.shape), indexing="ij"), -1)
    index = grid.to_index(frame.to_mm(places))
    expected = [map_coordinates(each.numpy(), np.moveaxis(index, -1, 0), order=1) for each in smooth]
    assert_allclose(see(image, grid, frame).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("grid", GRIDS)
def test_slabs_are_the_grid_one_after_the_other(grid: Grid) -> None:
    others = np.prod(grid.shape[1:])
    parts = list(slabs(grid, int(3 * others) + 1))
    assert [each.shape[0] for each in parts] == [min(3, rest) for rest in range(grid.shape[0], 0, -3)]
    assert all(each.shape[1:] == grid.shape[1:] for each in parts)
    starts = [each.to_mm(np.zeros(grid.dims)) for each in parts]
    rows = np.zeros((len(parts), grid.dims))
    rows[:, 0] = 3 * np.arange(len(parts))
    assert_allclose(starts, grid.to_mm(rows))
    assert [each.shape[0] for each in slabs(grid, 1)] == [1] * grid.shape[0]
