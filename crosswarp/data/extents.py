"""How large images are in mm, and the frame that holds them: the spacing and size of the networks' grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from nibabel.orientations import io_orientation
from numpy.typing import ArrayLike, NDArray

from ..spatial.grid import Grid
from .datalist import EXTENT, MAX_VOXELS

if TYPE_CHECKING:
    from .checks import FileFacts

LARGEST_GRID = {2: 256, 3: 128}  # default per axis: what a workstation's GPU trains comfortably
SMALLEST_GRID = {2: 32, 3: 16}  # per axis: what the networks can still halve four times
STEP = 16  # sizes are multiples of it
PERCENTILE = 95.0  # of the images' extents, which the frame holds
NEARLY_ISOTROPIC = 1.25  # axes whose spacings differ by no more than this factor get one spacing
ROUNDING = 1e-4  # of spacings as files store them
# No two images of one anatomy differ by more than this, in the same sense along all axes, and along one axis.
IMPLAUSIBLE, IMPOSSIBLE = 5.0, 50.0

Lengths = NDArray[np.float64]


def canonical_shape(grid: Grid) -> tuple[int, ...]:
    """Return the shape of an image brought to the axes of the networks, LP or RAS."""
    return tuple(int(size) for size in _canonical(grid, grid.shape))


def canonical_extent(grid: Grid) -> Lengths:
    """Return how long an image is along each axis of the networks, LP or RAS, in mm, ``[D]``."""
    return _canonical(grid, np.array(grid.shape) * grid.spacing)


def _canonical(grid: Grid, along_axes: ArrayLike) -> Lengths:
    values = np.asarray(along_axes, np.float64)
    result = np.empty_like(values)
    result[io_orientation(grid.affine)[:, 0].astype(int)] = values
    return result


def networks_grid(
    size: object,
    spacing: float | list[float] | str | None,
    dims: int,
    images: Sequence[FileFacts],
    training: Sequence[Sequence[FileFacts]],
) -> dict[str, Any]:
    """The keys `spatial_size` and `spacing` of a datalist; what was asked for is checked with the rest of it.

    Args:
        size: asked for, or None.
        spacing: asked for, in mm, `extent`, or None.
        dims: 2 or 3.
        images: all.
        training: the training images of each modality.
    """
    default = default_size(dims, [canonical_shape(image.grid) for image in images])
    wanted = default if size is None else _per_axis(size, dims)
    usable = [[image for image in some if image.grid.dims == dims] for some in training]
    stated = [[image for image in some if image.spacing_known] for some in usable]
    if spacing == EXTENT or not any(stated) or (spacing is None and stated != usable):
        given = {} if spacing in (None, EXTENT) else {"spacing": _per_axis(spacing, dims)}
        return {"spatial_size": wanted, **given}
    needed = needed_extent([[canonical_extent(image.grid) for image in some] for some in stated])
    if spacing is not None:
        lengths = _per_axis(spacing, dims)
        if size is None and len(lengths) == dims:
            wanted = fitting_size(needed, lengths)
        return {"spatial_size": wanted, "spacing": lengths}
    if size is None:
        chosen, lengths = choose_frame(needed, default)
        return {"spatial_size": chosen, "spacing": lengths}
    if len(wanted) == dims and all(_is_count(points) for points in wanted):
        return {"spatial_size": wanted, "spacing": choose_spacing(needed, wanted)}
    return {"spatial_size": wanted}


def default_size(dims: int, shapes: Sequence[Sequence[int]]) -> list[int]:
    """Return the median size of images, in multiples of 16, within what networks can take.

    Args:
        dims: 2 or 3.
        shapes: of the images, along the axes of the networks; of other dimensions do not count.
    """
    largest = LARGEST_GRID.get(dims, STEP)
    sizes = np.median([shape for shape in shapes if len(shape) == dims] or [(largest,) * dims], axis=0)
    return [int(np.clip(STEP * round(size / STEP), SMALLEST_GRID.get(dims, STEP), largest)) for size in sizes]


def needed_extent(modalities: Sequence[Sequence[Lengths]]) -> Lengths:
    """Return what a frame has to hold: of each axis the 95th percentile, of the modality where it is larger.

    Args:
        modalities: for each, the extents of its images in mm, ``[D]``; those without images do not count.
    """
    return np.max([np.percentile(extents, PERCENTILE, axis=0) for extents in modalities if len(extents)], 0)


def choose_spacing(needed: Lengths, size: Sequence[int]) -> list[float]:
    """Return the spacing of a grid of a given size that holds an extent, in three significant digits.

    Args:
        needed: in mm, ``[D]``.
        size: points along each axis.
    """
    return [_rounded_up(length / points) for length, points in zip(needed, size, strict=True)]


def choose_frame(needed: Lengths, size: Sequence[int]) -> tuple[list[int], list[float]]:
    """Return size and spacing of a grid that holds an extent, isotropic where that costs little.

    Where the spacings of the axes are within 25 % of each other, all get the largest of them, and no more
    points, in multiples of 16, than they need then.

    Args:
        needed: in mm, ``[D]``.
        size: points along each axis that the grid is to have about, the most that it gets.
    """
    spacing = choose_spacing(needed, size)
    if max(spacing) > NEARLY_ISOTROPIC * min(spacing):
        return list(size), spacing
    spacing = [max(spacing)] * len(size)
    return fitting_size(needed, spacing, size), spacing


def fitting_size(
    needed: Lengths, spacing: Sequence[float], largest: Sequence[int] | None = None
) -> list[int]:
    """Return the size of the grid of a given spacing that holds an extent, in multiples of 16.

    Args:
        needed: in mm, ``[D]``.
        spacing: in mm, of each axis.
        largest: points along each axis that it may have; by default what networks can take.
    """
    if largest is None:
        largest = [LARGEST_GRID[len(needed)]] * len(needed)
    with np.errstate(over="ignore"):  # of a spacing next to nothing
        points = np.asarray(needed) * (1 - ROUNDING) / spacing
    return np.clip(STEP * np.ceil(points / STEP), SMALLEST_GRID[len(needed)], largest).astype(int).tolist()


def holds(size: Sequence[int], spacing: Sequence[float], extent: Lengths) -> bool:
    """Return whether a frame is at least as large as an image along every axis."""
    with np.errstate(over="ignore"):
        return bool((extent * (1 - ROUNDING) <= np.multiply(size, spacing)).all())


def typical_extent(extents: Sequence[Lengths]) -> Lengths:
    """Return the median of extents in mm, ``[D]``; of two, their geometric mean, which blames neither."""
    return np.exp(np.median(np.log(extents), axis=0))


def is_plausible(extent: Lengths, typical: Lengths) -> bool:
    """Return whether two images can be of one anatomy by their extents in mm, ``[D]``.

    They are not where one is more than 5 times as large as the other along all axes, or 50 times along one:
    whole legs may be compared with knees and slabs with volumes, and micrometres with millimetres may not.
    """
    ratio = np.maximum(extent, np.finfo(float).tiny) / typical
    all_axes = (ratio > IMPLAUSIBLE).all() or (ratio < 1 / IMPLAUSIBLE).all()
    return not (all_axes or (ratio > IMPOSSIBLE).any() or (ratio < 1 / IMPOSSIBLE).any())


def in_mm(lengths: Sequence[float] | Lengths) -> str:
    """Return lengths in words, in four digits."""
    return " x ".join(f"{length:.4g}" for length in lengths) + " mm"


def _rounded_up(length: float) -> float:
    """A length in three significant digits, no smaller but for what files round off."""
    unit = 10.0 ** (np.floor(np.log10(length)) - 2)
    return float(f"{np.ceil(length * (1 - ROUNDING) / unit) * unit:.3g}")


def _per_axis(wanted: object, dims: int) -> list[Any]:
    """What is asked for each axis; one value alone is for all of them."""
    return list(wanted) if isinstance(wanted, (list, tuple)) else [wanted] * dims


def _is_count(points: object) -> bool:
    return isinstance(points, int) and not isinstance(points, bool) and 0 < points <= MAX_VOXELS
