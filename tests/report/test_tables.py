from __future__ import annotations

from math import nan
from typing import Any

import pytest

from crosswarp.report.tables import (
    class_table,
    comparison_table,
    deformation_table,
    dice_facets,
    measure_facets,
    overview,
    pair_facts,
    pair_table,
    registration_subjects,
    segmentation_subjects,
    summary_table,
    training_table,
)

Rows = list[dict[str, Any]]


def mean_row(method: str, direction: str = "dxa_to_xray", **values: Any) -> dict[str, Any]:
    """A row of a summary."""
    names = {"kind": "registration", "method": method, "direction": direction, "class": "mean", "n": 12}
    return {**names, "dice_mean": 0.8, "dice_sd": 0.05, **values}


def test_summary_shows_methods_beside_each_other_below_the_unregistered_pairs() -> None:
    before = {"unregistered_dice_mean": 0.3, "unregistered_dice_sd": nan}
    before |= {"unregistered_tre_mm_mean": 9.0, "unregistered_tre_mm_sd": 12.345}
    summary = [
        mean_row("crosswarp", dice_low=0.75, dice_high=0.849, tre_mm_mean=2, tre_mm_sd=1.5, **before),
        mean_row("ants", dice_mean=nan, dice_sd=nan, dice_low=nan, dice_high=nan, **before),
        mean_row("crosswarp", "xray_to_dxa"),
        mean_row("crosswarp") | {"class": "femur"},
    ]
    header, groups = summary_table(summary, "registration")
    assert header == ["Method", "Pairs", "Dice", "95 % interval", "TRE (mm)"], (
        "no surface distances: no column"
    )
    assert groups == {
        "dxa to xray": [
            ["unregistered", "12", "0.300", "–", "9.00 ± 12.35"],
            ["crosswarp", "12", "0.800 ± 0.050", "0.750 to 0.849", "2.00 ± \u20071.50"],
            ["ants", "12", "–", "–", "–"],
        ],
        "xray to dxa": [["crosswarp", "12", "0.800 ± 0.050", "–", "–"]],
    }
    assert summary_table(summary, "segmentation").groups == {}


def test_summary_with_a_column_for_each_class() -> None:
    before = {"unregistered_dice_mean": 0.25, "unregistered_dice_sd": nan}
    summary = [
        mean_row("crosswarp", dice_low=0.75, dice_high=0.849, **before),
        mean_row("crosswarp", dice_mean=0.9, **before) | {"class": "femur"},
        mean_row("ants") | {"class": "tibia"},
        mean_row("ants", dice_mean=0.7),
    ]
    assert summary_table(summary, "registration", by_class=True) == (
        ["Method", "Pairs", "Dice, femur", "Dice, tibia", "Dice, mean", "95 % interval"],
        {
            "dxa to xray": [
                ["unregistered", "12", "0.250", "–", "0.250", "–"],
                ["crosswarp", "12", "0.900 ± 0.050", "–", "0.800 ± 0.050", "0.750 to 0.849"],
                ["ants", "12", "–", "0.800 ± 0.050", "0.700 ± 0.050", "–"],
            ]
        },
    )


def test_overview_has_what_was_measured() -> None:
    assert overview([]) == {}
    (title,) = overview([mean_row("crosswarp")])
    assert title == "Registration, mean ± standard deviation over the pairs"
    both = overview(
        [mean_row("crosswarp", seconds_mean=1.0)],
        [{"direction": "both", "method": "crosswarp"} | {"pairs": 9, "dice_mean": 0.9}],
    )
    assert [name.split(",")[0] for name in both] == [
        "Registration",
        "Deformation and cost",
        "Comparison on the same pairs",
    ]


def test_deformation_has_its_own_table() -> None:
    summary = [mean_row("crosswarp", folds_percent_mean=0.01234, folds_percent_sd=0, seconds_mean=nan)]
    assert deformation_table(summary) == (
        ["Method", "Folds (%)"],
        {"dxa to xray": [["crosswarp", "0.012 ± 0.000"]]},
    )
    assert deformation_table([mean_row("crosswarp")]).header == ["Method"]


def test_class_table() -> None:
    row = mean_row("crosswarp", unregistered_dice_mean=0.25, unregistered_dice_sd=0.1)
    assert class_table([row | {"class": "femur", "n": 3}, row], "registration") == (
        ["Class", "Pairs", "Dice", "Dice, unregistered"],
        {
            "dxa to xray, crosswarp": [
                ["femur", "3", "0.800 ± 0.050", "0.250 ± 0.100"],
                ["mean", "12", "0.800 ± 0.050", "0.250 ± 0.100"],
            ]
        },
    )


