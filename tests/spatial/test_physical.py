"""Maps between images in space, against ITK, SimpleITK and ANTs: anisotropic spacing, oblique axes."""

from __future__ import annotations

import itk
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from crosswarp.spatial import identity_map, sample
from crosswarp.spatial.physical import (
    distance_in_voxels,
    fractions_affine,
    itk_transforms,
    lps_affine,
    same_place,
    slice_affine,
    slice_tilt,
    total_displacement_field,
)

# sizes of the map's grid, the fixed and the moving image, and their spacings in mm
CASES = {
    2: ((24, 28), (40, 31), (35, 50), (0.7, 1.3), (1.1, 0.6)),
    3: ((24, 28, 16), (40, 31, 22), (35, 50, 18), (0.7, 1.3, 2.5), (1.1, 0.6, 3.0)),
}


def oblique(spacing, seed):
    """Indices to mm in RAS, with axes turned at random."""
    rng = np.random.default_rng(seed)
    dims = len(spacing)
    affine = np.eye(dims + 1)
    affine[:-1, :-1] = np.linalg.qr(rng.normal(size=(dims, dims)))[0] @ np.diag(spacing)
    affine[:-1, -1] = rng.normal(size=dims) * 30
    return affine


class Pair:
    def __init__(self, dims: int) -> None:
        grid, self.fixed_shape, self.moving_shape, *spacings = CASES[dims]
        self.fixed_affine, self.moving_affine = (oblique(each, i) for i, each in enumerate(spacings))
        coarse = 0.02 * torch.randn(1, dims, *[5] * dims, generator=torch.Generator().manual_seed(0))
        mode = "bilinear" if dims == 2 else "trilinear"
        self.phi = identity_map(grid) + F.interpolate(coarse, size=grid, mode=mode, align_corners=True)
        self.transforms = itk_transforms(
            self.phi, self.fixed_affine, self.fixed_shape, self.moving_affine, self.moving_shape
        )
        fractions = np.random.default_rng(2).uniform(0, 1, (100, dims))
        self.points = apply(fractions_affine(self.fixed_affine, self.fixed_shape), fractions)
        column = torch.tensor(fractions.T, dtype=torch.float32).reshape(1, dims, -1, *[1] * (dims - 1))
        read = sample(self.phi, column).reshape(dims, -1).T.double().numpy()
        self.expected = apply(fractions_affine(self.moving_affine, self.moving_shape), read)


def apply(matrix, points):
    return points @ matrix[:-1, :-1].T + matrix[:-1, -1]


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


