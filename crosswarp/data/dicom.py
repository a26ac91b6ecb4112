"""DICOM: single frames and series, with the values that the standard's tags make of what is stored."""

from __future__ import annotations

from collections import Counter
from hashlib import sha256
from pathlib import Path

import itk
import numpy as np
import pydicom
from pydicom.dataelem import RawDataElement

from .itk_images import itk_values
from .laterality import DIRECTION_TAGS, SIDE_TAGS, stated_directions, stated_side
from .stored import Stored, UnfitFileError, check_size

# What is needed of a header, besides what pydicom needs to tell signed from unsigned.
TAGS = (
    *("SeriesInstanceUID", "PhotometricInterpretation", "NumberOfFrames", "SamplesPerPixel"),
    *("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"),
    *("ImagePositionPatient", "ImageOrientationPatient"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *SIDE_TAGS,
    *DIRECTION_TAGS,
)
PIXELS = (0x7FE0, 0x0010)
UNDEFINED = 0xFFFFFFFF  # the length of what has an end mark instead
SPACINGS = (
    "PixelSpacing",
    "ImagerPixelSpacing",
    "NominalScannedPixelSpacing",
)  # the first one is the patient's
Header = pydicom.Dataset


def dicom_header(path: str | Path) -> Header | None:
    """What is needed of a DICOM file's header; None for other files.

    GDCM is not asked about files with the mark of DICOM: where an element claims more than there is, it
    makes room for all of it, up to 4 GiB.

    Raises:
        UnfitFileError: for a file that ends before one of its elements does.
    """
    with open(path, "rb") as file:
        marked = file.read(132)[128:] == b"DICM"
    if marked:
        whole = pydicom.dcmread(path)
        if _ends_early(whole):
            raise UnfitFileError(f"{path}: unreadable as an image, it ends within an element; bring it anew")
        whole.pop(PIXELS, None)
        return whole
    if not itk.GDCMImageIO.New().CanReadFile(str(path)):
        return None
    return pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=list(TAGS))


def patient_of(path: Path) -> str:
    """A digest of what the header of a file, or of the first one of a folder, states as PatientID, or ""."""
    for file in sorted(each for each in path.iterdir() if each.is_file()) if path.is_dir() else [path]:
        with open(file, "rb") as opened:
            marked = opened.read(132)[128:] == b"DICM"
        if marked:
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=["PatientID"])
            identifier = str(header.get("PatientID") or "").strip()
            return sha256(identifier.encode("utf-8", "surrogatepass")).hexdigest() if identifier else ""
    return ""


def read_frame(path: Path, header: Header) -> Stored:
    """Read a file of one frame.

    The spacing is the first that the header states of `SPACINGS`; ITK heeds one of them, depending on the
    kind of the file. Where it does not say how it lies in space, its directions are those that its
    PatientOrientation says.

    Raises:
        UnfitFileError: for DICOM in colour or of several frames.
    """
    check_frame(path, header)
    spacing = pixel_spacing(header)
    placed = all(_numbers(header, key) for key in ("ImagePositionPatient", "ImageOrientationPatient"))
    affine, side, notes = _place(path, spacing), *_side_and_notes([header])
    if not _numbers(header, "ImageOrientationPatient"):
        directions, note = stated_directions(header)
        notes += [note] * bool(note)
        if directions is not None:  # those of the plane, where x runs to the left and y to the back
            affine[:2, :2] = directions * np.linalg.norm(affine[:3, :2], axis=0)
            affine[2, :2] = 0
            # its corner that is first along the canonical axes lies where others have theirs
            size = np.array([header.Columns, header.Rows]) - 1
            affine[:2, 3] -= np.clip(affine[:2, :2], 0, None) @ size
    values = _values(path, header)
    return Stored(values, affine, spacing is not None, placed, side=side, note=" and ".join(notes))


def read_series(folder: Path) -> Stored:
    """Read the one series of a folder, slice by slice, each with its own header.

    Raises:
        UnfitFileError: as :func:`series_files`.
    """
    files = series_files(folder)
    if len(files) == 1:
        return read_frame(*next(iter(files.items())))
    slices = [read_frame(path, header) for path, header in files.items()]
    affine = slices[0].affine
    height = np.array([each.affine[:3, 3] for each in slices]) @ affine[:3, 2] / np.linalg.norm(affine[:3, 2])
    affine[:3, 2] *= (height[-1] - height[0]) / (len(slices) - 1) / np.linalg.norm(affine[:3, 2])
    array = np.stack([each.array for each in slices], -1)
    side, notes = _side_and_notes(list(files.values()))
    known = slices[0].spacing_stated
    return Stored(array, affine, known, place_stated=True, side=side, note=" and ".join(notes))


