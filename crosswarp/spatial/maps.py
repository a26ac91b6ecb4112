"""The algebra of maps: identity, displacement, composition, inversion, change of grid."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .sampling import as_float32, sample

DAMPING = (1.0, 0.5, 0.2)  # parts of a step that solve for an inverse, one after the other


def identity_map(spatial_shape: Sequence[int], device: torch.device | str | None = None) -> torch.Tensor:
    """Return the map that leaves every point where it is.

    Args:
        spatial_shape: length of each axis; on an axis of length 1 the coordinate is 0.
        device: where to make it.

    Returns:
        ``[1, D, *spatial_shape]``, float32, normalised coordinates.
    """
    return identity_like(torch.empty((), device=device).expand(1, 1, *spatial_shape))


def identity_like(image: torch.Tensor) -> torch.Tensor:
    """Return the identity on the grid of an image, ``[1, D, *spatial]``; TorchScript compiles it.

    Args:
        image: ``[B, C, *spatial]``.
    """
    shape, device = image.shape[2:], image.device
    axes = [torch.linspace(0, 1, size, dtype=torch.float32, device=device) for size in shape]
    return torch.stack(torch.meshgrid(axes, indexing="ij"))[None]


def map_about_middle(
    matrix: torch.Tensor,
    lengths: torch.Tensor,
    spatial_shape: Sequence[int],
    shift: torch.Tensor | None = None,
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """Return the map of a linear one about the middle of a grid, ``[1, D, *spatial]``.

    Args:
        matrix: ``[D, D]``, of points in the unit of the lengths, not of the unit square.
        lengths: of the axes, ``[D]``, in any one unit.
        spatial_shape: length of each axis of the grid.
        shift: what is added, ``[D]``, as a fraction of the extent; None for nothing.
        device: of the map.
    """
    identity = identity_map(spatial_shape, device)
    matrix = (matrix * lengths / lengths[:, None]).to(identity)
    middle = 0.5 if shift is None else (0.5 + shift).to(identity).reshape(1, -1, *[1] * len(spatial_shape))
    return (matrix @ (identity - 0.5).flatten(2)).reshape(identity.shape) + middle


def displacement(phi: torch.Tensor) -> torch.Tensor:
    """Return the displacement ``φ − id`` of a map.

    Args:
        phi: ``[B, D, *spatial]``, normalised coordinates.

    Returns:
        ``[B, D, *spatial]``, float32, normalised units.
    """
    return as_float32(phi) - identity_map(phi.shape[2:], phi.device)


def compose(outer: torch.Tensor, inner: torch.Tensor) -> torch.Tensor:
    """Return ``outer ∘ inner``: ``inner`` is applied first.

    Args:
        outer: ``[B, D, *outer_spatial]``, evaluated as a function, on whatever grid it is.
        inner: ``[B, D, *spatial]``: a map on the grid of the result, or any points; either batch may be 1.

    Returns:
        ``[B, D, *spatial]``, so that warping by the result is warping by ``outer``, then by ``inner``.
    """
    return as_float32(inner) + sample(displacement(outer), inner)


def invert(phi: torch.Tensor, max_iterations: int = 50, tolerance: float = 1e-5) -> torch.Tensor:
    """Return ``φ⁻¹``, solving ``ψ = id − u(ψ)`` by fixed-point iteration.

    It converges where the displacement ``u`` has a Lipschitz constant below 1, as smooth fields of moderate
    strain do. Points that still move are then moved by a part of the step alone, which converges where the
    map stretches by more, up to ``2 / DAMPING[-1]``; elsewhere, as at folds, the last iterate is returned. A
    point that stands still is done: few that do not converge cost little.

    Args:
        phi: ``[B, D, *spatial]``.
        max_iterations: upper limit of the iterations with each part of the step.
        tolerance: a point stands still when a whole step is no more than this, in normalised units.

    Returns:
        ``[B, D, *spatial]`` with ``compose(phi, invert(phi)) ≈ id``.

    References:
        Chen et al., "A simple fixed-point approach to invert a deformation field", Med. Phys. 35, 2008.
    """
    shift, points = displacement(phi), identity_map(phi.shape[2:], phi.device).flatten(2)
    inverse = points - shift.flatten(2)
    moving = torch.arange(points.shape[2], device=phi.device)
    for part in [each for each in DAMPING for _ in range(max_iterations)]:
        here = inverse[..., moving]
        read = sample(shift, here.reshape(*here.shape, *[1] * (phi.ndim - 3)))
        there = torch.lerp(here, points[..., moving] - read.flatten(2), part)
        inverse = inverse.index_copy(2, moving, there)
        moving = moving[(there - here).detach().abs().amax((0, 1)) > part * tolerance]
        if not len(moving):
            break
    return inverse.reshape(shift.shape)


def resize_map(phi: torch.Tensor, spatial_shape: Sequence[int]) -> torch.Tensor:
    """Return the same map on another grid over the same extent, its displacement interpolated linearly.

    Args:
        phi: ``[B, D, *spatial]``.
        spatial_shape: length of each axis of the new grid.

    Returns:
        ``[B, D, *spatial_shape]``.
    """
    return compose(phi, identity_map(spatial_shape, phi.device))


def resize_image(image: torch.Tensor, spatial_shape: Sequence[int]) -> torch.Tensor:
    """Return an image on another grid over the same extent, interpolated linearly; unchanged on its own.

    Args:
        image: ``[B, C, *spatial]``.
        spatial_shape: length of each axis of the new grid.

    Returns:
        ``[B, C, *spatial_shape]``, float32.
    """
    if image.shape[2:] == torch.Size(spatial_shape):
        return as_float32(image)
    return sample(image, identity_map(spatial_shape, image.device))
