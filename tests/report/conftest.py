"""A registered pair of discs (2D) or balls (3D), moved by a known smooth map."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from crosswarp.metrics import warp_labels
from crosswarp.spatial import identity_map, invert, sample


@pytest.fixture(params=[(24, 18), (16, 20, 6)], ids=["2d", "3d"])
def pair(request: pytest.FixtureRequest) -> dict[str, Any]:
    spatial = request.param
    points = identity_map(spatial)
    phi = points + 0.05 * torch.sin(np.pi * points)
    distance = (points - 0.45).norm(dim=1, keepdim=True)
    moving_label = (distance < 0.3).int() + (distance < 0.15).int()
    moving = 1 - distance
    images = {
        "moving": moving,
        "fixed": 2 - sample(moving, phi),
        "warped": sample(moving, phi),
        "moving_label": moving_label,
        "fixed_label": warp_labels(moving_label, phi, mode="nearest"),
        "warped_label": warp_labels(moving_label, phi),
    }
    arrays = {key: value[0, 0].numpy() for key, value in images.items()}
    return {**arrays, "phi": phi[0].numpy(), "phi_inverse": invert(phi)[0].numpy(), "title": "a to b"}
