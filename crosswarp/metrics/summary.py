"""Means and spread of measurements, over classes, images, pairs and subjects."""

from __future__ import annotations

from collections.abc import Iterable
from math import isnan, nan
from statistics import fmean, stdev

from .rows import Row
from .statistics import bootstrap_interval

_MEASURED = (
    *("dice", "unregistered_dice", "hd95_mm", "assd_mm", "tre_mm", "unregistered_tre_mm"),
    *("folds_percent", "sd_log_jacobian", "inverse_error_mm", "seconds", "memory_mib"),
)
GROUP = ("kind", "direction", "method", "modality", "network")
_SUBJECTS = ("subject", "moving_subject", "fixed_subject")
SAMPLE = (*GROUP, "image", "moving", "fixed", *_SUBJECTS)


def grouped(rows: Iterable[Row], *names: str) -> dict[tuple, list[Row]]:
    """The rows by what they have under names; None where they have nothing."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(map(row.get, names)), []).append(row)
    return groups


def means(rows: Iterable[Row], *names: str) -> list[Row]:
    """Average measurements over the rows that agree in names.

    Args:
        rows: what :func:`registration_rows` and :func:`segmentation_rows` return, or what this function does.
        names: keys of the rows; those that a row does not have are left out.

    Returns:
        A row for each group with its names, ``n``, the number of rows, and the mean of every measurement,
        values that are NaN left out.
    """
    averaged = []
    for own in grouped(rows, *names).values():
        entry = {key: own[0][key] for key in names if key in own[0]} | {"n": len(own)}
        averaged.append(entry | {key: _mean(row[key] for row in own) for key in _MEASURED if key in own[0]})
    return averaged


def sample_means(rows: Iterable[Row]) -> list[Row]:
    """Average the measurements of every image or pair over its classes, see :func:`means`."""
    return means(rows, *SAMPLE)


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
    summary = []
    for members in grouped(rows, *GROUP).values():
        names = {key: members[0][key] for key in GROUP if key in members[0]}
        classes = {name: own for (name,), own in grouped(members, "class").items()}
        for name, samples in {**classes, "mean": sample_means(members)}.items():
            dice = [row["dice"] for row in samples]
            sides = [[row[side] for row in samples] for side in _SUBJECTS if side in members[0]]
            low, high = bootstrap_interval(dice, *sides)
            entry = names | {"class": name, "n": len(_known(dice)), "dice_low": low, "dice_high": high}
            for key in (key for key in _MEASURED if key in members[0]):
                values = _known(row[key] for row in samples)
                entry[f"{key}_mean"] = _mean(values)
                entry[f"{key}_sd"] = stdev(values) if len(values) > 1 else nan
            summary.append(entry)
    return summary


def _known(values: Iterable[float]) -> list[float]:
    return [value for value in values if not isnan(value)]


def _mean(values: Iterable[float]) -> float:
    known = _known(values)
    return fmean(known) if known else nan
