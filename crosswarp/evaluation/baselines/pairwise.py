"""What methods have in common that optimise the alignment of one pair of images after the other."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import itk
import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...metrics import MeasuredImage
from ...spatial import identity_map

logger = logging.getLogger(__name__)

Array = NDArray[Any]


@dataclass
class GreyImage:
    """What is registered of an image.

    Attributes:
        values: ``[*spatial]``, float32; the first channel, from 0 to 1.
        spacing: of the grid, mm.
    """

    values: Array
    spacing: list[float]


class PairwiseMethod:
    """Registers one pair and direction after the other by :meth:`displacements`.

    Both images lie in the frame of the fixed one: origin 0, axes those of the array, its spacing. The method
    therefore starts, like the networks, where the extents of the two images coincide. Where it fails, the
    pair stays unregistered.

    Attributes:
        failures: how often it failed.
        device: the CPU, whose memory is measured.
    """

    failures = 0
    device = torch.device("cpu")

    def unavailable(self) -> str | None:
        """Nothing is missing."""
        return None

    def load(self) -> None:
        """There is nothing to load."""

    def prepare(self, image: MeasuredImage, modality: str) -> GreyImage:
        """Grey values and spacing."""
        return GreyImage(image.image[0].numpy().astype(np.float32), image.grid.spacing.tolist())

    def register(self, moving: Sequence[GreyImage], fixed: Sequence[GreyImage]) -> tuple[Tensor, Tensor]:
        """Register images; the maps moving_to_fixed and fixed_to_moving, ``[B, D, *spatial]``."""
        pairs = list(zip(moving, fixed, strict=True))
        forward, backward = (
            [self.map(*each) for each in direction] for direction in (pairs, [pair[::-1] for pair in pairs])
        )
        return torch.cat(forward), torch.cat(backward)

    def map(self, moving: GreyImage, fixed: GreyImage) -> Tensor:
        """The map moving_to_fixed, ``[1, D, *spatial]``."""
        shape = fixed.values.shape
        try:
            field = self.displacements(moving.values, fixed.values, fixed.spacing)
            if not np.isfinite(field).all():
                raise RuntimeError("it found displacements that are not finite")
        except Exception as error:  # whatever another's program raises ends this pair alone
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
            logger.warning(f"{type(self).__name__} failed, the pair stays unregistered: {reason}")
            self.failures += 1
            return identity_map(shape)
        extent = np.array(fixed.spacing) * np.maximum(np.array(shape) - 1, 1)
        shift = np.moveaxis(field / extent, -1, 0)
        return identity_map(shape) + torch.from_numpy(np.ascontiguousarray(shift, np.float32))[None]

    def displacements(self, moving: Array, fixed: Array, spacing: Sequence[float]) -> Array:
        """Where to read the moving image, from each fixed point on, ``[*spatial, D]``, mm along the axes.

        Raises:
            RuntimeError: where the registration fails.
        """
        raise NotImplementedError


def array_of_field(field: Any) -> Array:
    """Return the vectors of an ITK displacement field, ``[*spatial, D]``."""
    return first_axis_first(itk.array_from_image(field))


def first_axis_first(vectors: Array) -> Array:
    """Return vectors at the points of a grid ``[*spatial, D]`` whose axes of space stood the other way."""
    return vectors.transpose(*range(vectors.ndim - 2, -1, -1), vectors.ndim - 1)


def sitk_image(values: Array, spacing: Sequence[float]) -> sitk.Image:
    """Return SimpleITK's image of grey values ``[*spatial]``."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(values.T))
    image.SetSpacing(list(spacing))
    return image
