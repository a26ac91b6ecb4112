"""Maps between images in space, against ITK, SimpleITK and ANTs: anisotropic spacing, oblique axes."""

from __future__ import annotations

import itk
import numpy as np
import pytest
import SimpleITK as sitk
import torch
import torch.nn.functional as F

from crosswarp.spatial import identity_map, sample
from crosswarp.spatial.frame import frame_of, on_images
from crosswarp.spatial.grid import Grid
from crosswarp.spatial.physical import PhysicalMap, itk_transforms
from crosswarp.spatial.simpleitk import displacement_image, simpleitk_transforms
from tests.spatial.places import oblique

# sizes of the map's grid, the fixed and the moving image, and their spacings in mm
CASES = {
    2: ((24, 28), (40, 31), (35, 50), (0.7, 1.3), (1.1, 0.6)),
    3: ((24, 28, 16), (40, 31, 22), (35, 50, 18), (0.7, 1.3, 2.5), (1.1, 0.6, 3.0)),
}


class Pair:
    def __init__(self, dims: int) -> None:
        grid, *shapes, spacing, other = CASES[dims]
        affines = oblique(spacing, 0), oblique(other, 1)
        self.fixed, self.moving = map(Grid.from_ras, affines, shapes)
        coarse = 0.02 * torch.randn(1, dims, *[5] * dims, generator=torch.Generator().manual_seed(0))
        mode = "bilinear" if dims == 2 else "trilinear"
        self.phi = identity_map(grid) + F.interpolate(coarse, size=grid, mode=mode, align_corners=True)
        self.transforms = itk_transforms(self.phi, self.fixed, self.moving)
        self.written = simpleitk_transforms(PhysicalMap.of(self.phi, self.fixed, self.moving))
        fractions = np.random.default_rng(2).uniform(0, 1, (100, dims))
        self.points = self.fixed.fractions_to_mm(fractions)
        column = torch.tensor(fractions.T, dtype=torch.float32).reshape(1, dims, -1, *[1] * (dims - 1))
        read = sample(self.phi, column).reshape(dims, -1).T.double().numpy()
        self.expected = self.moving.fractions_to_mm(read)


def transformed(transform, points):
    return np.array([tuple(transform.TransformPoint(point.tolist())) for point in points])


@pytest.fixture(params=[2, 3], scope="module")
def pair(request):
    return Pair(request.param)


def test_itk_takes_fixed_points_to_the_moving_points_that_the_map_names(pair):
    np.testing.assert_allclose(transformed(pair.transforms[0], pair.points), pair.expected, atol=1e-4)


def test_the_inverse_brings_them_back(pair):
    forward, inverse = pair.transforms
    error = np.linalg.norm(transformed(inverse, transformed(forward, pair.points)) - pair.points, axis=1)
    assert error.mean() < 0.05  # mm; both are interpolated linearly between the points of the grid


def test_files_are_those_that_itk_writes(pair, tmp_path):
    for own, other in zip(pair.written, pair.transforms, strict=True):
        sitk.WriteTransform(own, str(tmp_path / "own.tfm"))
        itk.transformwrite([other], str(tmp_path / "itk.tfm"))
        lines, others = ((tmp_path / name).read_text().splitlines() for name in ("own.tfm", "itk.tfm"))
        for line, other_line in zip(lines, others, strict=True):
            (key, _, value), (other_key, _, expected) = line.partition(": "), other_line.partition(": ")
            assert key == other_key
            if "Parameters" in key:  # to the bit, but for the order in which the nearest affine was summed
                found, expected = (np.array(each.split(), float) for each in (value, expected))
                np.testing.assert_allclose(found, expected, atol=1e-4)
            else:
                assert value == expected


@pytest.mark.parametrize("suffix", [".h5", ".tfm"])
def test_files_mean_the_same_to_itk_simpleitk_and_ants(pair, tmp_path, suffix):
    ants = pytest.importorskip("ants")
    path = str(tmp_path / f"a{suffix}")
    sitk.WriteTransform(pair.written[0], path)
    for read in (sitk.ReadTransform(path), itk.transformread(path)[0]):
        np.testing.assert_allclose(transformed(read, pair.points), pair.expected, atol=1e-4)
    read = ants.read_transform(path)
    found = [ants.apply_ants_transform_to_point(read, point) for point in pair.points]
    np.testing.assert_allclose(found, pair.expected, atol=1e-4)


