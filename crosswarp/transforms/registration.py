"""What follows a registration: warped images and labels on the grids of the images themselves."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import ensure_tuple_rep
from torch import Tensor

from ..spatial import identity_map, resize_map, sample


def file_stem(path: str | Path) -> str:
    """A file's name without its suffix, ``.gz`` included: what results are named after."""
    return Path(Path(path).name.removesuffix(".gz")).stem


def on_grid_of(image: Tensor, reference: MetaTensor) -> MetaTensor:
    """Give an image ``[C, *spatial]`` the affine and file name of a reference with the same grid."""
    return MetaTensor(image, meta=dict(reference.meta))


class WarpMovingd(MapTransform):
    """Warp moving images onto the fixed image's own grid, as ``warped_<key>``.

    The map is read from the first D channels of the prediction ``[D + ..., *spatial]`` on the network's grid.
    Its coordinates are fractions of the image, so it needs only resampling to fit any grid of the same field
    of view. The result is named after both files, ``<moving>_to_<fixed>``: one may be warped onto many.

    Args:
        keys: what to warp, each ``[C, *spatial]`` of any size; a key that an item lacks is left out.
        modes: ``"linear"`` or ``"nearest"``, for each key.
        map_key: the prediction.
        reference: the fixed image, whose grid and affine the result takes.
    """

    def __init__(
        self,
        keys: KeysCollection,
        modes: Sequence[str] | str = "linear",
        map_key: str = "pred",
        reference: str = "fixed",
    ) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.modes = ensure_tuple_rep(modes, len(self.keys))
        self.map_key, self.reference = map_key, reference

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the warped images to an item."""
        result = dict(data)
        reference = result[self.reference]
        dims = reference.ndim - 1
        phi = resize_map(result[self.map_key][None, :dims].as_subclass(Tensor).float(), reference.shape[1:])
        for key, mode in self.key_iterator(result, self.modes):
            moving = result[key].as_subclass(Tensor).to(phi.device)
            warped = on_grid_of(sample(moving[None], phi, mode)[0], reference)
            warped.meta["filename_or_obj"] = "_to_".join(
                file_stem(image.meta["filename_or_obj"]) for image in (result[key], reference)
            )
            result[f"warped_{key}"] = warped
        return result


class PredictedLabelsd(MapTransform):
    """Take the predicted labels of both images out of the prediction of ``networks.SegmentAndRegister``.

    Args:
        keys: the moving and the fixed image, in this order; ``<key>_label`` is added for each, uint8 on its
            own grid.
        num_classes: classes, background included.
        pred_key: the prediction ``[2D + 2K, *spatial]``.
    """

    def __init__(self, keys: KeysCollection, num_classes: int, pred_key: str = "pred") -> None:
        super().__init__(keys)
        self.num_classes, self.pred_key = num_classes, pred_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the labels to an item."""
        result = dict(data)
        probabilities = result[self.pred_key][-2 * self.num_classes :].as_subclass(Tensor).float()
        for key, classes in zip(self.keys, probabilities.chunk(2), strict=True):
            grid = identity_map(result[key].shape[1:], classes.device)
            labels = sample(classes[None], grid).argmax(1).to(torch.uint8)
            result[f"{key}_label"] = on_grid_of(labels, result[key])
        return result
