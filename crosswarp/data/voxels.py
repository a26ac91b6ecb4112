"""Voxels of files as they are stored, and files of them: no type, channel or value is lost on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import itk
import nibabel as nib
import numpy as np
from monai.data.utils import is_no_channel, to_affine_nd
from numpy.typing import NDArray

from ..files import replacing
from ..spatial.grid import Grid
from ..spatial.physical import place
from .nifti import read_header, scaling
from .readers import UnfitFileError, read_image

NIFTI = (".nii.gz", ".nii")
PLAIN = (".mha", ".nrrd")
PICTURES = {
    ".png": ((np.uint8, np.uint16), (2,)),  # types and dimensions that can be held
    ".tif": ((np.uint8, np.uint16, np.int16, np.float32), (2, 3)),
    ".tiff": ((np.uint8, np.uint16, np.int16, np.float32), (2, 3)),
}
IMAGE_SUFFIXES = (*NIFTI, *PLAIN, *PICTURES)
COLOURS = (1, 3, 4)  # channels of a picture
NIFTI_AXIS = 32767  # longest; its header counts in 16 bits
META_TYPES = {
    **{"i1": "MET_CHAR", "u1": "MET_UCHAR", "i2": "MET_SHORT", "u2": "MET_USHORT", "i4": "MET_INT"},
    **{
        "u4": "MET_UINT",
        "i8": "MET_LONG_LONG",
        "u8": "MET_ULONG_LONG",
        "f4": "MET_FLOAT",
        "f8": "MET_DOUBLE",
    },
}


@dataclass(frozen=True)
class Voxels:
    """The voxels of an image, and how its file stores them.

    Attributes:
        values: ``[*spatial, C]``, in this machine's byte order.
        grid: where they lie.
        dtype: of the numbers in the file; another one than that of the values where these are scaled.
        scaling: slope and intercept of NIfTI, by which stored numbers become values.
        frames: whether channels are points in time, a fourth axis of NIfTI, and not components.
        step: between points in time, in the unit of the file.
        unit: of time, as nibabel names it.
    """

    values: NDArray
    grid: Grid
    dtype: np.dtype
    scaling: tuple[float, float] | None = None
    frames: bool = False
    step: float = 1.0
    unit: str = "unknown"


def read_voxels(path: str | Path, spacing: float | Sequence[float] | None = None) -> Voxels:
    """Read an image with all its channels, in the type that its file has.

    Raises:
        UnfitFileError: saying why it cannot be read.
    """
    array, meta = read_image(path, spacing)
    array = array[..., None] if is_no_channel(meta["original_channel_dim"]) else array
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    voxels = Voxels(array, Grid.from_ras(meta["affine"], meta["spatial_shape"]), array.dtype)
    if not str(path).lower().endswith(NIFTI):
        return voxels
    header = read_header(Path(path))
    stored, (slope, intercept) = header.get_data_dtype(), scaling(header)
    if (slope, intercept) != (1, 0):
        voxels = replace(voxels, dtype=stored.newbyteorder("="), scaling=(float(slope), float(intercept)))
    shape = header.get_data_shape()
    if len(shape) > 4 and shape[3] > 1:
        raise UnfitFileError(f"{path}: has vectors in each of its frames, {list(shape)}; store frames singly")
    if len(shape) == 4:
        unit = header.get_xyzt_units()[1]
        voxels = replace(voxels, frames=True, step=float(header.get_zooms()[3]), unit=unit)
    return voxels


def image_suffix(path: str | Path) -> str | None:
    """Which of the formats that are written a name stands for."""
    return next((each for each in IMAGE_SUFFIXES if str(path).lower().endswith(each)), None)


def writing_faults(voxels: Voxels, shape: Sequence[int], out: str | Path) -> list[str]:
    """Why a format cannot hold an image, before it is computed.

    Args:
        voxels: whose types and channels it has.
        shape: of its spatial axes.
        out: the file to write.
    """
    suffix, dtype, channels = image_suffix(out), _stored_type(voxels, out), voxels.values.shape[-1]
    remedy = f"write {out} as .nii.gz" + " or .mha" * (dtype.kind in "iuf")
    if suffix is None:
        return [f"Expected a file name with one of {IMAGE_SUFFIXES} to write an image, got {out}."]
    if suffix in NIFTI:
        long = max(*shape, channels if voxels.frames else 0) > NIFTI_AXIS
        return [f"A NIfTI file cannot hold an axis of more than {NIFTI_AXIS} voxels; write .mha."] * long
    if suffix in PLAIN:
        fits = dtype.str[1:] in META_TYPES
        return [] if fits else [f"A {suffix} file cannot hold values of type {dtype}; {remedy}."]
    types, dims = PICTURES[suffix]
    name, faults = suffix[1:].upper(), []
    if dtype not in types:
        faults.append(f"A {name} cannot hold the values of the moving image ({dtype}); {remedy}.")
    if len(shape) not in dims:
        faults.append(f"A {name} cannot hold an image of {len(shape)} dimensions; {remedy}.")
    if channels not in COLOURS or voxels.frames:
        faults.append(f"A {name} holds 1, 3 or 4 channels, not {channels}, and no frames; {remedy}.")
    return faults


def write_voxels(voxels: Voxels, out: Path) -> None:
    """Write an image in the format that its name stands for; see :func:`writing_faults`."""
    suffix = image_suffix(out)
    assert suffix is not None
    with replacing(out, suffix) as partial:
        if suffix in NIFTI:
            _write_nifti(voxels, partial)
        elif suffix in PLAIN:
            header = _meta_header if suffix == ".mha" else _nrrd_header
            values = np.moveaxis(voxels.values, -1, 0)  # both have the channels of a voxel together
            dtype = _stored_type(voxels, out).newbyteorder("<")
            partial.write_bytes(header(voxels, dtype).encode() + values.astype(dtype).tobytes(order="F"))
        else:
            several = voxels.values.shape[-1] > 1
            array = np.ascontiguousarray(np.moveaxis(voxels.values, -1, 0).T)
            image = itk.image_from_array(array if several else array[..., 0], is_vector=several)
            place(image, voxels.grid)
            itk.imwrite(image, str(partial))


def as_type(values: NDArray, dtype: np.dtype) -> NDArray:
    """Values of another type; integers are rounded, and end where theirs do."""
    if dtype.kind not in "iu":
        return values.astype(dtype)
    low, high = (float(limit) for limit in (np.iinfo(dtype).min, np.iinfo(dtype).max))
    # the greatest of 64 bits is no float64; the next one below is
    high = high if int(high) <= np.iinfo(dtype).max else np.nextafter(high, 0)
    return np.rint(values).clip(low, high).astype(dtype)


def _stored_type(voxels: Voxels, out: str | Path) -> np.dtype:
    """The type in a file: only NIfTI can have scaled numbers."""
    return voxels.dtype if image_suffix(out) in NIFTI else voxels.values.dtype


def _write_nifti(voxels: Voxels, path: Path) -> None:
    values, grid, channels = voxels.values, voxels.grid, voxels.values.shape[-1]
    if voxels.scaling is not None:
        slope, intercept = voxels.scaling
        values = as_type((values - intercept) / slope, voxels.dtype)
    if voxels.frames:
        values = values.reshape(*grid.shape, *[1] * (3 - grid.dims), channels)
    elif channels > 1:
        values = values.reshape(*grid.shape, *[1] * (4 - grid.dims), channels)
    else:
        values = values[..., 0]
    affine = to_affine_nd(3, grid.affine)
    affine[:2] *= -1
    image = nib.Nifti1Image(values, affine, dtype=voxels.dtype)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    image.header.set_xyzt_units("mm", voxels.unit)
    if voxels.scaling is not None:
        image.header.set_slope_inter(*voxels.scaling)
    if voxels.frames:
        image.header.set_zooms((*image.header.get_zooms()[:-1], voxels.step))
    elif channels > 1:
        image.header.set_intent("vector")
    nib.save(image, path)


def _meta_header(voxels: Voxels, dtype: np.dtype) -> str:
    """Header of a MetaImage, for which ITK lacks types in Python (64 bits, int8, vectors of most types)."""
    grid = voxels.grid
    fields = {
        "ObjectType": "Image",
        "NDims": grid.dims,
        "BinaryData": True,
        "BinaryDataByteOrderMSB": False,
        "CompressedData": False,
        "TransformMatrix": _text(grid.direction.T.ravel()),
        "Offset": _text(grid.origin),
        "CenterOfRotation": _text(np.zeros(grid.dims)),
        "ElementSpacing": _text(grid.spacing),
        "DimSize": " ".join(map(str, grid.shape)),
        "ElementNumberOfChannels": voxels.values.shape[-1],
        "ElementType": META_TYPES[dtype.str[1:]],
        "ElementDataFile": "LOCAL",
    }
    return "".join(f"{key} = {value}\n" for key, value in fields.items())


def _nrrd_header(voxels: Voxels, dtype: np.dtype) -> str:
    """Header of an NRRD file; see :func:`_meta_header`."""
    grid, dims, channels = voxels.grid, voxels.grid.dims, voxels.values.shape[-1]
    several = channels > 1
    vectors = [f"({_text(column, ',')})" for column in grid.affine[:-1, :-1].T]
    kind = {"i": "int", "u": "uint", "f": ""}[dtype.kind]
    fields = {
        "type": f"{kind}{8 * dtype.itemsize}" if kind else {4: "float", 8: "double"}[dtype.itemsize],
        "dimension": dims + several,
        **({"space": "left-posterior-superior"} if dims == 3 else {"space dimension": 2}),
        "sizes": " ".join(map(str, ((channels,) if several else ()) + grid.shape)),
        "space directions": " ".join(["none"] * several + vectors),
        "kinds": " ".join((["vector"] if several else []) + ["domain"] * dims),
        "endian": "little",
        "encoding": "raw",
        "space origin": f"({_text(grid.origin, ',')})",
    }
    return "NRRD0004\n" + "".join(f"{key}: {value}\n" for key, value in fields.items()) + "\n"


def _text(numbers: NDArray[np.float64], separator: str = " ") -> str:
    return separator.join(repr(float(number)) for number in numbers)
