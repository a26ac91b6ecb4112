"""Poses of an image: turned, mirrored, with inverted grey values, against those of the training."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import permutations, product

import numpy as np

from .grid import Matrix

POSES = ("as_is", "auto", "mirrored", "turned_90", "turned_180", "turned_270", "inverted")


@dataclass(frozen=True)
class Pose:
    """A view of an image.

    Attributes:
        turn: directions of the frame's axes in those of the networks, as columns, ``[D, D]``, orthogonal.
        inverted: whether bright is dark.
        scale: how much larger than the training's the anatomy is, where lengths are not known.
        centre: middle of the frame, ``[D]``, mm; None for that of the image.
    """

    turn: Matrix
    inverted: bool = False
    scale: float = 1.0
    centre: Matrix | None = field(default=None, compare=False)

    @property
    def mirrored(self) -> bool:
        """Whether it shows the image mirrored."""
        return bool(np.linalg.det(self.turn) < 0)

    def words(self) -> str:
        """What is unlike the training, in words; empty where nothing is."""
        found = []
        if self.mirrored:
            found.append("mirrored")
        angle = self.angle()
        if angle > 1:
            found.append(f"turned by {angle:.0f} degrees")
        if self.scale != 1:
            found.append(f"{self.scale:g} times as large")
        return ", ".join([*found, *["with inverted grey values"] * self.inverted])

    def angle(self) -> float:
        """By how many degrees the image is turned, 0 to 180, mirroring left aside."""
        dims = len(self.turn)
        turn = self.turn @ mirroring(dims) if self.mirrored else self.turn
        cosine = (np.trace(turn) - (dims - 2)) / 2
        return math.degrees(math.acos(float(np.clip(cosine, -1, 1))))


def turn_by(degrees: float, dims: int) -> Matrix:
    """Return a turn in the plane of the first two axes, ``[D, D]``."""
    angle, matrix = math.radians(degrees), np.eye(dims)
    matrix[:2, :2] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    return np.round(matrix, 15)


def named_pose(name: str, dims: int) -> Pose:
    """Return a pose by its names, such as ``"mirrored+turned_90"``.

    Raises:
        ValueError: for other names.
    """
    parts = [] if name == "as_is" else name.split("+")
    if unknown := [part for part in parts if part not in POSES[2:]]:
        raise ValueError(
            f"Expected a pose of {', '.join(POSES)}, or several of the last with + between them, got "
            f"{', '.join(unknown)}."
        )
    turn = np.eye(dims)
    for part in parts:
        if part == "mirrored":
            turn = turn @ mirroring(dims)
        elif part.startswith("turned_"):
            turn = turn @ turn_by(float(part.removeprefix("turned_")), dims)
    return Pose(turn, "inverted" in parts)


def all_turns(dims: int) -> list[Matrix]:
    """Return the turns by right angles, mirrored and not: 8 in 2D, 48 in 3D, the identity first."""
    orders = product(permutations(range(dims)), product((1.0, -1.0), repeat=dims))
    return [np.eye(dims)[list(order)] * signs for order, signs in orders]


def mirroring(dims: int) -> Matrix:
    """Return the turn that exchanges left and right, the first axis of the networks, ``[D, D]``."""
    return np.diag([-1.0, *[1.0] * (dims - 1)])
