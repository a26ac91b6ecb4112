"""The command `warp`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

Spacing = float | Sequence[float] | None
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
        out: the file to write, or to replace; its suffix chooses the format. Landmarks and contours keep
            theirs.
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
    from ..data.points import READERS, PointFile
    from ..data.voxels import writing_faults
    from ..inference.warping import dims_faults, grid_of, read_image, warp_image, warp_points
    from ..spatial.itk import read_transforms

    transforms = _paths(transform)
    inputs = [str(path) for path in (moving, fixed, *transforms) if path is not None]
    if missing := [path for path in inputs if not Path(path).exists()]:
        raise FileNotFoundError("Expected files that are not there: " + ", ".join(missing))
    faults = _out_faults(Path(out), inputs)
    read_points = next(
        (read for suffix, read in READERS.items() if str(moving).lower().endswith(suffix)), None
    )
    chain = _tried(faults, read_transforms, transforms)
    grid = None if fixed is None else _tried(faults, grid_of, fixed, fixed_spacing, spacing)
    source: Any
    if read_points is not None:
        source = _tried(faults, read_points, Path(moving))
        if Path(out).suffix.lower() != Path(moving).suffix.lower():
            faults.append(f"Expected {out} to have the suffix of {moving}, whose format points keep.")
    else:
        source = _tried(faults, read_image, moving, moving_spacing)
        if fixed is None:
            faults.append("Expected --fixed, the image whose grid the result takes, to move an image.")
        if source is not None:
            faults += writing_faults(source, (grid or source.grid).shape, out)
    if chain is not None:
        faults += dims_faults(chain, source, str(moving), grid, str(fixed))
    if faults:
        raise ValueError("\n- ".join(["Nothing was computed:", *faults]) if len(faults) > 1 else faults[0])
    if isinstance(source, PointFile):
        warp_points(source, chain, Path(out), grid)
    elif grid is not None:
        warp_image(source, chain, Path(out), grid, label)


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
