"""Landmarks of an image: a CSV file of points in mm."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

AXES = "xyz"
NAMES = ("name", "label")


def read_landmarks(path: str | Path, spatial_dims: int) -> dict[str, NDArray[np.float64]]:
    """Read the landmarks of an image.

    The first line names the columns: ``x``, ``y`` and in 3D ``z``, mm in LPS (the world of ITK, ANTs and
    DICOM), and, if there is one, ``name`` or ``label``. Other columns are passed over. The landmarks of two
    images correspond by name or, without names, by row.

    Args:
        path: the CSV file.
        spatial_dims: 2 or 3.

    Returns:
        name (or number of the row, from 1 on) -> point ``[D]``, in the order of the file.

    Raises:
        ValueError: for missing columns, coordinates that are not finite numbers, or a name given twice:
            all faults of the file in one message.
    """
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        columns = {(column or "").strip().lower(): column for column in reader.fieldnames or ()}
        missing = [axis for axis in AXES[:spatial_dims] if axis not in columns]
        if missing:
            raise ValueError(
                f"{path}: expected the columns {', '.join(AXES[:spatial_dims])} (mm, LPS) and perhaps a "
                f"name, got {list(columns)}: name the columns in the first line."
            )
        name_column = next((columns[name] for name in NAMES if name in columns), None)
        points: dict[str, NDArray[np.float64]] = {}
        faults = []
        for number, row in enumerate(reader, 1):
            name = (row[name_column] or "").strip() if name_column else ""
            name = name or str(number)
            texts = [row[columns[axis]] for axis in AXES[:spatial_dims]]
            try:
                point = np.array([float(text) for text in texts])
            except (TypeError, ValueError):
                point = np.array([np.nan])
            if not np.isfinite(point).all():
                faults.append(f"row {number}: expected {spatial_dims} numbers, got {texts}")
            elif name in points:
                faults.append(f"row {number}: the name {name!r} stands twice; names must differ")
            else:
                points[name] = point
    if faults:
        raise ValueError("\n".join([f"{path}: correct these rows:", *(f"- {fault}" for fault in faults)]))
    return points
