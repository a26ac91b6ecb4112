"""Maps between images that lie in space: physical displacements and ITK transforms, in mm and LPS.

A map addresses fractions of the two images. Between physical spaces it is therefore ``A ∘ (id + d)``: the
displacement ``d`` of the map in mm of the fixed image, then the affine ``A`` that lays the extent of the
fixed image onto that of the moving one. Like the map itself, an ITK transform takes *fixed* points to
*moving* ones, which is what resampling asks for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import itk
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from .alignment import apply_affine, best_affine
from .grid import Grid, Matrix
from .maps import displacement, identity_map, invert

MOST_POINTS, GROWS = 2**22, 27  # of a map's larger grid: as many, or so many times those of the map


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


def physical_displacement(phi: torch.Tensor, grid: Grid) -> Matrix:
    """Return the displacement of a map in mm along the axes of LPS.

    Args:
        phi: ``[1, D, *spatial]``, on any grid over the fixed image's extent.
        grid: of the fixed image.

    Returns:
        ``[*spatial, D]``, on the grid of the map.
    """
    return np.moveaxis(displacement(phi)[0].double().cpu().numpy(), 0, -1) @ grid.extent[:-1, :-1].T


def with_margin(phi: torch.Tensor, grid: Grid, covered: Sequence[Matrix] = ()) -> tuple[torch.Tensor, Grid]:
    """Return a map beyond its image, as far as it moves the borders and what leaves the image.

    A field of ITK displaces nothing beyond its grid. A map has the displacement of the nearest border point
    there; without that, what leaves the image would not find its way back.

    Args:
        phi: ``[1, D, *spatial]``, on any grid over the image's extent.
        grid: of the image.
        covered: points ``[N, D]``, mm, that the larger grid has to contain, such as the corners of an image
            that reaches beyond its frame. They are not, where that takes more than ``MOST_POINTS`` points and
            ``GROWS`` times as many as the map has, as of a map that shrinks all to nothing.

    Returns:
        the map in fractions of its larger grid, and that grid.
    """
    dims, shape = phi.shape[1], phi.shape[2:]
    column = (1, dims, *[1] * dims)
    steps, identity = torch.tensor(shape, device=phi.device).view(column) - 1, identity_map(shape, phi.device)
    shift = displacement(phi) * steps  # in samples
    outermost = ((identity == 0) | (identity == 1)).any(1)
    beyond = ((identity - 0.5) * steps + shift).abs() - steps / 2
    farthest = torch.where(outermost, shift.abs(), beyond).amax([0, *range(2, dims + 2)], keepdim=True)
    needed = torch.minimum(farthest.ceil().int() + 1, steps + 1)
    for points in covered:
        outside = torch.from_numpy(np.abs(grid.to_fractions(points) - 0.5).max(0) - 0.5).to(phi.device)
        wider = needed.maximum((outside.view(column) * steps + farthest).ceil().int() + 1)
        points_of = (steps + 1 + 2 * wider.where(steps > 0, 0)).double().prod()
        needed = wider if points_of <= max(MOST_POINTS, GROWS * math.prod(shape)) else needed
    margins = needed.where(steps > 0, 0).flatten().tolist()
    pads = [margin for each in reversed(margins) for margin in (each, each)]
    shift = F.pad(shift, pads, mode="replicate")
    larger = shift.shape[2:]
    steps = (torch.tensor(larger, device=phi.device) - 1).clamp(min=1)
    phi = identity_map(larger, phi.device) + shift / steps.view(column)
    voxels = np.maximum(np.array(grid.shape) - 1, 1) / np.maximum(np.array(shape) - 1, 1)
    to_voxels = np.diag([*voxels, 1.0])
    to_voxels[:-1, -1] = -voxels * margins
    return phi, Grid(larger, grid.affine @ to_voxels)


@dataclass(frozen=True)
class PhysicalMap:
    """A map between images in mm, and its inverse: an affine, the nearest to the map, and the rest.

    The rest are displacements: a field alone ends at the image's border, and one of large shifts and scales
    could not be inverted. Interpolated linearly they are the map on every other grid, too: nothing is gained
    by a finer one. The inverse is that of the map itself, by :func:`~.maps.invert`, not the network's map of
    the other direction, which is only nearly its inverse.

    Attributes:
        affine: fixed to moving, ``[D + 1, D + 1]``.
        grid: of the displacements; it reaches beyond the fixed image.
        before: displacements of fixed points before the affine, ``[*grid.shape, D]``.
        after: displacements after the inverse of the affine, ``[*grid.shape, D]``.
    """

    affine: Matrix
    grid: Grid
    before: Matrix
    after: Matrix

    @classmethod
    def of(
        cls,
        phi: torch.Tensor,
        fixed: Grid,
        moving: Grid,
        fixed_image: Grid | None = None,
        moving_image: Grid | None = None,
    ) -> PhysicalMap:
        """Return a map in mm; its inverse is found on the map's device.

        Args:
            phi: ``[1, D, *spatial]``, moving to fixed, on any grid over the fixed image's extent.
            fixed: grid of the fixed image, or of the frame in which it was seen.
            moving: grid of the moving image, or of its frame.
            fixed_image: grid of the whole fixed image, which the displacements have to cover; None where
                `fixed` is that.
            moving_image: grid of the whole moving image, likewise.

        Raises:
            ValueError: for grids that shear, which images of ITK cannot have.
        """
        nearest = best_affine(phi)
        affine = moving.extent @ nearest[0].cpu().numpy() @ np.linalg.inv(fixed.extent)
        covered = [] if fixed_image is None else [fixed_image.corners]
        if moving_image is not None:  # its points are displaced after the inverse of the affine
            back = np.linalg.inv(affine)
            covered.append(moving_image.corners @ back[:-1, :-1].T + back[:-1, -1])
        rest, grid = with_margin(apply_affine(torch.linalg.inv(nearest), phi), fixed, covered)
        return cls(affine, grid, *(physical_displacement(each, grid) for each in (rest, invert(rest))))


def itk_transforms(
    phi: torch.Tensor,
    fixed: Grid,
    moving: Grid,
    fixed_image: Grid | None = None,
    moving_image: Grid | None = None,
) -> tuple[Any, Any]:
    """Return a map as an ITK composite transform, and its inverse; see :meth:`PhysicalMap.of`.

    Args:
        phi: ``[1, D, *spatial]``, moving to fixed, on any grid over the fixed image's extent.
        fixed: grid of the fixed image, or of its frame.
        moving: grid of the moving image, or of its frame.
        fixed_image: grid of the whole fixed image.
        moving_image: grid of the whole moving image.

    Returns:
        two ``itk.CompositeTransform[itk.D, D]``: one takes fixed points to moving ones and resamples the
        moving image onto the fixed; the other does the reverse.
    """
    dims, found = fixed.dims, PhysicalMap.of(phi, fixed, moving, fixed_image, moving_image)

    def linear(matrix: NDArray[Any]) -> Any:
        transform = itk.AffineTransform[itk.D, dims].New()
        transform.SetMatrix(itk.matrix_from_array(np.ascontiguousarray(matrix[:-1, :-1])))
        transform.SetTranslation(matrix[:-1, -1].tolist())
        return transform

    def field(vectors: Matrix) -> Any:
        # ITK's arrays have the last axis first
        image = itk.image_from_array(np.ascontiguousarray(vectors.swapaxes(0, dims - 1)), is_vector=True)
        place(image, found.grid)
        transform = itk.DisplacementFieldTransform[itk.D, dims].New()
        transform.SetDisplacementField(image)
        return transform

    # what was added last is applied first
    forward, inverse = (itk.CompositeTransform[itk.D, dims].New() for _ in range(2))
    forward.AddTransform(linear(found.affine))
    forward.AddTransform(field(found.before))
    inverse.AddTransform(field(found.after))
    inverse.AddTransform(linear(np.linalg.inv(found.affine)))
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