def test_comparison_table() -> None:
    ours = {"direction": "both", "method": "crosswarp", "pairs": 9, "dice_mean": 0.9}
    other = ours | {"method": "ants", "dice_mean": 0.8, "dice_low": 0.75, "dice_high": 0.85}
    other |= {"difference_mean": 0.1, "difference_low": -0.01, "difference_high": 0.2, "p_holm": 0.0321}
    assert comparison_table([ours, other]) == (
        ["Method", "Pairs", "Dice", "95 % interval", "crosswarp ahead by", "95 % interval", "p (Holm)"],
        {
            "both": [
                ["crosswarp", "9", "0.900", "–", "–", "–", "–"],
                ["ants", "9", "0.800", "0.750 to 0.850", "+0.100", "-0.010 to 0.200", "0.032"],
            ]
        },
    )


def test_segmentation_of_each_subject(segmentations: Rows) -> None:
    more = [row | {"image": "another", "dice": 0.9} for row in segmentations if row["subject"] == "s1"]
    assert segmentation_subjects(segmentations + more) == (
        ["Subject", "Images", "femur", "tibia & <co>", "mean"],
        {"xray": [["s1", "2", "0.700", "0.700", "0.700"], ["s2", "1", "1.000", "1.000", "1.000"]]},
    )


def test_registration_of_each_subject_as_moving_and_as_fixed(registrations: Rows) -> None:
    others = [row | {"method": "ants", "dice": 0.0} for row in registrations]
    one_way = [row for row in registrations if row["moving"] != "x2"]
    header, groups = registration_subjects(one_way + others)
    assert header == [
        "Subject",
        *("Pairs, as moving", "Dice, as moving", "TRE (mm), as moving"),
        *("Pairs, as fixed", "Dice, as fixed", "TRE (mm), as fixed"),
    ]
    assert groups == {
        "dxa": [["t1", "2", "0.800", "3.00", "1", "0.750", "2.00"]],
        "xray": [
            ["s1", "1", "0.750", "2.00", "1", "0.750", "2.00"],
            ["s2", "–", "–", "–", "1", "0.850", "4.00"],
        ],
    }


def test_one_pair(registrations: Rows) -> None:
    pair = registrations[:2]
    assert pair_table(pair) == (
        ["Class", "Dice, unregistered", "Dice"],
        {"": [["femur", "0.321", "0.800"], ["tibia & <co>", "0.321", "0.700"]]},
    )
    assert pair_facts(pair[0]) == {"TRE (mm)": "2.00", "Folds (%)": "0.042"}
    assert list(pair_facts(pair[0] | {"unregistered_tre_mm": 5.0})) == [
        *("TRE, unregistered (mm)", "TRE (mm)", "Folds (%)")
    ]


def test_dice_facets(segmentations: Rows, registrations: Rows) -> None:
    rows = segmentations + registrations + [row | {"method": "ants", "dice": nan} for row in registrations]
    assert dice_facets(rows, "segmentation") == {
        name: {"xray": {"source as is": [0.25, 0.5], "target": [0.5, 1.0]}}
        for name in ("femur", "tibia & <co>", "mean over classes")
    }
    facets = dice_facets(rows, "registration")
    assert list(facets) == ["femur", "tibia & <co>", "mean over classes"]
    assert facets["femur"] == {
        direction: {"unregistered": [0.321] * 2, "crosswarp": [0.8, 0.9]}
        for direction in ("dxa to xray", "xray to dxa")
    }, "not measured: not there; unregistered pairs once, not for each method"
    unmeasured = [row | {"dice": nan, "unregistered_dice": nan} for row in rows]
    assert dice_facets(unmeasured, "segmentation") == dice_facets(unmeasured, "registration") == {}


def test_measure_facets(registrations: Rows) -> None:
    rows = [row | {"unregistered_tre_mm": 7.0, "assd_mm": nan} for row in registrations]
    facets = measure_facets(rows, "registration")
    assert list(facets) == ["TRE (mm)", "Folds (%)"]
    assert facets["TRE (mm)"]["dxa to xray"] == {"unregistered": [7.0, 7.0], "crosswarp": [2.0, 4.0]}
    assert facets["Folds (%)"]["dxa to xray"]["crosswarp"] == pytest.approx([0.0421, 0.0842])
    assert measure_facets(rows, "segmentation") == {}
    assert list(measure_facets([row | {"folds_percent": 0.0} for row in rows], "registration")) == [
        "TRE (mm)"
    ]


def test_training_table() -> None:
    stages = {
        "source_segmentation": {"epoch": 15, "criterion": "val_dice", "value": 0.91271, "seconds": 142.0},
        "unknown": {"state": "done"},
    }
    assert training_table(stages) == (
        ["Stage", "Epoch chosen", "by", "Value", "Training (min)"],
        {"": [["source segmentation", "15", "val dice", "0.913", "2.4"], ["unknown", "–", "–", "–", "–"]]},
    )
    assert training_table({}).groups == {"": []}
