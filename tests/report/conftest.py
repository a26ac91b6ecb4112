"""A registered pair of discs (2D) or balls (3D), moved by a known smooth map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crosswarp.metrics import warp_labels
from crosswarp.report import write_report
from crosswarp.spatial import identity_map, invert, sample

CLASSES = ("femur", "tibia & <co>")


def registered_pair(*spatial: int) -> dict[str, Any]:
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


@pytest.fixture(params=[(24, 18), (16, 20, 6)], ids=["2d", "3d"])
def pair(request: pytest.FixtureRequest) -> dict[str, Any]:
    return registered_pair(*request.param)


def segmentation_measurements() -> list[dict[str, Any]]:
    """Two x-rays of two subjects, by the source network as it is and by the target network."""
    return [
        {
            **{"kind": "segmentation", "modality": "xray", "network": network},
            **{"image": f"x{i}", "subject": f"s{i}", "class": name, "dice": factor * dice},
        }
        for i, dice in ((1, 0.5), (2, 1.0))
        for network, factor in (("source as is", 0.5), ("target", 1.0))
        for name in CLASSES
    ]


def registration_measurements() -> list[dict[str, Any]]:
    """A DXA image and two x-rays, both ways; the second class is 0.1 worse."""
    rows = []
    for i, dice in ((1, 0.8), (2, 0.9)):
        dxa, xray = ("dxa", "d1", "t1"), ("xray", f"x{i}", f"s{i}")
        for moving, fixed in ((dxa, xray), (xray, dxa)):
            pair = {
                **{"kind": "registration", "method": "crosswarp"},
                **{"direction": f"{moving[0]}_to_{fixed[0]}"},
                **{"moving": moving[1], "fixed": fixed[1]},
                **{"moving_subject": moving[2], "fixed_subject": fixed[2]},
                **{"unregistered_dice": 0.321, "tre_mm": 2.0 * i, "folds_percent": 0.0421 * i},
            }
            rows += [
                {**pair, "class": name, "dice": dice - drop}
                for name, drop in zip(CLASSES, (0, 0.1), strict=True)
            ]
    return rows


@pytest.fixture
def segmentations() -> list[dict[str, Any]]:
    return segmentation_measurements()


@pytest.fixture
def registrations() -> list[dict[str, Any]]:
    return registration_measurements()


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with everything in it."""
    pair = registered_pair(24, 18)
    names = {"title": "Best", "direction": "dxa_to_xray", "moving_name": "d1", "fixed_name": "x2"}
    example = {"image": pair["fixed"], "predicted": pair["warped_label"], "title": "xray, subject <7>"}
    path = tmp_path_factory.mktemp("report") / "run" / "report.html"
    write_report(
        path,
        "Knees & more",
        segmentation_measurements() + registration_measurements(),
        [pair | names],
        [example, {**example, "label": pair["fixed_label"]}],
        {"2. source_segmentation": {"loss": [(0, 1.0), (1, 0.5)]}, "not run": {}},
        {"device": "two cores", "versions": {"torch": "2.13.0"}, "stages": {"one": {"epoch": 7}}},
        ["On a grid of 9 < 10 points."],
        warnings=["one: Dice 0.1 < 0.5"],
    )
    return path
