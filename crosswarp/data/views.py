"""How pictures come: of the other side, of small and large people, cropped, turned, inverted, other pixels.

Each kind of difference concerns a share of a cohort's images. Whom it concerns, and how, is drawn for each
subject and each kind by itself: a picture that none concerns is the one of a cohort without any, and to raise
a share leaves as they are those that it concerned already.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator, default_rng
from numpy.typing import NDArray

# A fair share of each, for a demonstration. The order is that of the random generators: add at the end.
AS_THEY_COME: Mapping[str, float] = {
    "left": 0.3,
    "scaled": 0.3,
    "cropped": 0.3,
    "pixel_sizes": 0.5,
    "turned": 0.2,
    "inverted": 0.2,
}
IN_TESTS_ALONE = ("turned", "inverted")  # nobody trains on what is wrong and not said
# Relative to the plain ones, along both axes.
_PIXELS = ((0.5, 0.5), (0.75, 0.75), (1.25, 1.25), (0.75, 1.25))


@dataclass(frozen=True)
class View:
    """How a picture is taken and stored; by default a right knee, upright, on a square of plain pixels.

    Attributes:
        left: the anatomy is mirrored; markers are not.
        scale: of the person.
        field: of view, as a multiple of the plain one along both axes.
        pixel: its size, as a multiple of the plain one along both axes.
        tilt: of the leg, degrees.
        quarter_turns: of the stored array, to which the header says nothing.
        inverted: what is bright and dark is exchanged.
    """

    left: bool = False
    scale: float = 1.0
    field: tuple[float, float] = (1.0, 1.0)
    pixel: tuple[float, float] = (1.0, 1.0)
    tilt: float = 0.0
    quarter_turns: int = 0
    inverted: bool = False

    def shape(self, size: int) -> tuple[int, int]:
        """Pixels along both axes of a picture whose plain one has `size` along each."""
        x, y = (
            max(round(size * field / pixel), 1) for field, pixel in zip(self.field, self.pixel, strict=True)
        )
        return x, y

    def stored(self, array: NDArray[Any]) -> NDArray[Any]:
        """An upright image or label ``[X, Y]`` turned as its file has it."""
        return np.rot90(array, self.quarter_turns)

    def developed(self, image: NDArray[Any]) -> NDArray[Any]:
        """An image with bright and dark exchanged where they are; its range stays."""
        return image.max() + image.min() - image if self.inverted else image


PLAIN = View()


def check_shares(shares: Mapping[str, Any]) -> None:
    """Check the shares of images that differ.

    Args:
        shares: by the names of `AS_THEY_COME`.

    Raises:
        ValueError: for one that is not from 0 to 1, naming all.
    """
    wrong = [
        f"{name} {share!r}"
        for name, share in shares.items()
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1
    ]
    if wrong:
        raise ValueError(f"Expected shares of the images from 0 to 1, got {', '.join(wrong)}.")


def choose_view(subject: Sequence[int], shares: Mapping[str, float], tested: bool) -> View:
    """Choose how the picture of a subject comes.

    Args:
        subject: numbers of its own, from 0 on: the random generators' seed.
        shares: of the images that differ, 0 to 1, by the names of `AS_THEY_COME`; others are 0.
        tested: a picture of a test, which may be turned and inverted, too.
    """
    chosen: dict[str, Any] = {}
    for number, name in enumerate(AS_THEY_COME, 1):  # 0 would be the generator of the subject itself
        rng = default_rng([*subject, number])
        if rng.random() < shares.get(name, 0.0) and (tested or name not in IN_TESTS_ALONE):
            chosen |= _DRAWN[name](rng)
    return View(**chosen)


def _scaled(rng: Generator) -> dict[str, Any]:
    """Up to an eighth smaller or larger, in equal measure."""
    return {"scale": math.exp(rng.uniform(-1, 1) * math.log(9 / 8))}


def _cropped(rng: Generator) -> dict[str, Any]:
    """Smaller, or cut along one axis, or wider."""
    kinds = (
        ((0.75, 0.9), (0.75, 0.9)),
        ((0.7, 0.9), (1.0, 1.0)),
        ((1.0, 1.0), (0.6, 0.8)),
        ((1.15, 1.4), (1.15, 1.4)),
    )
    x, y = (float(rng.uniform(*ends)) for ends in kinds[rng.integers(len(kinds))])
    return {"field": (x, y)}


def _turned(rng: Generator) -> dict[str, Any]:
    """A quarter, a half or three quarters, or a tilt of the leg."""
    kind, sign, tilt = rng.integers(4), rng.choice([-1, 1]), rng.uniform(10, 25)
    return {"quarter_turns": int(kind)} if kind else {"tilt": float(sign * tilt)}


_DRAWN = {
    "left": lambda rng: {"left": True},
    "scaled": _scaled,
    "cropped": _cropped,
    "pixel_sizes": lambda rng: {"pixel": _PIXELS[rng.integers(len(_PIXELS))]},
    "turned": _turned,
    "inverted": lambda rng: {"inverted": True},
}
