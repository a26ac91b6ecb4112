"""Images and labels that belong together lie on one array."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import ImageMetaKey, MetaKeys

from ..spatial.grid import Grid

PLACE = (MetaKeys.AFFINE, MetaKeys.ORIGINAL_AFFINE, "file_affine", "spacing", "spacing_known", "place_known")


class LabelOnImaged(MapTransform):
    """Lay labels as loaded onto the array of their image, whose affine they take.

    Files that both say where they lie must say the same. Where one of them does not, as no PNG does, voxel
    lies on voxel. What turns the image by its affine afterwards turns the label with it, whatever the label's
    own header says or leaves out, and however the two are rounded.

    Args:
        keys: labels ``[1, *spatial]``, as :class:`~crosswarp.data.readers.AnyFormatReader` loads them.
        image_key: their image, as loaded or transformed since.
        allow_missing_keys: leave out labels that an item lacks.

    Raises:
        ValueError: for a label of another shape than its image, or one that lies elsewhere.
    """

    def __init__(self, keys: KeysCollection, image_key: str, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Move the labels of an item."""
        result = dict(data)
        image = result[self.image_key].meta
        grid = Grid.from_ras(image[MetaKeys.ORIGINAL_AFFINE], image[MetaKeys.SPATIAL_SHAPE])
        for key in self.key_iterator(result):
            label = result[key]
            where = f"{label.meta.get(ImageMetaKey.FILENAME_OR_OBJ, key)}: expected a label on the grid of "
            where += str(image.get(ImageMetaKey.FILENAME_OR_OBJ, self.image_key))
            if label.shape[1:] != grid.shape:
                raise ValueError(f"{where}, {grid.shape}, got {tuple(label.shape[1:])}: resample the label.")
            both_known = image.get("place_known", True) and label.meta.get("place_known", True)
            if both_known and not grid.same_place(Grid.of(label)):
                raise ValueError(
                    f"{where}, but by its header (spacing, direction, origin) it lies elsewhere: resample "
                    "the label or copy the image's header."
                )
            meta = {name: image[name] for name in PLACE if name in image}
            meta[MetaKeys.AFFINE] = image[MetaKeys.ORIGINAL_AFFINE]
            result[key] = MetaTensor(label, meta={**label.meta, **meta})
        return result
