"""One way to read every format, so that a PNG, a DICOM file and a NIfTI file of one picture load as equals.

MONAI's own choice of reader gives a PNG the axes of ITK but drops its spacing and mirrors its affine; ITK
refuses NIfTI slices that are not axial; a single DICOM frame loads as a volume of one slice; and what one
reader refuses, MONAI gives to the next, which may take it.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import ImageReader
from monai.utils import MetaKeys, SpaceKeys, ensure_tuple

from ..errors import Notice
from ..spatial.grid import shears
from ..spatial.slices import AXIAL, slice_affine, slice_tilt
from .dicom import dicom_header, read_frame, read_series
from .itk_images import read_itk
from .nifti import SUFFIXES as NIFTI
from .nifti import read_nifti
from .sharing import decoded
from .stored import Stored, UnfitFileError

PICTURES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")  # their spacing is often that of a screen
DOTS_PER_INCH = (72, 75, 96, 100, 120, 144, 150, 200, 240, 300, 400, 600, 1200)  # of screens and printers


class AnyFormatReader(ImageReader):
    """Reader for MONAI's `LoadImage` and `LoadImaged`: NIfTI through nibabel, all else through ITK.

    Use as `LoadImaged(keys, reader="scripts.data.readers.AnyFormatReader", ensure_channel_first=True)`.

    - The array's axes are ITK's: x (left to right in a picture) first, then y (top to bottom), then z. What
      `PIL` gives as `[height, width]` loads as `[width, height]`.
    - A third axis of one voxel (a DICOM radiograph, a NIfTI slice) is dropped: the image is 2D.
    - The affine maps indices to mm in RAS, `[4, 4]` in 3D and `[3, 3]` in 2D, where it is that of the slice
      in its own plane; see :func:`~crosswarp.spatial.slices.slice_affine`. A file that does not say where
      it lies has the place that ITK gives to a picture: x to the left, y to the back, origin 0.
    - A DICOM picture that does not say how it lies in space, as most radiographs, but has a
      PatientOrientation, lies as that says; see :func:`~.laterality.stated_directions`.
    - The metadata are `spacing` in mm along the array's axes, `spacing_known` (False where the file does not
      say it, or a picture says that of a screen or printer, and 1 mm stands in), `place_known`,
      `file_affine` (the file's own, `[4, 4]` also where the image is 2D), `side` (``left`` or ``right``; only
      where a DICOM header states it) and what MONAI needs; nothing else of a DICOM header travels further.
    - DICOM values are those after the modality LUT or rescaling, slice by slice, and those of MONOCHROME1 are
      turned round so that bright is dense as elsewhere. A folder holds one series of parallel, evenly spaced
      slices; see :func:`~.dicom.series_files`.

    Args:
        spacing: in mm, one number or one for each axis, for files that do not state theirs, and for PNG,
            TIFF, JPEG and BMP pictures, whose own is often that of a screen; None to take what there is.
    """

    def __init__(self, spacing: float | Sequence[float] | None = None) -> None:
        super().__init__()
        self.spacing = spacing

    def verify_suffix(self, filename: Any) -> bool:
        """Every file is this reader's."""
        return True

    def read(self, data: Any, **kwargs: Any) -> Path:
        """The path. All else is done by `get_data`: what fails here MONAI would hand to its own readers."""
        return Path(str(ensure_tuple(data)[0]))

    def stored(self, path: Path) -> Stored:
        """What the file states."""
        if not path.exists():
            raise FileNotFoundError(path)
        return decoded(path, self.decode)

    def decode(self, path: Path) -> Stored:
        """What the file states, read from it."""
        if path.is_dir():
            return read_series(path)
        if path.name.lower().endswith(NIFTI):
            return read_nifti(path)
        header = dicom_header(path)
        return read_itk(path) if header is None else read_frame(path, header)

    def get_data(self, img: Path) -> tuple[np.ndarray, dict]:
        """Array `[*spatial]` or `[*spatial, C]` and metadata of the image of a path.

        Raises:
            FileNotFoundError: where there is none.
            UnfitFileError: saying why it cannot be read, or holds no single image in space; for a given
                spacing that contradicts its own.
        """
        path = img
        try:
            stored = self.stored(path)
        except UnfitFileError:
            raise
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{path}: missing; correct the path or bring the file") from error
        except Exception as error:  # whatever the reader of some format raises for a broken file
            reason = re.sub(r".*(ITK ERROR|itk::ERROR): (\w+\(0x\w+\): )?", "", " ".join(str(error).split()))
            reason = reason.replace(str(path), "it")[:160]
            raise UnfitFileError(
                f"{path}: unreadable as an image ({type(error).__name__}: {reason}); repair or convert it"
            ) from error
        return self._described(stored, path)

    def _described(self, stored: Stored, path: Path) -> tuple[np.ndarray, dict]:
        array, file_affine = stored.array, stored.affine
        if array.dtype.kind not in "biuf":
            kind = "complex numbers" if array.dtype.kind == "c" else f"values of type {array.dtype}"
            raise UnfitFileError(f"{path}: holds {kind}; store real numbers, such as the magnitude")
        dims = array.ndim - stored.has_channels
        while dims > 2 and array.shape[dims - 1] == 1:
            array, dims = array.squeeze(dims - 1), dims - 1
        if dims not in (2, 3):
            raise UnfitFileError(f"{path}: is {dims}D {array.shape[:dims]}; store a 2D or 3D image")
        # By the length of columns: a slice may have the affine of the volume that it comes from.
        spacing = np.linalg.norm(file_affine[:3, :dims], axis=0)
        if not (np.isfinite(file_affine).all() and (spacing > 0).all()):
            raise UnfitFileError(
                f"{path}: by its header has no extent in space, its affine is {file_affine.tolist()}; "
                "correct it"
            )
        if shears(file_affine[:3, :dims]):
            raise UnfitFileError(
                f"{path}: by its header has axes that are not at right angles (shear), which no ITK "
                "transform can go with; resample it onto a grid without"
            )
        known = stored.spacing_stated or bool((spacing != 1).any())
        picture = path.suffix.lower() in PICTURES
        if picture and any(np.allclose(25.4 / spacing, dots, rtol=2e-3) for dots in DOTS_PER_INCH):
            file_affine = file_affine.copy()
            file_affine[:3, :dims] /= spacing
            spacing, known = np.ones(dims), False
        if self.spacing is not None:
            given = given_spacing(self.spacing, dims)
            if known and not picture and not np.allclose(spacing, given, rtol=0.01):
                raise UnfitFileError(
                    f"{path}: states its spacing, {_millimetres(spacing)}, and {_millimetres(given)} was "
                    "given for it; leave that out, or correct the file's header"
                )
            file_affine = file_affine.copy()
            file_affine[:3, :dims] *= given / spacing
            spacing, known = given, True
        affine = slice_affine(file_affine) if dims == 2 else file_affine.copy()
        if dims == 2 and abs(slice_tilt(file_affine) - AXIAL) < 10:
            warnings.warn(
                f"{path}: its slice is tilted by {slice_tilt(file_affine):.0f} degrees. Up to {AXIAL:g} a "
                "slice is turned as its header says, beyond it is taken as it is stored: see that the slices "
                "of a data set do not lie on both sides.",
                Notice,
                stacklevel=2,
            )
        if stored.note:
            warnings.warn(f"{path}: {stored.note}.", Notice, stacklevel=2)
        return array, {
            MetaKeys.AFFINE: affine,
            MetaKeys.ORIGINAL_AFFINE: affine.copy(),
            "file_affine": file_affine,
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.SPATIAL_SHAPE: np.array(array.shape[:dims]),
            MetaKeys.ORIGINAL_CHANNEL_DIM: -1 if stored.has_channels else float("nan"),
            "spacing": spacing,
            "spacing_known": known,
            "place_known": stored.place_stated,
        } | ({"side": stored.side} if stored.side else {})  # MONAI's batches can hold no None


def read_image(
    path: str | Path, spacing: float | Sequence[float] | None = None
) -> tuple[np.ndarray, dict[str, Any]]:
    """Array `[*spatial]` or `[*spatial, C]` and metadata of a file; see `AnyFormatReader`.

    Raises:
        FileNotFoundError: where there is none.
        UnfitFileError: saying why it cannot be read, or holds no single image in space.
    """
    return AnyFormatReader(spacing).get_data(Path(path))


def given_spacing(spacing: float | Sequence[float], dims: int) -> np.ndarray:
    """A spacing that a user gave, in mm, one number for each of the axes.

    Raises:
        ValueError: unless it is one positive number or one for each axis.
    """
    values = np.array(ensure_tuple(spacing), np.float64)
    if len(values) not in (1, dims) or not (np.isfinite(values).all() and (values > 0).all()):
        raise ValueError(f"Expected a spacing in mm, positive, one number or {dims}, got {spacing}.")
    return np.broadcast_to(values, dims).copy()


def _millimetres(spacing: np.ndarray) -> str:
    return " × ".join(f"{value:.4g}" for value in spacing) + " mm"
