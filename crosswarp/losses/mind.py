"""Modality-independent neighbourhood descriptor in its self-similarity context (MIND-SSC)."""

from __future__ import annotations

from itertools import combinations

import torch
import torch.nn.functional as F
from torch import nn

from ..spatial import as_float32


def mind_ssc(image: torch.Tensor, radius: int = 2, dilation: int = 2, epsilon: float = 1e-6) -> torch.Tensor:
    """Describe every point by how alike the patches around its neighbours are.

    The neighbours of a point are the two on each axis, ``dilation`` voxels away. Two of them on different
    axes make a pair: 4 in 2D, 12 in 3D. Their descriptor is ``exp(−(SSD − min SSD) / σ²)``: SSD the mean
    squared difference of the two patches, the minimum that over all pairs of the point, and σ² the mean of
    what is left, kept within a factor of 1000 of its mean over the image. Beyond the border the image is
    repeated. Contrast and brightness do not change it, nor does turning bright and dark round.

    Args:
        image: ``[B, C, *spatial]``; channels are described one by one.
        radius: of a patch, voxels; it is ``2 * radius + 1`` wide.
        dilation: distance of the neighbours, voxels.
        epsilon: added to σ², squared intensity units, for images that are flat.

    Returns:
        ``[B, C * pairs, *spatial]``, float32, in (0, 1].

    References:
        Heinrich et al., "Towards realtime multimodal fusion for image-guided interventions using
        self-similarities", MICCAI 2013 (equations 2 and 3; the constant minimum and limits of σ² are those of
        its author's implementation).
    """
    dims = image.ndim - 2
    flat = as_float32(image).flatten(0, 1)[:, None]
    padded = F.pad(flat, [dilation] * (2 * dims), mode="replicate")
    steps = [(axis, sign) for axis in range(dims) for sign in (0, 2)]

    def neighbour(axis: int, sign: int) -> torch.Tensor:
        shifted = padded
        for each, size in enumerate(image.shape[2:]):
            start = sign * dilation if each == axis else dilation
            shifted = shifted.narrow(each + 2, start, size)
        return shifted

    pool = (F.avg_pool2d, F.avg_pool3d)[dims - 2]
    differences = torch.cat(
        [(neighbour(*a) - neighbour(*b)) ** 2 for a, b in combinations(steps, 2) if a[0] != b[0]], dim=1
    )
    patches = F.pad(differences, [radius] * (2 * dims), mode="replicate")
    ssd = pool(patches, 2 * radius + 1, stride=1)
    ssd = ssd - ssd.amin(1, keepdim=True)
    variance = ssd.mean(1, keepdim=True)
    mean = variance.flatten(1).mean(1).view(-1, *[1] * (dims + 1))
    variance = torch.minimum(torch.maximum(variance, mean / 1000), mean * 1000) + epsilon
    return torch.exp(-ssd / variance).reshape(len(image), -1, *image.shape[2:])


class MINDSSCLoss(nn.Module):
    """Mean squared difference of the descriptors :func:`mind_ssc` of two images.

    Args:
        radius: see :func:`mind_ssc`.
        dilation: see :func:`mind_ssc`.
    """

    def __init__(self, radius: int = 2, dilation: int = 2) -> None:
        super().__init__()
        self.radius, self.dilation = radius, dilation

    def forward(self, warped: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
        """Compute the loss.

        Args:
            warped: ``[B, C, *spatial]``.
            fixed: ``[B, C, *spatial]``.

        Returns:
            Scalar in [0, 1].

        Raises:
            ValueError: if the shapes differ.
        """
        if warped.shape != fixed.shape:
            raise ValueError(
                f"Expected images of one shape, got {tuple(warped.shape)} and {tuple(fixed.shape)}; "
                "resample one to the grid of the other."
            )
        with torch.autocast(fixed.device.type, enabled=False):  # of differences between differences
            first, second = (mind_ssc(image, self.radius, self.dilation) for image in (warped, fixed))
            return F.mse_loss(first, second)
