"""Landmarks of an image: a table of points in mm."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..wording import printable, shown
from .tables import Table, read_table

AXES = "xyz"
NAMES = ("name", "label")
MOST_FAULTS = 10  # that are listed
FLAT = 1e-3  # mm by which points of one plane may differ in height, by rounding


def landmark_table(path: str | Path, spatial_dims: int | None = None) -> tuple[Table, NDArray[np.float64]]:
    """Read a table of landmarks: all that is read of landmarks in tables is read here.

    Args:
        path: see :func:`~.tables.read_table`; columns ``x``, ``y`` and, in 3D, ``z``, and any others.
        spatial_dims: 2 or 3; None for 3 where there is a column ``z`` that is not empty.

    Returns:
        the table, and its points ``[N, D]``.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: for missing columns, and coordinates that are not finite numbers: all rows in one message.
    """
    table, points, faults = _read(path, spatial_dims)
    _refuse(path, faults)
    return table, points


def read_landmarks(path: str | Path, spatial_dims: int) -> dict[str, NDArray[np.float64]]:
    """Read the landmarks of an image.

    The first line names the columns: ``x``, ``y`` and in 3D ``z``, mm in LPS (the world of ITK, ANTs and
    DICOM), and, if there is one, ``name`` or ``label``. Other columns are passed over. The landmarks of two
    images correspond by name or, without names, by their order.

    Args:
        path: see :func:`~.tables.read_table`.
        spatial_dims: 2 or 3.

    Returns:
        name (or number, from 1 on) -> point ``[D]``, in the order of the file.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: for missing columns, coordinates that are not finite numbers, or a name given twice:
            all faults of the file in one message; in 2D also for points that differ in ``z``, as of a
            sagittal slice in space.
    """
    table, found, faults = _read(path, spatial_dims)
    if spatial_dims == 2 and "z" in table.columns and np.ptp(_heights(table)) > FLAT:
        raise ValueError(
            f"{path}: z differs from row to row, so these are points in space; landmarks of a 2D image have "
            "x and y in the plane of the image, as crosswarp lays it: convert them, and remove z"
        )
    name_column = next((name for name in NAMES if name in table.columns), None)
    points: dict[str, NDArray[np.float64]] = {}
    for number, (row, point) in enumerate(zip(table.rows, found, strict=True), 1):
        name = (row.cells[name_column] if name_column else "") or str(number)
        if name in points:
            faults.setdefault(row.number, f"the name {printable(name)} stands twice; names must differ")
        points.setdefault(name, point)
    _refuse(path, faults)
    return points


def _read(path: str | Path, spatial_dims: int | None) -> tuple[Table, NDArray[np.float64], dict[int, str]]:
    """The table, its points, and what is wrong with the numbers of which row."""
    table = read_table(path, AXES[: spatial_dims or 2])
    if spatial_dims is None:
        spatial_dims = 3 if any(row.cells.get("z") for row in table.rows) else 2
    axes = AXES[:spatial_dims]
    points = table.numbers(axes)
    faults = {
        row.number: f"expected {spatial_dims} numbers, got {shown([row.cells[axis] for axis in axes])}"
        for row, point in zip(table.rows, points, strict=True)
        if not np.isfinite(point).all()
    }
    return table, points, faults


def _heights(table: Table) -> NDArray[np.float64]:
    """What stands in the column ``z``, as far as it is numbers; 0 without any."""
    heights = table.numbers("z")
    return heights[np.isfinite(heights)] if np.isfinite(heights).any() else np.zeros(1)


def _refuse(path: str | Path, faults: Mapping[int, str]) -> None:
    if faults:
        lines = [f"row {number}: {faults[number]}" for number in sorted(faults)]
        more = [f"and {len(lines) - MOST_FAULTS} more rows"] * (len(lines) > MOST_FAULTS)
        raise ValueError("\n- ".join([f"{path}: correct these rows:", *lines[:MOST_FAULTS], *more]))
