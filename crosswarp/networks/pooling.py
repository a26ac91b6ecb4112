"""The halving of a grid that the registration networks share."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def halve(x: torch.Tensor) -> torch.Tensor:
    """Average neighbouring samples, two along each axis; the odd last one, or the only one, stands alone.

    Args:
        x: ``[B, C, *spatial]``, 2D or 3D.

    Returns:
        ``[B, C, *half]``, each axis half as long, rounded up.
    """
    kernel = [2 if size > 1 else 1 for size in x.shape[2:]]  # avg_pool3d refuses a kernel longer than an axis
    if x.ndim == 4:
        return F.avg_pool2d(x, kernel, stride=2, ceil_mode=True)
    return F.avg_pool3d(x, kernel, stride=2, ceil_mode=True)
