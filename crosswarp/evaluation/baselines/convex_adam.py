"""ConvexAdam on MIND features."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.utils import optional_import

from .pairwise import Array, PairwiseMethod

with warnings.catch_warnings():  # the package silences all of them
    convex_adam_pt, has_convex_adam = optional_import("convexAdam.convex_adam_MIND", name="convex_adam_pt")


class ConvexAdam(PairwiseMethod):
    """Coupled convex optimisation of discrete displacements, then Adam, on MIND-SSC features.

    It is made for volumes. A picture is given to it as a volume, each slice of which is the picture, and what
    it finds in the middle slice is the result.

    Args:
        slices: of a picture's volume, in spacings of the coarse grid (``grid_sp``); the outer ones are
            mixed with zeros from outside as it smooths.
        device: where to compute.
        arguments: of ``convexAdam.convex_adam_MIND.convex_adam_pt``.

    References:
        Siebert et al., "ConvexAdam: self-configuring dual-optimisation-based 3D multitask medical image
        registration", IEEE TMI 44, 2025.
    """

    def __init__(
        self, slices: int = 3, device: torch.device | str = "cpu", grid_sp: int = 6, **arguments: Any
    ) -> None:
        self.slices, self.device, self.coarse = slices, torch.device(device), grid_sp
        self.arguments = {"grid_sp": grid_sp, **arguments}

    def unavailable(self) -> str | None:
        """Names the package that is missing."""
        return None if has_convex_adam else "convexadam is not installed (pip install convexadam)"

    def displacements(self, moving: Array, fixed: Array, spacing: Sequence[float]) -> Array:
        """Those in voxels, times the spacing."""
        images, dims = [fixed, moving], fixed.ndim
        if dims == 2:
            images = [np.repeat(each[..., None], self.slices * self.coarse, -1) for each in images]
        if min(images[0].shape) < 2 * self.coarse:
            raise RuntimeError(
                f"expected at least {2 * self.coarse} voxels along each axis, two of the coarse grid, "
                f"got {fixed.shape}; give a smaller grid_sp"
            )
        dtype = torch.float32 if self.device.type == "cpu" else torch.float16
        with torch.inference_mode(False), torch.enable_grad():
            voxels = convex_adam_pt(*images, dtype=dtype, device=self.device, **self.arguments)
        if dims == 2:
            voxels = voxels[:, :, voxels.shape[2] // 2, :2]
        return np.asarray(voxels * np.array(spacing), np.float64)
