"""Slices of space as 2D images: what becomes of their place, which ITK has in space and 2D images do not."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .grid import Matrix

AXIAL = 60.0  # degrees that a slice may be tilted and still take the directions of the axial plane


def slice_affine(affine: ArrayLike) -> Matrix:
    """Return the affine of a slice to mm in its own plane, ``[3, 3]``, given that to space, ``[4, 4]``.

    Up to ``AXIAL`` degrees from axial the plane is tilted back about the line in which it meets the axial
    plane, so that an axial slice keeps its place to the letter, and one that is tilted keeps its orientation,
    lengths and angles. Nearer to a sagittal or coronal plane the slice is taken as it is stored: its first
    axis runs to the left, its second to the back. No rule without such a border exists: axial slices turned
    round by 360 degrees in their plane would have to be carried over into less than that.

    Args:
        affine: indices to mm in RAS; its first two columns are the axes of the slice, at right angles.
    """
    columns, origin = np.asarray(affine, np.float64)[:3, :2], np.asarray(affine, np.float64)[:3, 3]
    spacing = np.linalg.norm(columns, axis=0)
    axes = columns / spacing
    (a, b), (c, d) = axes[:2]
    if slice_tilt(affine) > AXIAL:
        turn = -np.eye(2)
    else:  # the orthogonal matrix nearest to the projection onto the axial plane
        nearest = axes[:2] + np.sign(a * d - b * c) * np.array([[d, -c], [-b, a]])
        turn = nearest / np.linalg.norm(nearest[:, 0])
    result = np.eye(3)
    result[:2, :2], result[:2, 2] = turn * spacing, turn @ axes.T @ origin
    return result


def slice_tilt(affine: ArrayLike) -> float:
    """Return the angle between a slice, given its affine ``[4, 4]``, and the axial plane in degrees."""
    columns = np.asarray(affine, np.float64)[:3, :2]
    normal = np.cross(*columns.T)
    return float(np.degrees(np.arctan2(np.hypot(*normal[:2]), abs(normal[2]))))
