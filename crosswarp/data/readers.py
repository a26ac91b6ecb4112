"""One way to read every format, so that a PNG, a DICOM file and a NIfTI file of one picture load as equals.

MONAI's own choice of reader gives a PNG the axes of ITK but drops its spacing and mirrors its affine; ITK
refuses NIfTI slices that are not axial; a single DICOM frame loads as a volume of one slice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import itk
import numpy as np
from monai.data import ITKReader, NibabelReader
from monai.data.utils import is_no_channel, to_affine_nd
from monai.utils import MetaKeys, SpaceKeys, ensure_tuple
from nibabel.spatialimages import SpatialImage

NIFTI = (".nii", ".nii.gz")
NIFTI_UNITS = {"meter": 1000.0, "micron": 0.001}  # in mm; nibabel leaves them to its users
ALWAYS_WITH_SPACING = (".mha", ".mhd", ".nrrd", ".nhdr")
PICTURES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")  # their spacing is often that of a screen
DICOM = {
    "series": "0020|000e",
    "photometric": "0028|0004",
    "frames": "0028|0008",
    "samples": "0028|0002",
    "rows": "0028|0010",
    "columns": "0028|0011",
    "spacing": "0028|0030",
    "detector_spacing": "0018|1164",
    "film_spacing": "0018|2010",
    "position": "0020|0032",
    "orientation": "0020|0037",
}
DICOM_SPACINGS = ("spacing", "detector_spacing", "film_spacing")  # the first one of these is the patient's


class UnfitFileError(ValueError):
    """A file that holds no single image in space, with the reason and the remedy."""


class AnyFormatReader(ITKReader):
    """Reader for MONAI's `LoadImage` and `LoadImaged`: NIfTI through nibabel, all else through ITK.

    Use as `LoadImaged(keys, reader="scripts.data.readers.AnyFormatReader", ensure_channel_first=True)`.

    - The array's axes are ITK's: x (left to right in a picture) first, then y (top to bottom), then z. What
      `PIL` gives as `[height, width]` loads as `[width, height]`.
    - A third axis of one voxel (a DICOM radiograph, a NIfTI slice) is dropped: the image is 2D.
    - The affine maps indices to mm in RAS, `[4, 4]` in 3D and `[3, 3]` in 2D. A slice out of the plane of the
      first two world axes gets the frame that ITK gives to a picture: x to the left, y to the back, origin 0.
    - The metadata are `spacing` in mm along the array's axes, `spacing_known` (False where the file does not
      say it and 1 mm stands in), `file_affine` (the file's own, `[4, 4]` also where the image is 2D) and what
      MONAI needs; nothing else of a DICOM header travels further.
    - DICOM values are rescaled, and those of MONOCHROME1 turned round so that bright is dense as elsewhere
      (both by ITK). A folder holds one series of parallel, evenly spaced slices; see :func:`series_files`.

    Args:
        spacing: in mm, one number or one for each axis, for files that do not state theirs, and for PNG,
            TIFF, JPEG and BMP pictures, whose own is often that of a screen; None to take what there is.
    """

    def __init__(self, spacing: float | Sequence[float] | None = None) -> None:
        super().__init__()
        self.nibabel_reader = NibabelReader()
        self.spacing = spacing

    def read(self, data: Any, **kwargs: Any) -> tuple[Any, bool, Path]:
        """Read a file or a DICOM folder; also returns whether it surely states its spacing, and its path.

        Raises:
            UnfitFileError: for DICOM in colour or of several frames, or a folder that is not one series.
        """
        path = Path(str(ensure_tuple(data)[0]))
        name = path.name.lower()
        if name.endswith(NIFTI):
            image = self.nibabel_reader.read(data, **kwargs)
            return image, bool(image.header["qform_code"] > 0 or image.header["sform_code"] > 0), path
        files = series_files(path) if path.is_dir() else [str(path)]
        header = dicom_header(files[0])
        check_frame(files[0], header)
        image = itk.imread(files if len(files) > 1 else files[0], **kwargs)
        sizes = next((header[key] for key in DICOM_SPACINGS if key in header), None)
        if sizes is not None:  # ITK heeds one of these tags, depending on the kind of DICOM file
            image.SetSpacing([*_numbers(sizes)[1::-1], *list(image.GetSpacing())[2:]])
        return image, sizes is not None or name.endswith(ALWAYS_WITH_SPACING), path

    def get_data(self, img: tuple[Any, bool, Path]) -> tuple[np.ndarray, dict]:
        """Array `[*spatial]` or `[*spatial, C]` and metadata of what `read` returned.

        Raises:
            UnfitFileError: for a given spacing that contradicts the file's own.
        """
        image, states_spacing, path = img
        nifti = isinstance(image, SpatialImage)
        array, meta = self.nibabel_reader.get_data(image) if nifti else super().get_data(image)
        if nifti:
            meta[MetaKeys.AFFINE][:-1] *= NIFTI_UNITS.get(image.header.get_xyzt_units()[0], 1.0)
        channel_dim = meta[MetaKeys.ORIGINAL_CHANNEL_DIM]
        file_affine = to_affine_nd(3, meta[MetaKeys.AFFINE])
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
        if self.spacing is not None:
            given = given_spacing(self.spacing, dims)
            if known and path.suffix.lower() not in PICTURES and not np.allclose(spacing, given, rtol=0.01):
                raise UnfitFileError(
                    f"{path}: states its spacing, {_millimetres(spacing)}, and {_millimetres(given)} was "
                    "given for it; leave that out, or correct the file's header"
                )
            scale = given / np.where(spacing > 0, spacing, 1)
            affine[:dims, :dims] *= scale
            file_affine[:3, :dims] *= scale
            spacing, known = given, True
        return array, {
            MetaKeys.AFFINE: affine,
            MetaKeys.ORIGINAL_AFFINE: affine.copy(),
            "file_affine": file_affine,
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.SPATIAL_SHAPE: np.array(array.shape[:dims]),
            MetaKeys.ORIGINAL_CHANNEL_DIM: channel_dim,
            "spacing": spacing,
            "spacing_known": known,
        }

    def _get_meta_dict(self, img: Any) -> dict:
        """Nothing of ITK's header dictionary is used; some of its values cannot even be read from Python."""
        return {}


def read_image(
    path: str | Path, spacing: float | Sequence[float] | None = None
) -> tuple[np.ndarray, dict[str, Any]]:
    """Array `[*spatial]` or `[*spatial, C]` and metadata of a file; see `AnyFormatReader`.

    Raises:
        UnfitFileError: saying why it cannot be read, or holds no single image in space.
    """
    reader = AnyFormatReader(spacing)
    try:
        return reader.get_data(reader.read(path))
    except UnfitFileError:
        raise
    except Exception as error:  # whatever the reader of some format raises for a broken file
        reason = str(error).split("ITK ERROR:")[-1].strip().split("\n")[0][:160]
        raise UnfitFileError(
            f"{path}: unreadable as an image ({type(error).__name__}: {reason}); repair or convert it"
        ) from error


def given_spacing(spacing: float | Sequence[float], dims: int) -> np.ndarray:
    """A spacing that a user gave, in mm, one number for each of the axes.

    Raises:
        ValueError: unless it is one positive number or one for each axis.
    """
    values = np.array(ensure_tuple(spacing), np.float64)
    if len(values) not in (1, dims) or not (np.isfinite(values).all() and (values > 0).all()):
        raise ValueError(f"Expected a spacing in mm, positive, one number or {dims}, got {spacing}.")
    return np.broadcast_to(values, dims).copy()


def dicom_header(path: str | Path) -> dict[str, str]:
    """What is needed of a DICOM file's header, by the names of `DICOM`; empty for other files."""
    image_io = itk.GDCMImageIO.New()
    if not image_io.CanReadFile(str(path)):
        return {}
    image_io.SetFileName(str(path))
    image_io.ReadImageInformation()
    found = image_io.GetMetaDataDictionary()
    return {name: found[tag].strip() for name, tag in DICOM.items() if found.HasKey(tag)}


def check_frame(path: str | Path, header: Mapping[str, str]) -> None:
    """Refuse DICOM in colour or of several frames.

    Raises:
        UnfitFileError: saying which.
    """
    if int(header.get("frames") or 1) > 1:
        raise UnfitFileError(
            f"{path}: has {header['frames']} DICOM frames; store one frame, or a volume as a series or NIfTI"
        )
    if int(header.get("samples") or 1) > 1 or "MONOCHROME" not in header.get("photometric", "MONOCHROME2"):
        raise UnfitFileError(
            f"{path}: is a colour DICOM ({header.get('photometric', 'RGB')}); convert it to grey values"
        )


def series_files(folder: str | Path) -> list[str]:
    """The files of the one DICOM series of a folder, along the normal of its slices.

    Raises:
        UnfitFileError: naming all that is wrong: no series or several, files of mixed orientation, size or
            spacing, without position, shifted in plane, at one place, or unevenly spaced, as where slices
            are missing.
    """
    headers = {
        str(path): header
        for path in sorted(Path(folder).iterdir())
        if path.is_file() and "rows" in (header := dicom_header(path))
    }
    if not headers:
        raise UnfitFileError(f"{folder}: has no DICOM image; name a file, or the folder of one series")
    series = Counter(header.get("series", "without UID") for header in headers.values())
    if len(series) > 1:
        counts = ", ".join(f"{uid} ({count} files)" for uid, count in series.items())
        raise UnfitFileError(f"{folder}: has {len(series)} DICOM series: {counts}; keep one in a folder")
    for path, header in headers.items():
        check_frame(path, header)
    if len(headers) == 1:
        return list(headers)
    if any(key not in header for key in ("position", "orientation") for header in headers.values()):
        raise UnfitFileError(
            f"{folder}: has slices that do not say where they lie; name one file, or convert"
        )
    position, orientation, spacing = (
        np.array([_numbers(header.get(key, r"1\1")) for header in headers.values()])
        for key in ("position", "orientation", "spacing")
    )
    sizes = {(header["rows"], header["columns"]) for header in headers.values()}
    faults = ["mixed sizes"] * (len(sizes) > 1)
    faults += ["mixed pixel spacings"] * (not np.allclose(spacing, spacing[0], rtol=1e-3))
    if np.allclose(orientation, orientation[0], atol=1e-3):
        order, found = _stack(position, np.cross(orientation[0, :3], orientation[0, 3:]), spacing.min())
        faults += found
    else:
        faults.append("mixed orientations")
    if faults:
        raise UnfitFileError(
            f"{folder}: is no volume, its {len(headers)} DICOM slices have {' and '.join(faults)}; "
            "bring the whole series and nothing else, or convert it to NIfTI"
        )
    return [list(headers)[i] for i in order]


def _stack(position: np.ndarray, normal: np.ndarray, pixel: float) -> tuple[np.ndarray, list[str]]:
    """The order of slices along their normal, and what keeps them from being a volume."""
    height = position @ normal
    order = height.argsort()
    steps = np.diff(height[order])
    step = np.median(steps)
    beside = position - position[0] - np.outer(height - height[0], normal)
    faults = []
    if steps.min() < 1e-3:
        faults.append("several images at one place")
    elif steps.max() > 1.5 * step:
        faults.append(f"a gap of {steps.max():.3g} mm where the step is {step:.3g} mm")
    elif np.abs(steps - step).max() > 0.1 * step:
        faults.append(f"uneven steps of {steps.min():.3g} to {steps.max():.3g} mm")
    if np.linalg.norm(beside, axis=1).max() > pixel / 2:
        faults.append("a shift in plane, as of a tilted gantry")
    return order, faults


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split("\\")]


def _millimetres(spacing: np.ndarray) -> str:
    return " × ".join(f"{value:.4g}" for value in spacing) + " mm"
