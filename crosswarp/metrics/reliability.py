"""Whether the overlap that was expected of pairs is what was found."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan, nan

import numpy as np
from numpy.typing import NDArray

from .rows import Row

ENOUGH = 0.8  # Dice below which a pair is not to be used unseen


def auroc(score: NDArray[np.float64], wrong: NDArray[np.bool_]) -> float:
    """Return how often one of the wrong scores below one of the right; half where they are equal.

    Args:
        score: ``[N]``, the higher the better.
        wrong: ``[N]``; NaN is returned where all are, or none.
    """
    right, bad = np.sort(score[~wrong]), score[wrong]
    if not (len(right) and len(bad)):
        return nan
    below = np.searchsorted(right, bad, "left") + np.searchsorted(right, bad, "right")
    return float(1 - below.mean() / (2 * len(right)))


def reliability(rows: Sequence[Row]) -> dict[str, float] | None:
    """Return how well expectations fit, averaged over pairs.

    Args:
        rows: with ``class``, ``dice`` (found), ``expected``, ``expected_low`` and ``expected_high``; only
            those of the class ``"mean"`` count, and only where all are known.

    Returns:
        ``pairs``; ``coverage``, the share found within the interval; ``below``, the share found below it;
        ``error``, mean absolute; ``auroc`` of a Dice below ``ENOUGH``, NaN where no pair has it, or all;
        None without any pair.
    """
    keys = ("dice", "expected", "expected_low", "expected_high")
    known = [
        [row[key] for key in keys]
        for row in rows
        if row["class"] == "mean" and all(key in row for key in keys)
    ]
    known = [values for values in known if not any(map(isnan, values))]
    if not known:
        return None
    found, expected, low, high = np.array(known).T
    return {
        "pairs": len(known),
        "coverage": float(((found >= low) & (found <= high)).mean()),
        "below": float((found < low).mean()),
        "error": float(np.abs(found - expected).mean()),
        "auroc": auroc(expected, found < ENOUGH),
    }
