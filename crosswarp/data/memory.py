"""Images in memory, read as files of them would be, and results given back as what came in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import itk
import numpy as np
import torch
from monai.data import ITKWriter, MetaTensor

from .readers import AnyFormatReader


def is_itk(image: Any) -> bool:
    """Whether something is an image of ITK, of any pixel type and dimension."""
    return isinstance(image, itk.DataObject)


class InMemoryReader(AnyFormatReader):
    """Reader for MONAI's ``LoadImage`` that hands over an image in memory, whatever file is asked for.

    The image goes the way of a file: same axes, same affine, same metadata.

    Args:
        image: ``[*spatial]`` or ``[C, *spatial]`` as numpy array, tensor or MetaTensor, whose first spatial
            axis is x, as MONAI and nibabel load it; or an ``itk.Image``, also a slice that ITK keeps as a
            volume. A MetaTensor's affine leads to mm in RAS. Arrays and tensors without an affine are taken
            to lie as the networks see images (in 2D x to the left and y to the back, in 3D RAS), with the
            given spacing, or 1 mm.
        spatial_dims: 2 or 3.
        spacing: in mm, for images that have no affine; see `AnyFormatReader`.

    Raises:
        ValueError: for anything else, or a wrong number of axes.
    """

    def __init__(self, image: Any, spatial_dims: int, spacing: float | Sequence[float] | None = None) -> None:
        super().__init__(spacing)
        self.has_place = is_itk(image) or isinstance(image, MetaTensor)
        if is_itk(image):
            self.image = image
            return
        if not isinstance(image, (np.ndarray, torch.Tensor)):
            raise ValueError(
                "Expected a path, a numpy array, a tensor, a MetaTensor or an itk.Image, got "
                f"{type(image).__module__}.{type(image).__qualname__}."
            )
        if image.ndim not in (spatial_dims, spatial_dims + 1):
            raise ValueError(
                f"Expected a {spatial_dims}D image, [*spatial] or [channels, *spatial], got the shape "
                f"{list(image.shape)}."
            )
        if isinstance(image, MetaTensor):
            affine = image.affine.cpu().numpy()
        else:
            affine = np.diag([-1.0, -1.0, 1.0]) if spatial_dims == 2 else np.eye(4)
        array = torch.as_tensor(image).detach().cpu().float().numpy()
        array = np.moveaxis(array if array.ndim > spatial_dims else array[None], 0, -1)
        while array.ndim < len(affine):  # a slice with the affine of a volume
            array = array[..., None, :]
        scalar = array.shape[-1] == 1
        self.image = ITKWriter.create_backend_obj(
            array[..., 0] if scalar else array, channel_dim=None if scalar else -1, affine=affine
        )

    def read(self, data: Any, **kwargs: Any) -> tuple[Any, bool, Path]:
        """The image, whether its spacing is known, and what it is called."""
        return self.image, self.has_place, Path(str(data[0]))


def alike(image: MetaTensor, original: Any) -> Any:
    """Give back an image that lies on the grid of another in the form in which that one came.

    Args:
        image: ``[C, *spatial]``.
        original: on the same grid. For an ``itk.Image`` another one comes back, with its origin, spacing and
            direction; for a MetaTensor one with its affine; for a tensor or an array the same, on the same
            device; for a path a MetaTensor. A single channel has an axis only where `original` has.
    """
    if is_itk(original):
        array = image.cpu().numpy().reshape(len(image), *itk.size(original))
        channels = len(array) > 1
        result = itk.image_from_array(
            np.ascontiguousarray(array.T if channels else array[0].T), is_vector=channels
        )
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
