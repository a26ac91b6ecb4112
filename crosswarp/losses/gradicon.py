"""Gradient inverse consistency of two maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .. import processes
from ..spatial import compose, identity_map


class GradICONLoss(nn.Module):
    """Deviation of the Jacobian of ``moving_to_fixed ∘ fixed_to_moving`` from the identity matrix.

    With ``J`` the Jacobian of ``id − moving_to_fixed ∘ fixed_to_moving``, by forward differences, the loss is
    the mean of ``‖J‖²_F / D`` over the jittered points of a thinned grid. Maps that are inverse to each other
    up to a shift cost nothing. This is ``GradientICONSparse`` of icon-registration (Tian et al.,
    "GradICON", CVPR 2023, arXiv 2206.05897).

    Args:
        delta: step of the differences, normalised units.
        noise_voxels: standard deviation of the points' jitter, voxels.
        stride: every how many grid points one is evaluated, along each axis.
    """

    def __init__(self, delta: float = 0.001, noise_voxels: float = 2.0, stride: int = 2) -> None:
        super().__init__()
        self.delta, self.noise_voxels, self.stride = delta, noise_voxels, stride

    def forward(
        self, moving_to_fixed: torch.Tensor, fixed_to_moving: torch.Tensor, noise: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Compute the loss.

        Args:
            moving_to_fixed: ``[B, D, *spatial]``.
            fixed_to_moving: ``[B, D, *spatial]``.
            noise: jitter to use instead of a random one, ``[1 or B, D, *thinned]`` in normalised units, where
                ``thinned`` is every ``stride``-th grid point.

        Returns:
            Scalar, float32, at least 0.
        """
        batch, dims, *shape = fixed_to_moving.shape
        device = fixed_to_moving.device
        thinning = [slice(None)] * 2 + [slice(None, None, self.stride)] * dims
        points = identity_map(shape, device)[tuple(thinning)]
        if noise is None:
            # filled, not copied from a list: a copy would make the host wait for the device
            voxel = torch.stack([torch.full((), 1 / max(size - 1, 1), device=device) for size in shape])
            size = points.shape[1:]
            noise = processes.drawn(lambda count: torch.randn(count, *size, device=device), batch)
            noise = noise * self.noise_voxels * voxel.view(1, dims, *[1] * dims)
        # Each point, and its copies one step along each axis, evaluated at once as one long first axis.
        steps = F.pad(self.delta * torch.eye(dims, device=device), (1, 0)).view(1, dims, -1, *[1] * dims)
        points = ((points + noise)[:, :, None] + steps).flatten(2, 3)
        error = points - compose(moving_to_fixed, compose(fixed_to_moving, points))
        error = error.unflatten(2, (dims + 1, -1))
        return dims * ((error[:, :, :1] - error[:, :, 1:]) / self.delta).square().mean()
