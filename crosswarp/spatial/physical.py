"""Maps between images that lie in space: physical displacements and ITK transforms, in mm and LPS.

A map addresses fractions of the two images. Between physical spaces it is therefore ``A ∘ (id + d)``: the
displacement ``d`` of the map in mm of the fixed image, then the affine ``A`` that lays the extent of the
fixed image onto that of the moving one. Like the map itself, an ITK transform takes *fixed* points to
*moving* ones, which is what resampling asks for.
"""

from __future__ import annotations

from typing import Any

import itk
import numpy as np
import torch
import torch.nn.functional as F

from .alignment import apply_affine
from .grid import Grid, Matrix
from .maps import displacement, identity_map, invert


def place(image: Any, grid: Grid) -> None:
    """Give an ITK image, made of an array whose last axis is the first of the grid, its place in space.

    Args:
        image: changed in place.
        grid: where it lies. Its shape is set, too: ITK takes an array in which a single axis is longer than 1
            for one whose first axis comes first.

    Raises:
        ValueError: for a grid that shears.
    """
    image.SetRegions(list(grid.shape))
    image.SetOrigin(grid.origin.tolist())
    image.SetSpacing(grid.spacing.tolist())
    image.SetDirection(itk.matrix_from_array(grid.direction))


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


def physical_displacement(phi: torch.Tensor, grid: Grid) -> Matrix:
    """Return the displacement of a map in mm along the axes of LPS.

    Args:
        phi: ``[1, D, *spatial]``, on any grid over the fixed image's extent.
        grid: of the fixed image.

    Returns:
        ``[*spatial, D]``, on the grid of the map.
    """
    return np.moveaxis(displacement(phi)[0].double().cpu().numpy(), 0, -1) @ grid.extent[:-1, :-1].T


def itk_displacement_field(phi: torch.Tensor, grid: Grid) -> Any:
    """Return the displacement of a map as an ITK vector image over the fixed image, on the grid of the map.

    Interpolated linearly it is the map on every other grid, too: nothing is gained by a finer one.

    Args:
        phi: ``[1, D, *spatial]``.
        grid: of the fixed image.

    Returns:
        ``itk.VectorImage[itk.D, D]``.

    Raises:
        ValueError: for a grid that shears, which an ITK image cannot have.
    """
    # ITK's arrays have the last axis first
    vectors = physical_displacement(phi, grid).swapaxes(0, grid.dims - 1)
    field = itk.image_from_array(np.ascontiguousarray(vectors), is_vector=True)
    place(field, grid.resized(phi.shape[2:]))
    return field


def with_margin(phi: torch.Tensor, grid: Grid) -> tuple[torch.Tensor, Grid]:
    """Return a map beyond the borders of its image, as far as it displaces anything.

    A field of ITK displaces nothing beyond its grid. A map has the displacement of the nearest border point
    there; without that, what leaves the image would not find its way back.

    Args:
        phi: ``[1, D, *spatial]``, on any grid over the image's extent.
        grid: of the image.

    Returns:
        the map in fractions of its larger grid, and that grid.
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
    voxels = np.maximum(np.array(grid.shape) - 1, 1) / np.maximum(np.array(shape) - 1, 1)
    to_voxels = np.diag([*voxels, 1.0])
    to_voxels[:-1, -1] = -voxels * margins
    return phi, Grid(larger, grid.affine @ to_voxels)


def itk_affine(matrix: Matrix) -> Any:
    """Return an affine ``[D + 1, D + 1]`` in LPS as ``itk.AffineTransform[itk.D, D]``."""
    dims = len(matrix) - 1
    transform = itk.AffineTransform[itk.D, dims].New()
    transform.SetMatrix(itk.matrix_from_array(np.ascontiguousarray(matrix[:-1, :-1])))
    transform.SetTranslation(matrix[:-1, -1].tolist())
    return transform


def itk_transforms(phi: torch.Tensor, fixed: Grid, moving: Grid) -> tuple[Any, Any]:
    """Return a map as an ITK composite transform, and its inverse.

    Both are made of an affine, the nearest to the map, and a displacement field for the rest: a field alone
    ends at the image's border, and one of large shifts and scales could not be inverted. The inverse is that
    of the map itself, by :func:`~.maps.invert`, not the network's map of the other direction, which is only
    nearly its inverse.

    Args:
        phi: ``[1, D, *spatial]``, moving to fixed, on any grid over the fixed image's extent.
        fixed: grid of the fixed image.
        moving: grid of the moving image.

    Returns:
        two ``itk.CompositeTransform[itk.D, D]``: one takes fixed points to moving ones and resamples the
        moving image onto the fixed; the other does the reverse.
    """
    dims, phi = fixed.dims, phi.cpu()
    nearest = best_affine(phi)
    rest, larger = with_margin(apply_affine(torch.linalg.inv(nearest), phi), fixed)
    matrix = moving.extent @ nearest[0].numpy() @ np.linalg.inv(fixed.extent)

    def field(phi: torch.Tensor) -> Any:
        transform = itk.DisplacementFieldTransform[itk.D, dims].New()
        transform.SetDisplacementField(itk_displacement_field(phi, larger))
        return transform

    # what was added last is applied first
    forward, inverse = (itk.CompositeTransform[itk.D, dims].New() for _ in range(2))
    forward.AddTransform(itk_affine(matrix))
    forward.AddTransform(field(rest))
    inverse.AddTransform(field(invert(rest)))
    inverse.AddTransform(itk_affine(np.linalg.inv(matrix)))
    return forward, inverse


def total_displacement_field(transform: Any, grid: Grid) -> Any:
    """Return an ITK transform as a displacement field on an image's own grid.

    Args:
        transform: from points of the image to any points, mm in LPS.
        grid: of the image.

    Returns:
        ``itk.Image[itk.Vector[itk.F, D], D]``, mm in LPS.
    """
    dims = grid.dims
    sampler = itk.TransformToDisplacementFieldFilter[itk.Image[itk.Vector[itk.F, dims], dims], itk.D].New()
    sampler.SetTransform(transform)
    sampler.SetSize(grid.shape)
    sampler.SetOutputOrigin(grid.origin.tolist())
    sampler.SetOutputSpacing(grid.spacing.tolist())
    sampler.SetOutputDirection(itk.matrix_from_array(grid.direction))
    sampler.Update()
    return sampler.GetOutput()
