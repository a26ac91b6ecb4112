"""Transforms in files of any program that writes ITK's: read, composed, and undone at points."""

from __future__ import annotations

import gzip
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import itk
import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy.spatial import cKDTree

from .grid import Grid, Matrix, Points
from .physical import place

IMAGES = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".nhdr")
TRANSFORMS = (".h5", ".hdf5", ".tfm", ".txt", ".mat")
DETACHED = (".mhd", ".nhdr")  # headers, whose voxels are in another file
MOST_COMPRESSED = 1100  # zlib cannot do more; memory is taken for what a header states before it is read
COMPONENTS = {
    **{"char": "i1", "signed_char": "i1", "unsigned_char": "u1", "short": "i2", "unsigned_short": "u2"},
    **{"int": "i4", "unsigned_int": "u4", "long": "i8", "unsigned_long": "u8", "long_long": "i8"},
    **{"unsigned_long_long": "u8", "float": "f4", "double": "f8"},
}


class _Unfit(ValueError):
    """A file that holds no transform, with its name and the reason."""


def read_transforms(paths: Sequence[str | Path]) -> Any:
    """Read transforms and compose them in the order of ANTs: an image is moved by the last one first.

    So ``["b_to_c", "a_to_b"]`` brings an image of a to c, as ``-t b_to_c -t a_to_b`` does.

    Args:
        paths: ITK transform files (``.h5``, ``.tfm``, ``.txt``, ``.mat``) or displacement fields, which are
            vector images in mm and LPS.

    Returns:
        ``itk.CompositeTransform[itk.D, D]``, from points of the result to points of what is moved.

    Raises:
        FileNotFoundError: naming every missing file.
        ValueError: for files that hold no transform, and transforms of different dimensions, all at once.
    """
    if not paths:
        raise ValueError("Expected at least one transform, got none.")
    missing = [str(path) for path in paths if not Path(path).is_file()]
    if missing:
        raise FileNotFoundError("Expected transforms that are not there: " + ", ".join(missing))
    transforms, faults = [], []
    for path in map(str, paths):
        try:
            read = _read_field if path.lower().endswith(IMAGES) else _read_transform
            transforms.append((path, read(path)))
            faults += _senseless(path, transforms[-1][1])
        except _Unfit as error:
            faults.append(str(error))
        except Exception as error:  # whatever ITK raises for a file that it cannot take
            reason = " ".join(str(error).split("ITK ERROR:")[-1].split())[:160]
            faults.append(f"{path} holds no transform that ITK can read ({type(error).__name__}: {reason})")
    dims = {transform.GetInputSpaceDimension() for _, transform in transforms}
    if len(dims) > 1:
        found = ", ".join(f"{path} {transform.GetInputSpaceDimension()}D" for path, transform in transforms)
        faults.append(f"transforms of different dimensions cannot be composed: {found}")
    if faults:
        raise ValueError("; ".join(faults) + ".")
    composite = itk.CompositeTransform[itk.D, dims.pop()].New()
    for _, transform in reversed(transforms):  # ITK applies to points what was added last first
        composite.AddTransform(transform)
    return composite


def _read_transform(path: str) -> Any:
    if not path.lower().endswith(TRANSFORMS):
        raise _Unfit(f"{path} is no transform: expected {', '.join((*TRANSFORMS, *IMAGES))}")
    if path.lower().endswith(".mat"):
        _check_matlab(path)
    elif not path.lower().endswith(".h5"):
        _check_text(path)
    found = itk.transformread(path)
    if len(found) != 1:
        raise _Unfit(f"{path} holds {len(found)} transforms; store them as one composite, or one in a file")
    return found[0]


def _check_matlab(path: str) -> None:
    """Refuse a MATLAB file (version 4, all that ITK reads) whose matrices are larger than itself.

    Memory for them is taken before they are read.
    """
    with open(path, "rb") as file:
        while header := file.read(20):
            kind, rows, columns, imaginary, name = struct.unpack("<5i", header.ljust(20, b"\0"))
            width = 4 if kind // 10 % 10 == 1 else 8
            size = name + rows * columns * width * (2 if imaginary else 1)
            if len(header) < 20 or min(rows, columns, name) < 0 or size > os.fstat(file.fileno()).st_size:
                raise _Unfit(f"{path} holds no transform that ITK can read: its matrices end early")
            file.seek(size, os.SEEK_CUR)


def _check_text(path: str) -> None:
    """Refuse a text file with a grid of more points than it has numbers: memory is taken for it first."""
    count, dims, gridded = 0, 0, False
    with open(path, encoding="latin-1") as file:
        for line in file:
            key, _, values = line.partition(":")
            if key.strip() == "Transform":
                gridded, dims = "Field" in values or "BSpline" in values, int(values.split("_")[-1])
            elif key.strip() == "Parameters":
                count = len(values.split())
            elif key.strip() == "FixedParameters" and gridded:
                sizes = [float(each) for each in values.split()[:dims]]
                if not all(1 <= size <= count for size in sizes) or np.prod(sizes) > count:
                    raise _Unfit(f"{path} holds no transform that ITK can read: its grid ends early")


