"""How large images are along the networks' axes, and frames that hold them."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import Orientation

from crosswarp.data.extents import (
    canonical_extent,
    canonical_shape,
    choose_frame,
    choose_spacing,
    fitting_size,
    holds,
    is_plausible,
    needed_extent,
    networks_grid,
    typical_extent,
)
from crosswarp.spatial.grid import Grid


def grid(shape, spacing, axes=None) -> Grid:
    """A grid whose array axis i runs along axis `axes[i]` of space."""
    dims = len(shape)
    affine = np.eye(dims + 1)
    affine[:dims, :dims] = np.eye(dims)[:, axes or range(dims)] * np.array(spacing)
    return Grid.from_ras(affine, shape)


def image(shape, spacing, known=True, axes=None):
    return SimpleNamespace(grid=grid(shape, spacing, axes), spacing_known=known)


@pytest.mark.parametrize(
    ("shape", "spacing", "axes"),
    [
        ((30, 20), (0.5, 0.7), (0, 1)),
        ((30, 20), (0.5, 0.7), (1, 0)),  # rows first
        ((30, 20, 10), (0.5, 0.7, 3), (1, 2, 0)),
        ((30, 20, 10), (0.5, 0.7, 3), (2, 1, 0)),
    ],
)
def test_extents_are_those_of_the_image_that_monai_turns_to_the_networks_axes(shape, spacing, axes):
    stored = grid(shape, spacing, axes)
    ras = np.diag([-1.0, -1, *[1] * (len(shape) - 1)]) @ stored.affine
    turned = Orientation("LP" if len(shape) == 2 else "RAS")(MetaTensor(np.zeros((1, *shape)), affine=ras))
    assert canonical_shape(stored) == tuple(turned.shape[1:])
    np.testing.assert_allclose(canonical_extent(stored), np.array(turned.shape[1:]) * turned.pixdim.numpy())


def test_an_oblique_image_is_as_long_as_its_own_axes():
    angle = np.radians(70)  # nearer to exchanged axes than to straight ones
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    affine = np.eye(3)
    affine[:2, :2] = turn @ np.diag([0.5, 0.7])
    np.testing.assert_allclose(canonical_extent(Grid((30, 20), affine)), [14, 15])


def test_a_frame_holds_19_of_20_images_of_each_modality():
    narrow = [np.array([100.0, 200])] * 19 + [np.array([101.0, 300])] * 1
    wide = [np.array([150.0 + number, 120]) for number in range(21)]
    needed = needed_extent([narrow, wide, []])
    np.testing.assert_allclose(needed, [169, 200 + 0.05 * 100])  # numpy's linear percentile of 20 values
    assert sum((each <= needed).all() for each in narrow + wide) == 19 + 20


@pytest.mark.parametrize(
    ("needed", "size", "expected"),
    [
        ([224, 224], [96, 96], [2.34, 2.34]),  # 2.333 rounded down would hold none
        ([19.2, 18], [32, 32], [0.6, 0.563]),
        ([256, 128], [256, 128], [1, 1]),
        ([0.32, 3200, 64], [32, 32, 64], [0.01, 100, 1]),
        ([25.6 * (1 + 1e-6)] * 2, [256, 256], [0.1, 0.1]),  # as float32 of a header
    ],
)
def test_spacings_have_three_digits_and_hold_what_they_are_for(needed, size, expected):
    spacing = choose_spacing(np.array(needed), size)
    assert spacing == expected
    assert holds(size, spacing, np.array(needed))
    assert not holds(size, [0.99 * length for length in spacing], np.array(needed))


@pytest.mark.parametrize(
    ("needed", "size", "expected"),
    [
        ([150, 150], [256, 256], ([256, 256], [0.586, 0.586])),
        ([100, 120], [256, 256], ([224, 256], [0.469, 0.469])),  # 100 / 0.469 = 213.2 points
        ([100, 126], [256, 256], ([256, 256], [0.391, 0.493])),  # more than 25 % apart
        ([30, 120], [64, 256], ([64, 256], [0.469, 0.469])),
        ([180, 200, 90], [128, 128, 64], ([128, 128, 64], [1.57, 1.57, 1.57])),
        ([180, 200, 300], [128, 128, 64], ([128, 128, 64], [1.41, 1.57, 4.69])),
        ([19.2, 18], [32, 32], ([32, 32], [0.6, 0.6])),
    ],
)
def test_frames_are_isotropic_where_that_costs_little(needed, size, expected):
    assert choose_frame(np.array(needed, float), size) == expected


@given(
    st.lists(st.tuples(st.floats(1e-2, 1e4), st.integers(2, 16)), min_size=2, max_size=3),
)
def test_frames_hold_what_they_are_for_and_are_no_larger_than_asked(axes):
    needed, size = np.array([length for length, _ in axes]), [16 * number for _, number in axes]
    chosen, spacing = choose_frame(needed, size)
    assert holds(chosen, spacing, needed)
    assert all(32 <= points <= most and points % 16 == 0 for points, most in zip(chosen, size, strict=True))
    for length in spacing:
        assert float(f"{length:.3g}") == length
    if len(set(spacing)) > 1:
        assert max(spacing) > 1.25 * min(spacing)
    for points, most, step, length in zip(chosen, size, spacing, needed, strict=True):
        assert points in (32, most) or (points - 16) * step < length  # 16 points fewer do not do


def test_the_size_that_a_given_spacing_needs():
    assert fitting_size(np.array([150.0, 100]), [0.5, 0.5]) == [256, 208]  # 300 is more than networks take
    assert fitting_size(np.array([150.0, 100, 10]), [2, 2, 2]) == [80, 64, 16]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fitting_size(np.array([1e3, 1e3]), [1e-320, 1e300]) == [256, 32]
        assert holds([256, 256], [1e308, 1e308], np.array([1.0, 1]))


IMAGES = [image((200, 300), (0.5, 0.5)), image((300, 200), (0.5, 0.5), axes=(1, 0))]
SILENT = image((200, 300), (1, 1), known=False)
MIXED = [image((40, 30, 20), (1, 1, 2)), *IMAGES]


@pytest.mark.parametrize(
    ("size", "spacing", "training", "expected"),
    [
        (None, None, [IMAGES, IMAGES[:1]], {"spatial_size": [176, 256], "spacing": [0.586, 0.586]}),
        ([64, 32], None, [IMAGES, IMAGES], {"spatial_size": [64, 32], "spacing": [1.57, 4.69]}),
        (64, None, [IMAGES, IMAGES], {"spatial_size": [64, 64], "spacing": [1.57, 2.35]}),
        (None, None, [IMAGES, [SILENT]], {"spatial_size": [192, 256]}),
        (None, None, [[SILENT], [SILENT]], {"spatial_size": [192, 256]}),
        (None, None, [[], []], {"spatial_size": [192, 256]}),
        (None, None, [MIXED, IMAGES], {"spatial_size": [176, 256], "spacing": [0.586, 0.586]}),
        (None, "extent", [IMAGES, IMAGES], {"spatial_size": [192, 256]}),
        (None, 1.0, [IMAGES, IMAGES], {"spatial_size": [112, 160], "spacing": [1.0, 1.0]}),
        (None, [1.0, 2.0], [IMAGES, [SILENT]], {"spatial_size": [112, 80], "spacing": [1.0, 2.0]}),
        (96, [1.0, 2.0], [IMAGES, IMAGES], {"spatial_size": [96, 96], "spacing": [1.0, 2.0]}),
        (None, 1.0, [[SILENT], [SILENT]], {"spatial_size": [192, 256], "spacing": [1.0, 1.0]}),
        (None, [1.0], [IMAGES, IMAGES], {"spatial_size": [192, 256], "spacing": [1.0]}),
        ([], None, [IMAGES, IMAGES], {"spatial_size": []}),
        ("x", None, [IMAGES, IMAGES], {"spatial_size": ["x", "x"]}),
        (0, None, [IMAGES, IMAGES], {"spatial_size": [0, 0]}),
        (10**4000, None, [IMAGES, IMAGES], {"spatial_size": [10**4000] * 2}),
    ],
)
def test_size_and_spacing_that_a_datalist_gets(size, spacing, training, expected):
    """Images of 200 by 300 voxels along the networks' axes, one of them stored rows first: 100 by 150 mm."""
    assert networks_grid(size, spacing, 2, [*MIXED, SILENT], training) == expected


def test_what_is_typical_blames_neither_of_two():
    np.testing.assert_allclose(typical_extent([np.array([100.0, 4]), np.array([1.0, 9])]), [10, 6])
    np.testing.assert_allclose(typical_extent([np.array([1.0]), np.array([2.0]), np.array([1e6])]), [2])


@pytest.mark.parametrize(
    ("extent", "plausible"),
    [
        ([100, 150, 80], True),
        ([55, 80, 44], True),  # cropped
        ([400, 1200, 400], True),  # a whole leg
        ([100, 150, 4], True),  # a slab
        ([0.1, 0.15, 0.08], False),  # micrometres as millimetres
        ([1e5, 1.5e5, 8e4], False),
        ([600, 900, 480], False),
        ([19, 29, 15], False),
        ([100, 150, 8e4], False),  # one axis of three
        ([100, 150, 0.08], False),
    ],
)
def test_implausible_extents(extent, plausible):
    assert is_plausible(np.array(extent, float), np.array([100.0, 150, 80])) is plausible
