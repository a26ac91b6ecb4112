"""Move images, labels, landmarks and contours by transforms from files: the command `warp`."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import itk
import numpy as np
from monai.data.utils import is_no_channel

from ..files import replacing
from ..spatial.itk_files import (
    Points,
    itk_image,
    read_transforms,
    resample,
    undo_at_points,
    within_fields,
)
from ..spatial.physical import Matrix, lps_affine
from .readers import given_spacing, read_image

IMAGE_SUFFIXES = (".nii.gz", ".nii", ".mha", ".nrrd", ".tif", ".tiff", ".png")
INTEGER_PICTURES = (".png",)  # hold 8 or 16 bits without sign, nothing else
Spacing = float | Sequence[float] | None
Rebuild = Callable[[Points, np.ndarray], bytes]


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
    contours of a onto b, too.

    Args:
        moving: an image or label; landmarks, as `.csv` with columns x, y[, z] in mm and LPS or as 3D Slicer's
            `.mrk.json`; or contours, as legacy `.vtk`.
        transform: ITK transform file or displacement field; several as a list, or separated by commas, the
            last one applied first.
        out: the file to write; its suffix chooses the format. Landmarks and contours keep theirs.
        fixed: the image on whose grid the result is wanted; needed for images.
        spacing: in mm, one number or one for each axis, for another resolution of that grid.
        label: take the nearest voxel instead of interpolating.
        moving_spacing: in mm, for an image that does not state it.
        fixed_spacing: in mm, for an image that does not state it.

    Raises:
        FileNotFoundError: naming every missing file.
        ValueError: for files that do not fit each other or cannot be read.
    """
    files = [str(path) for path in (moving, fixed) if path is not None]
    missing = [path for path in files if not Path(path).exists()]
    if missing:
        raise FileNotFoundError("Expected files that are not there: " + ", ".join(missing))
    chain = read_transforms(_paths(transform))
    grid = None if fixed is None else _grid(fixed, fixed_spacing, spacing)
    if grid is not None:
        _check_dims(chain, len(grid[0]), str(fixed))
    reader = next((read for suffix, read in POINT_FORMATS.items() if str(moving).endswith(suffix)), None)
    if reader is not None:
        _warp_points(Path(moving), reader, chain, Path(out), grid)
    elif grid is None:
        raise ValueError("Expected --fixed, the image whose grid the result takes, to move an image.")
    else:
        _warp_image(moving, chain, Path(out), grid, label, moving_spacing)


def _paths(value: str | Sequence[str]) -> list[str]:
    """Files of a list; the command line passes several as one text."""
    if isinstance(value, str):
        return [value] if Path(value).exists() else [path.strip() for path in value.split(",")]
    return [str(path) for path in value]


def _grid(path: str, known: Spacing, wanted: Spacing) -> tuple[tuple[int, ...], Matrix]:
    """Shape of an image's grid and its affine to mm in LPS; at another spacing over the same extent."""
    _, shape, matrix = _load(path, known)
    if wanted is None:
        return shape, matrix
    size, dims = np.array(shape), len(shape)
    spacing = np.linalg.norm(matrix[:-1, :-1], axis=0)
    factor = given_spacing(wanted, dims) / spacing
    # the outer faces of the grid stay where they are, as nearly as whole voxels allow
    new_size = np.maximum(np.rint(size / factor), 1).astype(int)
    first = (size - 1) / 2 - factor * (new_size - 1) / 2
    change = np.diag([*factor, 1.0])
    change[:-1, -1] = first
    return tuple(new_size.tolist()), matrix @ change


def _load(path: str, spacing: Spacing) -> tuple[np.ndarray, tuple[int, ...], Matrix]:
    """An image as an array `[*spatial, C]`, its spatial shape and its affine to mm in LPS."""
    array, meta = read_image(path, spacing)
    shape = tuple(meta["spatial_shape"].tolist())
    array = array[..., None] if is_no_channel(meta["original_channel_dim"]) else array
    return array, shape, lps_affine(meta["affine"], len(shape))


