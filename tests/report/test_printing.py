"""Tables on terminals of some widths, and where the output is no terminal."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from crosswarp.metrics import summarise
from crosswarp.report.printing import show
from crosswarp.report.tables import Table, overview


def printed(tables: dict[str, Table], width: int | None = None) -> list[str]:
    """The lines on a terminal of a width, or in a file."""
    file = io.StringIO()
    terminal = width is not None
    show(tables, Console(file=file, width=width, force_terminal=terminal, color_system=None, markup=False))
    return file.getvalue().splitlines()


SOME = Table(
    ["Method", "Pairs", "Dice", "95 % interval"],
    {
        "dxa to xray": [["unregistered", "3", "0.500 ± 0.100", "–"], ["ours", "3", "0.9", "0.8 to 1.0"]],
        "xray to dxa": [["ours", "3", "0.800 ± \u20070.05", "–"]],
    },
)
AS_IT_IS = [
    "Some",
    "             Method        Pairs           Dice  95 % interval",
    "dxa to xray  unregistered      3  0.500 ± 0.100              –",
    "dxa to xray  ours              3            0.9     0.8 to 1.0",
    "xray to dxa  ours              3  0.800 ±  0.05              –",
    "",
]


def test_a_table_that_fits_is_printed_as_it_is() -> None:
    assert printed({"Some": SOME}, 62) == AS_IT_IS


def test_where_no_terminal_is_there_is_no_limit_and_no_escape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    assert printed({"Some": SOME}) == AS_IT_IS


def test_a_wide_table_is_turned() -> None:
    assert printed({"Some": SOME}, 61) == [
        "Some",
        "                 dxa to xray  dxa to xray    xray to dxa",
        "Method          unregistered         ours           ours",
        "Pairs                      3            3              3",
        "Dice           0.500 ± 0.100          0.9  0.800 ±  0.05",
        "95 % interval              –   0.8 to 1.0              –",
        "",
    ]


def test_a_table_that_is_too_wide_both_ways_comes_in_parts() -> None:
    assert printed({"Some": SOME}, 50) == [
        "Some",
        "             Method        Pairs           Dice",
        "dxa to xray  unregistered      3  0.500 ± 0.100",
        "dxa to xray  ours              3            0.9",
        "xray to dxa  ours              3  0.800 ±  0.05",
        "",
        "             Method        95 % interval",
        "dxa to xray  unregistered              –",
        "dxa to xray  ours             0.8 to 1.0",
        "xray to dxa  ours                      –",
        "",
    ]


def test_names_are_no_markup_and_a_table_of_one_group_has_no_name_for_it() -> None:
    table = Table(["Class", "Dice"], {"": [["[b]femur[/b]", "0.5"]]})
    assert printed({"[i]One": table}, 40) == ["[i]One", "Class         Dice", "[b]femur[/b]   0.5", ""]


@pytest.mark.parametrize("width", [80, 110, 120, None])
@pytest.mark.parametrize("baselines", [0, 9])
def test_every_table_of_an_evaluation_fits(
    width: int | None,
    baselines: int,
    segmentations: list[dict[str, Any]],
    registrations: list[dict[str, Any]],
) -> None:
    methods = ["crosswarp", *(f"another method {i}" for i in range(baselines))]
    rows = segmentations + [row | {"method": name} for row in registrations for name in methods]
    rows = [row | {"hd95_mm": 12.345, "assd_mm": 1.234, "seconds": 0.1, "memory_mib": 1234.5} for row in rows]
    tables = overview(summarise(rows))
    assert [title.partition(",")[0] for title in tables] == [
        *("Segmentation", "Registration", "Deformation and cost")
    ]
    lines = printed(tables, width)
    text = "\n".join(lines)
    assert all(len(line) <= (width or 1000) for line in lines), text
    # nothing is left out: each of our two directions has all that was measured, the classes' Dice too
    for value in ("0.850 ± 0.071", "0.750 ± 0.071", "0.800 ± 0.071", "0.321 ± 0.000", "12.35 ± 0.00"):
        assert text.count(value) >= 2, value
    assert all(name in text for name in methods)
