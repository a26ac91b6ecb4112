"""One way to read every format, so that a PNG, a DICOM file and a NIfTI file of one picture load as equals.

MONAI's own choice of reader gives a PNG the axes of ITK but drops its spacing and mirrors its affine; ITK
refuses NIfTI slices that are not axial; a single DICOM frame loads as a volume of one slice.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from monai.data import ITKReader, NibabelReader
from monai.data.utils import is_no_channel
from monai.utils import MetaKeys, SpaceKeys, ensure_tuple
from nibabel.spatialimages import SpatialImage

NIFTI = (".nii", ".nii.gz")
ALWAYS_WITH_SPACING = (".mha", ".mhd", ".nrrd", ".nhdr")


class AnyFormatReader(ITKReader):
    """Reader for MONAI's `LoadImage` and `LoadImaged`: NIfTI through nibabel, all else through ITK.

    Use as `LoadImaged(keys, reader="scripts.data.readers.AnyFormatReader", ensure_channel_first=True)`.

    - The array's axes are ITK's: x (left to right in a picture) first, then y (top to bottom), then z. What
      `PIL` gives as `[height, width]` loads as `[width, height]`.
    - A third axis of one voxel (a DICOM radiograph, a NIfTI slice) is dropped: the image is 2D.
    - The affine maps indices to mm in RAS, `[4, 4]` in 3D and `[3, 3]` in 2D. A slice out of the plane of the
      first two world axes gets the frame that ITK gives to a picture: x to the left, y to the back, origin 0.
    - The metadata are `spacing` in mm along the array's axes, `spacing_known` (False where the file does not
      say it and 1 mm stands in) and what MONAI needs; nothing else of a DICOM header travels further.
    """

    def __init__(self) -> None:
        super().__init__()
        self.nibabel_reader = NibabelReader()

    def read(self, data: Any, **kwargs: Any) -> tuple[Any, bool]:
        """Read a file or a DICOM folder; also returns whether its format always states the spacing."""
        name = str(ensure_tuple(data)[0]).lower()
        if name.endswith(NIFTI):
            image = self.nibabel_reader.read(data, **kwargs)
            return image, bool(image.header["qform_code"] > 0 or image.header["sform_code"] > 0)
        return super().read(data, **kwargs), name.endswith(ALWAYS_WITH_SPACING)

    def get_data(self, img: tuple[Any, bool]) -> tuple[np.ndarray, dict]:
        """Array `[*spatial]` or `[*spatial, C]` and metadata of what `read` returned."""
        image, states_spacing = img
        nifti = isinstance(image, SpatialImage)
        array, meta = self.nibabel_reader.get_data(image) if nifti else super().get_data(image)
        channel_dim = meta[MetaKeys.ORIGINAL_CHANNEL_DIM]
        dims = array.ndim - (not is_no_channel(channel_dim))
        while dims > 2 and array.shape[dims - 1] == 1:
            array, dims = array.squeeze(dims - 1), dims - 1
        affine = np.asarray(meta[MetaKeys.AFFINE], np.float64)
        # By the length of columns: a slice may have the affine of the volume that it comes from.
        spacing = np.linalg.norm(affine[:-1, :dims], axis=0)
        known = bool(np.isfinite(spacing).all() and (spacing > 0).all())
        known = known and (states_spacing or bool((spacing != 1).any()))
        if dims == 2:
            in_plane = affine[:2, :2]
            if np.isclose(abs(np.linalg.det(in_plane)), spacing.prod(), rtol=1e-3) and spacing.all():
                affine = np.block([[in_plane, affine[:2, -1:]], [np.array([[0, 0, 1]])]])
            else:
                affine = np.diag([*-np.where(spacing > 0, spacing, 1), 1])
        return array, {
            MetaKeys.AFFINE: affine,
            MetaKeys.ORIGINAL_AFFINE: affine.copy(),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.SPATIAL_SHAPE: np.array(array.shape[:dims]),
            MetaKeys.ORIGINAL_CHANNEL_DIM: channel_dim,
            "spacing": spacing,
            "spacing_known": known,
        }

    def _get_meta_dict(self, img: Any) -> dict:
        """Nothing of ITK's header dictionary is used; some of its values cannot even be read from Python."""
        return {}
