"""Move images, labels, landmarks and contours by transforms from files: the command `warp`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import itk
import numpy as np

from ..data.points import READERS, PointFile
from ..data.readers import UnfitFileError, given_spacing
from ..data.voxels import Voxels, as_type, read_voxels, write_voxels, writing_faults
from ..files import replacing
from ..inference.results import IMAGES
from ..spatial.itk_files import itk_image, read_transforms, resample, undo_at_points, within_fields
from ..spatial.physical import Matrix

Spacing = float | Sequence[float] | None
Grid = tuple[tuple[int, ...], Matrix]
T = TypeVar("T")


def warp(
    moving: str,
    transform: str | Sequence[str],
    out: str,
    fixed: str | None = None,
    spacing: Spacing = None,
    label: bool = False,
    moving_spacing: Spacing = None,
    fixed_spacing: Spacing = None,
) -> None:
    """Move an image, a label, landmarks or contours by saved transforms.

    All take the same transform: the `a_to_b_transform.h5` that brings image a onto b brings landmarks and
    contours of a onto b, too. Everything is checked before anything is computed.

    Args:
        moving: an image or label, of any pixel type and number of channels or frames, which the result has,
            too; landmarks, as `.csv` with columns x, y[, z] in mm and LPS or as 3D Slicer's `.mrk.json` or
            `.fcsv`; or contours, as legacy `.vtk`.
        transform: ITK transform file or displacement field; several as a list, or separated by commas, the
            last one applied first.
        out: the file to write; its suffix chooses the format. Landmarks and contours keep theirs.
        fixed: the image on whose grid the result is wanted; needed for images.
        spacing: in mm, one number or one for each axis, for another resolution of that grid.
        label: take the nearest voxel, to the bit, instead of interpolating.
        moving_spacing: in mm, for an image that does not state it.
        fixed_spacing: in mm, for an image that does not state it.

    Raises:
        FileNotFoundError: naming every missing file.
        ValueError: for files that do not fit each other or cannot be read, and an `out` that cannot be
            written, cannot hold the result, or is one of the inputs: all faults at once.
    """
    transforms = _paths(transform)
    inputs = [str(path) for path in (moving, fixed, *transforms) if path is not None]
    if missing := [path for path in inputs if not Path(path).exists()]:
        raise FileNotFoundError("Expected files that are not there: " + ", ".join(missing))
    faults = _out_faults(Path(out), inputs)
    read_points = next(
        (read for suffix, read in READERS.items() if str(moving).lower().endswith(suffix)), None
    )
    chain = _tried(faults, read_transforms, transforms)
    grid = None if fixed is None else _tried(faults, _grid, fixed, fixed_spacing, spacing)
    source: Any
    if read_points is not None:
        source = _tried(faults, read_points, Path(moving))
        if Path(out).suffix.lower() != Path(moving).suffix.lower():
            faults.append(f"Expected {out} to have the suffix of {moving}, whose format points keep.")
    else:
        source = _tried(faults, _read_image, moving, moving_spacing)
        if fixed is None:
            faults.append("Expected --fixed, the image whose grid the result takes, to move an image.")
        if source is not None:
            faults += writing_faults(source, source.shape if grid is None else grid[0], out)
    if chain is not None:
        faults += _dims_faults(chain, source, str(moving), grid, str(fixed))
    if faults:
        raise ValueError("\n- ".join(["Nothing was computed:", *faults]) if len(faults) > 1 else faults[0])
    if isinstance(source, PointFile):
        _warp_points(source, chain, Path(out), grid)
    elif grid is not None:
        _warp_image(source, chain, Path(out), grid, label)


def _tried(faults: list[str], function: Callable[..., T], *arguments: Any) -> T | None:
    """What a function returns, or None where it finds fault with its input."""
    try:
        return function(*arguments)
    except ValueError as error:
        faults.append(str(error))
        return None


def _paths(value: str | Sequence[str]) -> list[str]:
    """Files of a list; the command line passes several as one text."""
    if isinstance(value, str):
        return [value] if Path(value).exists() else [path.strip() for path in value.split(",")]
    return [str(path) for path in value]


def _out_faults(out: Path, inputs: Sequence[str]) -> list[str]:
    """Why a file cannot be written."""
    if out.is_dir():
        return [f"Expected the name of a file to write, got the folder {out}."]
    same = [path for path in inputs if out.exists() and os.path.samefile(out, path)]
    if same:
        return [f"Expected another file to write than {same[0]}, which is read."]
    folder = next(each for each in out.absolute().parents if each.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        return [f"Expected a folder that can be written to for {out}, got {folder}."]
    return []


def _read_image(path: str, spacing: Spacing) -> Voxels:
    try:
        return read_voxels(path, spacing)
    except UnfitFileError as error:
        if Path(path).is_dir() or path.lower().endswith(IMAGES) or "unreadable" not in str(error):
            raise
        raise ValueError(
            f"{path}: is no image that can be read, and no file of points by its suffix "
            f"({', '.join(READERS)}); convert it to one of these."
        ) from error


def _grid(path: str, known: Spacing, wanted: Spacing) -> Grid:
    """Shape of an image's grid and its affine to mm in LPS; at another spacing over the same extent."""
    fixed = read_voxels(path, known)
    if wanted is None:
        return fixed.shape, fixed.matrix
    size, dims = np.array(fixed.shape), len(fixed.shape)
    spacing = np.linalg.norm(fixed.matrix[:-1, :-1], axis=0)
    factor = given_spacing(wanted, dims) / spacing
    # the outer faces of the grid stay where they are, as nearly as whole voxels allow
    new_size = np.maximum(np.rint(size / factor), 1).astype(int)
    first = (size - 1) / 2 - factor * (new_size - 1) / 2
    change = np.diag([*factor, 1.0])
    change[:-1, -1] = first
    return tuple(new_size.tolist()), fixed.matrix @ change