def test_files_mean_the_same_to_simpleitk(pair, tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    itk.transformwrite([pair.transforms[0]], str(tmp_path / "a.h5"))
    read = sitk.ReadTransform(str(tmp_path / "a.h5"))
    np.testing.assert_allclose(transformed(read, pair.points), pair.expected, atol=1e-4)


def test_files_mean_the_same_to_ants(pair, tmp_path):
    ants = pytest.importorskip("ants")
    itk.transformwrite([pair.transforms[0]], str(tmp_path / "a.h5"))
    read = ants.read_transform(str(tmp_path / "a.h5"))
    found = [ants.apply_ants_transform_to_point(read, point) for point in pair.points]
    np.testing.assert_allclose(found, pair.expected, atol=1e-4)


def test_displacement_field_is_the_transform_at_the_voxels_of_the_fixed_image(pair, tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    field = total_displacement_field(pair.transforms[0], pair.fixed_affine, pair.fixed_shape)
    itk.imwrite(field, str(tmp_path / "field.nii.gz"))
    image = sitk.ReadImage(str(tmp_path / "field.nii.gz"), sitk.sitkVectorFloat64)
    read = sitk.DisplacementFieldTransform(image)
    indices = np.random.default_rng(3).integers(
        3, np.array(pair.fixed_shape) - 3, (50, len(pair.fixed_shape))
    )
    points = apply(lps_affine(pair.fixed_affine, len(pair.fixed_shape)), indices)
    np.testing.assert_allclose(transformed(read, points), transformed(pair.transforms[0], points), atol=1e-3)


def test_identity_between_an_image_and_itself_moves_nothing():
    affine = oblique((0.5, 2.0, 1.0), 0)
    forward, inverse = itk_transforms(identity_map((6, 5, 4)), affine, (9, 8, 7), affine, (9, 8, 7))
    points = np.random.default_rng(0).normal(size=(10, 3)) * 100  # also far outside
    for transform in (forward, inverse):
        np.testing.assert_allclose(transformed(transform, points), points, atol=1e-5)


def test_extents_are_laid_onto_each_other_by_the_centres_of_their_corners():
    grids = np.diag([-1.0, -1, 1]), (11, 21), np.diag([-2.0, -0.5, 1]), (21, 41)
    forward, inverse = itk_transforms(identity_map((5, 6)), *grids)
    corners, images = np.array([[0.0, 0], [10, 20]]), np.array([[0.0, 0], [40, 20]])
    np.testing.assert_allclose(transformed(forward, corners), images, atol=1e-5)
    np.testing.assert_allclose(transformed(inverse, images), corners, atol=1e-5)


def test_faults_of_an_affine():
    with pytest.raises(ValueError, match="invertible"):
        lps_affine(np.diag([1, 0, 1]), 2)
    shear = np.array([[1, 0.5, 0], [0, 1, 0], [0, 0, 1]])
    with pytest.raises(ValueError, match="without shear"):
        itk_transforms(identity_map((4, 4)), shear, (4, 4), shear, (4, 4))


STORED = {  # the two axes of a slice as stored, in RAS
    "axial": [
        [[1, 0, 0], [0, 1, 0]],
        [[-1, 0, 0], [0, -1, 0]],
        [[-1, 0, 0], [0, 1, 0]],
        [[0, -1, 0], [1, 0, 0]],
    ],
    "sagittal": [[[0, 0, -1], [0, -1, 0]], [[0, 1, 0], [0, 0, 1]], [[0, -1, 0], [0, 0, -1]]],
    "coronal": [[[1, 0, 0], [0, 0, 1]], [[-1, 0, 0], [0, 0, -1]]],
}


def tilted(axes, about, degrees, spacing=(0.5, 0.8)):
    """The affine of a slice that is turned in space about an axis."""
    about = np.array(about) / np.linalg.norm(about)
    cross = np.cross(np.eye(3), about)
    angle = np.radians(degrees)
    turn = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    affine = np.eye(4)
    affine[:3, :2] = turn @ np.array(axes, float).T * spacing
    affine[:3, 2] = 3 * np.cross(affine[:3, 0], affine[:3, 1])
    affine[:3, 3] = 11, -7, 5
    return affine


@pytest.mark.parametrize("about", [(1, 0, 0), (0, 1, 0), (1, 1, 0), (-1, 2, 0)])
@pytest.mark.parametrize(
    ("plane", "axes"), [(name, axes) for name, all_axes in STORED.items() for axes in all_axes]
)
def test_slices_keep_their_orientation_while_they_are_tilted(plane, axes, about):
    normal = np.cross(*axes)
    about = (
        np.cross(normal, np.roll(normal, 1))
        if plane != "axial" and not np.cross(normal, about).any()
        else about
    )
    reach = 59.9 if plane == "axial" else 29.9  # to either side
    found = np.stack([slice_affine(tilted(axes, about, angle)) for angle in np.arange(-reach, reach, 0.1)])
    expected = np.array(axes, float).T[:2] if plane == "axial" else -np.eye(2)
    np.testing.assert_allclose(
        slice_affine(tilted(axes, about, 0))[:2, :2], expected * [0.5, 0.8], atol=1e-12
    )
    assert np.abs(np.diff(found, axis=0)).max() < 0.05  # mm; no step
    for affine in found:
        columns = affine[:2, :2] / [0.5, 0.8]
        np.testing.assert_allclose(columns.T @ columns, np.eye(2), atol=1e-12)  # lengths and angles stay
        np.testing.assert_allclose(
            columns, expected, atol=1e-12 if plane != "axial" or about in ((1, 0, 0), (0, 1, 0)) else 1
        )


def test_an_axial_slice_keeps_its_place_to_the_letter():
    affine = np.array([[0.0, 2, 0, 5], [-3, 0, 0, 7], [0, 0, 4, 9], [0, 0, 0, 1]])
    np.testing.assert_array_equal(slice_affine(affine), [[0, 2, 5], [-3, 0, 7], [0, 0, 1]])
    oblique = np.array([[0.6, -0.8, 0, 3], [0.8, 0.6, 0, 4], [0, 0, 1, 5], [0, 0, 0, 1]])
    np.testing.assert_allclose(slice_affine(oblique), [[0.6, -0.8, 3], [0.8, 0.6, 4], [0, 0, 1]], atol=1e-12)


def test_two_slices_of_one_plane_lie_apart_in_it_as_in_space():
    for axes in (STORED["axial"][0], STORED["sagittal"][0], STORED["coronal"][1]):
        first = tilted(axes, (1, 1, 1), 17.0)
        second = first.copy()
        second[:3, 3] += 4 * first[:3, 0] - 3 * first[:3, 1]
        shift = slice_affine(second)[:2, 2] - slice_affine(first)[:2, 2]
        np.testing.assert_allclose(shift, slice_affine(first)[:2, :2] @ [4, -3], atol=1e-12)


def test_the_tilt_of_a_slice():
    for angle in (0, 2.5, 45, 60, 90):
        assert slice_tilt(tilted(STORED["axial"][0], (1, 0, 0), angle)) == pytest.approx(angle)
        assert slice_tilt(tilted(STORED["axial"][2], (-1, 0, 0), angle)) == pytest.approx(angle)


def test_places_are_the_same_within_half_a_voxel_at_every_corner():
    affine = oblique((0.5, 2.0, 1.0), 0)
    moved = affine.copy()
    moved[:3, 3] += [0.2, 0, 0]
    assert distance_in_voxels(affine, moved, (9, 8, 7)) == pytest.approx(0.4)
    assert same_place(affine, moved, (9, 8, 7))
    longer = affine @ np.diag([1.05, 1, 1, 1])
    assert distance_in_voxels(affine, longer, (21, 8, 7)) == pytest.approx(1.0)
    assert not same_place(affine, longer, (21, 8, 7))
