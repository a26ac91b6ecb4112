"""NIfTI files: headers checked before voxels are read, checksums after, and the place that ITK takes.

nibabel reads values but not the trailer of a compressed file, takes voxels from wherever the header points,
and prefers the sform where ITK, and so all that reads our transforms, may prefer the qform.
"""

from __future__ import annotations

import gzip
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling

from ..errors import Notice
from ..spatial.grid import distance_in_voxels, shears
from .stored import Stored, UnfitFileError, check_size

SUFFIXES = (".nii", ".nii.gz")
UNITS = {"meter": 1000.0, "micron": 0.001}  # in mm; nibabel leaves them to its users
DEFLATE_LIMIT = 1100  # zlib cannot make a file smaller than this fraction of it
KINDS = {348: nib.Nifti1Header, 540: nib.Nifti2Header}


def read_nifti(path: Path) -> Stored:
    """Read a NIfTI file, compressed or not.

    Colours (RGB24, RGBA32) and all axes beyond the third are channels. The place is that of ITK: the sform's
    where its code is 1 or the qform has none, otherwise the qform's, always with the spacing of `pixdim`; a
    warning says so where the two differ. Without either code the place is unknown, and as of a picture.

    Raises:
        UnfitFileError: naming all that is wrong with the header; for voxels that are fewer or more than it
            states, and for complex numbers.
        OSError, EOFError, zlib.error: from a damaged compressed file.
    """
    with _opened(path) as (content, compressed):
        header = _header(path, content)
        raw = _voxels(path, header, content, compressed)
    array = apply_read_scaling(raw, *scaling(header))
    if array.dtype.names:  # colours
        array = np.stack([array[name] for name in array.dtype.names], -1)
    if several := array.ndim > 3 or raw.dtype.names is not None:
        spatial = raw.shape[:3]
        array = array.reshape(*spatial, -1)
    array = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    affine, stated = _affine(path, header)
    return Stored(array, affine, stated, stated, several)


