"""Images on the grid that the networks see."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform
from monai.utils import MetaKeys

from ..spatial.frame import Box, content, frame_of, part, see
from ..spatial.grid import Grid, Matrix
from ..spatial.pose import mirroring
from .datalist import SIDES

FRAMES = ("moving_input", "fixed_input")  # of an item: the images of a pair as the networks see them


def in_mm(image: MetaTensor, spacing: Sequence[float] | None) -> bool:
    """Return whether an image is seen in a frame of stated size, rather than in its whole extent."""
    return spacing is not None and bool(image.meta.get("spacing_known", True))


def frame_of_image(
    image: MetaTensor,
    spatial_size: Sequence[int],
    spacing: Sequence[float] | None = None,
    turn: Matrix | None = None,
    scale: float = 1.0,
    centre: Matrix | None = None,
) -> Grid:
    """Return the frame in which networks see an image: about its middle, if no other centre is given.

    Args:
        image: ``[C, *spatial]``, its axes ordered as those of the networks; see :func:`shown`.
        spatial_size: points of the frame along each axis.
        spacing: mm along each axis; None, or an image that does not state its own, for its whole extent.
        turn: see :func:`~crosswarp.spatial.frame.frame_of`, as all else.
        scale: factor by which the frame is larger.
        centre: where its middle lies, ``[D]``, mm.
    """
    spacing = spacing if in_mm(image, spacing) else None
    return frame_of(Grid.of(image), spatial_size, spacing, turn, scale, centre)


def shown(image: MetaTensor, spacing: Sequence[float] | None) -> Box:
    """Return the part of an image that is looked at: no margins of one value, where lengths are known."""
    whole = tuple(slice(0, size) for size in image.shape[1:])
    return content(image) if in_mm(image, spacing) else whole


def only_in(label: torch.Tensor, box: Box) -> torch.Tensor:
    """Return what is found of an image, ``[C, *spatial]``, and 0 where that shows nothing."""
    found = torch.zeros_like(label)
    inside = (slice(None), *box)
    found[inside] = label[inside]
    return found


def cut(image: MetaTensor, box: Box) -> MetaTensor:
    """Return a part of an image ``[C, *spatial]``, in its place."""
    grid = part(Grid.of(image), box)
    return MetaTensor(
        image.as_tensor()[(slice(None), *box)],
        meta={**image.meta, MetaKeys.AFFINE: torch.from_numpy(grid.ras)},
        applied_operations=image.applied_operations,
    )


def on_frame(image: MetaTensor, frame: Grid, mode: str = "linear") -> MetaTensor:
    """Return an image as it lies on a frame, with the affine of that."""
    seen = see(image, Grid.of(image), frame, mode)
    meta = {**image.meta, MetaKeys.AFFINE: torch.from_numpy(frame.ras)}
    return MetaTensor(seen, meta=meta, applied_operations=image.applied_operations)


class Framed(MapTransform, InvertibleTransform):
    """Show images on the networks' grid: of a spacing in mm, about the middle of what the first one shows.

    Nothing is stretched: what does not fill the frame is continued by its border, and what does not fit is
    left out. Margins of one value show nothing. Without a spacing, and for files that do not state theirs,
    the whole extent is stretched onto the grid instead. Images are smoothed where the grid is coarser.
    Inverted, the frame comes back onto the image's own grid, and is 0 where that shows nothing.

    Args:
        keys: images ``[C, *spatial]`` on one grid, whose axes are ordered as the networks have them.
        spatial_size: points along each axis.
        spacing: mm along each axis; None for the whole extent.
        mirrored_side: ``"left"`` or ``"right"``: images whose record says this ``side`` are mirrored, so that
            the networks see but one side; None to leave all as they are.
        modes: ``"linear"`` or ``"nearest"``.
        allow_missing_keys: leave out images that an item lacks.
    """

    def __init__(
        self,
        keys: KeysCollection,
        spatial_size: Sequence[int],
        spacing: Sequence[float] | None = None,
        mirrored_side: str | None = None,
        modes: str = "linear",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if mirrored_side not in (None, *SIDES):
            raise ValueError(f"Expected a mirrored_side of {SIDES}, or null for none, got {mirrored_side!r}.")
        self.spatial_size, self.spacing = list(spatial_size), None if spacing is None else list(spacing)
        self.mirrored_side, self.modes = mirrored_side, modes

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Show the images of an item on their frame."""
        result, frame = dict(data), None
        box: Box = ()
        for key in self.key_iterator(result):
            image = result[key]
            if frame is None:
                mirrored = self.mirrored_side is not None and result.get("side") == self.mirrored_side
                turn = mirroring(image.ndim - 1) if mirrored else None
                box = shown(image, self.spacing)
                frame = frame_of_image(cut(image, box), self.spatial_size, self.spacing, turn)
            result[key] = on_frame(cut(image, box), frame, self.modes)
            own = {"shape": tuple(image.shape[1:]), "affine": np.asarray(image.affine).tolist()}
            own["box"] = [[each.start, each.stop] for each in box]
            self.push_transform(result[key], extra_info=own)
        return result

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Bring images of an item back onto the grid that they had; beyond the frame its border goes on."""
        result = dict(data)
        for key in self.key_iterator(result):
            own = self.pop_transform(result[key])["extra_info"]
            grid = Grid.from_ras(own["affine"], own["shape"])
            box = tuple(slice(*ends) for ends in own["box"])
            result[key] = only_in(on_frame(result[key], grid, self.modes), box)
        return result
