"""Where the points of an image lie in space: shape and affine, and all that follows from the two.

Affines of MONAI and nibabel lead to mm in RAS; a grid's own is in LPS, as ITK, SimpleITK, ANTs and DICOM have
it (3D Slicer converts by itself). *Fractions* of an image are its normalised coordinates: 0 and 1 at the
centres of the outermost voxels of an axis, as in the maps of this package.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from monai.data import MetaTensor
from monai.data.utils import to_affine_nd
from numpy.typing import ArrayLike, NDArray

Matrix = NDArray[np.float64]
Points = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Grid:
    """The points of an image in space.

    Args:
        shape: voxels along each of the D axes.
        affine: array indices to mm in LPS, ``[D + 1, D + 1]``.

    Raises:
        ValueError: for an affine that is not invertible: an image without extent in space.
    """

    shape: tuple[int, ...]
    affine: Matrix

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(size) for size in self.shape))
        object.__setattr__(self, "affine", np.asarray(self.affine, np.float64))
        dims = len(self.shape)
        if self.affine.shape != (dims + 1, dims + 1):
            raise ValueError(
                f"Expected an affine of {dims + 1} rows and columns for an image of the shape "
                f"{list(self.shape)}, got {self.affine.tolist()}."
            )
        if not np.isfinite(self.affine).all() or abs(np.linalg.det(self.affine)) < 1e-12:
            raise ValueError(f"Expected an invertible affine of an image, got {self.affine.tolist()}.")

    @classmethod
    def from_ras(cls, affine: ArrayLike, shape: Sequence[int]) -> Grid:
        """Return the grid of an image of MONAI or nibabel.

        Args:
            affine: array indices to mm in RAS, ``[D + 1, D + 1]``, or larger, as nibabel's of a 2D image.
            shape: voxels along each axis.
        """
        dims = len(shape)
        return cls(tuple(shape), _other_space(dims) @ to_affine_nd(dims, np.asarray(affine, np.float64)))

    @classmethod
    def of(cls, image: MetaTensor) -> Grid:
        """Return the grid of an image ``[C, *spatial]`` as it is."""
        return cls.from_ras(image.affine, image.shape[1:])

    @classmethod
    def of_file(cls, image: MetaTensor) -> Grid:
        """Return the grid that an image has in its file, whatever axes it was brought to since then."""
        meta = image.meta
        return cls.from_ras(
            meta.get("original_affine", image.affine), meta.get("spatial_shape", image.shape[1:])
        )

    @property
    def ras(self) -> Matrix:
        """The affine of an image of MONAI or nibabel that lies here, array indices to mm in RAS."""
        return _other_space(self.dims) @ self.affine

    @property
    def dims(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def spacing(self) -> Matrix:
        """Distance of neighbouring points along each axis, mm, ``[D]``."""
        return np.linalg.norm(self.affine[:-1, :-1], axis=0)

    @property
    def origin(self) -> Matrix:
        """Where the first point lies, ``[D]``."""
        return self.affine[:-1, -1]

    @property
    def direction(self) -> Matrix:
        """Directions of the axes, as columns, ``[D, D]``.

        Raises:
            ValueError: for an affine that shears, which an ITK image cannot have.
        """
        if shears(self.affine[:-1, :-1]):
            raise ValueError(
                f"Expected an affine without shear, as of a scanner, got {self.affine.tolist()}."
            )
        return np.ascontiguousarray(self.affine[:-1, :-1] / self.spacing)

    @property
    def extent(self) -> Matrix:
        """The affine from fractions to mm, ``[D + 1, D + 1]``."""
        return self.affine @ np.diag([*[max(size - 1, 1) for size in self.shape], 1.0])

    @property
    def corners(self) -> Points:
        """Where the outermost points lie, ``[2 ** D, D]``, mm."""
        return self.to_mm(np.array(list(np.ndindex(*[2] * self.dims))) * (np.array(self.shape) - 1.0))

    @property
    def diagonal(self) -> float:
        """Distance of opposite corners of the box whose sides are as long as the axes, mm."""
        return float(np.linalg.norm(np.linalg.norm(self.extent[:-1, :-1], axis=0)))

    def to_mm(self, index: Points) -> Points:
        """Return where indices lie, whole or not, ``[..., D]``, in mm."""
        return _apply(self.affine, index)

    def to_index(self, points: Points) -> Points:
        """Return points in mm as indices, ``[..., D]``."""
        return _undo(self.affine, points)

    def fractions_to_mm(self, fractions: Points) -> Points:
        """Return where fractions lie, ``[..., D]``, in mm."""
        return _apply(self.extent, fractions)

    def to_fractions(self, points: Points) -> Points:
        """Return points in mm as fractions, ``[..., D]``."""
        return _undo(self.extent, points)

    def contains(self, points: Points, margin: float = 0.5) -> NDArray[np.bool_]:
        """Return which points, ``[..., D]`` in mm, lie in the image.

        Args:
            points: in mm.
            margin: voxels beyond the outermost centres that still count: 0.5 to the faces of the voxels.
        """
        index = self.to_index(points)
        return np.all((index >= -margin) & (index <= np.array(self.shape) - 1 + margin), axis=-1)

    def same_place(self, other: Grid) -> bool:
        """Return whether a grid of the same shape lies here, within half a voxel at every corner."""
        return distance_in_voxels(self.affine, other.affine, self.shape) <= 0.5

    def resized(self, shape: Sequence[int]) -> Grid:
        """Return the grid of another shape whose fractions lie in the same places."""
        steps = [1 / max(size - 1, 1) for size in shape]
        return Grid(tuple(shape), self.extent @ np.diag([*steps, 1.0]))

    def with_spacing(self, spacing: ArrayLike) -> Grid:
        """Return the grid of another spacing in mm; outer faces stay, as nearly as whole voxels allow."""
        size = np.array(self.shape)
        factor = np.asarray(spacing, np.float64) / self.spacing
        new_size = np.maximum(np.rint(size / factor), 1).astype(int)
        change = np.diag([*factor, 1.0])
        change[:-1, -1] = (size - 1) / 2 - factor * (new_size - 1) / 2
        return Grid(tuple(new_size.tolist()), self.affine @ change)


def shears(columns: Matrix, tolerance: float = 1e-3) -> bool:
    """Return whether the axes of an image are not at right angles.

    Args:
        columns: of its affine, ``[N, D]``, none of them 0.
        tolerance: of the cosine of an angle, for headers that are rounded.
    """
    directions = columns / np.linalg.norm(columns, axis=0)
    return not np.allclose(directions.T @ directions, np.eye(columns.shape[1]), atol=tolerance)


def distance_in_voxels(affine: ArrayLike, other: ArrayLike, shape: Sequence[int]) -> float:
    """Return the largest distance between the places that two affines, of any header, give to a corner.

    Args:
        affine: indices to mm, ``[D + 1, D + 1]``; its shortest spacing is the unit.
        other: another one.
        shape: voxels along each axis.
    """
    corners = np.array(list(np.ndindex(*[2] * len(shape)))) * (np.array(shape) - 1)
    apart = np.c_[corners, np.ones(len(corners))] @ (np.asarray(affine) - np.asarray(other))[:-1].T
    unit = np.linalg.norm(np.asarray(affine)[:-1, :-1], axis=0).min()
    return float(np.linalg.norm(apart, axis=1).max() / unit)


def _other_space(dims: int) -> Matrix:
    """From RAS to LPS, and back, ``[D + 1, D + 1]``."""
    return np.diag([-1.0, -1.0, *[1.0] * (dims - 1)])


def _apply(matrix: Matrix, points: Points) -> Points:
    return points @ matrix[:-1, :-1].T + matrix[:-1, -1]


def _undo(matrix: Matrix, points: Points) -> Points:
    return (points - matrix[:-1, -1]) @ np.linalg.inv(matrix[:-1, :-1]).T
