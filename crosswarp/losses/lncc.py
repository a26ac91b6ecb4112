"""Local normalised cross-correlation."""

from __future__ import annotations

import torch
from torch import nn

from ..spatial import as_float32


class LNCCLoss(nn.Module):
    """One minus the correlation of two images in a Gaussian window around each point, averaged.

    The window reaches two standard deviations and sees zeros beyond the image. Contrast and brightness may
    differ from place to place; where an image is flat there is no correlation and the cost is 1. This is
    ``LNCC`` of icon-registration (Tian et al., CVPR 2023).

    Args:
        sigma: standard deviation of the window, voxels.
        epsilon: added to the local variances, squared intensity units.
        reduction: ``"mean"`` for a scalar, ``"none"`` for one value per image.

    Raises:
        ValueError: for another reduction.
    """

    def __init__(self, sigma: float = 3.0, epsilon: float = 1e-5, reduction: str = "mean") -> None:
        super().__init__()
        if reduction not in ("mean", "none"):
            raise ValueError(f"Expected reduction 'mean' or 'none', got {reduction!r}.")
        self.sigma, self.epsilon, self.reduction = sigma, epsilon, reduction

    def forward(self, warped: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
        """Compute the loss.

        Args:
            warped: ``[B, C, *spatial]``.
            fixed: ``[B, C, *spatial]``.

        Returns:
            Scalar, or ``[B]`` for reduction ``"none"``; each in [0, 2].

        Raises:
            ValueError: if the shapes differ.
        """
        if warped.shape != fixed.shape:
            raise ValueError(
                f"Expected images of one shape, got {tuple(warped.shape)} and {tuple(fixed.shape)}; "
                "resample one to the grid of the other."
            )
        a, b = as_float32(warped), as_float32(fixed)
        with torch.autocast(a.device.type, enabled=False):  # a variance is a difference of large numbers
            a_mean, b_mean, aa, bb, ab = self._blur(torch.stack([a, b, a * a, b * b, a * b]))
        a_variance = (aa - a_mean**2).relu() + self.epsilon
        b_variance = (bb - b_mean**2).relu() + self.epsilon
        correlation = (ab - a_mean * b_mean) / (a_variance * b_variance).sqrt()
        loss = 1 - correlation.flatten(1).mean(1)
        return loss.mean() if self.reduction == "mean" else loss

    def _blur(self, images: torch.Tensor) -> torch.Tensor:
        """Blur the spatial axes of ``[5, B, C, *spatial]``, each by a product with a banded matrix.

        Unlike a convolution, a product keeps float32 on a GPU by default, and it is fast on a CPU too.
        """
        radius = round(2 * self.sigma)
        for axis in range(3, images.ndim):
            position = torch.arange(images.shape[axis], device=images.device)
            offset = (position[:, None] - position).float()
            window = torch.exp(-0.5 * (offset / self.sigma) ** 2) * (offset.abs() <= radius)
            taps = torch.arange(-radius, radius + 1, device=images.device)
            window = window / torch.exp(-0.5 * (taps / self.sigma) ** 2).sum()
            images = (images.movedim(axis, -1) @ window).movedim(-1, axis)
        return images
