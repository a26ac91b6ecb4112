"""What a file states of its image, before any convention is laid over it, and the bounds of what is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

MAX_BYTES = 2 << 30  # of voxels as stored; larger images are refused before they are decoded


class UnfitFileError(ValueError):
    """A file that holds no single image in space, with the reason and the remedy."""


@dataclass
class Stored:
    """An image as its file states it.

    Attributes:
        array: `[*spatial]` or, with `has_channels`, `[*spatial, C]`; the first axis is x.
        affine: indices to mm in RAS, `[4, 4]`.
        spacing_stated: whether the file surely says how large its voxels are.
        place_stated: whether it says where they lie: origin and directions.
        has_channels: whether the last axis of the array is that of channels.
        side: ``left`` or ``right`` where the file states the side of the body.
        note: what contradicts itself in the file, in words, or "".
    """

    array: np.ndarray
    affine: np.ndarray
    spacing_stated: bool
    place_stated: bool
    has_channels: bool = False
    side: str | None = None
    note: str = ""


def check_size(path: str | Path, size: int) -> None:
    """Refuse what would take too much memory, before it is decoded.

    Args:
        path: for the message.
        size: of the voxels as the header states them, in bytes.

    Raises:
        UnfitFileError: beyond `MAX_BYTES`.
    """
    if size > MAX_BYTES:
        raise UnfitFileError(
            f"{path}: its header states {size / 2**30:,.1f} GiB of voxels, at most {MAX_BYTES / 2**30:g} GiB "
            "are read; repair the header, or crop or resample the image"
        )
