"""Target registration error: how far apart corresponding landmarks are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from ..spatial import compose
from ..spatial.grid import Grid, Points


def target_registration_error(
    moving: Mapping[str, Points],
    fixed: Mapping[str, Points],
    moving_to_fixed: torch.Tensor,
    moving_grid: Grid,
    fixed_grid: Grid,
) -> float:
    """Return the mean distance of mapped fixed landmarks to the moving landmarks of the same name.

    Args:
        moving: name -> point ``[D]``, mm in LPS.
        fixed: name -> point ``[D]``, mm in LPS.
        moving_to_fixed: ``[1, D, *spatial]``, normalised map: it takes fixed points to moving ones.
        moving_grid: of the moving image.
        fixed_grid: of the fixed image.

    Returns:
        mm, in the moving image; NaN where no name is in both.
    """
    names = [name for name in fixed if name in moving]
    if not names:
        return float("nan")
    fractions = fixed_grid.to_fractions(np.stack([fixed[name] for name in names]))
    points = torch.from_numpy(fractions.T.astype(np.float32)).to(moving_to_fixed.device)
    points = points.reshape(1, len(points), -1, *[1] * (len(points) - 1))
    mapped = compose(moving_to_fixed, points)[0].flatten(1).T.double().cpu().numpy()
    error = moving_grid.fractions_to_mm(mapped) - np.stack([moving[name] for name in names])
    return float(np.linalg.norm(error, axis=1).mean())
