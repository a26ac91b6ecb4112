"""Images of ITK, in memory and in all formats that it reads, whose bodies are checked where it does not."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import itk
import numpy as np
from monai.data.utils import to_affine_nd

from ..spatial.itk import affine_of, read_any_type
from .stored import Stored, UnfitFileError, check_size

META = (".mha", ".mhd")
NRRD = (".nrrd", ".nhdr")
CHUNK = 1 << 20


def is_itk(image: Any) -> bool:
    """Whether something is an image of ITK, of any pixel type and dimension."""
    return isinstance(image, itk.DataObject)


def itk_values(image: Any) -> tuple[np.ndarray, bool]:
    """Values of an image, first axis first, `[*spatial]` or `[*spatial, C]`, and which of the two."""
    array = itk.array_from_image(image)
    has_channels = array.ndim > image.GetImageDimension()
    return (np.moveaxis(array.T, 0, -1) if has_channels else array.T), has_channels


def from_itk(image: Any, spacing_stated: bool = True) -> Stored:
    """An image of ITK as if it had been read from a file; a pipeline's is computed if need be."""
    image.Update()
    array, has_channels = itk_values(image)
    lps = affine_of(image)
    affine = to_affine_nd(3, np.diag([-1, -1, *[1] * (len(lps) - 2)])[: len(lps), : len(lps)] @ lps)
    return Stored(array, affine, spacing_stated, place_stated=True, has_channels=has_channels)


def read_itk(path: Path) -> Stored:
    """Read a file of any format that ITK reads.

    Raises:
        UnfitFileError: for other files, complex numbers, more voxels than may be read, and bodies that are
            shorter or longer than the header states, or damaged where the format can tell.
    """
    suffix = path.suffix.lower()
    if suffix in META:
        _check_axes(path)
    image_io = itk.ImageIOFactory.CreateImageIO(str(path), itk.CommonEnums.IOFileMode_ReadMode)
    if image_io is None:
        raise UnfitFileError(
            f"{path}: unreadable as an image, of no format that ITK knows; repair or convert it"
        )
    image_io.SetFileName(str(path))
    image_io.ReadImageInformation()
    scalar = image_io.GetPixelType() == itk.CommonEnums.IOPixel_SCALAR
    if scalar and image_io.GetNumberOfComponents() == 2:  # grey and alpha, which ITK would multiply
        raise UnfitFileError(
            f"{path}: has two values at each voxel; store one, such as a picture without alpha"
        )
    size = int(image_io.GetImageSizeInBytes())
    check_size(path, size)
    spaced = placed = False
    if suffix in META + NRRD:
        spaced, placed = check_meta(path, size) if suffix in META else check_nrrd(path, size)
    elif suffix in (".jpg", ".jpeg", ".bmp"):
        check_picture(path)
    try:
        image, dtype = read_any_type(str(path))
    except ValueError as error:
        raise UnfitFileError(str(error)) from error
    stored = from_itk(image, spaced)
    stored.array = stored.array.astype(dtype, copy=False)
    # of other formats, such as .hdr, what differs from what stands in
    directions = stored.affine[:3, :3] / np.linalg.norm(stored.affine[:3, :3], axis=0)
    unplaced = np.allclose(directions, np.diag([-1, -1, 1])) and not stored.affine[:3, 3].any()
    stored.place_stated = placed or (suffix not in META + NRRD and not unplaced)
    return stored


def check_meta(path: Path, size: int) -> tuple[bool, bool]:
    """Check the voxels of a MetaImage; whether it states its spacing, and its place.

    Args:
        path: `.mha`, or `.mhd` with the voxels in one file or in this one; lists of files are left to ITK.
        size: of the voxels, in bytes.

    Raises:
        UnfitFileError: for too few bytes, too many, or damaged ones.
    """
    with open(path, "rb") as file:
        fields = _fields(file, b"=", b"elementdatafile")
        source = fields.get("elementdatafile", "")
        if (
            fields.get("binarydata", "true").lower() == "true"
            and "%" not in source
            and source.lower() != "list"
        ):
            local = source.lower() == "local"
            body = path if local else path.parent / source
            start = file.tell() if local else int(fields.get("headersize", 0))
            if start >= 0:
                compressed = fields.get("compresseddata", "").lower() == "true"
                _check_length(path, body, start, size, zlib.MAX_WBITS if compressed else None)
    spaced = {"elementspacing", "elementsize"} & fields.keys() != set()  # ITK takes 1 mm without either
    return spaced, {"transformmatrix", "rotation", "orientation"} & fields.keys() != set()


