from __future__ import annotations

from math import isnan

import numpy as np
import pytest
import torch

from crosswarp.metrics import (
    MeasuredImage,
    registration_rows,
    representative_images,
    representative_pairs,
    segmentation_rows,
)
from crosswarp.spatial import from_voxel_displacement, identity_map
from crosswarp.spatial.grid import Grid

NAMES = ["background", "femur", "tibia"]
SPACING = (2.0, 3.0, 5.0)


def image(name: str, label: torch.Tensor | None, spatial: tuple[int, ...], **more: object) -> MeasuredImage:
    """An image whose axes lie along those of the world, of anisotropic spacing."""
    grid = Grid.from_ras(np.diag([*SPACING[: len(spatial)], 1.0]), spatial)
    return MeasuredImage(name, f"subject {name}", name, torch.zeros(1, *spatial), grid, label, **more)


def shifted(spatial: tuple[int, ...], voxels: float) -> torch.Tensor:
    """A map that reads ``voxels`` further along the first axis."""
    displacement = torch.zeros(1, len(spatial), *spatial)
    displacement[:, 0] = voxels
    return from_voxel_displacement(displacement)


@pytest.mark.parametrize("spatial", [(12, 9), (12, 6, 7)])
def test_identity_registers_as_well_as_no_registration(spatial: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    moving, fixed = torch.randint(0, 3, (2, 1, *spatial))
    identity = identity_map(spatial)
    rows = registration_rows(
        image("a", moving, spatial), image("b", fixed, spatial), identity, identity, NAMES, "syn", 0.5, 7.0
    )
    assert [row["class"] for row in rows] == ["femur", "tibia"]
    for row in rows:
        assert row["dice"] == row["unregistered_dice"] > 0
        assert row["hd95_mm"] > row["assd_mm"] > 0
        assert row["folds_percent"] == 0
        assert row["sd_log_jacobian"] == pytest.approx(0, abs=1e-5)
        assert row["inverse_error_mm"] == pytest.approx(0, abs=1e-4)  # float32 in [0, 1], up to 30 mm
        assert isnan(row["tre_mm"]) and isnan(row["unregistered_tre_mm"])
        expected = {
            "kind": "registration",
            "method": "syn",
            "direction": "a_to_b",
            "moving": "a",
            "fixed": "b",
            "moving_subject": "subject a",
            "fixed_subject": "subject b",
            "seconds": 0.5,
            "memory_mib": 7.0,
        }
        assert row | expected == row


@pytest.mark.parametrize("spatial", [(12, 5), (12, 5, 4)])
def test_a_known_shift_is_measured_by_hand(spatial: tuple[int, ...]) -> None:
    moving = torch.zeros(1, *spatial, dtype=torch.int64)
    moving[:, 4:8] = 1
    fixed = moving.roll(-3, 1)  # one of four layers in common
    rest = (-3.0, -5.0)[: len(spatial) - 1]  # mm, in LPS
    images = (
        image("a", moving, spatial, landmarks={"tip": np.array([-8.0, *rest]), "only here": np.zeros(2)}),
        image("b", fixed, spatial, landmarks={"tip": np.array([-3.0, *rest])}),
    )
    rows = registration_rows(*images, shifted(spatial, 3), shifted(spatial, -2), NAMES)
    assert rows[0]["dice"] == 1
    assert rows[0]["unregistered_dice"] == pytest.approx(2 * 1 / 8)
    assert rows[0]["hd95_mm"] == rows[0]["assd_mm"] == 0
    assert rows[0]["inverse_error_mm"] == pytest.approx(2, abs=1e-4)  # 3 voxels there, 2 back, of 2 mm
    assert rows[0]["unregistered_tre_mm"] == pytest.approx(5, abs=1e-4)
    assert rows[0]["tre_mm"] == pytest.approx(1, abs=1e-4)  # from 3 to 9 mm, and 8 mm is right
    assert isnan(rows[1]["dice"]) and isnan(rows[1]["hd95_mm"]), "there is no tibia"


def test_spread_of_the_jacobian_by_hand() -> None:
    """Halves of the image are stretched by 1/2 and by 3/2, but for the difference across the middle."""
    spatial = (201, 3)
    position = identity_map(spatial)
    x = position[:, :1]
    phi = torch.cat([torch.where(x < 0.5, 0.5 * x, 0.25 + 1.5 * (x - 0.5)), position[:, 1:]], dim=1)
    (row, _) = registration_rows(image("a", None, spatial), image("b", None, spatial), phi, phi, NAMES)
    logs = np.log([0.5] * 100 + [1.0] + [1.5] * 100)
    assert row["sd_log_jacobian"] == pytest.approx(logs.std(), rel=1e-3)
    assert isnan(row["dice"]), "without labels there is no overlap"


def test_a_mirror_folds_everywhere() -> None:
    labels = torch.ones(1, 6, 5, dtype=torch.int64)
    mirror = identity_map((6, 5)).flip(2)
    rows = registration_rows(image("a", labels, (6, 5)), image("b", labels, (6, 5)), mirror, mirror, NAMES)
    assert rows[0]["folds_percent"] == 100 and isnan(rows[0]["sd_log_jacobian"])
    assert rows[0]["inverse_error_mm"] == pytest.approx(0, abs=1e-4), "a mirror undoes itself"


def test_segmentation_rows_by_hand() -> None:
    predicted = torch.tensor([[[1, 1, 2, 0]]])
    reference = torch.tensor([[[1, 2, 2, 0]]])
    rows = segmentation_rows(predicted, image("xray", reference, (1, 4)), "source as is", NAMES)
    common = {"kind": "segmentation", "modality": "xray", "network": "source as is", "image": "xray"}
    common |= {"subject": "subject xray", "dice": pytest.approx(2 / 3)}
    # one point too many, 3 mm from the surface, or one too few: every point is one of the surface
    distances = {"hd95_mm": pytest.approx(0.95 * 3), "assd_mm": pytest.approx(1)}
    assert rows == [{**common, "class": name, **distances} for name in ("femur", "tibia")]
    with pytest.raises(ValueError, match="a label of xray"):
        segmentation_rows(predicted, image("xray", None, (1, 4)), "target", NAMES)


def test_batches_are_refused() -> None:
    identities = identity_map((4, 4)).expand(2, -1, -1, -1)
    with pytest.raises(ValueError, match="one pair, got 2 maps"):
        registration_rows(image("a", None, (4, 4)), image("b", None, (4, 4)), identities, identities, NAMES)


def pair(moving: str, *dice: float) -> list[dict]:
    names = {"kind": "registration", "method": "crosswarp", "direction": "a_to_b", "moving": moving}
    names["fixed"] = "f"
    return [{**names, "class": str(i), "dice": value} for i, value in enumerate(dice)]


def test_representative_pairs_are_worst_median_and_best() -> None:
    nan = float("nan")
    rows = [*pair("m1", 0.9, 0.7), *pair("m2", 0.2, nan), *pair("m3", 0.5, 0.5), *pair("m4", nan, nan)]
    rows += [*pair("m5", 0.6, 0.7), *pair("m6", 1.0, 0.0)]
    rows.append({"kind": "segmentation", "dice": 0.0})
    rows += [row | {"method": "syn"} for row in pair("m1", 0.0, 0.0)]
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
    def measured(modality: str, network: str, name: str, *dice: float) -> list[dict]:
        names = {"kind": "segmentation", "modality": modality, "network": network, "image": name}
        return [{**names, "class": str(i), "dice": value} for i, value in enumerate(dice)]

    rows = [*measured("dxa", "source", "d1", 0.9, 0.7), *measured("dxa", "source", "d2", 0.2, float("nan"))]
    rows += [*measured("xray", "source as is", "x1", 0.0), *measured("xray", "target", "x1", 0.5)]
    rows += pair("m", 0.1)
    chosen = [
        (row["modality"], row["rank"], row["image"], row["dice"]) for row in representative_images(rows)
    ]
    assert chosen == [
        ("dxa", "worst", "d2", pytest.approx(0.2)),
        ("dxa", "best", "d1", pytest.approx(0.8)),
        ("xray", "worst", "x1", pytest.approx(0.5)),
    ]
