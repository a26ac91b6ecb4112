"""The frame of an image: the grid on which networks see it, of stated spacing, wherever the image was taken.

A frame is a :class:`~.grid.Grid`. It lies along the axes of the body rather than those of the array, and its
affine may turn and mirror it: a network then sees the image turned or mirrored, and all that is found in the
frame has its right place in space all the same. An image that does not fill its frame is continued by the
values of its border.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from monai.networks.layers import gaussian_1d

from .alignment import apply_affine, best_affine
from .grid import Grid, Matrix
from .maps import identity_map
from .sampling import as_float32, sample

Box = tuple[slice, ...]


def frame_of(
    grid: Grid,
    spatial_size: Sequence[int],
    spacing: Sequence[float] | None = None,
    turn: Matrix | None = None,
    scale: float = 1.0,
    centre: Matrix | None = None,
) -> Grid:
    """Return a frame about the middle of an image.

    Args:
        grid: of the image, its axes ordered as those that the networks see.
        spatial_size: points of the frame along each axis.
        spacing: of the frame along each axis, mm. None for a frame that the image fills, stretched along
            each of its own axes.
        turn: directions of the frame's axes in those of the networks, as columns, ``[D, D]``, orthogonal: a
            turn and perhaps a mirroring of the network's view; None for none.
        scale: factor by which the frame is larger.
        centre: where its middle lies, ``[D]``, mm; None for that of the image.

    Raises:
        ValueError: for another number of axes.
    """
    dims = grid.dims
    if len(spatial_size) != dims or (spacing is not None and len(spacing) != dims):
        raise ValueError(
            f"Expected a size and a spacing of {dims} axes, got {list(spatial_size)} and {spacing}."
        )
    turn = np.eye(dims) if turn is None else np.asarray(turn, np.float64)
    if spacing is None:
        axes = grid.affine[:-1, :-1] / grid.spacing
        along = np.abs(turn).argmax(0)  # the axis of the image that lies along each of the frame's
        lengths = grid.spacing * np.maximum(np.array(grid.shape) - 1, 1)
        distances = lengths[along] / np.maximum(np.array(spatial_size) - 1, 1)
    else:
        axes, distances = body_axes(grid), np.asarray(spacing, np.float64)
    affine = np.eye(dims + 1)
    affine[:-1, :-1] = axes @ turn * distances * scale
    middle = grid.to_mm((np.array(grid.shape) - 1) / 2) if centre is None else centre
    affine[:-1, -1] = middle - affine[:-1, :-1] @ (np.array(spatial_size) - 1) / 2
    return Grid(tuple(spatial_size), affine)


def body_axes(grid: Grid) -> Matrix:
    """Return the axes of space, as signed columns, nearest to those of a grid, ``[D, D]``."""
    directions = grid.affine[:-1, :-1] / grid.spacing
    axes, left = np.zeros_like(directions), np.abs(directions)
    for _ in range(grid.dims):  # the nearest pair first, so that no axis is taken twice
        row, column = np.unravel_index(left.argmax(), left.shape)
        axes[row, column] = np.sign(directions[row, column])
        left[row], left[:, column] = -1, -1
    return axes


def content(image: torch.Tensor) -> Box:
    """Return the box that is left of an image without margins of one and the same value.

    Args:
        image: ``[C, *spatial]``.

    Returns:
        a slice for each axis; the whole axis where nothing is left, or no more than one point.
    """
    plain, box = as_float32(image), []
    for axis in range(1, plain.ndim):
        others = [each for each in range(1, plain.ndim) if each != axis]
        low, high = plain.amin(others), plain.amax(others)  # [C, size]
        ends = []
        for edge in (0, -1):  # an edge of one value, and all beside it that is no different
            inside = ((low != low[:, [edge]]) | (high != low[:, [edge]])).any(0).nonzero()
            ends.append(inside[edge].item() if len(inside) else (plain.shape[axis] - 1) * -edge)
        box.append(slice(ends[0], ends[1] + 1) if ends[0] < ends[1] else slice(0, plain.shape[axis]))
    return tuple(box)


def part(grid: Grid, box: Box) -> Grid:
    """Return the grid of a part of an image, a slice of step 1 for each axis."""
    affine = grid.affine.copy()
    affine[:-1, -1] = grid.to_mm(np.array([each.start for each in box], np.float64))
    return Grid(tuple(each.stop - each.start for each in box), affine)


def slabs(grid: Grid, points: int = 2**21) -> Iterator[Grid]:
    """Cut a grid along its first axis, so that what is computed at its points needs little memory at a time.

    Args:
        grid: of an image.
        points: at most, unless a single slice has more.

    Yields:
        its parts, in order.
    """
    rows, others = max(1, points // math.prod(grid.shape[1:])), [slice(0, size) for size in grid.shape[1:]]
    for start in range(0, grid.shape[0], rows):
        yield part(grid, (slice(start, min(start + rows, grid.shape[0])), *others))


def rearranged(image: torch.Tensor, grid: Grid, frame: Grid) -> torch.Tensor | None:
    """Return an image as it lies on a frame that has the points of its own grid in another order.

    Args:
        image: ``[C, *spatial]``.
        grid: of the image.
        frame: where to see it.

    Returns:
        ``[C, *frame.shape]``; None where the points are others.
    """
    steps = np.linalg.solve(grid.affine, frame.affine)[:-1, :-1]
    order = np.abs(steps).argmax(0)
    shape = tuple(grid.shape[axis] for axis in order)
    exact = np.zeros_like(steps)
    exact[order, range(grid.dims)] = np.sign(steps[order, range(grid.dims)])
    middles = [each.to_mm((np.array(each.shape) - 1) / 2) for each in (grid, frame)]
    apart = np.abs(middles[0] - middles[1]).max() / grid.spacing.min()
    if shape != frame.shape or np.abs(steps - exact).max() > 1e-6 or apart > 1e-6:
        return None
    flipped = [1 + axis for axis in range(grid.dims) if exact[order[axis], axis] < 0]
    return image.permute(0, *(1 + order).tolist()).flip(flipped)


def change_of_grid(grid: Grid, other: Grid) -> torch.Tensor:
    """Return the affine from fractions of a grid to those of another, ``[1, D + 1, D + 1]``, float64."""
    return torch.from_numpy(np.linalg.solve(other.extent, grid.extent))[None]


def see(image: torch.Tensor, grid: Grid, frame: Grid, mode: str = "linear") -> torch.Tensor:
    """Return an image as it lies on a frame, smoothed where the frame's points are farther apart.

    Args:
        image: ``[C, *spatial]``.
        grid: of the image.
        frame: on which to see it.
        mode: ``"linear"`` or ``"nearest"``; only what is interpolated is smoothed.

    Returns:
        ``[C, *frame.shape]``, float32.
    """
    plain = as_float32(image)[None]
    if mode == "linear":
        steps = np.linalg.solve(grid.affine[:-1, :-1], frame.affine[:-1, :-1])
        plain = _smoothed(plain, np.linalg.norm(steps, axis=1))
    points = apply_affine(
        change_of_grid(frame, grid).to(plain.device), identity_map(frame.shape, plain.device)
    )
    return sample(plain, points, mode)[0]


def _smoothed(image: torch.Tensor, factors: Matrix) -> torch.Tensor:
    """An image ``[1, C, *spatial]`` to be read at points so many of its own apart."""
    sigmas = np.maximum(factors - 1, 0) / 2  # as scikit-image and MONAI choose them
    for axis, sigma in enumerate(sigmas.tolist(), 2):
        if sigma < 1e-3:
            continue
        kernel, size = gaussian_1d(torch.tensor(sigma)).tolist(), image.shape[axis]
        reach = len(kernel) // 2
        # sums of shifted images: torch's convolutions with one channel take many times as long in 3D
        places = torch.arange(-reach, size + reach, device=image.device).clamp(0, size - 1)
        wide = image.index_select(axis, places)
        image = wide.narrow(axis, 0, size) * kernel[0]
        for start, weight in enumerate(kernel[1:], 1):
            image.add_(wide.narrow(axis, start, size), alpha=weight)
    return image


def on_images(
    phi: torch.Tensor, fixed_frame: Grid, fixed: Grid, moving_frame: Grid, moving: Grid
) -> torch.Tensor:
    """Return a map between frames as the map between the images themselves.

    Beyond the frame it goes on as in :class:`~.physical.PhysicalMap`, of which transforms are made: by the
    affine that is nearest to it, and what its border is displaced besides.

    Args:
        phi: ``[1, D, *spatial]``, in fractions of the frames, on any grid over the fixed frame.
        fixed_frame: the frame of the fixed image.
        fixed: grid of the fixed image.
        moving_frame: the frame of the moving image.
        moving: grid of the moving image.

    Returns:
        ``[1, D, *fixed.shape]``, in fractions of the images.
    """
    to_frame, to_image = (
        change_of_grid(*each).to(phi.device) for each in ((fixed, fixed_frame), (moving_frame, moving))
    )
    nearest, points = best_affine(phi), apply_affine(to_frame, identity_map(fixed.shape, phi.device))
    besides = phi - apply_affine(nearest, identity_map(phi.shape[2:], phi.device))
    return apply_affine(to_image, apply_affine(nearest, points) + sample(besides, points))
