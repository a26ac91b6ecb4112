from __future__ import annotations

import itk
import numpy as np
import pytest
import torch

from crosswarp.metrics import target_registration_error
from crosswarp.spatial import from_voxel_displacement
from crosswarp.spatial.grid import Grid
from crosswarp.spatial.physical import itk_transforms


@pytest.mark.parametrize("spatial", [(10, 7), (8, 6, 9)])
def test_agrees_with_itk_where_images_lie_obliquely(spatial: tuple[int, ...]) -> None:
    """The landmarks that ITK maps without an error are at the mean distance that was added to them."""
    dims = len(spatial)
    rng = np.random.default_rng(0)

    def place() -> Grid:
        rotation, _ = np.linalg.qr(rng.normal(size=(dims, dims)))
        matrix = np.eye(dims + 1)
        matrix[:-1, :-1] = rotation * rng.uniform(0.5, 3, dims)
        matrix[:-1, -1] = rng.uniform(-50, 50, dims)
        return Grid(spatial, matrix)

    moving_grid, fixed_grid = place(), place()
    torch.manual_seed(0)
    phi = from_voxel_displacement(torch.rand(1, dims, *spatial))
    forward, _ = itk_transforms(phi, fixed_grid, moving_grid)
    points = fixed_grid.fractions_to_mm(rng.uniform(0.1, 0.9, (20, dims)))
    offsets = rng.normal(size=points.shape)
    fixed = {str(i): point for i, point in enumerate(points)}
    moving = {
        str(i): np.array(forward.TransformPoint(itk.Point[itk.D, dims](point.tolist()))) + offset
        for i, (point, offset) in enumerate(zip(points, offsets, strict=True))
    }
    error = target_registration_error(moving, fixed, phi, moving_grid, fixed_grid)
    assert error == pytest.approx(np.linalg.norm(offsets, axis=1).mean(), abs=1e-3)  # float32 of 50 mm
    assert np.isnan(target_registration_error({"other": points[0]}, fixed, phi, moving_grid, fixed_grid))
