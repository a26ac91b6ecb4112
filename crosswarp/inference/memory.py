"""Images in memory, read as files of them would be, and results given back as what came in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import itk
import numpy as np
import torch
from monai.data import MetaTensor
from monai.data.utils import to_affine_nd
from monai.utils import MetaKeys, SpaceKeys

from ..data.itk_images import from_itk, is_itk
from ..data.readers import AnyFormatReader
from ..data.stored import Stored


class InMemoryReader(AnyFormatReader):
    """Reader for MONAI's ``LoadImage`` that hands over an image in memory, whatever file is asked for.

    The image goes the way of a file: same axes, same affine, same metadata.

    Args:
        image: ``[*spatial]`` or ``[C, *spatial]`` as numpy array, tensor or MetaTensor, whose first spatial
            axis is x, as MONAI and nibabel load it; or an ``itk.Image``, also a slice that ITK keeps as a
            volume, and one whose region starts elsewhere than at 0. A MetaTensor's affine leads to mm in RAS
            (or LPS, if its metadata say so). Arrays and tensors without an affine are taken to lie as the
            networks see images (in 2D x to the left and y to the back, in 3D RAS), with the given spacing,
            or 1 mm. Numbers may be of any real type, byte order and layout.
        spatial_dims: 2 or 3.
        spacing: in mm, for images that have no affine; see `AnyFormatReader`.

    Raises:
        ValueError: for anything else, or a wrong number of axes.
    """

    def __init__(self, image: Any, spatial_dims: int, spacing: float | Sequence[float] | None = None) -> None:
        super().__init__(spacing)
        if is_itk(image):
            try:
                self.image = from_itk(image)
            except RuntimeError as error:  # pixels that have no type in numpy
                raise ValueError(
                    f"Expected real numbers at every point, got {type(image).__name__}."
                ) from error
            return
        array = _real_numbers(image)
        if array.ndim not in (spatial_dims, spatial_dims + 1):
            raise ValueError(
                f"Expected an array of {spatial_dims} axes, or one more for channels in front, got the "
                f"shape {list(array.shape)}."
            )
        array = np.moveaxis(array if array.ndim > spatial_dims else array[None], 0, -1)
        placed = isinstance(image, MetaTensor)
        if placed:
            affine = to_affine_nd(3, image.affine.detach().cpu().double().numpy())
            if image.meta.get(MetaKeys.SPACE) == SpaceKeys.LPS:
                affine = np.diag([-1.0, -1, 1, 1]) @ affine
        else:
            affine = np.diag([-1.0, -1, 1, 1]) if spatial_dims == 2 else np.eye(4)
        several = array.shape[-1] > 1
        self.image = Stored(array if several else array[..., 0], affine, placed, placed, several)

    def stored(self, path: Path) -> Stored:
        """The image."""
        return self.image


def _real_numbers(image: Any) -> np.ndarray:
    """The values of an array or a tensor, float32."""
    if not isinstance(image, (np.ndarray, torch.Tensor)):
        raise ValueError(
            "Expected a path, a numpy array, a tensor, a MetaTensor or an itk.Image, got "
            f"{type(image).__module__}.{type(image).__qualname__}."
        )
    if isinstance(image, np.ndarray):
        real = image.dtype.kind in "biuf" and not np.ma.is_masked(image)
    else:
        plain = image.layout is torch.strided and not image.is_meta
        real = plain and not (image.is_complex() or image.is_quantized)
    if not real:
        raise ValueError(
            f"Expected real numbers at every point, got {type(image).__name__} of {image.dtype}: convert it."
        )
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu().float().numpy()
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused as such
        return np.ascontiguousarray(image, np.float32).reshape(image.shape)


def alike(image: MetaTensor, original: Any) -> Any:
    """Give back an image that lies on the grid of another in the form in which that one came.

    Args:
        image: ``[C, *spatial]``.
        original: on the same grid. For an ``itk.Image`` another one comes back, with its origin, spacing,
            direction and region; for a MetaTensor one with its affine; for a tensor or an array the same, on
            the same device; for a path a MetaTensor. A single channel has an axis only where `original` has.
    """
    if is_itk(original):
        array = image.cpu().numpy().reshape(len(image), *original.GetBufferedRegion().GetSize())
        channels = len(array) > 1
        result = itk.image_from_array(
            np.ascontiguousarray(array.T if channels else array[0].T), is_vector=channels
        )
        result.SetRegions(original.GetBufferedRegion())
        result.SetOrigin(original.GetOrigin())
        result.SetSpacing(original.GetSpacing())
        result.SetDirection(original.GetDirection())
        return result
    if not isinstance(original, (np.ndarray, torch.Tensor)):
        return image
    plain = image.as_subclass(torch.Tensor)
    if len(plain) == 1 and original.ndim < plain.ndim:
        plain = plain[0]
    if isinstance(original, np.ndarray):
        return plain.cpu().numpy()
    plain = plain.to(original.device)
    return MetaTensor(plain, meta=dict(original.meta)) if isinstance(original, MetaTensor) else plain
