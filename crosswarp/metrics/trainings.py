"""What several trainings of the same data measured: their mean, and how far they lie apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isnan, nan
from statistics import fmean, stdev

from .rows import Row
from .summary import GROUP, SAMPLE, means, summarise

KNOWN_BY = (*GROUP, "class")


def averaged(trainings: Mapping[str, Iterable[Row]]) -> list[Row]:
    """The mean over trainings of every measurement of each class of an image or pair.

    Args:
        trainings: what each measured, by its name.
    """
    return means([row for rows in trainings.values() for row in rows], *SAMPLE, "class")


def spread(trainings: Mapping[str, Iterable[Row]]) -> list[Row]:
    """How Dice differs between trainings.

    Args:
        trainings: what each measured, by its name.

    Returns:
        As :func:`~.summary.summarise` a row for each group and class, and for the mean over the classes:
        ``trainings``, how many measured it; ``dice_mean`` and ``dice_sd``, mean and sample standard deviation
        of the trainings' means; ``dice_least`` and ``dice_most`` of them; ``dice_low`` and ``dice_high``, the
        95 % interval over subjects of the mean of all trainings; and the mean of each, ``dice <name>``.
    """
    found = {
        name: {_key(row): row["dice_mean"] for row in summarise(rows)} for name, rows in trainings.items()
    }
    spreads = []
    for row in summarise(averaged(trainings)):
        each = {name: values.get(_key(row), nan) for name, values in found.items()}
        known = [value for value in each.values() if not isnan(value)]
        spreads.append(
            {key: row[key] for key in KNOWN_BY if key in row}
            | {"trainings": len(known), "dice_mean": fmean(known) if known else nan}
            | {"dice_sd": stdev(known) if len(known) > 1 else nan}
            | {"dice_least": min(known, default=nan), "dice_most": max(known, default=nan)}
            | {key: row[key] for key in ("dice_low", "dice_high")}
            | {f"dice {name}": value for name, value in each.items()}
        )
    return spreads


def _key(row: Row) -> tuple[object, ...]:
    return tuple(map(row.get, KNOWN_BY))
