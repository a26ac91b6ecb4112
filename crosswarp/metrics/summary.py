"""Means and spread of measurements, and the tables that show them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isnan, nan
from statistics import fmean, stdev

from .rows import Row
from .statistics import bootstrap_interval

_GROUP = ("kind", "direction", "method", "modality", "network")
_SAMPLE = ("image", "moving", "fixed")
_SUBJECTS = ("subject", "moving_subject", "fixed_subject")
_VALUES = (
    *("dice", "unregistered_dice", "hd95_mm", "assd_mm", "tre_mm", "unregistered_tre_mm"),
    *("folds_percent", "sd_log_jacobian", "inverse_error_mm", "seconds", "memory_mib"),
)

_DEFORMATION = {
    "TRE (mm)": "tre_mm",
    "folds %": "folds_percent",
    "SD log Jacobian": "sd_log_jacobian",
    "inverse error (mm)": "inverse_error_mm",
    "seconds": "seconds",
    "MiB": "memory_mib",
}


def summarise(rows: Iterable[Row]) -> list[Row]:
    """Average measurements over images or pairs.

    Args:
        rows: what :func:`registration_rows` and :func:`segmentation_rows` return.

    Returns:
        For each group (direction and method, or modality and network) a row for each class, then one whose
        ``class`` is ``"mean"``: there the classes of each image are averaged first, so that its spread is
        over images. Each has ``n`` (images that have the class) and, for every measurement, ``..._mean``
        and ``..._sd`` (sample standard deviation, NaN for one image), and ``dice_low`` and ``dice_high``,
        the 95 % interval of the mean over subjects (:func:`~.statistics.bootstrap_interval`). Values that
        are NaN are left out.
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
                means = [_mean(row[key] for row in cell) for cell in cells]
                values = _measured(means)
                if key == "dice":
                    entry["n"] = len(values)
                    sides = [[cell[0][side] for cell in cells] for side in _SUBJECTS if side in members[0]]
                    entry["dice_low"], entry["dice_high"] = bootstrap_interval(means, *sides)
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
        standard deviation of Dice in each class and over them, its 95 % interval, and surface distances; a
        registration stands below the same pairs unregistered. For ``"Deformation"`` what belongs to the
        maps.
    """
    classes = list(dict.fromkeys(row["class"] for row in summary))
    overlap = [*classes, "95 %", "HD95 (mm)", "ASSD (mm)"]
    segmentation = [["modality", "network", "images", *overlap]]
    registration = [["direction", "method", "pairs", *overlap]]
    deformation = [["direction", "method", *_DEFORMATION]]
    groups: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in summary:
        groups.setdefault(tuple(row[key] for key in _GROUP if key in row), {})[row["class"]] = row
    unregistered = set()
    for (kind, *names), cells in groups.items():
        mean = cells["mean"]
        dice = [str(mean["n"]), *(_cell(cells[name], "dice") for name in classes), _interval(mean)]
        dice += [_cell(mean, "hd95_mm", 1), _cell(mean, "assd_mm", 1)]
        if kind == "segmentation":
            segmentation.append([*names, *dice])
            continue
        direction, method = names[0].replace("_to_", " to "), names[1]
        if direction not in unregistered:
            unregistered.add(direction)
            before = [_cell(cells[name], "unregistered_dice") for name in classes]
            registration.append([direction, "unregistered", str(mean["n"]), *before, "", "", ""])
        registration.append([direction, method, *dice])
        maps = [_cell(mean, key, 0 if key == "memory_mib" else 3) for key in _DEFORMATION.values()]
        deformation.append([direction, method, *maps])
    tables = {"Segmentation": segmentation, "Registration": registration, "Deformation": deformation}
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
        text.append(f"{title}: {'' if title == 'Deformation' else 'Dice, '}mean ± standard deviation")
        text += [*aligned(table), ""]
    return "\n".join(text)


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table of text, its columns aligned."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in table]


def _measured(values: Iterable[float]) -> list[float]:
    return [value for value in values if not isnan(value)]


def _mean(values: Iterable[float]) -> float:
    measured = _measured(values)
    return fmean(measured) if measured else nan


def _cell(row: Row, key: str, digits: int = 3) -> str:
    """Mean ± standard deviation; a dash where nothing was measured."""
    mean, spread = row.get(f"{key}_mean", nan), row.get(f"{key}_sd", nan)
    if isnan(mean):
        return "-"
    return f"{mean:.{digits}f}" if isnan(spread) else f"{mean:.{digits}f} ± {spread:.{digits}f}"


def _interval(row: Row) -> str:
    """The 95 % interval of Dice to three decimals; a dash where there is none."""
    return "-" if isnan(row["dice_low"]) else f"{row['dice_low']:.3f} to {row['dice_high']:.3f}"
