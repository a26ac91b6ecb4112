"""Files of points, landmarks and contours: their positions are read and replaced, all else stays as it is."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..files import read_bounded
from ..spatial.grid import Points
from ..wording import printable
from .landmarks import AXES, landmark_table

MAX_BYTES = 256 * 2**20
AXES_TO_LPS = {"LPS": (1, 1, 1), "1": (1, 1, 1), "RAS": (-1, -1, 1), "0": (-1, -1, 1)}  # numbers: Slicer's
PLACED = "2"  # of 3D Slicer's numbers of what has become of a point
# all of these are where their control points are; a plane or a box has a centre, axes and a size besides,
# and is none any more after a transform that bends
MARKUPS = ("Fiducial", "Line", "Angle", "Curve", "ClosedCurve")


@dataclass(frozen=True)
class PointFile:
    """A file of points.

    Attributes:
        points: ``[N, D]``, mm in LPS, finite, at least one.
        rebuild: the file with other points, given with whether each lies inside of what was registered.
    """

    points: Points
    rebuild: Callable[[Points, np.ndarray], bytes]


def read_csv(path: Path) -> PointFile:
    """Landmarks of a table; a column ``inside``, 0 or 1, is added, the others stay.

    The result is in UTF-8, with commas between cells and decimal points, whatever the table had.
    """
    table, points = landmark_table(path)

    def rebuild(moved: Points, inside: np.ndarray) -> bytes:
        file = io.StringIO(newline="")
        writer = csv.writer(file)
        columns = dict.fromkeys([*table.columns, "inside"])
        writer.writerow([table.columns.get(column, column) for column in columns])
        for row, point, flag in zip(table.rows, np.round(moved, 6).tolist(), inside.tolist(), strict=True):
            cells = row.cells | dict(zip(AXES, point, strict=False)) | {"inside": int(flag)}
            writer.writerow([cells[column] for column in columns])
        return file.getvalue().encode()

    return PointFile(points, rebuild)


def read_fcsv(path: Path) -> PointFile:
    """3D Slicer's fiducials of before 2020, whose header states columns and axes."""
    text = _text(path, "3D Slicer's fiducials (.fcsv)")
    stated = dict(re.findall(r"^#[ \t]*(\w+)[ \t]*=[ \t]*(.*?)[ \t]*\r?$", text, re.MULTILINE))
    signs = _signs(path, stated.get("CoordinateSystem"))
    columns = stated.get("columns", "").split(",")
    if not set(AXES) <= set(columns):
        raise ValueError(f"{path}: expected a line `# columns = id,x,y,z,...` of 3D Slicer's fiducials.")
    where = [columns.index(axis) for axis in AXES]
    lines = text.splitlines(keepends=True)
    rows, points, faults = {}, [], []
    for number, line in enumerate(lines):
        if line.startswith("#") or not line.strip():
            continue
        cells = next(csv.reader([line.rstrip("\r\n")]))
        if len(cells) > 14 and cells[14] != PLACED:  # behind the columns that are named
            continue
        rows[number] = cells
        points.append(_position([cells[place] for place in where if place < len(cells)]))
        if points[-1] is None:
            faults.append(number + 1)
    _refuse_positions(path, faults, len(points), "lines")

    def rebuild(moved: Points, _: np.ndarray) -> bytes:
        for (number, cells), point in zip(rows.items(), (moved * signs).tolist(), strict=True):
            for place, value in zip(where, point, strict=True):
                cells[place] = f"{value:.6f}"
            file = io.StringIO(newline="")
            csv.writer(file, lineterminator="\n").writerow(cells)
            lines[number] = file.getvalue()
        return "".join(lines).encode()

    return PointFile(np.array(points) * signs, rebuild)


