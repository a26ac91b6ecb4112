from __future__ import annotations

from math import isnan, nan, sqrt

import pytest

from crosswarp.metrics import means, sample_means, summarise


def segmented(network: str, image: str, *dice: float) -> list[dict]:
    names = {"kind": "segmentation", "modality": "xray", "network": network, "image": image, "subject": image}
    return [{**names, "class": name, "dice": d} for name, d in zip(("femur", "tibia"), dice, strict=True)]


def registered(
    moving: str, before: tuple[float, float], after: tuple[float, float], folds: float
) -> list[dict]:
    names = {"kind": "registration", "method": "crosswarp", "direction": "dxa_to_xray", "moving": moving}
    names |= {"fixed": "f", "moving_subject": moving, "fixed_subject": "f"}
    quality = {"folds_percent": folds, "inverse_error_mm": 2 * folds, "hd95_mm": 10 * folds}
    return [
        {**names, "class": name, "dice": a, "unregistered_dice": b, **quality}
        for name, b, a in zip(("femur", "tibia"), before, after, strict=True)
    ]


def test_means_and_spread_worked_out_by_hand() -> None:
    rows = segmented("target", "1", 0.8, 0.6) + segmented("target", "2", 0.6, 0.2)
    femur, tibia, mean = summarise(rows)
    assert femur == {
        "kind": "segmentation",
        "modality": "xray",
        "network": "target",
        "class": "femur",
        "n": 2,
        "dice_mean": pytest.approx(0.7),
        "dice_sd": pytest.approx(0.1 * sqrt(2)),
        # of two subjects, a draw holds one twice in half of the cases
        "dice_low": pytest.approx(0.6),
        "dice_high": pytest.approx(0.8),
    }
    assert (tibia["dice_mean"], tibia["dice_sd"]) == pytest.approx((0.4, 0.2 * sqrt(2)))
    # images average to 0.7 and 0.4: the spread is over images, not over the four values
    assert (mean["class"], mean["n"]) == ("mean", 2)
    assert (mean["dice_mean"], mean["dice_sd"]) == pytest.approx((0.55, 0.15 * sqrt(2)))


def test_absent_classes_are_left_out() -> None:
    rows = segmented("target", "1", 0.8, nan) + segmented("target", "2", 0.6, 0.2)
    rows += segmented("target", "3", nan, nan)
    femur, tibia, mean = summarise(rows)
    assert (femur["n"], femur["dice_mean"]) == (2, pytest.approx(0.7))
    assert (tibia["n"], tibia["dice_mean"]) == (1, pytest.approx(0.2))
    assert isnan(tibia["dice_sd"]), "one value has no spread"
    assert (mean["n"], mean["dice_mean"]) == (2, pytest.approx((0.8 + 0.4) / 2))


def test_groups_are_kept_apart() -> None:
    rows = [
        *segmented("source as is", "1", 0.1, 0.3),
        *segmented("target", "1", 0.8, 0.6),
        *registered("m1", (0.2, 0.4), (0.8, 1.0), 0.5),
        *registered("m2", (0.4, 0.6), (0.6, 0.8), 0.1),
    ]
    means = {row.get("network", "registered"): row for row in summarise(rows) if row["class"] == "mean"}
    assert list(means) == ["source as is", "target", "registered"]
    assert means["source as is"]["dice_mean"] == pytest.approx(0.2)
    assert means["target"]["dice_mean"] == pytest.approx(0.7)
    registration = means["registered"]
    assert "folds_percent_mean" not in means["target"]
    assert registration["n"] == 2
    assert registration["dice_mean"] == pytest.approx(0.8)
    assert registration["unregistered_dice_mean"] == pytest.approx(0.4)
    assert registration["folds_percent_mean"] == pytest.approx(0.3)
    assert registration["inverse_error_mm_mean"] == pytest.approx(0.6)
    assert registration["inverse_error_mm_sd"] == pytest.approx(0.4 * sqrt(2))


def test_sample_means_average_the_classes_of_each_image() -> None:
    rows = segmented("source as is", "1", nan, 0.25) + segmented("target", "1", 0.25, 0.75)
    rows += segmented("target", "2", nan, nan)
    images = sample_means(rows)
    assert [(row["image"], row["network"], row["dice"], row["n"]) for row in images[:2]] == [
        ("1", "source as is", 0.25, 2),
        ("1", "target", 0.5, 2),
    ]
    assert isnan(images[2]["dice"]) and images[2]["subject"] == "2"
    pair, other = sample_means(
        registered("m1", (0.2, 0.4), (0.8, 1.0), 0.5) + registered("m2", (0, 0), (1, 1), 0)
    )
    assert (pair["dice"], pair["unregistered_dice"]) == pytest.approx((0.9, 0.3))
    assert (pair["moving_subject"], other["moving_subject"]) == ("m1", "m2") and "class" not in pair


def test_means_over_whatever_rows_share() -> None:
    rows = segmented("target", "1", 0.2, 0.4) + segmented("target", "2", nan, 0.8)
    assert means(rows, "modality", "class") == [
        {"modality": "xray", "class": "femur", "n": 2, "dice": 0.2},
        {"modality": "xray", "class": "tibia", "n": 2, "dice": pytest.approx(0.6)},
    ]


def test_nothing_measured_gives_nothing() -> None:
    assert summarise([]) == means([], "class") == []