def _read_field(path: str) -> Any:
    image, _ = read_any_type(path)
    dims, components = image.GetImageDimension(), image.GetNumberOfComponentsPerPixel()
    if dims != components or dims not in (2, 3):
        raise _Unfit(
            f"{path} is no displacement field: expected {dims} components at each voxel, got {components}"
        )
    field = itk.image_from_array(itk.array_from_image(image).astype(np.float64), is_vector=True)
    field.CopyInformation(image)
    transform = itk.DisplacementFieldTransform[itk.D, dims].New()
    transform.SetDisplacementField(field)
    return transform


def _senseless(path: str, transform: Any) -> list[str]:
    """What keeps a transform that was read from being one: numbers that are none, and flattened space."""
    faults = []
    if transform.GetInputSpaceDimension() not in (2, 3):
        return [f"{path} holds a transform of {transform.GetInputSpaceDimension()} dimensions, not of 2 or 3"]
    for part in _parts(transform):
        values = [np.array(part.GetFixedParameters())]
        if hasattr(part, "GetDisplacementField"):
            values.append(itk.array_view_from_image(part.GetDisplacementField()))
        else:
            values.append(np.array(part.GetParameters()))
        if not all(np.isfinite(each).all() for each in values):
            faults.append(f"{path} holds NaN or infinite numbers; write it anew")
        elif hasattr(part, "GetMatrix"):
            matrix = np.asarray(itk.array_from_matrix(part.GetMatrix()))
            if abs(np.linalg.det(matrix)) < 1e-9:
                faults.append(f"{path} holds an affine that flattens space, {matrix.tolist()}; write it anew")
    return faults


def read_any_type(path: str) -> tuple[Any, np.dtype]:
    """Read an image of a type that ITK may not have in Python: int8, int64, vectors of most types.

    Args:
        path: of any format that ITK reads.

    Returns:
        the image, in a type that can hold the values, and the file's own: cast to it, they are those of the
        file to the bit.

    Raises:
        ValueError: for several channels of 64-bit integers, and formats that ITK does not read.
        RuntimeError: whatever ITK says of a broken file.
    """
    if path.lower().endswith(".gz"):
        with gzip.open(path) as file:
            while file.read(1 << 20):  # to the checksum, which ITK passes over
                pass
    image_io = itk.ImageIOFactory.CreateImageIO(path, itk.CommonEnums.IOFileMode_ReadMode)
    if image_io is None:
        raise _Unfit(f"{path} is of no format that ITK reads")
    image_io.SetFileName(path)
    image_io.ReadImageInformation()
    stated = int(image_io.GetImageSizeInBytes())
    if not path.lower().endswith(DETACHED) and stated > MOST_COMPRESSED * os.path.getsize(path):
        raise _Unfit(f"{path} ends early: its header states {stated:,} bytes of voxels")
    if image_io.GetPixelTypeAsString(image_io.GetPixelType()) == "complex":
        raise _Unfit(f"{path} holds complex numbers; store their magnitude, or whichever part is meant")
    dims, channels = image_io.GetNumberOfDimensions(), image_io.GetNumberOfComponents()
    dtype = np.dtype(COMPONENTS[image_io.GetComponentTypeAsString(image_io.GetComponentType())])
    if dtype.kind in "iu" and dtype.itemsize == 8:
        if channels > 1:
            raise _Unfit(f"{path} has {channels} channels of {dtype}; store int32 or float64, or one channel")
        kind = itk.Image[itk.ULL, dims]  # modulo 2⁶⁴, which the cast undoes
    elif channels > 1:
        kind = itk.VectorImage[itk.D, dims]
    else:
        known = {"u1": itk.UC, "i2": itk.SS, "u2": itk.US, "i4": itk.SI, "u4": itk.UI, "f4": itk.F}
        kind = itk.Image[known.get(dtype.str[1:], itk.D), dims]
    reader = itk.ImageFileReader[kind].New(FileName=path, ImageIO=image_io)
    reader.Update()
    return reader.GetOutput(), dtype


def affine_of(image: Any) -> Matrix:
    """Return the affine of an ITK image to mm in LPS; its array starts where its buffered region does."""
    affine = np.eye(image.GetImageDimension() + 1)
    direction = np.asarray(itk.array_from_matrix(image.GetDirection()))
    affine[:-1, :-1] = direction * np.array(image.GetSpacing())
    affine[:-1, -1] = image.TransformIndexToPhysicalPoint(image.GetBufferedRegion().GetIndex())
    return affine


def grid_of(image: Any) -> Grid:
    """Return where the points of an ITK image lie."""
    return Grid(tuple(image.GetBufferedRegion().GetSize()), affine_of(image))


def itk_image(array: NDArray[Any], grid: Grid, dtype: DTypeLike = np.float32) -> Any:
    """Return a scalar image in space as ``itk.Image[itk.F, D]``.

    Args:
        array: ``[*spatial]``, first axis first.
        grid: where they lie.
        dtype: of its voxels: float64 for ``itk.Image[itk.D, D]``.

    Raises:
        ValueError: for a grid that shears.
    """
    image = itk.image_from_array(np.ascontiguousarray(array.T, dtype))
    place(image, grid)
    return image


