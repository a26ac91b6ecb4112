"""Transforms in files of any program that writes ITK's: read, composed, and undone at points."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import itk
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from .physical import Matrix, itk_geometry, place

IMAGES = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".nhdr")
Points = NDArray[np.float64]


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
        except (RuntimeError, KeyError, TypeError) as error:  # what ITK raises for a file that it cannot take
            reason = str(error).split("ITK ERROR:")[-1].strip().split("\n")[0][:160]
            faults.append(f"{path} holds no transform that ITK can read ({reason})")
        except ValueError as error:
            faults.append(str(error))
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
    found = itk.transformread(path)
    if len(found) != 1:
        raise ValueError(
            f"{path} holds {len(found)} transforms; store them as one composite, or one in a file"
        )
    return found[0]


def _read_field(path: str) -> Any:
    image = itk.imread(path)
    dims, components = image.GetImageDimension(), image.GetNumberOfComponentsPerPixel()
    if dims != components:
        raise ValueError(
            f"{path} is no displacement field: expected {dims} components at each voxel, got {components}"
        )
    field = itk.image_from_array(itk.array_from_image(image).astype(np.float64), is_vector=True)
    field.CopyInformation(image)
    transform = itk.DisplacementFieldTransform[itk.D, dims].New()
    transform.SetDisplacementField(field)
    return transform


def itk_image(array: NDArray[Any], matrix: Matrix) -> Any:
    """Return a scalar image in space as ``itk.Image[itk.F, D]``.

    Args:
        array: ``[*spatial]``, first axis first.
        matrix: its affine to mm in LPS, ``[D + 1, D + 1]``.

    Raises:
        ValueError: for an affine that shears.
    """
    image = itk.image_from_array(np.ascontiguousarray(array.T, np.float32))
    place(image, matrix)
    return image


def resample(image: Any, transform: Any, shape: Sequence[int], matrix: Matrix, nearest: bool = False) -> Any:
    """Return an image moved by a transform onto a grid; 0 where there is nothing to read.

    Args:
        image: ``itk.Image[itk.F, D]``.
        transform: from points of the grid to points of the image.
        shape: of the grid.
        matrix: the grid's affine to mm in LPS, ``[D + 1, D + 1]``.
        nearest: take the nearest voxel, as for labels; otherwise interpolate linearly.

    Returns:
        ``itk.Image[itk.F, D]``.
    """
    origin, spacing, direction = itk_geometry(matrix)
    interpolator = (
        itk.NearestNeighborInterpolateImageFunction if nearest else itk.LinearInterpolateImageFunction
    )
    return itk.resample_image_filter(
        image,
        transform=transform,
        interpolator=interpolator[type(image), itk.D].New(),
        size=[int(size) for size in shape],
        output_origin=origin.tolist(),
        output_spacing=spacing.tolist(),
        output_direction=itk.matrix_from_array(np.ascontiguousarray(direction)),
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
            direction = np.asarray(itk.array_from_matrix(field.GetDirection()))
            grid = index * np.array(field.GetSpacing()) @ direction.T + np.array(field.GetOrigin())
            starts = transform_points(before.GetInverseTransform(), grid)
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
            field = part.GetDisplacementField()
            direction = np.asarray(itk.array_from_matrix(field.GetDirection()))
            index = (points - np.array(field.GetOrigin())) @ direction / np.array(field.GetSpacing())
            inside &= ((index > -0.5) & (index < np.array(itk.size(field)) - 0.5)).all(1)
        points = transform_points(part, points)
    return inside


def _parts(transform: Any) -> Iterator[Any]:
    """The single transforms of a composite in the order in which they are applied to points."""
    if hasattr(transform, "GetNthTransform"):
        for i in reversed(range(transform.GetNumberOfTransforms())):
            yield from _parts(itk.down_cast(transform.GetNthTransform(i)))
    else:
        yield transform