def check_frame(path: str | Path, header: Header) -> None:
    """Refuse DICOM without an image, in colour or of several frames, and what is too large.

    Raises:
        UnfitFileError: saying which.
    """
    if not (header.get("Rows") and header.get("Columns")):
        raise UnfitFileError(f"{path}: unreadable as an image, it is DICOM without one; repair or convert it")
    frames, samples = (int(header.get(key) or 1) for key in ("NumberOfFrames", "SamplesPerPixel"))
    photometric = str(header.get("PhotometricInterpretation") or "MONOCHROME2")
    if frames > 1:
        raise UnfitFileError(
            f"{path}: has {frames} DICOM frames; store one frame, or a volume as a series or NIfTI"
        )
    if samples > 1 or "MONOCHROME" not in photometric:
        raise UnfitFileError(f"{path}: is a colour DICOM ({photometric}); convert it to grey values")
    check_size(path, int(header.Rows) * int(header.Columns) * 4)


def pixel_spacing(header: Header) -> list[float] | None:
    """In mm, along x and y, by the first tag that states it; one that is empty or 0 states nothing."""
    for key in SPACINGS:
        numbers = _numbers(header, key)
        if len(numbers) == 2 and all(np.isfinite(numbers)) and min(numbers) > 0:
            return numbers[::-1]  # rows come first
    return None


def series_files(folder: str | Path) -> dict[Path, Header]:
    """The files of the one DICOM series of a folder, along the normal of its slices, and their headers.

    Raises:
        UnfitFileError: naming all that is wrong: no series or several, files of mixed orientation, size or
            spacing, without position, shifted in plane, at one place, or unevenly spaced, as where slices
            are missing.
    """
    headers = {
        path: header
        for path in sorted(Path(folder).iterdir())
        if path.is_file() and (header := dicom_header(path)) is not None and "Rows" in header
    }
    if not headers:
        raise UnfitFileError(f"{folder}: has no DICOM image; name a file, or the folder of one series")
    series = Counter(str(header.get("SeriesInstanceUID", "without UID")) for header in headers.values())
    if len(series) > 1:
        counts = ", ".join(f"{uid} ({count} files)" for uid, count in series.items())
        raise UnfitFileError(f"{folder}: has {len(series)} DICOM series: {counts}; keep one in a folder")
    for path, header in headers.items():
        check_frame(path, header)
    if len(headers) == 1:
        return headers
    position, orientation = (
        [_numbers(header, key) for header in headers.values()]
        for key in ("ImagePositionPatient", "ImageOrientationPatient")
    )
    if {len(each) for each in position} != {3} or {len(each) for each in orientation} != {6}:
        raise UnfitFileError(
            f"{folder}: has slices that do not say where they lie; name one file, or convert"
        )
    faults = _stack_faults(list(headers.values()), np.array(position), np.array(orientation))
    if faults:
        raise UnfitFileError(
            f"{folder}: is no volume, its {len(headers)} DICOM slices have {' and '.join(faults)}; "
            "bring the whole series and nothing else, or convert it to NIfTI"
        )
    height = np.array(position) @ np.cross(orientation[0][:3], orientation[0][3:])
    paths = list(headers)
    return {paths[i]: headers[paths[i]] for i in height.argsort()}


def _side_and_notes(headers: list[Header]) -> tuple[str | None, list[str]]:
    """The side that the headers of one image agree on, and what speaks against one."""
    sides, notes = zip(*map(stated_side, headers), strict=True)
    if len(set(sides)) > 1:
        return None, ["its slices state several sides, so its side is not known"]
    return sides[0], sorted(set(filter(None, notes)))


def _stack_faults(headers: list[Header], position: np.ndarray, orientation: np.ndarray) -> list[str]:
    """What keeps slices from being a volume."""
    spacing = np.array([pixel_spacing(header) or (1.0, 1.0) for header in headers])
    sizes = {(header.Rows, header.Columns) for header in headers}
    faults = ["mixed sizes"] * (len(sizes) > 1)
    faults += ["mixed pixel spacings"] * (not np.allclose(spacing, spacing[0], rtol=1e-3))
    if not np.allclose(orientation, orientation[0], atol=1e-3):
        return [*faults, "mixed orientations"]
    normal = np.cross(orientation[0, :3], orientation[0, 3:])
    height = position @ normal
    steps = np.diff(np.sort(height))
    step = np.median(steps)
    beside = position - position[0] - np.outer(height - height[0], normal)
    if not steps.min() >= 1e-3:
        faults.append("several images at one place")
    elif steps.max() > 1.5 * step:
        faults.append(f"a gap of {steps.max():.3g} mm where the step is {step:.3g} mm")
    elif np.abs(steps - step).max() > 0.1 * step:
        faults.append(f"uneven steps of {steps.min():.3g} to {steps.max():.3g} mm")
    if np.linalg.norm(beside, axis=1).max() > spacing.min() / 2:
        faults.append("a shift in plane, as of a tilted gantry")
    return faults


