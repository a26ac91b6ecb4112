"""Means and spread of measurements, and the tables that show them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isnan, nan
from statistics import fmean, stdev

from .rows import Row

_GROUP = ("kind", "direction", "method", "modality", "network")
_SAMPLE = ("image", "moving", "fixed")
_VALUES = ("dice", "unregistered_dice", "folds_percent", "inverse_error_voxels")


def summarise(rows: Iterable[Row]) -> list[Row]:
    """Average measurements over images or pairs.

    Args:
        rows: what :func:`registration_rows` and :func:`segmentation_rows` return.

    Returns:
        For each group (direction, or modality and network) a row for each class, then one whose ``class``
        is ``"mean"``: there the classes of each image are averaged first, so that its spread is over
        images. Each has ``n`` (images that have the class) and, for every measurement, ``..._mean`` and
        ``..._sd`` (sample standard deviation, NaN for one image). Values that are NaN are left out.
    """
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple((key, row[key]) for key in _GROUP if key in row), []).append(row)
    summary = []
    for group, members in groups.items():
        classes: dict[str, list[list[Row]]] = {}
        samples: dict[tuple, list[Row]] = {}
        for row in members:
            classes.setdefault(row["class"], []).append([row])
            samples.setdefault(tuple(row.get(key) for key in _SAMPLE), []).append(row)
        for name, cells in {**classes, "mean": list(samples.values())}.items():
            entry = {**dict(group), "class": name}
            for key in (key for key in _VALUES if key in members[0]):
                values = _measured(_mean(row[key] for row in cell) for cell in cells)
                if key == "dice":
                    entry["n"] = len(values)
                entry[f"{key}_mean"] = _mean(values)
                entry[f"{key}_sd"] = stdev(values) if len(values) > 1 else nan
            summary.append(entry)
    return summary


def summary_tables(summary: Sequence[Row]) -> dict[str, list[list[str]]]:
    """Lay a summary out as tables of text.

    Args:
        summary: what :func:`summarise` returns.

    Returns:
        For ``"Segmentation"`` and ``"Registration"``, where measured, a header and the rows: mean ±
        standard deviation of Dice in each class and over them; a registration stands below the same pairs
        unregistered.
    """
    classes = list(dict.fromkeys(row["class"] for row in summary))
    segmentation = [["modality", "network", "images", *classes]]
    registration = [["direction", "", "pairs", *classes, "folds %", "inverse error (voxels)"]]
    groups: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in summary:
        groups.setdefault(tuple(row[key] for key in _GROUP if key in row), {})[row["class"]] = row
    for (kind, *names), cells in groups.items():
        overall, count = cells["mean"], str(cells["mean"]["n"])
        dice = [_cell(cells[name], "dice") for name in classes]
        if kind == "segmentation":
            segmentation.append([*names, count, *dice])
        else:
            direction = names[0].replace("_to_", " to ")
            before = [_cell(cells[name], "unregistered_dice") for name in classes]
            quality = [_cell(overall, "folds_percent"), _cell(overall, "inverse_error_voxels")]
            registration.append([direction, "unregistered", count, *before, "", ""])
            registration.append([direction, "registered", count, *dice, *quality])
    tables = {"Segmentation": segmentation, "Registration": registration}
    return {title: table for title, table in tables.items() if len(table) > 1}


def format_table(summary: Sequence[Row]) -> str:
    """Return a summary as plain text for the terminal.

    Args:
        summary: what :func:`summarise` returns.

    Returns:
        The tables of :func:`summary_tables` with aligned columns, each below its title.
    """
    text = []
    for title, table in summary_tables(summary).items():
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        text.append(f"{title}: Dice, mean ± standard deviation")
        for line in table:
            text.append("  ".join(map(str.ljust, line, widths)).rstrip())
        text.append("")
    return "\n".join(text)


def _measured(values: Iterable[float]) -> list[float]:
    return [value for value in values if not isnan(value)]


def _mean(values: Iterable[float]) -> float:
    measured = _measured(values)
    return fmean(measured) if measured else nan


def _cell(row: Row, key: str) -> str:
    """Mean ± standard deviation to three decimals; a dash where nothing was measured."""
    mean, spread = row[f"{key}_mean"], row[f"{key}_sd"]
    if isnan(mean):
        return "-"
    return f"{mean:.3f}" if isnan(spread) else f"{mean:.3f} ± {spread:.3f}"
