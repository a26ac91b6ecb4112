"""Local volume change of a map, and where it folds."""

from __future__ import annotations

import torch

from .maps import displacement


def jacobian_determinant(phi: torch.Tensor) -> torch.Tensor:
    """Return the determinant of the Jacobian of a map: central differences inside, one-sided at the border.

    Derivatives are taken in normalised coordinates, so that the identity gives 1 on any grid. Along an axis
    of length 1 the map is taken to be the identity.

    Args:
        phi: ``[B, D, *spatial]``.

    Returns:
        ``[B, *spatial]``, float32: above 1 where the map reads a larger piece than it fills, at or below 0
        where it folds.

    Raises:
        ValueError: unless D is 2 or 3 and equals the number of spatial axes.
    """
    dims = phi.ndim - 2
    if dims not in (2, 3) or phi.shape[1] != dims:
        raise ValueError(
            f"Expected a map [B, D, *spatial] with D = 2 or 3 spatial axes, got shape {tuple(phi.shape)}."
        )
    shift = displacement(phi)  # its differences lose no digits to the coordinates themselves
    columns = []
    for axis, size in enumerate(phi.shape[2:]):
        if size > 1:
            (column,) = torch.gradient(shift, spacing=1 / (size - 1), dim=axis + 2)
        else:
            column = torch.zeros_like(shift)
        unit = torch.eye(dims, device=phi.device)[axis].view(1, dims, *[1] * dims)
        columns.append(column + unit)
    if dims == 2:
        (a, c), (b, d) = (column.unbind(1) for column in columns)
        return a * d - b * c
    return (torch.linalg.cross(columns[0], columns[1], dim=1) * columns[2]).sum(1)


def fold_fraction(phi: torch.Tensor) -> torch.Tensor:
    """Return the fraction of grid points at which a map folds (Jacobian determinant at or below 0).

    Args:
        phi: ``[B, D, *spatial]``.

    Returns:
        ``[B]``, each in [0, 1].
    """
    return (jacobian_determinant(phi) <= 0).float().flatten(1).mean(1)