def test_displacement_field_is_the_transform_at_the_voxels_of_the_fixed_image(pair, tmp_path):
    sitk.WriteImage(displacement_image(pair.written[0], pair.fixed), str(tmp_path / "field.nii.gz"))
    image = sitk.ReadImage(str(tmp_path / "field.nii.gz"), sitk.sitkVectorFloat64)
    read = sitk.DisplacementFieldTransform(image)
    indices = np.random.default_rng(3).integers(3, np.array(pair.fixed.shape) - 3, (50, pair.fixed.dims))
    points = pair.fixed.to_mm(indices)
    np.testing.assert_allclose(transformed(read, points), transformed(pair.transforms[0], points), atol=1e-3)


def test_one_voxel_that_flies_off_neither_widens_the_field_nor_moves_the_others(pair):
    phi = pair.phi.clone()
    phi[(0, slice(None), *[size // 2 for size in phi.shape[2:]])] += 0.3
    usual, odd = (PhysicalMap.of(each, pair.fixed, pair.moving) for each in (pair.phi, phi))
    assert odd.grid.shape == usual.grid.shape
    moved = np.linalg.norm(odd.after - usual.after, axis=-1) > 0.1  # mm
    assert moved.mean() < 0.05


def test_identity_between_an_image_and_itself_moves_nothing():
    grid = Grid.from_ras(oblique((0.5, 2.0, 1.0), 0), (9, 8, 7))
    forward, inverse = itk_transforms(identity_map((6, 5, 4)), grid, grid)
    points = np.random.default_rng(0).normal(size=(10, 3)) * 100  # also far outside
    for transform in (forward, inverse):
        np.testing.assert_allclose(transformed(transform, points), points, atol=1e-5)


def test_extents_are_laid_onto_each_other_by_the_centres_of_their_corners():
    grids = Grid((11, 21), np.eye(3)), Grid((21, 41), np.diag([2, 0.5, 1]))
    forward, inverse = itk_transforms(identity_map((5, 6)), *grids)
    corners, images = np.array([[0.0, 0], [10, 20]]), np.array([[0.0, 0], [40, 20]])
    np.testing.assert_allclose(transformed(forward, corners), images, atol=1e-5)
    np.testing.assert_allclose(transformed(inverse, images), corners, atol=1e-5)


def test_what_shears_is_refused():
    shear = Grid((4, 4), np.array([[1, 0.5, 0], [0, 1, 0], [0, 0, 1]]))
    with pytest.raises(ValueError, match="without shear"):
        itk_transforms(identity_map((4, 4)), shear, shear)


def test_a_map_that_shrinks_all_to_a_point_takes_no_endless_grid():
    grid = Grid.from_ras(np.eye(3), (32, 32))
    identity = identity_map((32, 32))
    sizes = [
        PhysicalMap.of(0.5 + k * (identity - 0.5), grid, grid, None, grid).grid.shape for k in (0.5, 0.005)
    ]
    assert max(sizes[0]) > 60, "what leaves the image finds its way back"
    assert np.prod(sizes[1]) < 2**22


@pytest.mark.parametrize("dims", [2, 3])
def test_what_lies_beyond_the_frames_is_warped_as_the_transforms_move_it(dims: int) -> None:
    pair = Pair(dims)
    size, spacing = CASES[dims][0], CASES[dims][3]
    fixed_frame = frame_of(pair.fixed, size, [0.8 * each for each in spacing])
    moving_frame = frame_of(pair.moving, size, [0.6 * each for each in spacing])
    phi = 0.85 * (pair.phi - 0.5) + 0.55  # smaller, and shifted
    mapped = on_images(phi, fixed_frame, pair.fixed, moving_frame, pair.moving)[0].flatten(1).T.double()
    places = pair.fixed.to_mm(np.stack(np.unravel_index(range(mapped.shape[0]), pair.fixed.shape), -1))
    beyond = ~fixed_frame.contains(places, 0)
    assert 0.2 < beyond.mean() < 0.9
    transform = itk_transforms(phi, fixed_frame, moving_frame, pair.fixed, pair.moving)[0]
    expected = np.array([transform.TransformPoint(place) for place in places.tolist()])
    apart = np.linalg.norm(pair.moving.fractions_to_mm(mapped.numpy()) - expected, axis=1)
    assert apart.max() < 1e-3, "mm"
