"""Slices of space as 2D images: their orientation stays, however they are tilted."""

from __future__ import annotations

import numpy as np
import pytest

from crosswarp.spatial.slices import slice_affine, slice_tilt

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
