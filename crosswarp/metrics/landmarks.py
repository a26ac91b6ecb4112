"""Target registration error: how far apart corresponding landmarks are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from ..spatial import compose

Points = NDArray[np.float64]


def inside(points: Points, extent: Points) -> NDArray[np.bool_]:
    """Return which points lie in an image.

    Args:
        points: ``[N, D]``, mm in LPS.
        extent: ``[D + 1, D + 1]``, as of :func:`crosswarp.spatial.physical.fractions_affine`.

    Returns:
        ``[N]``; up to the outermost voxel centres, and a rounding error beyond.
    """
    fractions = to_fractions(points, extent)
    return np.all((fractions >= -1e-6) & (fractions <= 1 + 1e-6), axis=1)


def to_fractions(points: Points, extent: Points) -> Points:
    """Return points in mm (LPS) as fractions of an image, ``[N, D]``."""
    return (points - extent[:-1, -1]) @ np.linalg.inv(extent[:-1, :-1]).T


def target_registration_error(
    moving: Mapping[str, Points],
    fixed: Mapping[str, Points],
    moving_to_fixed: torch.Tensor,
    moving_extent: Points,
    fixed_extent: Points,
) -> float:
    """Return the mean distance of mapped fixed landmarks to the moving landmarks of the same name.

    Args:
        moving: name -> point ``[D]``, mm in LPS.
        fixed: name -> point ``[D]``, mm in LPS.
        moving_to_fixed: ``[1, D, *spatial]``, normalised map: it takes fixed points to moving ones.
        moving_extent: ``[D + 1, D + 1]``, fractions of the moving image to mm, as of
            :func:`crosswarp.spatial.physical.fractions_affine`.
        fixed_extent: the same of the fixed image.

    Returns:
        mm, in the moving image; NaN where no name is in both.
    """
    names = [name for name in fixed if name in moving]
    if not names:
        return float("nan")
    fractions = to_fractions(np.stack([fixed[name] for name in names]), fixed_extent)
    points = torch.from_numpy(fractions.T.astype(np.float32)).to(moving_to_fixed.device)
    points = points.reshape(1, len(points), -1, *[1] * (len(points) - 1))
    mapped = compose(moving_to_fixed, points)[0].flatten(1).T.double().cpu().numpy()
    mapped = mapped @ moving_extent[:-1, :-1].T + moving_extent[:-1, -1]
    return float(np.linalg.norm(mapped - np.stack([moving[name] for name in names]), axis=1).mean())
