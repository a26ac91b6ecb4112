"""Maps to and from the voxel displacement fields (DDF) of MONAI's ``Warp``."""

from __future__ import annotations

import torch

from .maps import displacement, identity_map
from .sampling import as_float32


def _voxels_per_unit(field: torch.Tensor) -> torch.Tensor:
    """Return ``[1, D, 1, ...]``: voxels along each axis in one normalised unit (1 on an axis of length 1)."""
    sizes = [max(size - 1, 1) for size in field.shape[2:]]
    return torch.tensor(sizes, dtype=torch.float32, device=field.device).view(1, -1, *[1] * len(sizes))


def to_voxel_displacement(phi: torch.Tensor) -> torch.Tensor:
    """Convert a map into the dense displacement field that ``monai.networks.blocks.Warp`` takes.

    Args:
        phi: ``[B, D, *spatial]``, normalised; moving and fixed grid have the same shape.

    Returns:
        ``[B, D, *spatial]``, displacements in voxels along the array axes.
    """
    return displacement(phi) * _voxels_per_unit(phi)


def from_voxel_displacement(ddf: torch.Tensor) -> torch.Tensor:
    """Convert a dense displacement field in voxels (as of ``monai.networks.blocks.Warp``) into a map.

    Args:
        ddf: ``[B, D, *spatial]``, voxels along the array axes.

    Returns:
        ``[B, D, *spatial]``, normalised; the inverse of :func:`to_voxel_displacement`.
    """
    return as_float32(ddf) / _voxels_per_unit(ddf) + identity_map(ddf.shape[2:], ddf.device)
