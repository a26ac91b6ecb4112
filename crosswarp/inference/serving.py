"""What MONAI Label needs to return a label on the grid of the image's own file."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.data import MetaTensor
from monai.data.utils import to_affine_nd
from monai.transforms import Invertd
from monai.utils import MetaKeys


class ServedLabeld(Invertd):
    """Bring a result back to its image's grid, as the label that MONAI Label writes and returns.

    Class probabilities ``[K, *spatial]`` are brought back and then become the likeliest class; a label
    ``[1, *spatial]`` is brought back as it is. The result is ``[X, Y, Z]``, uint8; ``image``, by which MONAI
    Label sizes results, becomes the same. A 2D image becomes a volume of one slice, in the place that its
    file gives to the slice: MONAI Label writes 2D arrays without spacing and origin.

    MONAI Label leaves ``Invertd`` out, and with it this class, where it scores uncertainty: the scores are
    then those of probabilities, not of label values.

    Args:
        keys: the result.
        orig_keys: the image on whose grid it comes back.
        label_keys: where the label is put.
        kwargs: further arguments of ``Invertd``, of which ``transform`` is needed.
    """

    def __init__(
        self, keys: str, orig_keys: str, label_keys: tuple[str, ...] = ("pred",), **kwargs: Any
    ) -> None:
        super().__init__(keys=keys, orig_keys=orig_keys, **kwargs)
        self.label_keys = label_keys

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Put the label in its places."""
        result: dict[Hashable, Any] = super().__call__(dict(data))
        label, meta = result[self.keys[0]], dict(result[self.orig_keys[0]].meta)
        label = label[0] if len(label) == 1 else label.argmax(0)
        label = torch.atleast_3d(label.as_subclass(torch.Tensor).to("cpu", torch.uint8))
        affine = to_affine_nd(3, meta["file_affine" if "file_affine" in meta else MetaKeys.ORIGINAL_AFFINE])
        meta |= {
            MetaKeys.AFFINE: affine,
            MetaKeys.ORIGINAL_AFFINE: affine,
            MetaKeys.SPATIAL_SHAPE: label.shape,
        }
        return result | dict.fromkeys((*self.label_keys, "image"), MetaTensor(label, meta=meta))