def _check_axes(path: Path) -> None:
    """Refuse a MetaImage of dimensions that ITK would believe and fail of."""
    with open(path, "rb") as file:
        fields = _fields(file, b"=", b"elementdatafile")
    dims, sizes = fields.get("ndims", ""), fields.get("dimsize", "").split()
    if not (dims in tuple("123456") and len(sizes) == int(dims)):
        raise UnfitFileError(
            f"{path}: unreadable as an image, its header has {dims[:9] or 'no'} dimensions of {len(sizes)} "
            "sizes; repair or convert it"
        )


def check_nrrd(path: Path, size: int) -> tuple[bool, bool]:
    """Check the voxels of an NRRD file; whether it states its spacing, and its place.

    Args:
        path: with the voxels in the file itself, or in another one; lists of files are left to ITK.
        size: of the voxels, in bytes.

    Raises:
        UnfitFileError: for too few bytes, too many, or damaged ones.
    """
    with open(path, "rb") as file:
        fields = _fields(file, b":", b"")
        source = fields.get("data file", fields.get("datafile", ""))
        skips = {fields.get(key, "0") for key in ("line skip", "lineskip", "byte skip", "byteskip")}
        encoding = {"raw": None, "gzip": 16 + zlib.MAX_WBITS, "gz": 16 + zlib.MAX_WBITS}
        name = fields.get("encoding", "").lower()
        if (
            name in encoding
            and skips == {"0"}
            and "%" not in source
            and not source.lower().startswith("list")
        ):
            body, start = (path.parent / source, 0) if source else (path, file.tell())
            _check_length(path, body, start, size, encoding[name])
    placed = "space directions" in fields
    lengths = fields.get("spacings", "").lower().split()  # NaN where an axis, as of colours, has none
    return placed or any(length != "nan" for length in lengths), placed


def check_picture(path: Path) -> None:
    """Refuse JPEG and BMP pictures that end early, which ITK fills up.

    Raises:
        UnfitFileError: saying so.
    """
    content = path.read_bytes()
    if content.startswith(b"BM"):
        short = len(content) < int.from_bytes(content[2:6], "little")
    else:  # the end of image after the last start of scan; what precedes may hold a thumbnail with its own
        short = content.rfind(b"\xff\xd9") < content.rfind(b"\xff\xda")
    if short:
        raise UnfitFileError(f"{path}: unreadable as an image, it ends early; bring it anew")


def _fields(file: BinaryIO, separator: bytes, last: bytes) -> dict[str, str]:
    """Fields of a text header, by lower-case names, up to and with the last one (or to an empty line)."""
    fields = {}
    for _ in range(10_000):
        line = file.readline(CHUNK)
        name, found, value = line.partition(separator)
        name = name.strip().lower()
        if found:
            fields[name.decode("latin-1")] = value.lstrip(b"=").strip().decode("latin-1")
        if not line or (name == last and (found or not last and not line.strip())):
            break
    return fields


def _check_length(path: Path, body: Path, start: int, size: int, wbits: int | None) -> None:
    """Compare what a file holds with what its header states; compressed voxels are read to their checksum."""
    if not body.is_file():
        raise UnfitFileError(f"{path}: has its voxels in {body}, which is missing; bring it")
    found = os.path.getsize(body) - start
    if wbits is not None:
        found = _inflated_size(path, body, start, size, wbits)
    if found != size:
        raise UnfitFileError(
            f"{path}: unreadable as an image, it has {'fewer' if found < size else 'more'} than the "
            f"{size} bytes of voxels that its header states; bring it anew, or repair it"
        )


def _inflated_size(path: Path, body: Path, start: int, size: int, wbits: int) -> int:
    """Bytes that a stream inflates to, at most one more than wanted."""
    inflated, stream = 0, zlib.decompressobj(wbits)
    with open(body, "rb") as file:
        file.seek(start)
        while inflated <= size and not stream.eof and (chunk := file.read(CHUNK)):
            while chunk and inflated <= size:
                inflated += len(stream.decompress(chunk, CHUNK))
                chunk = stream.unconsumed_tail
    if inflated <= size and not stream.eof:
        raise UnfitFileError(
            f"{path}: unreadable as an image, its compressed voxels end early; bring it anew"
        )
    return inflated + len(stream.unused_data)
