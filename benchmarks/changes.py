"""What befalls pictures on their way to a registration, done to an image and its manual label alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from common import ROOT  # noqa: F401  makes `crosswarp` known
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImaged, Orientationd
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from crosswarp.data import LabelOnImaged
from crosswarp.data.readers import AnyFormatReader
from crosswarp.spatial.grid import Grid

Array = NDArray[Any]
Random = np.random.Generator


@dataclass(frozen=True)
class Picture:
    """An image with its manual label, its axes as the networks see them: the last one down or up the body.

    Attributes:
        image: `[C, *spatial]`, float32.
        label: `[*spatial]`, class of every point.
        grid: where it lies by its header.
        placed: whether it says so; if not, it is handed over as a plain array.
        shown: where it shows what the original did, `[*spatial]`; None for everywhere. Elsewhere it is
            continued, and no label is right or wrong.
    """

    image: Array
    label: Array
    grid: Grid
    placed: bool = True
    shown: Array | None = None

    @property
    def own_grid(self) -> Grid:
        """Where a registrar takes it to lie."""
        return self.grid if self.placed else Grid(self.grid.shape, np.eye(self.grid.dims + 1))

    def given(self) -> Any:
        """The image as a user hands it over."""
        if not self.placed:
            return self.image
        return MetaTensor(torch.from_numpy(self.image), affine=torch.from_numpy(self.grid.ras))


def read_pictures(records: Sequence[Mapping[str, str]], dims: int) -> list[Picture]:
    """The images of records with labels, each brought to the axes of the networks."""
    keys = ["image", "label"]
    read = Compose(
        [
            LoadImaged(keys, AnyFormatReader, image_only=True, ensure_channel_first=True),
            LabelOnImaged("label", "image"),
            Orientationd(keys, axcodes="LP" if dims == 2 else "RAS", labels=None),
        ]
    )
    pictures = []
    for record in records:
        item = read({key: record[key] for key in keys})
        image, label = (np.ascontiguousarray(item[key].as_tensor().numpy()) for key in keys)
        placed = bool(item["image"].meta["spacing_known"])
        pictures.append(
            Picture(image.astype(np.float32), label[0].astype(np.uint8), Grid.of(item["image"]), placed)
        )
    return pictures


def onto(picture: Picture, places: Grid, header: Grid | None = None) -> Picture:
    """What a picture shows at the points of a grid, smoothed where they are farther apart.

    Args:
        picture: continued by its border.
        places: where to look.
        header: where the result says that it lies; there if None.
    """
    index = np.linalg.solve(picture.grid.affine, places.affine)  # of the new points in the old array
    points = np.tensordot(index[:-1, :-1], np.indices(places.shape), 1)
    points += index[:-1, -1].reshape(-1, *[1] * places.dims)
    points = points.round(9)  # a whole number is one

    def looked_up(values: Array) -> Array:
        return map_coordinates(values.astype(np.float64), points, order=1, mode="nearest")

    blur = np.maximum(np.linalg.norm(index[:-1, :-1], axis=1) - 1, 0) / 2
    channels = [looked_up(gaussian_filter(each, blur, mode="nearest")) for each in picture.image]
    classes = [looked_up(picture.label == k) for k in range(int(picture.label.max()) + 1)]
    ends = np.reshape(picture.grid.shape, (-1, *[1] * places.dims)) - 0.5
    return replace(
        picture,
        shown=np.asarray(((points >= -0.5) & (points <= ends)).all(0)),
        image=np.stack(channels).astype(np.float32),
        label=np.argmax(classes, 0).astype(np.uint8),
        grid=header or places,
    )


def about_the_middle(grid: Grid, degrees: float, cover: bool = False) -> Grid:
    """A grid turned in the plane of its first and last axis.

    Args:
        grid: to turn.
        degrees: from the first axis to the last.
        cover: as large as it must be to cover all of the grid.
    """
    middle = grid.to_mm((np.array(grid.shape) - 1) / 2)
    angle, turn = np.deg2rad(degrees), np.eye(grid.dims)
    turn[[0, -1], [0, -1]], turn[0, -1], turn[-1, 0] = np.cos(angle), -np.sin(angle), np.sin(angle)
    turn = grid.direction @ turn @ grid.direction.T
    affine = grid.affine.copy()
    affine[:-1, :-1] = turn @ affine[:-1, :-1]
    affine[:-1, -1] = turn @ (affine[:-1, -1] - middle) + middle
    turned = Grid(grid.shape, affine)
    if not cover:
        return turned
    corners = grid.to_mm(np.array(list(np.ndindex(*[2] * grid.dims))) * (np.array(grid.shape) - 1))
    index = turned.to_index(corners).round(6)
    first, last = np.floor(index.min(0)), np.ceil(index.max(0))
    return Grid(tuple((last - first + 1).astype(int)), moved(affine, first))


def moved(affine: Array, start: Sequence[float] | Array) -> Array:
    """The affine of an array that starts at another index."""
    result = affine.copy()
    result[:-1, -1] = affine[:-1, :-1] @ np.asarray(start, np.float64) + affine[:-1, -1]
    return result


def as_it_is(picture: Picture, rng: Random) -> Picture:
    """Nothing."""
    return picture


def cut(first: float, last: float | None = None) -> Change:
    """The middle, such a share of the first and the last axis; of all axes, if one share is given."""

    def change(picture: Picture, rng: Random) -> Picture:
        shape = np.array(picture.grid.shape)
        shares = np.full(len(shape), first if last is None else 1.0)
        shares[0], shares[-1] = first, first if last is None else last
        size = np.maximum(np.rint(shape * shares), 1).astype(int)
        start = (shape - size) // 2
        inner = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
        grid = Grid(tuple(size), moved(picture.grid.affine, start))
        return replace(picture, image=picture.image[:, *inner], label=picture.label[inner], grid=grid)

    return change


def padded(picture: Picture, rng: Random) -> Picture:
    """A dark margin of half the size on every side."""
    widths = [(size // 2, size // 2) for size in picture.grid.shape]
    shape = tuple(size + 2 * width for size, (width, _) in zip(picture.grid.shape, widths, strict=True))
    image = np.stack([np.pad(each, widths, constant_values=each.min()) for each in picture.image])
    grid = Grid(shape, moved(picture.grid.affine, [-width for width, _ in widths]))
    return replace(picture, image=image, label=np.pad(picture.label, widths), grid=grid)


def mirrored(picture: Picture, rng: Random) -> Picture:
    """Left and right exchanged, to which the header says nothing."""
    return replace(picture, image=picture.image[:, ::-1].copy(), label=picture.label[::-1].copy())


def upside_down(picture: Picture, rng: Random) -> Picture:
    """Above and below exchanged, to which the header says nothing."""
    return replace(picture, image=picture.image[..., ::-1].copy(), label=picture.label[..., ::-1].copy())


def quarters(number: int) -> Change:
    """Turned by so many quarters, to which the header says nothing; its spacing is right."""

    def change(picture: Picture, rng: Random) -> Picture:
        image = np.rot90(picture.image, number, (1, -1)).copy()
        affine, spacing = picture.grid.affine.copy(), picture.grid.spacing
        if number % 2:
            spacing[[0, -1]] = spacing[[-1, 0]]
        affine[:-1, :-1] = picture.grid.direction * spacing
        label = np.rot90(picture.label, number, (0, -1)).copy()
        return replace(picture, image=image, label=label, grid=Grid(image.shape[1:], affine))

    return change


def tilted(degrees: float) -> Change:
    """Turned about the middle, to which the header says nothing."""
    return lambda picture, rng: onto(picture, about_the_middle(picture.grid, degrees), picture.grid)


def shifted(picture: Picture, rng: Random) -> Picture:
    """By a fifth of the first axis; what moves out of the picture is lost."""
    start = np.zeros(picture.grid.dims)
    start[0] = round(picture.grid.shape[0] / 5)
    return onto(picture, Grid(picture.grid.shape, moved(picture.grid.affine, start)), picture.grid)


def inverted(picture: Picture, rng: Random) -> Picture:
    """Bright and dark exchanged."""
    axes = tuple(range(1, picture.image.ndim))
    ends = picture.image.min(axes, keepdims=True) + picture.image.max(axes, keepdims=True)
    return replace(picture, image=ends - picture.image)


def noisy(picture: Picture, rng: Random) -> Picture:
    """Noise whose deviation is a tenth of what lies between nearly the darkest and the brightest point."""
    spread = [np.ptp(np.percentile(each, (0.5, 99.5))) for each in picture.image]
    noise = rng.normal(size=picture.image.shape) * np.reshape(spread, (-1, *[1] * picture.grid.dims)) / 10
    return replace(picture, image=(picture.image + noise).astype(np.float32))


def other_pixels(factor: float) -> Change:
    """The same place on pixels so many times as large."""
    return lambda picture, rng: onto(picture, picture.grid.with_spacing(picture.grid.spacing * factor))


def oblique(degrees: float) -> Change:
    """The same place on a turned grid that covers it, as the header says."""
    return lambda picture, rng: onto(picture, about_the_middle(picture.grid, degrees, cover=True))


Change = Callable[[Picture, Random], Picture]
CHANGES: dict[str, Change] = {
    "as it is": as_it_is,
    "cropped .85": cut(0.85),
    "cropped .7": cut(0.7),
    "cropped .55": cut(0.55),
    "wide": cut(1.0, 0.6),
    "tall": cut(0.6, 1.0),
    "padded": padded,
    "mirrored": mirrored,
    "upside down": upside_down,
    "turned 90": quarters(1),
    "turned 180": quarters(2),
    "turned 270": quarters(3),
    "inverted": inverted,
    "turned 15": tilted(15),
    "turned 30": tilted(30),
    "shifted": shifted,
    "noise": noisy,
    "pixels .75": other_pixels(0.75),
    "pixels 1.5": other_pixels(1.5),
    "oblique 5": oblique(5),
    "oblique 10": oblique(10),
    "oblique 30": oblique(30),
}
# The same in space: where a transform leads must not change.
SAME_PLACE = tuple(name for name in CHANGES if name.startswith(("pixels", "oblique")))