def read_markups(path: Path) -> PointFile:
    """3D Slicer's markups; points that have not been placed are left alone, what was measured is left out."""
    try:
        content = json.loads(_text(path, "3D Slicer's markups (.mrk.json)"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is no JSON that can be read ({printable(str(error), 160)}).") from error
    markups = content.get("markups") if isinstance(content, dict) else None
    if not isinstance(markups, list) or not all(isinstance(markup, dict) for markup in markups):
        raise ValueError(f"{path}: expected 3D Slicer's markups, an object with a list `markups`.")
    places = [place for markup in markups for place in _control_points(path, markup)]
    positions = [_position(point["position"]) for point, _ in places]
    faults = [number for number, position in enumerate(positions, 1) if position is None]
    _refuse_positions(path, faults, len(places), "control points")

    def rebuild(moved: Points, _: np.ndarray) -> bytes:
        for (point, signs), position in zip(places, moved, strict=True):
            point["position"] = (position * signs).tolist()
        for markup in markups:
            markup.pop("measurements", None)  # lengths and angles of before; Slicer measures anew
        return (json.dumps(content, indent=4) + "\n").encode()

    signs = np.array([each for _, each in places])
    return PointFile(np.array(positions) * signs, rebuild)


def _control_points(path: Path, markup: dict[str, Any]) -> list[tuple[dict[str, Any], Any]]:
    """The points of a markup that have been placed, and the signs that lead to LPS."""
    kind = markup.get("type", "Fiducial")
    if kind not in MARKUPS:
        raise ValueError(
            f"{path}: has a markup of type {printable(kind)}; only {', '.join(MARKUPS)} are where their "
            "points are and can be moved: give the points that matter as Fiducial, or a box as a label image."
        )
    units = markup.get("coordinateUnits", "mm")
    if units not in ("mm", ["mm"]) and not (isinstance(units, list) and units[:1] == ["mm"]):
        raise ValueError(f"{path}: expected coordinates in mm, got {printable(units)}; convert them.")
    signs = _signs(path, markup.get("coordinateSystem", "LPS"))
    points = markup.get("controlPoints", [])
    if not isinstance(points, list) or not all(isinstance(point, dict) for point in points):
        raise ValueError(f"{path}: expected a list of objects as controlPoints.")
    return [
        (point, signs)
        for point in points
        if "position" in point and point.get("positionStatus", "defined") == "defined"
    ]


def read_vtk(path: Path) -> PointFile:
    """Points of a legacy VTK file, ASCII or binary; all else in it, such as lines and polygons, stays.

    ITK's reader is not used: it writes closed contours wrongly, and cannot take version 5 of the format.
    """
    content = read_bounded(path, MAX_BYTES, "a contour (.vtk)")
    head = content[:1024].split(b"\n", 3)
    match = re.search(
        rb"^POINTS[ \t]+(\d{1,12})[ \t]+(\w+)[ \t]*\r?\n", content, re.MULTILINE | re.IGNORECASE
    )
    if not content.startswith(b"# vtk DataFile") or len(head) < 4 or match is None:
        raise ValueError(f"{path}: expected a legacy VTK file with POINTS of type float or double.")
    form, kind = head[2].strip().upper(), match[2].lower()
    if kind not in (b"float", b"double") or form not in (b"ASCII", b"BINARY"):
        raise ValueError(
            f"{path}: expected POINTS of type float or double, ASCII or BINARY, got "
            f"{printable(kind.decode('latin-1'))}, {printable(form.decode('latin-1'))}."
        )
    # 3D Slicer states its axes in the title; otherwise they are those of ITK
    space = re.search(rb"SPACE=(\w+)", head[1])
    signs = _signs(path, space[1].decode() if space else "LPS")
    count, dtype = 3 * int(match[1]), np.dtype(">f4" if kind == b"float" else ">f8")
    if form == b"BINARY":
        end = match.end() + count * dtype.itemsize
        values = np.frombuffer(content[match.end() : end], np.uint8)
        values = values[: len(values) // dtype.itemsize * dtype.itemsize].view(dtype)
    else:
        found = re.finditer(rb"\S+", content[match.end() :])
        numbers = [number for _, number in zip(range(count), found, strict=False)]
        end = match.end() + (numbers[-1].end() if numbers else 0)
        values = np.array([_number(number[0]) for number in numbers])
    if len(values) != count or not count:
        raise ValueError(f"{path}: expected {count // 3} points, more than none, got {len(values) // 3}.")
    points = values.reshape(-1, 3).astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(points).all(1)) + 1
    _refuse_positions(path, bad.tolist(), len(points), "points")

    def rebuild(moved: Points, _: np.ndarray) -> bytes:
        points = moved * signs
        body = (
            points.astype(dtype).tobytes()
            if form == b"BINARY"
            else "\n".join(" ".join(f"{value:.9g}" for value in point) for point in points).encode()
        )
        return content[: match.end()] + body + content[end:]

    return PointFile(points * signs, rebuild)


READERS = {
    ".csv": read_csv,
    ".tsv": read_csv,
    ".fcsv": read_fcsv,
    ".json": read_markups,
    ".vtk": read_vtk,
}


def _text(path: Path, what: str) -> str:
    content = read_bounded(path, MAX_BYTES, what)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _signs(path: Path, system: object) -> np.ndarray:
    """What to multiply coordinates with so that they are in LPS."""
    if not isinstance(system, (str, int)) or str(system).upper() not in AXES_TO_LPS:
        raise ValueError(
            f"{path}: expected a coordinate system, LPS or RAS, got "
            f"{'none' if system is None else printable(str(system))}; state which one it is."
        )
    return np.array(AXES_TO_LPS[str(system).upper()], np.float64)


def _number(text: object) -> float:
    try:
        return float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return float("nan")


def _position(values: object) -> list[float] | None:
    """Three finite numbers, or None."""
    if not isinstance(values, list) or len(values) != 3 or any(isinstance(each, bool) for each in values):
        return None
    numbers = [_number(each) for each in values]
    return numbers if np.isfinite(numbers).all() else None


def _refuse_positions(path: Path, faults: list[int], count: int, what: str) -> None:
    if not count:
        raise ValueError(f"{path}: has no {what} with a position that was placed.")
    if faults:
        listed = ", ".join(map(str, faults[:10])) + ", ..." * (len(faults) > 10)
        raise ValueError(f"{path}: {what} without three finite coordinates: {listed}.")