def read_header(path: Path) -> Any:
    """Read nibabel's header of a NIfTI file, compressed or not, whatever it is called; raises the same."""
    with _opened(path) as (content, _):
        return _header(path, content)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, bool]]:
    """The content of a file, and whether it is compressed."""
    with open(path, "rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        with gzip.GzipFile(fileobj=file) if compressed else nullcontext(file) as content:
            yield content, compressed


def _header(path: Path, content: Any) -> Any:
    """A header without faults."""
    start = content.read(max(KINDS))
    found = [(int.from_bytes(start[:4], order), code) for order, code in (("little", "<"), ("big", ">"))]  # type: ignore[arg-type]
    size, endianness = next((each for each in found if each[0] in KINDS), (0, ""))
    if not size or len(start) < size:
        raise UnfitFileError(f"{path}: unreadable as an image, it is no NIfTI file; repair or convert it")
    header = KINDS[size](start[:size], endianness=endianness, check=False)
    faults = []
    if header["magic"].item() != header.single_magic:
        faults.append(f"the magic {header['magic'].item()!r}")
    ndim, dims = int(header["dim"][0]), header["dim"][1:].tolist()
    if not (1 <= ndim <= 7 and min(dims[:ndim]) > 0):
        faults.append(f"the dimensions {[ndim, *dims]}")
        ndim = 0
    try:
        dtype = header.get_data_dtype()
    except (HeaderDataError, KeyError):
        dtype = np.dtype("V")
    if dtype.kind not in "biufc" and not dtype.names:
        faults.append(f"an unknown data type, {header['datatype']}")
    elif header["bitpix"] != dtype.itemsize * 8:
        faults.append(f"{header['bitpix']} bits in a voxel of {dtype.itemsize * 8}")
    offset = float(header["vox_offset"])
    if not (offset >= size + 4 and offset.is_integer()):
        faults.append(f"voxels that begin at byte {offset:g}, within the header")
    lengths = header["pixdim"][1 : ndim + 1][:3]
    if not np.isfinite(lengths).all() or (lengths < 0).any():
        faults.append(f"voxels of {lengths.tolist()} mm")
    if faults:
        raise UnfitFileError(
            f"{path}: unreadable as an image, its header has {' and '.join(faults)}; repair or convert it"
        )
    if dtype.kind == "c":
        raise UnfitFileError(
            f"{path}: holds complex numbers; store their magnitude, or whichever part is meant"
        )
    return header


def _voxels(path: Path, header: Any, content: Any, compressed: bool) -> np.ndarray:
    """Voxels as stored, after all of the file has been read, which checks its checksum."""
    shape, dtype, offset = header.get_data_shape(), header.get_data_dtype(), int(header["vox_offset"])
    size = int(np.prod([int(axis) for axis in shape], dtype=object)) * dtype.itemsize
    check_size(path, size)
    on_disk = os.path.getsize(path)
    if offset + size > on_disk * (DEFLATE_LIMIT if compressed else 1):
        raise _wrong_length(path, size, "fewer")
    content.seek(offset)
    body = content.read(size)
    if len(body) < size:
        raise _wrong_length(path, size, "fewer")
    if content.read(1):
        raise _wrong_length(path, size, "more")
    return np.frombuffer(body, dtype).reshape(shape, order="F")


def _wrong_length(path: Path, size: int, more: str) -> UnfitFileError:
    return UnfitFileError(
        f"{path}: unreadable as an image, it has {more} than the {size} bytes of voxels that its header "
        "states; bring it anew, or repair it"
    )


def scaling(header: Any) -> tuple[float, float]:
    """Slope and intercept of a header, 1 and 0 where it has none."""
    slope, intercept = header.get_slope_inter()
    return slope or 1.0, intercept or 0.0


def _affine(path: Path, header: Any) -> tuple[np.ndarray, bool]:
    """Indices to mm in RAS, `[4, 4]`, and whether the file states it; as ITK reads it."""
    shape = (*header.get_data_shape()[:3], 1, 1)[:3]
    codes = int(header["sform_code"]), int(header["qform_code"])
    unit = UNITS.get(header.get_xyzt_units()[0], 1.0)
    found = header["pixdim"][1:4].astype(np.float64)
    spacing = np.where(found > 0, found, 1)
    if max(codes) <= 0:
        return np.diag([*(np.array([-1, -1, 1]) * spacing * unit), 1]), False
    if not (found[np.array(shape) > 1] > 0).all():
        raise UnfitFileError(
            f"{path}: says where it lies, but not how large its voxels are: pixdim is {found.tolist()}; "
            "correct it"
        )
    stated = {}
    if codes[0] > 0:
        stated["sform"] = header.get_sform()
    if codes[1] > 0:
        stated["qform"] = header.get_qform()
    chosen = "qform" if "qform" in stated else "sform"
    if codes[0] == 1 and not _is_odd(stated["sform"]):
        chosen = "sform"
    columns = stated[chosen][:3, :3]
    if shape[2] == 1 and not columns[:, 2].any():  # of a slice
        columns[:, 2] = np.cross(columns[:, 0], columns[:, 1])
    lengths = np.linalg.norm(columns, axis=0)
    affine = stated[chosen].astype(np.float64)
    affine[:3, :3] = columns / np.where(lengths > 0, lengths, 1) * spacing
    if lengths.all() and any(distance_in_voxels(affine, other, shape) > 0.1 for other in stated.values()):
        warnings.warn(
            f"{path}: its {' and '.join(['pixdim', *stated])} disagree about its place; taken are the "
            f"spacing of pixdim and the directions and origin of the {chosen}, as ITK takes them.",
            Notice,
            stacklevel=2,
        )
    affine[:3] *= unit
    return affine, True


def _is_odd(matrix: np.ndarray) -> bool:
    """Whether a matrix gives no directions at right angles; ITK then looks for another."""
    columns = matrix[:3, : 3 if matrix[:3, 2].any() else 2]
    return not (np.isfinite(matrix).all() and columns.any(0).all()) or shears(columns)
