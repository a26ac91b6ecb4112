"""Maps between images as transforms of SimpleITK, which writes the files that ITK, ANTs and 3D Slicer read.

They are those of :func:`~.physical.itk_transforms`. ITK's own take nine seconds to import, these two tenths.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from .grid import Grid, Matrix
from .physical import PhysicalMap


def simpleitk_transforms(found: PhysicalMap) -> tuple[sitk.CompositeTransform, sitk.CompositeTransform]:
    """Return the transform that takes fixed points to moving ones, and the one that does the reverse."""

    def linear(matrix: NDArray[Any]) -> sitk.Transform:
        return sitk.AffineTransform(matrix[:-1, :-1].ravel().tolist(), matrix[:-1, -1].tolist())

    def field(vectors: Matrix) -> sitk.Transform:
        image = sitk.GetImageFromArray(vectors.swapaxes(0, found.grid.dims - 1), isVector=True)
        image.SetOrigin(found.grid.origin.tolist())
        image.SetSpacing(found.grid.spacing.tolist())
        image.SetDirection(found.grid.direction.ravel().tolist())
        return sitk.DisplacementFieldTransform(image)

    # what stands last is applied first
    forward = sitk.CompositeTransform([linear(found.affine), field(found.before)])
    return forward, sitk.CompositeTransform([field(found.after), linear(np.linalg.inv(found.affine))])


def displacement_image(transform: sitk.Transform, grid: Grid) -> sitk.Image:
    """Return a transform as a displacement field on a grid: float32 vectors, mm in LPS."""
    geometry = (grid.origin.tolist(), grid.spacing.tolist(), grid.direction.ravel().tolist())
    return sitk.TransformToDisplacementField(transform, sitk.sitkVectorFloat32, list(grid.shape), *geometry)
