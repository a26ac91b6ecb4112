"""NIfTI files for tests, with any header."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np


def write_nifti(
    path: Path,
    array: np.ndarray,
    sform: np.ndarray | None = None,
    qform: np.ndarray | None = None,
    codes: tuple[int, int] | None = None,
    endianness: str = "<",
    **fields: Any,
) -> Path:
    """Write a file byte by byte, so that a header may say anything.

    Args:
        path: `.nii` or `.nii.gz`.
        array: voxels as stored.
        sform: indices to mm.
        qform: indices to mm.
        codes: of sform and qform; 1 for each that is given if None.
        endianness: of header and voxels.
        fields: of the header, such as ``vox_offset``.
    """
    header = nib.Nifti1Header(endianness=endianness)
    header.set_data_dtype(array.dtype)
    header.set_data_shape(array.shape)
    if sform is not None:
        header.set_sform(sform, 1)
        header["pixdim"][1:4] = np.linalg.norm(np.asarray(sform)[:3, :3], axis=0)
    if qform is not None:
        header.set_qform(qform, 1)
    if codes is not None:
        header["sform_code"], header["qform_code"] = codes
    header["vox_offset"], header["magic"] = 352, b"n+1"
    for name, value in fields.items():
        header[name] = value
    content = header.binaryblock + bytes(4) + array.astype(array.dtype.newbyteorder(endianness)).tobytes("F")
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path