def _ends_early(whole: pydicom.Dataset) -> bool:
    """Whether an element claims more bytes than there were."""
    raw = [
        each
        for part in (whole.file_meta, whole)
        for each in part.values()
        if isinstance(each, RawDataElement)
    ]
    return any(each.length != UNDEFINED and len(each.value or b"") < each.length for each in raw)


def _place(path: Path, spacing: list[float] | None) -> np.ndarray:
    """Indices to mm in RAS, `[4, 4]`, as GDCM finds it, but with the spacing that is given."""
    image_io = itk.GDCMImageIO.New(FileName=str(path))
    image_io.ReadImageInformation()
    affine = np.eye(4)
    for axis in range(3):
        length = image_io.GetSpacing(axis) if spacing is None or axis == 2 else spacing[axis]
        affine[:3, axis] = np.array(image_io.GetDirection(axis)) * length
        affine[axis, 3] = image_io.GetOrigin(axis)
    return np.diag([-1, -1, 1, 1]) @ affine


def _values(path: Path, header: Header) -> np.ndarray:
    """Values `[x, y]` after modality LUT or rescaling; those of MONOCHROME1 turned round in their range.

    GDCM rescales and turns round by itself. It does not know a modality LUT, bits that are not the lowest,
    and signed values that are to be turned round; ITK's Python has no signed bytes.
    """
    bits, signed = int(header.get("BitsStored") or 0), header.get("PixelRepresentation") == 1
    turned = header.get("PhotometricInterpretation") == "MONOCHROME1"
    shift = int(header.get("HighBit", bits - 1)) + 1 - bits
    table = header.get("ModalityLUTSequence")
    if not (table or shift or (signed and (turned or header.get("BitsAllocated") == 8))):
        return itk_values(itk.imread(str(path)))[0].reshape(header.Columns, header.Rows)
    lowest, highest = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    stored = _stored_words(path).T.astype(np.int64)
    stored = ((stored >> shift) - lowest & (1 << bits) - 1) + lowest
    if table:
        values = _looked_up(stored, table[0], header)
        total = (1 << int(table[0].LUTDescriptor[2])) - 1.0  # of the lowest and the highest value
    else:
        slope, intercept = float(header.get("RescaleSlope") or 1), float(header.get("RescaleIntercept") or 0)
        values = stored * slope + intercept
        total = (lowest + highest) * slope + 2 * intercept
    return total - values if turned else values


def _stored_words(path: Path) -> np.ndarray:
    """What stands in the file for each pixel, `[y, x]`; pydicom would cut off the upper bits."""
    whole = pydicom.dcmread(path, force=True)
    syntax = whole.file_meta.TransferSyntaxUID
    if syntax.is_compressed:
        return whole.pixel_array
    order = "<" if syntax.is_little_endian else ">"
    words = np.frombuffer(whole.PixelData, f"{order}u{whole.BitsAllocated // 8}")
    return words[: whole.Rows * whole.Columns].reshape(whole.Rows, whole.Columns)


def _looked_up(stored: np.ndarray, table: Header, header: Header) -> np.ndarray:
    """Values after a modality LUT; stored values beyond either end have the value there."""
    _, first, bits = (int(value) for value in table.LUTDescriptor)
    entries = table.LUTData
    if isinstance(entries, bytes):
        order = "<" if header.file_meta.TransferSyntaxUID.is_little_endian else ">"
        packed = bits <= 8 and len(entries) < 2 * int(table.LUTDescriptor[0])
        entries = np.frombuffer(entries, "u1" if packed else f"{order}u2")
    entries = np.atleast_1d(entries).astype(np.int64)
    return entries[np.clip(stored - first, 0, len(entries) - 1)]


def _numbers(header: Header, keyword: str) -> list[float]:
    """The numbers of a tag; none where it is absent or empty."""
    value = header.get(keyword)
    return [] if value in (None, "") else [float(each) for each in np.atleast_1d(value)]
