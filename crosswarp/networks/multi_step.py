"""Registration in several steps, coarse to fine."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from ..spatial import as_float32, identity_like, sample
from ..spatial.deterministic import is_needed
from .pooling import halve


class MultiStepRegistration(nn.Module):
    """Compose the displacements of several networks, each seeing what the ones before it left to do.

    Each step pools both images to its resolution, warps the moving one by the map so far and adds a
    displacement: the result is ``φ₀ ∘ φ₁ ∘ … ∘ φₙ`` with the coarsest step outermost. Coarse displacements
    are evaluated as functions on the finer grids (the nested ``TwoStepRegistration`` of icon-registration,
    Greer et al., ICCV 2021). Batch statistics are those of the whole batch: pass both directions at once.

    Args:
        networks: one per step, coarse to fine, from ``[B, 2 * image_channels, *spatial]`` to displacements
            ``[B, D, *spatial]`` in normalised units, as :class:`DisplacementUNet`.
        downsampling: factor of each step, a power of two, coarse to fine, e.g. ``[4, 2, 1]``.
        image_channels: channels of one image.

    Attributes:
        active: how many networks take part, the coarse ones first; all from the start.

    Raises:
        ValueError: unless each network has a factor, a power of two not above the one before it.
    """

    def __init__(
        self, networks: Sequence[nn.Module], downsampling: Sequence[int], image_channels: int
    ) -> None:
        super().__init__()
        if len(networks) != len(downsampling) or not networks:
            raise ValueError(
                "Expected one downsampling factor per network and at least one network, "
                f"got {len(networks)} networks and factors {list(downsampling)}."
            )
        powers_of_two = all(factor > 0 and factor & (factor - 1) == 0 for factor in downsampling)
        if not powers_of_two or sorted(downsampling, reverse=True) != list(downsampling):
            raise ValueError(
                f"Expected powers of two from coarse to fine such as [4, 2, 1], got {list(downsampling)}."
            )
        self.networks = nn.ModuleList(networks)
        self.downsampling = tuple(downsampling)
        self.levels = [factor.bit_length() - 1 for factor in downsampling]  # halvings before each step
        self.image_channels = image_channels
        self.active = len(self.networks)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Register pairs of images.

        Args:
            images: ``[B, 2 * image_channels, *spatial]``, moving then fixed.

        Returns:
            The maps moving_to_fixed, ``[B, D, *spatial]``, float32.

        Raises:
            ValueError: for another number of channels.
        """
        if images.shape[1] != 2 * self.image_channels:
            raise ValueError(
                f"Expected moving and fixed image stacked to {2 * self.image_channels} channels, "
                f"got shape {list(images.shape)}."
            )
        pyramid = [as_float32(images)]
        for _ in range(self.levels[0]):
            pyramid.append(halve(pyramid[-1]))

        displacements: list[torch.Tensor] = []  # the finest step first
        for step, network in enumerate(self.networks):
            if step < self.active:
                pair = pyramid[self.levels[step]]
                if step > 0:
                    moving, fixed = pair.split(self.image_channels, dim=1)
                    pair = torch.cat([sample(moving, _composed(displacements, moving)), fixed], dim=1)
                displacements.insert(0, network(pair).float())
        return _composed(displacements, images)


def _composed(displacements: list[torch.Tensor], image: torch.Tensor) -> torch.Tensor:
    """Evaluate the composition of the steps, the finest first, on the grid of ``image``."""
    phi = identity_like(image)
    for step, shift in enumerate(displacements):
        phi = phi + (_on_grid_of(image, shift) if step == 0 else sample(shift, phi))
    return phi


def _on_grid_of(image: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """A displacement at the points of a grid, in a fraction of the time that ``sample`` takes."""
    if shift.shape[2:] == image.shape[2:]:
        return shift
    if not torch.jit.is_scripting():
        if is_needed(shift):
            return sample(shift, identity_like(image))
    mode = "bilinear" if image.ndim == 4 else "trilinear"
    return F.interpolate(shift, image.shape[2:], mode=mode, align_corners=True)
