"""Images, labels, landmarks and contours moved by transforms from files; no network is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import itk
import numpy as np

from ..data.points import READERS, PointFile
from ..data.readers import UnfitFileError, given_spacing
from ..data.voxels import Voxels, as_type, read_voxels, write_voxels
from ..files import replacing
from ..spatial.grid import Grid
from ..spatial.itk import itk_image, resample, undo_at_points, within_fields
from .results import IMAGES

Spacing = float | Sequence[float] | None


def read_image(path: str, spacing: Spacing) -> Voxels:
    """The image of a file, a spacing given where it states none.

    Raises:
        ValueError: for a file that is none, and names no points either.
    """
    try:
        return read_voxels(path, spacing)
    except UnfitFileError as error:
        if Path(path).is_dir() or path.lower().endswith(IMAGES) or "unreadable" not in str(error):
            raise
        raise ValueError(
            f"{path}: is no image that can be read, and no file of points by its suffix "
            f"({', '.join(READERS)}); convert it to one of these."
        ) from error


def grid_of(path: str, known: Spacing, wanted: Spacing) -> Grid:
    """The grid of an image, or that of another spacing over the same extent."""
    grid = read_voxels(path, known).grid
    return grid if wanted is None else grid.with_spacing(given_spacing(wanted, grid.dims))


def dims_faults(chain: Any, source: Any, moving: str, grid: Grid | None, fixed: str) -> list[str]:
    """What has other dimensions than the transform."""
    dims = chain.GetInputSpaceDimension()
    found = {} if grid is None else {fixed: grid.dims}
    if isinstance(source, Voxels):
        found[moving] = source.grid.dims
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


def warp_image(source: Voxels, chain: Any, out: Path, grid: Grid, label: bool) -> None:
    """Write an image moved onto a grid; a label keeps its values to the bit."""
    values = (_nearest if label else _interpolated)(source, chain, grid)
    write_voxels(replace(source, values=values, grid=grid), out)
    print(f"Wrote {out}, {' × '.join(map(str, grid.shape))} voxels.")


def _nearest(source: Voxels, chain: Any, grid: Grid) -> np.ndarray:
    """Each value as it is, of whatever type: what is resampled are the numbers of voxels, exact to 2⁵³."""
    shape = source.grid.shape
    numbers = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    image = itk_image(numbers, source.grid, np.float64)
    found = resample(image, chain, grid, nearest=True, outside=-1.0)
    index = itk.array_from_image(found).T.astype(np.int64)
    values = source.values.reshape(-1, source.values.shape[-1])[index]
    values[index < 0] = 0
    return values


def _interpolated(source: Voxels, chain: Any, grid: Grid) -> np.ndarray:
    """Each channel interpolated linearly in float64, and rounded where there are integers."""
    channels = [
        itk.array_from_image(resample(itk_image(channel, source.grid, np.float64), chain, grid)).T
        for channel in np.moveaxis(source.values, -1, 0)
    ]
    return as_type(np.stack(channels, -1), source.values.dtype)


def warp_points(source: PointFile, chain: Any, out: Path, grid: Grid | None) -> None:
    """Write points moved by the inverse, and warn of those for which it is a guess."""
    points, dims = source.points, chain.GetInputSpaceDimension()
    moved, found = undo_at_points(chain, points[:, :dims])
    inside = found & within_fields(chain, moved)
    if grid is not None:
        inside &= grid.contains(moved)
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
