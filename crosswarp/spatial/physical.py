"""Maps between images that lie in space: physical displacements and ITK transforms, in mm and LPS.

A map addresses fractions of the two images. Between physical spaces it is therefore ``A ∘ (id + d)``: the
displacement ``d`` of the map in mm of the fixed image, then the affine ``A`` that lays the extent of the
fixed image onto that of the moving one. Like the map itself, an ITK transform takes *fixed* points to
*moving* ones, which is what resampling asks for.

Affines are those of MONAI and nibabel, array indices to mm in RAS, ``[D + 1, D + 1]`` (or larger, as
nibabel's of a 2D image). What is returned is in LPS, as ITK, SimpleITK, ANTs and DICOM have it; 3D Slicer
converts by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import itk
import numpy as np
import torch
import torch.nn.functional as F
from monai.data.utils import to_affine_nd
from numpy.typing import ArrayLike, NDArray

from .alignment import apply_affine
from .maps import displacement, identity_map, invert

Matrix = NDArray[np.float64]
AXIAL = 60.0  # degrees that a slice may be tilted and still take the directions of the axial plane


def lps_affine(affine: ArrayLike, spatial_dims: int) -> Matrix:
    """Return an affine from array indices to mm in LPS, ``[D + 1, D + 1]``, given that to RAS.

    Raises:
        ValueError: where it is not invertible: an image without extent in space.
    """
    matrix: Matrix = to_affine_nd(spatial_dims, np.asarray(affine, np.float64))
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-12:
        raise ValueError(f"Expected an invertible affine of an image, got {np.asarray(affine).tolist()}.")
    return np.diag([-1.0, -1.0, *[1.0] * (spatial_dims - 1)]) @ matrix


def fractions_affine(affine: ArrayLike, spatial_shape: Sequence[int]) -> Matrix:
    """Return the affine from fractions of an image (0 and 1 at its outermost voxel centres) to mm in LPS."""
    dims = len(spatial_shape)
    return lps_affine(affine, dims) @ np.diag([*[max(size - 1, 1) for size in spatial_shape], 1.0])


def itk_geometry(matrix: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """Return origin ``[D]``, spacing ``[D]`` and direction ``[D, D]`` of a grid, given its affine to LPS.

    Raises:
        ValueError: for an affine that shears, which an ITK image cannot have.
    """
    spacing = np.linalg.norm(matrix[:-1, :-1], axis=0)
    if shears(matrix[:-1, :-1]):
        raise ValueError(f"Expected an affine without shear, as of a scanner, got {matrix.tolist()}.")
    return matrix[:-1, -1], spacing, matrix[:-1, :-1] / spacing


def shears(columns: Matrix, tolerance: float = 1e-3) -> bool:
    """Whether the axes of an image are not at right angles.

    Args:
        columns: of its affine, ``[N, D]``, none of them 0.
        tolerance: of the cosine of an angle, for headers that are rounded.
    """
    directions = columns / np.linalg.norm(columns, axis=0)
    return not np.allclose(directions.T @ directions, np.eye(columns.shape[1]), atol=tolerance)


def distance_in_voxels(affine: ArrayLike, other: ArrayLike, spatial_shape: Sequence[int]) -> float:
    """Return the largest distance between the places that two affines give to a corner of a grid.

    Args:
        affine: indices to mm, ``[D + 1, D + 1]``; its shortest spacing is the unit.
        other: another one.
        spatial_shape: of the grid.
    """
    corners = np.array(list(np.ndindex(*[2] * len(spatial_shape)))) * (np.array(spatial_shape) - 1)
    apart = np.c_[corners, np.ones(len(corners))] @ (np.asarray(affine) - np.asarray(other))[:-1].T
    unit = np.linalg.norm(np.asarray(affine)[:-1, :-1], axis=0).min()
    return float(np.linalg.norm(apart, axis=1).max() / unit)


def same_place(affine: ArrayLike, other: ArrayLike, spatial_shape: Sequence[int]) -> bool:
    """Whether two affines lay a grid on one place in space, within half a voxel at every corner."""
    return distance_in_voxels(affine, other, spatial_shape) <= 0.5


def slice_affine(affine: ArrayLike) -> Matrix:
    """Return the affine of a slice to mm in its own plane, ``[3, 3]``, given that to space, ``[4, 4]``.

    Up to ``AXIAL`` degrees from axial the plane is tilted back about the line in which it meets the axial
    plane, so that an axial slice keeps its place to the letter, and one that is tilted keeps its orientation,
    lengths and angles. Nearer to a sagittal or coronal plane the slice is taken as it is stored: its first
    axis runs to the left, its second to the back. No rule without such a border exists: axial slices turned
    round by 360 degrees in their plane would have to be carried over into less than that.

    Args:
        affine: indices to mm in RAS; its first two columns are the axes of the slice, at right angles.
    """
    columns, origin = np.asarray(affine, np.float64)[:3, :2], np.asarray(affine, np.float64)[:3, 3]
    spacing = np.linalg.norm(columns, axis=0)
    axes = columns / spacing
    (a, b), (c, d) = axes[:2]
    if slice_tilt(affine) > AXIAL:
        turn = -np.eye(2)
    else:  # the orthogonal matrix nearest to the projection onto the axial plane
        nearest = axes[:2] + np.sign(a * d - b * c) * np.array([[d, -c], [-b, a]])
        turn = nearest / np.linalg.norm(nearest[:, 0])
    result = np.eye(3)
    result[:2, :2], result[:2, 2] = turn * spacing, turn @ axes.T @ origin
    return result


def place(image: Any, matrix: Matrix) -> None:
    """Give an ITK image a place in space.

    Args:
        image: changed in place.
        matrix: its affine to mm in LPS, ``[D + 1, D + 1]``.

    Raises:
        ValueError: for an affine that shears.
    """
    origin, spacing, direction = itk_geometry(matrix)
    image.SetOrigin(origin.tolist())
    image.SetSpacing(spacing.tolist())
    image.SetDirection(itk.matrix_from_array(np.ascontiguousarray(direction)))


def slice_tilt(affine: ArrayLike) -> float:
    """Return the angle between a slice, given its affine ``[4, 4]``, and the axial plane in degrees."""
    columns = np.asarray(affine, np.float64)[:3, :2]
    normal = np.cross(*columns.T)
    return float(np.degrees(np.arctan2(np.hypot(*normal[:2]), abs(normal[2]))))


def best_affine(phi: torch.Tensor) -> torch.Tensor:
    """Return the affine that comes nearest to a map, by least squares over the points of its grid.

    Args:
        phi: ``[1, D, *spatial]``.

    Returns:
        fractions to fractions, ``[1, D + 1, D + 1]``, float64. Along an axis of length 1 it changes nothing.
    """
    dims = phi.shape[1]
    points = identity_map(phi.shape[2:])[0].flatten(1).double()
    shift = displacement(phi)[0].flatten(1).double()
    varying = torch.tensor([size > 1 for size in phi.shape[2:]])
    design = torch.cat([points[varying], torch.ones_like(points[:1])])
    solution = torch.linalg.lstsq(design.T, shift.T).solution.T
    matrix = torch.eye(dims + 1, dtype=torch.float64)
    matrix[:dims, :dims][:, varying] += solution[:, :-1]
    matrix[:dims, dims] = solution[:, -1]
    return matrix[None]


def physical_displacement(phi: torch.Tensor, affine: ArrayLike, spatial_shape: Sequence[int]) -> Matrix:
    """Return the displacement of a map in mm along the axes of LPS.

    Args:
        phi: ``[1, D, *spatial]``, on any grid over the fixed image's extent.
        affine: of the fixed image.
        spatial_shape: of the fixed image.

    Returns:
        ``[*spatial, D]``, on the grid of the map.
    """
    linear = fractions_affine(affine, spatial_shape)[:-1, :-1]
    return np.moveaxis(displacement(phi)[0].double().cpu().numpy(), 0, -1) @ linear.T


def itk_displacement_field(phi: torch.Tensor, affine: ArrayLike, spatial_shape: Sequence[int]) -> Any:
    """Return the displacement of a map as an ITK vector image over the fixed image, on the grid of the map.

    Interpolated linearly it is the map on every other grid, too: nothing is gained by a finer one.

    Args:
        phi: ``[1, D, *spatial]``.
        affine: of the fixed image.
        spatial_shape: of the fixed image.

    Returns:
        ``itk.VectorImage[itk.D, D]``.

    Raises:
        ValueError: for an affine that shears, which an ITK image cannot have.
    """
    dims = len(spatial_shape)
    # ITK's arrays have the last axis first
    vectors = physical_displacement(phi, affine, spatial_shape).swapaxes(0, dims - 1)
    field = itk.image_from_array(np.ascontiguousarray(vectors), is_vector=True)
    per_voxel = fractions_affine(affine, spatial_shape) @ np.diag(
        [*[1 / max(size - 1, 1) for size in phi.shape[2:]], 1.0]
    )
    place(field, per_voxel)
    return field


def with_margin(
    phi: torch.Tensor, affine: ArrayLike, spatial_shape: Sequence[int]
) -> tuple[torch.Tensor, Matrix, tuple[int, ...]]:
    """Return a map beyond the borders of its image, as far as it displaces anything.

    A field of ITK displaces nothing beyond its grid. A map has the displacement of the nearest border point
    there; without that, what leaves the image would not find its way back.

    Args:
        phi: ``[1, D, *spatial]``, on any grid over the image's extent.
        affine: of the image.
        spatial_shape: of the image.

    Returns:
        the map in fractions of its larger grid, and affine and shape of that grid.
    """
    dims, shape = phi.shape[1], phi.shape[2:]
    column, steps = (1, dims, *[1] * dims), torch.tensor(shape) - 1
    shift = displacement(phi) * steps.view(column)  # in samples
    reach = shift.abs().amax([0, *range(2, dims + 2)]).ceil().int() + 1
    margins = torch.where(steps > 0, torch.minimum(reach, steps + 1), 0).tolist()
    pads = [margin for each in reversed(margins) for margin in (each, each)]
    shift = F.pad(shift, pads, mode="replicate")
    larger = shift.shape[2:]
    phi = identity_map(larger) + shift / (torch.tensor(larger) - 1).clamp(min=1).view(column)
    voxels = np.maximum(np.array(spatial_shape) - 1, 1) / np.maximum(np.array(shape) - 1, 1)
    to_voxels = np.diag([*voxels, 1.0])
    to_voxels[:-1, -1] = -voxels * margins
    return phi, to_affine_nd(dims, np.asarray(affine, np.float64)) @ to_voxels, tuple(larger)


def itk_affine(matrix: Matrix) -> Any:
    """Return an affine ``[D + 1, D + 1]`` in LPS as ``itk.AffineTransform[itk.D, D]``."""
    dims = len(matrix) - 1
    transform = itk.AffineTransform[itk.D, dims].New()
    transform.SetMatrix(itk.matrix_from_array(np.ascontiguousarray(matrix[:-1, :-1])))
    transform.SetTranslation(matrix[:-1, -1].tolist())
    return transform


def itk_transforms(
    phi: torch.Tensor,
    fixed_affine: ArrayLike,
    fixed_shape: Sequence[int],
    moving_affine: ArrayLike,
    moving_shape: Sequence[int],
) -> tuple[Any, Any]:
    """Return a map as an ITK composite transform, and its inverse.

    Both are made of an affine, the nearest to the map, and a displacement field for the rest: a field alone
    ends at the image's border, and one of large shifts and scales could not be inverted. The inverse is that
    of the map itself, by :func:`~.maps.invert`, not the network's map of the other direction, which is only
    nearly its inverse.

    Args:
        phi: ``[1, D, *spatial]``, moving to fixed, on any grid over the fixed image's extent.
        fixed_affine: of the fixed image.
        fixed_shape: of the fixed image.
        moving_affine: of the moving image.
        moving_shape: of the moving image.

    Returns:
        two ``itk.CompositeTransform[itk.D, D]``: one takes fixed points to moving ones and resamples the
        moving image onto the fixed; the other does the reverse.
    """
    dims = len(fixed_shape)
    phi = phi.cpu()
    nearest = best_affine(phi)
    rest = with_margin(apply_affine(torch.linalg.inv(nearest), phi), fixed_affine, fixed_shape)
    matrix = (
        fractions_affine(moving_affine, moving_shape)
        @ nearest[0].numpy()
        @ np.linalg.inv(fractions_affine(fixed_affine, fixed_shape))
    )

    def field(phi: torch.Tensor) -> Any:
        transform = itk.DisplacementFieldTransform[itk.D, dims].New()
        transform.SetDisplacementField(itk_displacement_field(phi, *rest[1:]))
        return transform

    # what was added last is applied first
    forward, inverse = (itk.CompositeTransform[itk.D, dims].New() for _ in range(2))
    forward.AddTransform(itk_affine(matrix))
    forward.AddTransform(field(rest[0]))
    inverse.AddTransform(field(invert(rest[0])))
    inverse.AddTransform(itk_affine(np.linalg.inv(matrix)))
    return forward, inverse


def total_displacement_field(transform: Any, affine: ArrayLike, spatial_shape: Sequence[int]) -> Any:
    """Return an ITK transform as a displacement field on an image's own grid.

    Args:
        transform: from points of the image to any points, mm in LPS.
        affine: of the image.
        spatial_shape: of the image.

    Returns:
        ``itk.Image[itk.Vector[itk.F, D], D]``, mm in LPS.
    """
    dims = len(spatial_shape)
    origin, spacing, direction = itk_geometry(lps_affine(affine, dims))
    sampler = itk.TransformToDisplacementFieldFilter[itk.Image[itk.Vector[itk.F, dims], dims], itk.D].New()
    sampler.SetTransform(transform)
    sampler.SetSize([int(size) for size in spatial_shape])
    sampler.SetOutputOrigin(origin.tolist())
    sampler.SetOutputSpacing(spacing.tolist())
    sampler.SetOutputDirection(itk.matrix_from_array(direction))
    sampler.Update()
    return sampler.GetOutput()
