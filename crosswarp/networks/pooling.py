"""The halving of a grid that the registration networks share."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..spatial.deterministic import is_needed


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
    if not torch.jit.is_scripting():
        if is_needed(x):  # of which torch's has no deterministic gradient on a GPU
            return _halve_by_axes(x)
    return F.avg_pool3d(x, kernel, stride=2, ceil_mode=True)


def _halve_by_axes(x: torch.Tensor) -> torch.Tensor:
    """The same, one axis after the other, by slices."""
    for axis in range(2, x.ndim):
        paired = x.shape[axis] // 2 * 2
        pairs, rest = x.split([paired, x.shape[axis] - paired], dim=axis)
        x = torch.cat([pairs.unflatten(axis, (paired // 2, 2)).mean(axis + 1), rest], dim=axis)
    return x
