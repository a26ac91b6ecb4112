"""DICOM files for tests, written with pydicom."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")


def write_dicom(
    path: Path,
    array: np.ndarray,
    spacing: Sequence[float] | None = (0.5, 0.7),
    bits: int = 12,
    series: str = "1.2.3",
    kind: str = "1.2.840.10008.5.1.4.1.1.1.1",
    **tags: Any,
) -> Path:
    """Write one frame, several, or one in colour.

    Args:
        path: the file.
        array: stored values ``[height, width]``, ``[frames, height, width]`` or, of 8 bits, with 3 colours.
        spacing: in mm, x then y; None to leave it out.
        bits: stored, 8 to 16.
        series: its UID.
        kind: UID of the SOP class; a digital radiograph.
        tags: further ones by keyword, such as ``ImagePositionPatient``.
    """
    colour = array.shape[-1] == 3
    frames, rows, columns = (
        (array[..., 0] if colour else array).reshape(-1, *array.shape[-2 - colour :][:2]).shape
    )
    allocated = 8 if bits == 8 else 16
    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID = kind
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset = pydicom.dataset.FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = (
        meta.MediaStorageSOPClassUID,
        meta.MediaStorageSOPInstanceUID,
    )
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.Modality = "1.2", series, "OT"
    dataset.Rows, dataset.Columns = rows, columns
    dataset.SamplesPerPixel = 3 if colour else 1
    dataset.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        dataset.PlanarConfiguration = 0
    if frames > 1:
        dataset.NumberOfFrames = frames
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = allocated, bits, bits - 1
    dataset.PixelRepresentation = 0
    if spacing is not None:
        dataset.PixelSpacing = [spacing[1], spacing[0]]  # rows first
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.PixelData = array.astype("<u1" if allocated == 8 else "<u2").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def write_series(
    folder: Path, volume: np.ndarray, spacing: Sequence[float], matrix: np.ndarray, **tags: Any
) -> Path:
    """Write a volume ``[x, y, z]`` as a series, its slices in files of shuffled names.

    Args:
        folder: where to write.
        volume: stored values.
        spacing: in mm, along x, y and z.
        matrix: indices to mm in LPS, ``[4, 4]``.
        tags: further ones of every file.
    """
    names = np.random.default_rng(0).permutation(volume.shape[2])
    directions = matrix[:3, :3] / np.array(spacing)
    for k, name in enumerate(names):
        write_dicom(
            folder / f"{name:03}.dcm",
            volume[:, :, k].T,
            spacing[:2],
            ImagePositionPatient=[f"{value:.6f}" for value in (matrix @ [0, 0, k, 1])[:3]],
            ImageOrientationPatient=[f"{value:.6f}" for value in directions[:, :2].T.ravel()],
            **tags,
        )
    return folder