def _check_dims(chain: object, dims: int, what: str) -> None:
    of_transform = chain.GetInputSpaceDimension()  # type: ignore[attr-defined]
    if of_transform != dims:
        raise ValueError(
            f"Expected a transform of {dims} dimensions for {what}, got one of {of_transform}; "
            "take the transform that was made for such images."
        )


def _warp_image(
    path: str, chain: object, out: Path, grid: tuple[tuple[int, ...], Matrix], label: bool, spacing: Spacing
) -> None:
    array, shape, matrix = _load(path, spacing)
    _check_dims(chain, len(shape), path)
    suffix = next((each for each in IMAGE_SUFFIXES if out.name.lower().endswith(each)), None)
    if suffix is None:
        raise ValueError(f"Expected a file name with one of {IMAGE_SUFFIXES} to write an image, got {out}.")
    if suffix in INTEGER_PICTURES and array.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"A PNG cannot hold the values of {path} ({array.dtype}); write .nii.gz or .mha.")
    channels = [
        itk.array_from_image(resample(itk_image(channel, matrix), chain, *grid, nearest=label))
        for channel in np.moveaxis(array, -1, 0)
    ]
    values = np.stack(channels, -1)
    if np.issubdtype(array.dtype, np.integer):
        limits = np.iinfo(array.dtype)
        values = np.rint(values).clip(limits.min, limits.max).astype(array.dtype)
    several = len(channels) > 1
    image = itk.image_from_array(values if several else values[..., 0], is_vector=several)
    image.CopyInformation(itk_image(np.zeros(grid[0]), grid[1]))
    with replacing(out, suffix) as partial:
        itk.imwrite(image, str(partial))
    print(f"Wrote {out}, {' × '.join(map(str, grid[0]))} voxels.")


def _warp_points(
    path: Path,
    read: Callable[[Path], tuple[Points, Rebuild]],
    chain: object,
    out: Path,
    grid: tuple[tuple[int, ...], Matrix] | None,
) -> None:
    points, rebuild = read(path)
    dims = chain.GetInputSpaceDimension()  # type: ignore[attr-defined]
    if points.shape[1] < dims or (points.shape[1] > dims and np.ptp(points[:, dims:], axis=0).any()):
        _check_dims(chain, points.shape[1], str(path))
    moved, found = undo_at_points(chain, points[:, :dims])
    inside = found & within_fields(chain, moved)
    if grid is not None:
        index = (moved - grid[1][:-1, -1]) @ np.linalg.inv(grid[1][:-1, :-1]).T
        inside &= ((index > -0.5) & (index < np.array(grid[0]) - 0.5)).all(1)
    with replacing(out) as partial:
        partial.write_bytes(rebuild(np.c_[moved, points[:, dims:]], inside))
    outside = np.flatnonzero(~inside)
    print(f"Wrote {out}, {len(points)} points.")
    if len(outside):
        numbers = ", ".join(str(number + 1) for number in outside[:10]) + ", ..." * (len(outside) > 10)
        print(
            f"Warning: {len(outside)} of them lie outside of what was registered, or where the transform "
            f"has no inverse, and are only extrapolated: {numbers}."
        )