def resample(image: Any, transform: Any, grid: Grid, nearest: bool = False, outside: float = 0.0) -> Any:
    """Return an image moved by a transform onto a grid.

    Args:
        image: ``itk.Image[itk.F, D]`` or ``itk.Image[itk.D, D]``.
        transform: from points of the grid to points of the image.
        grid: of the result.
        nearest: take the nearest voxel, as for labels; otherwise interpolate linearly.
        outside: the value where there is nothing to read.

    Returns:
        an image of the same type.
    """
    interpolator = (
        itk.NearestNeighborInterpolateImageFunction if nearest else itk.LinearInterpolateImageFunction
    )
    return itk.resample_image_filter(
        image,
        transform=transform,
        interpolator=interpolator[type(image), itk.D].New(),
        size=list(grid.shape),
        default_pixel_value=outside,
        output_origin=grid.origin.tolist(),
        output_spacing=grid.spacing.tolist(),
        output_direction=itk.matrix_from_array(grid.direction),
    )


def transform_points(transform: Any, points: Points) -> Points:
    """Return a transform of points, ``[N, D]``, in mm and LPS."""
    moved = [tuple(transform.TransformPoint(point)) for point in points.tolist()]
    return np.array(moved, np.float64).reshape(points.shape)


def undo_at_points(
    transform: Any, points: Points, tolerance: float = 1e-4, iterations: int = 60
) -> tuple[Points, NDArray[np.bool_]]:
    """Find the points that a transform takes to the given ones, by damped Newton iteration.

    An image is moved by a transform *from* the grid of the result, so what marks a place in the image, a
    landmark or a contour, is moved by the inverse; this needs no file of it.

    Args:
        transform: any ITK transform of D dimensions.
        points: ``[N, D]``, in mm and LPS.
        tolerance: of what the transform makes of the result, in mm.
        iterations: most of them.

    Returns:
        ``[N, D]``, and whether each is within the tolerance: not where the transform folds or leaves a hole.
    """
    dims, step = points.shape[1], 1e-3
    found = _starts(transform, points)
    miss = transform_points(transform, found) - points
    rate = np.ones(len(points))
    for _ in range(iterations):
        rest = np.flatnonzero(np.linalg.norm(miss, axis=1) > tolerance)
        if not len(rest):
            break
        here = found[rest]
        columns = [
            transform_points(transform, here + step * axis) - points[rest] - miss[rest]
            for axis in np.eye(dims)
        ]
        slope = np.stack(columns, -1) / step
        move = (np.linalg.pinv(slope) @ miss[rest][..., None])[..., 0]
        tried = here - rate[rest, None] * move
        error = transform_points(transform, tried) - points[rest]
        better = np.linalg.norm(error, axis=1) < np.linalg.norm(miss[rest], axis=1)
        found[rest[better]], miss[rest[better]] = tried[better], error[better]
        rate[rest] = np.where(better, 1, rate[rest] / 2)
    return found, np.linalg.norm(miss, axis=1) <= tolerance


def _starts(transform: Any, points: Points, places: int = 2000) -> Points:
    """Where to begin to look for what a transform takes to the points, ``[N, D]``.

    Outside of a displacement field every point stays where it is, and so would seem to be its own answer: it
    is looked for within the first of the fields, from the place whose image is nearest.
    """
    dims = points.shape[1]
    before = itk.CompositeTransform[itk.D, dims].New()
    for part in _parts(transform):
        if isinstance(part, itk.DisplacementFieldTransform[itk.D, dims]):
            field = part.GetDisplacementField()
            per_axis = round(places ** (1 / dims))
            axes = [np.linspace(0, size - 1, min(size, per_axis)) for size in itk.size(field)]
            index = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, dims)
            starts = transform_points(before.GetInverseTransform(), grid_of(field).to_mm(index))
            return starts[cKDTree(transform_points(transform, starts)).query(points)[1]]
        if not part.IsLinear():
            break
        before.PrependTransform(part)
    return points.astype(np.float64)


def within_fields(transform: Any, points: Points) -> NDArray[np.bool_]:
    """Whether a transform's displacement fields, as far as it has any, reach over the points, ``[N]``.

    Outside, a displacement is taken to be 0: what a registration says of such points is a guess.

    Args:
        transform: ``itk.CompositeTransform``.
        points: ``[N, D]``, in mm and LPS.
    """
    inside = np.ones(len(points), bool)
    for part in _parts(transform):
        if isinstance(part, itk.DisplacementFieldTransform[itk.D, points.shape[1]]):
            inside &= grid_of(part.GetDisplacementField()).contains(points)
        points = transform_points(part, points)
    return inside


def _parts(transform: Any) -> Iterator[Any]:
    """The single transforms of a composite in the order in which they are applied to points."""
    if hasattr(transform, "GetNthTransform"):
        for i in reversed(range(transform.GetNumberOfTransforms())):
            yield from _parts(itk.down_cast(transform.GetNthTransform(i)))
    else:
        yield transform
