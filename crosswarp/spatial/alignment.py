"""Coarse alignment of two label maps in space: where a registration of images that lie far apart starts.

An alignment is an affine between fractions of two images, from fixed to moving, ``[B, D + 1, D + 1]``. It is
found in mm, so that spacing, direction and field of view of either image do not matter: an *extent* is the
affine from fractions of an image (0 and 1 at its outermost voxel centres) to mm, as
:attr:`~.grid.Grid.extent` gives it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .maps import displacement, identity_map
from .sampling import as_float32, sample

ALIGNMENTS = ("moments", "affine")


def apply_affine(matrix: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Return an affine of points.

    Args:
        matrix: ``[B, D + 1, D + 1]``.
        points: ``[B, D, *any]``, of the same units; either batch may be 1.

    Returns:
        ``[B, D, *any]``, float32.
    """
    dims = points.shape[1]
    # no matrix product: autocast would compute that in half precision
    linear, shift = as_float32(matrix)[:, :dims].split([dims, 1], dim=2)
    along = as_float32(points).flatten(2).split(1, dim=1)
    moved = sum(column * each for column, each in zip(linear.split(1, dim=2), along, strict=True))
    return (moved + shift).unflatten(2, points.shape[2:])


def best_affine(phi: torch.Tensor) -> torch.Tensor:
    """Return the affine that comes nearest to a map, by least squares over the points of its grid.

    Args:
        phi: ``[1, D, *spatial]``.

    Returns:
        fractions to fractions, ``[1, D + 1, D + 1]``, float64. Along an axis of length 1 it changes nothing.
    """
    dims = phi.shape[1]
    points = identity_map(phi.shape[2:], phi.device)[0].flatten(1).double()
    shift = displacement(phi)[0].flatten(1).double()
    # coordinates of a grid about their mean are orthogonal: sums solve it, to the same bits every time, which
    # LAPACK's do not where memory is aligned otherwise
    mean = points.mean(1, keepdim=True)
    about = points - mean
    slopes = (shift[:, None] * about).sum(2) / (about**2).sum(1).clamp(min=1e-300)
    matrix = torch.eye(dims + 1, dtype=torch.float64, device=phi.device)
    matrix[:dims, :dims] += slopes
    matrix[:dims, dims] = shift.mean(1) - (slopes * mean[:, 0]).sum(1)
    return matrix[None]


def align(
    moving: torch.Tensor,
    fixed: torch.Tensor,
    moving_extent: torch.Tensor | None = None,
    fixed_extent: torch.Tensor | None = None,
    method: str = "moments",
    steps: int = 100,
    points: int = 48,
) -> torch.Tensor:
    """Align two maps of class probabilities.

    ``"moments"`` shifts centre of mass onto centre of mass, of all classes but the background that both
    images have; where they share none, the centre of one image onto that of the other. ``"affine"`` goes on
    from there to the affine of greatest overlap.

    Args:
        moving: ``[B, K, *spatial]``, background first.
        fixed: ``[B, K, *spatial]``, on any grid.
        moving_extent: fractions of the moving image to mm, ``[B, D + 1, D + 1]``; None for images that fill
            the unit cube, both together.
        fixed_extent: that of the fixed image.
        method: one of ``ALIGNMENTS``.
        steps: of gradient descent, for ``"affine"``.
        points: at which overlap is measured, along each axis, at most.

    Returns:
        from fractions of the fixed image to fractions of the moving image, ``[B, D + 1, D + 1]``, float32.

    Raises:
        ValueError: for another method, or one extent without the other.
    """
    if method not in ALIGNMENTS:
        raise ValueError(f"Expected an initialisation of {ALIGNMENTS}, or null for none, got {method!r}.")
    if (moving_extent is None) != (fixed_extent is None):
        raise ValueError("Expected the extents of both images, or of neither, got one.")
    with torch.autocast(moving.device.type, enabled=False):
        return _align(moving, fixed, moving_extent, fixed_extent, method, steps, points)


