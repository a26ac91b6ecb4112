from __future__ import annotations

import pytest
import torch

from crosswarp.metrics import (
    registration_rows,
    representative_images,
    representative_pairs,
    segmentation_rows,
)
from crosswarp.spatial import from_voxel_displacement, identity_map

NAMES = ["background", "femur", "tibia"]


def shifted(spatial: tuple[int, ...], voxels: float) -> torch.Tensor:
    """A map that reads ``voxels`` further along the first axis."""
    displacement = torch.zeros(1, len(spatial), *spatial)
    displacement[:, 0] = voxels
    return from_voxel_displacement(displacement)


@pytest.mark.parametrize("spatial", [(12, 9), (12, 6, 7)])
def test_identity_registers_as_well_as_no_registration(spatial: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    moving, fixed = torch.randint(0, 3, (2, 1, 1, *spatial))
    identity = identity_map(spatial)
    rows = registration_rows(moving, fixed, identity, identity, "a", "b", "dxa_to_xray", NAMES)
    assert [row["class"] for row in rows] == ["femur", "tibia"]
    for row in rows:
        assert row["dice"] == row["unregistered_dice"] > 0
        assert row["folds_percent"] == 0
        assert row["inverse_error_voxels"] == pytest.approx(0, abs=1e-5)  # float32 in [0, 1], 12 points
        assert {key: row[key] for key in ("kind", "direction", "moving", "fixed")} == {
            "kind": "registration",
            "direction": "dxa_to_xray",
            "moving": "a",
            "fixed": "b",
        }


@pytest.mark.parametrize("spatial", [(12, 5), (12, 5, 4)])
def test_a_known_shift_is_measured_by_hand(spatial: tuple[int, ...]) -> None:
    moving = torch.zeros(1, 1, *spatial, dtype=torch.int64)
    moving[:, :, 4:8] = 1
    fixed = moving.roll(-3, 2)  # one of four layers in common
    rows = registration_rows(
        moving, fixed, shifted(spatial, 3), shifted(spatial, -2), "a", "b", "a_to_b", NAMES
    )
    assert rows[0]["dice"] == 1
    assert rows[0]["unregistered_dice"] == pytest.approx(2 * 1 / 8)
    assert rows[0]["inverse_error_voxels"] == pytest.approx(1, abs=1e-5)  # 3 there, 2 back
    assert rows[1]["dice"] != rows[1]["dice"], "NaN: there is no tibia"


def test_a_mirror_folds_everywhere() -> None:
    labels = torch.ones(1, 1, 6, 5, dtype=torch.int64)
    mirror = identity_map((6, 5)).flip(2)
    rows = registration_rows(labels, labels, mirror, mirror, "a", "b", "a_to_b", NAMES)
    assert rows[0]["folds_percent"] == 100
    assert rows[0]["inverse_error_voxels"] == pytest.approx(0, abs=1e-5), "a mirror undoes itself"


def test_segmentation_rows_by_hand() -> None:
    predicted = torch.tensor([[[[1, 1, 2, 0]]]])
    reference = torch.tensor([[[[1, 2, 2, 0]]]])
    rows = segmentation_rows(predicted, reference, "x7", "xray", "source as is", NAMES)
    common = {"kind": "segmentation", "modality": "xray", "network": "source as is", "image": "x7"}
    assert rows == [
        {**common, "class": "femur", "dice": pytest.approx(2 / 3)},
        {**common, "class": "tibia", "dice": pytest.approx(2 / 3)},
    ]


def test_batches_are_refused() -> None:
    labels, identity = torch.zeros(2, 1, 4, 4), identity_map((4, 4))
    with pytest.raises(ValueError, match="one pair, got a batch of 2"):
        registration_rows(labels, labels, identity, identity, "a", "b", "a_to_b", NAMES)
    with pytest.raises(ValueError, match="one image, got a batch of 2"):
        segmentation_rows(labels, labels, "a", "dxa", "source", NAMES)


def pair(moving: str, *dice: float) -> list[dict]:
    names = {"kind": "registration", "direction": "a_to_b", "moving": moving, "fixed": "f"}
    return [{**names, "class": str(i), "dice": value} for i, value in enumerate(dice)]


def test_representative_pairs_are_worst_median_and_best() -> None:
    nan = float("nan")
    rows = [*pair("m1", 0.9, 0.7), *pair("m2", 0.2, nan), *pair("m3", 0.5, 0.5), *pair("m4", nan, nan)]
    rows += [*pair("m5", 0.6, 0.7), *pair("m6", 1.0, 0.0)]
    rows.append({"kind": "segmentation", "dice": 0.0})
    chosen = representative_pairs(rows)
    assert [(row["rank"], row["moving"]) for row in chosen] == [
        ("worst", "m2"),
        ("median", "m6"),
        ("best", "m1"),
    ]
    assert [row["dice"] for row in chosen] == pytest.approx([0.2, 0.5, 0.8])
    assert {(row["direction"], row["fixed"]) for row in chosen} == {("a_to_b", "f")}


@pytest.mark.parametrize(("count", "ranks"), [(0, []), (1, ["worst"]), (2, ["worst", "best"])])
def test_representative_pairs_of_few(count: int, ranks: list[str]) -> None:
    rows = [row for i in range(count) for row in pair(f"m{i}", i / 2)]
    assert [row["rank"] for row in representative_pairs(rows)] == ranks


def test_representative_images_are_chosen_in_each_modality() -> None:
    def image(modality: str, network: str, name: str, *dice: float) -> list[dict]:
        names = {"kind": "segmentation", "modality": modality, "network": network, "image": name}
        return [{**names, "class": str(i), "dice": value} for i, value in enumerate(dice)]

    rows = [*image("dxa", "source", "d1", 0.9, 0.7), *image("dxa", "source", "d2", 0.2, float("nan"))]
    rows += [*image("xray", "source as is", "x1", 0.0), *image("xray", "target", "x1", 0.5), *pair("m", 0.1)]
    chosen = [
        (row["modality"], row["rank"], row["image"], row["dice"]) for row in representative_images(rows)
    ]
    assert chosen == [
        ("dxa", "worst", "d2", pytest.approx(0.2)),
        ("dxa", "best", "d1", pytest.approx(0.8)),
        ("xray", "worst", "x1", pytest.approx(0.5)),
    ]