def _dims_faults(chain: Any, source: Any, moving: str, grid: Grid | None, fixed: str) -> list[str]:
    """What has other dimensions than the transform."""
    dims = chain.GetInputSpaceDimension()
    found = {} if grid is None else {fixed: len(grid[0])}
    if isinstance(source, Voxels):
        found[moving] = len(source.shape)
    elif source is not None:
        points = source.points
        if points.shape[1] < dims or np.ptp(points[:, dims:], axis=0).any():  # a plane's third axis stays
            found[moving] = points.shape[1]
    return [
        f"Expected a transform of {number} dimensions for {path}, got one of {dims}; take the transform that "
        "was made for such images."
        for path, number in found.items()
        if number != dims
    ]


def _warp_image(source: Voxels, chain: Any, out: Path, grid: Grid, label: bool) -> None:
    values = (_nearest if label else _interpolated)(source, chain, grid)
    write_voxels(replace(source, values=values, matrix=grid[1]), out)
    print(f"Wrote {out}, {' × '.join(map(str, grid[0]))} voxels.")


def _nearest(source: Voxels, chain: Any, grid: Grid) -> np.ndarray:
    """Each value as it is, of whatever type: what is resampled are the numbers of voxels, exact to 2⁵³."""
    numbers = np.arange(np.prod(source.shape), dtype=np.float64).reshape(source.shape)
    image = itk_image(numbers, source.matrix, np.float64)
    found = resample(image, chain, *grid, nearest=True, outside=-1.0)
    index = itk.array_from_image(found).T.astype(np.int64)
    values = source.values.reshape(-1, source.values.shape[-1])[index]
    values[index < 0] = 0
    return values


def _interpolated(source: Voxels, chain: Any, grid: Grid) -> np.ndarray:
    """Each channel interpolated linearly in float64, and rounded where there are integers."""
    channels = [
        itk.array_from_image(resample(itk_image(channel, source.matrix, np.float64), chain, *grid)).T
        for channel in np.moveaxis(source.values, -1, 0)
    ]
    return as_type(np.stack(channels, -1), source.values.dtype)


def _warp_points(source: PointFile, chain: Any, out: Path, grid: Grid | None) -> None:
    points, dims = source.points, chain.GetInputSpaceDimension()
    moved, found = undo_at_points(chain, points[:, :dims])
    inside = found & within_fields(chain, moved)
    if grid is not None:
        index = (moved - grid[1][:-1, -1]) @ np.linalg.inv(grid[1][:-1, :-1]).T
        inside &= ((index > -0.5) & (index < np.array(grid[0]) - 0.5)).all(1)
    with replacing(out) as partial:
        partial.write_bytes(source.rebuild(np.c_[moved, points[:, dims:]], inside))
    outside = np.flatnonzero(~inside)
    print(f"Wrote {out}, {len(points)} points.")
    if len(outside):
        numbers = ", ".join(str(number + 1) for number in outside[:10]) + ", ..." * (len(outside) > 10)
        print(
            f"Warning: {len(outside)} of them lie outside of what was registered, or where the transform "
            f"has no inverse, and are only extrapolated: {numbers}."
        )
