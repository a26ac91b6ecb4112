"""Fitting what overlap to expect of a pair, and within what bounds, from pairs whose overlap is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from ..metrics.expectation import expected_overlap, ramps

Array = NDArray[np.float64]
Features = Mapping[str, Array]

QUANTILES = (0.05, 0.2, 0.4, 0.6, 0.75, 0.87, 0.95, 0.99)  # of a feature, at which its ramps begin
RIDGE = 1e-4  # per observation, on each weight: towards the least one
BEYOND = 0.1  # least weight, in logits a step, of what lies beyond nearly all pairs that were fitted
NEIGHBOURS = 0.1  # share of the pairs that the bounds at one level are taken of
MOST_LEVELS = 16
LEAST_STEP = 0.005  # from level to level


def fit_expectation(
    features: Features,
    overlap: Array,
    groups: NDArray[np.int_],
    units: Mapping[str, float],
    coverage: float = 0.9,
) -> dict[str, Any]:
    """Fit a monotone additive model of the overlap, and its bounds on people that it was not fitted to.

    The weights maximise the likelihood of a logistic model of a fraction (Papke and Wooldridge, "Econometric
    methods for fractional response variables", 1996), which is concave, under bounds. The interval is
    cross-conformal (Vovk, "Cross-conformal predictors", 2015): quantiles of what was found at about the level
    that was expected, by a model that was fitted to the other groups.

    Args:
        features: name -> ``[N, G]``, of N pairs and G classes, the larger the worse; NaN where not known.
        overlap: ``[N, G]``, Dice; NaN where there is none.
        groups: ``[N]``, a number for each pair; pairs of different groups have no person in common.
        units: name -> a difference in the feature that is worth telling apart.
        coverage: of the interval.

    Returns:
        ``features``: name -> ``knots`` and ``weights``, see :func:`~..metrics.expectation.ramps`;
        ``intercepts`` ``[G]``; ``interval``: of the ``mean`` over classes, and of each of the ``classes``,
        None for those without any overlap, see :func:`~..metrics.expectation.interval`; ``fit``: what the
        cross-validation found.

    Raises:
        ValueError: for less than two groups.
    """
    if len(np.unique(groups)) < 2:
        raise ValueError("Expected pairs of at least two groups of people, to hold one out.")
    knots = {name: _knots(values, units[name]) for name, values in features.items()}
    held_out = np.full(overlap.shape, np.nan)
    for group in np.unique(groups):
        own = groups == group
        model = _fit({n: v[~own] for n, v in features.items()}, overlap[~own], knots)
        held_out[own] = expected_overlap({n: v[own] for n, v in features.items()}, model)
    known = ~np.isnan(overlap)
    model = _fit(features, overlap, knots)
    counted = known.any(1)
    expected, found = (
        np.where(known, each, 0)[counted].sum(1) / known[counted].sum(1) for each in (held_out, overlap)
    )
    model["interval"] = {
        "classes": [
            conformal_bounds(held_out[known[:, k], k], overlap[known[:, k], k], coverage)
            if known[:, k].any()
            else None
            for k in range(overlap.shape[1])
        ],
        "mean": conformal_bounds(expected, found, coverage),
    }
    error = np.abs(expected - found)
    model["fit"] = {
        "pairs": int(counted.sum()),
        "groups": len(np.unique(groups)),
        "mean_absolute_error": round(float(error.mean()), 4),
        "coverage": coverage,
    }
    return model


def conformal_bounds(expected: Array, found: Array, coverage: float = 0.9) -> dict[str, list[float]]:
    """Return between what a value lies in the given share of cases, by what was expected of it.

    Args:
        expected: ``[N]``, by a model that was not fitted to these values.
        found: ``[N]``.
        coverage: share of the cases, half of the others on either side.

    Returns:
        ``expected``, ``low`` and ``high``, each ``[L]``, none falling.
    """
    order = np.argsort(expected, kind="stable")
    expected, residual = expected[order], (found - expected)[order]
    size = len(order)
    width = min(size, max(40, int(NEIGHBOURS * size)))
    places = np.unique(np.linspace(0, size - 1, min(MOST_LEVELS, max(2, size // 20))).round().astype(int))
    windows: list[tuple[int, int]] = []
    first = -np.inf
    for place in places:
        start = int(np.clip(place - width // 2, 0, size - width))
        level = expected[start : start + width].mean()
        if level - first < LEAST_STEP:  # what is expected alike is bounded together
            windows[-1] = windows[-1][0], start + width
        else:
            windows.append((start, start + width))
            first = level
    levels: list[float] = []
    low: list[float] = []
    high: list[float] = []
    tail = (1 - coverage) / 2
    for start, stop in windows:
        near = np.sort(residual[start:stop])
        rank = int(np.floor(tail * (len(near) + 1))) - 1  # of so few cases, rather the outermost
        below, above = near[max(rank, 0)], near[min(len(near) - 1 - rank, len(near) - 1)]
        level = expected[start:stop].mean()
        levels.append(level)
        low.append(level + below)
        high.append(level + above)
    # neither end falls where more is expected; to see to that, bounds become wider, never narrower
    rising = np.minimum.accumulate(low[::-1])[::-1], np.maximum.accumulate(high)
    bounds = dict(zip(("low", "high"), (np.clip(each, 0, 1) for each in rising), strict=True))
    return {
        key: [round(float(value), 4) for value in values]
        for key, values in {"expected": np.array(levels), **bounds}.items()
    }


def _knots(values: Array, unit: float) -> list[float]:
    """Where the ramps of a feature begin, at least a unit apart, rising, two or more."""
    known = values[np.isfinite(values)]
    knots: list[float] = []
    for knot in np.quantile(known, QUANTILES) if known.size else [0.0]:
        if not knots or knot - knots[-1] >= unit:
            knots.append(float(knot))
    if len(knots) == 1:
        knots.append(knots[0] + unit)
    return [float(f"{knot:.5g}") for knot in knots]


def _fit(features: Features, overlap: Array, knots: Mapping[str, list[float]]) -> dict[str, Any]:
    classes = overlap.shape[1]
    known = ~np.isnan(overlap)
    found = np.clip(overlap[known], 0, 1)
    number = np.nonzero(known)[1]
    design = np.concatenate([ramps(features[name][known], knots[name]) for name in features], axis=1)
    least = np.concatenate([[0.0] * (len(knots[name]) - 1) + [BEYOND] for name in features])
    share = np.bincount(number, minlength=classes) > 0

    def loss(parameters: Array) -> tuple[float, Array]:
        intercepts, weights = parameters[:classes], parameters[classes:]
        logit = np.clip(intercepts[number] - design @ weights, -50, 50)
        expected = 1 / (1 + np.exp(-logit))
        value = np.mean(np.logaddexp(0, logit) - found * logit)
        slope = (expected - found) / len(found)
        away = weights - least
        gradient = np.concatenate(
            [np.bincount(number, slope, classes), -(design.T @ slope) + 2 * RIDGE * away]
        )
        return value + RIDGE * float(away @ away), gradient

    start = np.concatenate([np.full(classes, 2.0), np.maximum(least, 0.1)])
    bounds = [(-10.0, 10.0)] * classes + [(each, None) for each in least]
    fitted = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 500}).x
    intercepts = np.where(share, fitted[:classes], fitted[:classes][share].mean())
    parts, begin = {}, classes
    for name in features:
        count = len(knots[name])
        weights = [float(f"{weight:.4g}") for weight in fitted[begin : begin + count]]
        parts[name] = {"knots": knots[name], "weights": weights}
        begin += count
    return {"features": parts, "intercepts": [round(float(each), 4) for each in intercepts]}