def _align(
    moving: torch.Tensor,
    fixed: torch.Tensor,
    moving_extent: torch.Tensor | None,
    fixed_extent: torch.Tensor | None,
    method: str,
    steps: int,
    points: int,
) -> torch.Tensor:
    dims = moving.ndim - 2
    unit = torch.eye(dims + 1, device=moving.device).expand(len(moving), -1, -1)
    to_mm = unit if moving_extent is None else moving_extent.to(unit)
    from_mm = unit if fixed_extent is None else fixed_extent.to(unit)
    labels = [as_float32(each) for each in (moving, fixed)]
    hard = [F.one_hot(each.max(1).indices, each.shape[1]).movedim(-1, 1)[:, 1:] for each in labels]
    shared = hard[0].flatten(2).any(2) & hard[1].flatten(2).any(2)
    centres = [
        apply_affine(matrix, _centre(each * shared.view(*shared.shape, *[1] * dims)))
        for each, matrix in zip(hard, (to_mm, from_mm), strict=True)
    ]
    shift = unit.clone()
    shift[:, :-1, -1:] = centres[0] - centres[1]
    if method == "affine":
        shift = _fit(labels[0], labels[1], to_mm, from_mm, shift, centres[1], steps, points)
    return torch.linalg.solve(to_mm, shift @ from_mm)


def _centre(labels: torch.Tensor) -> torch.Tensor:
    """Centre of mass ``[B, D, 1]`` of all classes together, in fractions; the middle where there are none."""
    mass = labels.sum(1).flatten(1).float()
    mass = mass + (mass.sum(1, keepdim=True) == 0)
    places = identity_map(labels.shape[2:], labels.device).flatten(2)[0]
    return (mass @ places.T / mass.sum(1, keepdim=True))[..., None]


def _fit(
    moving: torch.Tensor,
    fixed: torch.Tensor,
    to_mm: torch.Tensor,
    from_mm: torch.Tensor,
    start: torch.Tensor,
    centre: torch.Tensor,
    steps: int,
    points: int,
) -> torch.Tensor:
    """Gradient descent on the soft Dice of the classes, over an affine in mm about the fixed centre of mass.

    A weak penalty keeps directions as they are of which the labels say nothing.
    """
    dims = moving.ndim - 2
    # inference mode would forbid gradients even here
    with torch.inference_mode(False), torch.enable_grad():
        moving, fixed, to_mm, from_mm, start, centre = (
            each.clone() for each in (moving, fixed, to_mm, from_mm, start, centre)
        )
        grid = identity_map([min(size, points) for size in fixed.shape[2:]], fixed.device)
        wanted = sample(fixed, grid.expand(len(fixed), *grid.shape[1:]))[:, 1:]
        scale = from_mm[:, :-1, :-1].square().sum(1).sqrt().mean(1).reshape(-1, 1, 1)  # mm of a unit step
        change = torch.zeros(len(moving), dims, dims + 1, device=moving.device, requires_grad=True)
        optimizer = torch.optim.Adam([change], lr=0.02)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

        def affine() -> torch.Tensor:
            linear, by = change.split([dims, 1], dim=2)
            about = by * scale - linear @ centre
            return start @ (_eye(start) + F.pad(torch.cat([linear, about], 2), (0, 0, 0, 1)))

        for _ in range(steps):
            matrix = torch.linalg.solve(to_mm, affine() @ from_mm)
            found = sample(moving, apply_affine(matrix, grid))[:, 1:]
            both = (found * wanted).flatten(2).sum(2)
            either = (found + wanted).flatten(2).sum(2)
            loss = (1 - 2 * both / (either + 1e-3)).mean(1) + 0.01 * change[..., :dims].square().sum((1, 2))
            optimizer.zero_grad()
            loss.sum().backward()
            optimizer.step()
            schedule.step()
        return affine().detach()


def _eye(matrix: torch.Tensor) -> torch.Tensor:
    return torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