def _read_csv(path: Path) -> tuple[Points, Rebuild]:
    """Landmarks of a table with columns x, y and perhaps z; `inside`, 0 or 1, is added, the others stay."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ValueError(f"{path}: has no landmarks; give a header with x, y[, z] and a row for each.")
    names = {str(name).strip().lower(): name for name in rows[0]}
    if not {"x", "y"} <= names.keys():
        raise ValueError(f"{path}: expected columns x, y[, z] (mm, LPS), got {', '.join(map(str, rows[0]))}.")
    axes = [names[axis] for axis in "xyz" if axis in names]
    points, faults = [], []
    for number, row in enumerate(rows, 1):
        try:
            point = [float(row[axis]) for axis in axes]
        except (TypeError, ValueError):
            point = [np.nan]
        points.append(point)
        if not np.isfinite(point).all():
            faults.append(str(number))
    if faults:
        raise ValueError(f"{path}: landmarks without finite {', '.join(axes)}: {', '.join(faults)}.")

    def rebuild(moved: Points, inside: np.ndarray) -> bytes:
        file = io.StringIO(newline="")
        writer = csv.DictWriter(file, [*rows[0], *(["inside"] if "inside" not in rows[0] else [])])
        writer.writeheader()
        for row, point, flag in zip(rows, np.round(moved, 6).tolist(), inside.tolist(), strict=True):
            writer.writerow(row | dict(zip(axes, point, strict=True)) | {"inside": int(flag)})
        return file.getvalue().encode()

    return np.array(points), rebuild


def _read_vtk(path: Path) -> tuple[Points, Rebuild]:
    """Points of a legacy VTK file, ASCII or binary; all else in it, such as lines and polygons, stays.

    ITK's reader is not used: it writes closed contours wrongly, and cannot take version 5 of the format.
    """
    content = path.read_bytes()
    head = content.split(b"\n", 3)
    match = re.search(rb"^POINTS[ \t]+(\d+)[ \t]+(float|double)[ \t]*\r?\n", content, re.MULTILINE)
    if not content.startswith(b"# vtk DataFile") or len(head) < 4 or match is None:
        raise ValueError(f"{path}: expected a legacy VTK file with POINTS of type float or double.")
    binary = head[2].strip().upper() == b"BINARY"
    # 3D Slicer states its axes in the title
    signs = np.array([-1, -1, 1]) if b"SPACE=RAS" in head[1] else np.ones(3)
    count, dtype = 3 * int(match[1]), np.dtype(">f4" if match[2] == b"float" else ">f8")
    if binary:
        end = match.end() + count * dtype.itemsize
        values = np.frombuffer(content[match.end() : end], dtype)
    else:
        numbers = list(zip(range(count), re.finditer(rb"\S+", content[match.end() :]), strict=False))
        end = match.end() + (numbers[-1][1].end() if numbers else 0)
        values = np.array([float(number[0]) for _, number in numbers])
    if len(values) != count or not count:
        raise ValueError(f"{path}: expected {count // 3} points, more than none, got {len(values) // 3}.")

    def rebuild(moved: Points, _: np.ndarray) -> bytes:
        points = moved * signs
        body = (
            points.astype(dtype).tobytes()
            if binary
            else "\n".join(" ".join(f"{value:.9g}" for value in point) for point in points).encode()
        )
        return content[: match.end()] + body + content[end:]

    return values.reshape(-1, 3).astype(np.float64) * signs, rebuild


def _read_markups(path: Path) -> tuple[Points, Rebuild]:
    """Control points of 3D Slicer's markups; points that have not been placed are left alone."""
    content = json.loads(path.read_text(encoding="utf-8"))
    places = [
        (
            point,
            np.array([1.0, 1, 1] if str(markup.get("coordinateSystem")) in ("LPS", "1") else [-1.0, -1, 1]),
        )
        for markup in content.get("markups", ())
        for point in markup.get("controlPoints", ())
        if "position" in point
    ]
    if not places:
        raise ValueError(f"{path}: has no control points with a position.")

    def rebuild(moved: Points, _: np.ndarray) -> bytes:
        for (point, signs), position in zip(places, moved, strict=True):
            point["position"] = (position * signs).tolist()
        return (json.dumps(content, indent=4) + "\n").encode()

    return np.array([point["position"] * signs for point, signs in places]), rebuild


POINT_FORMATS = {".csv": _read_csv, ".vtk": _read_vtk, ".json": _read_markups}
