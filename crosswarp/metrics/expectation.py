"""What overlap is to be expected of a pair whose labels nobody drew, by what can be seen of it.

A monotone additive model: each feature measures something that is the worse the larger it is, and passes
through ramps whose weights are not negative, ``logit(expected) = intercept − Σ weight · ramp(feature)``.
What lies beyond all that the model was fitted to can therefore lower the expectation, never raise it.
Everything that the model knows are plain numbers that JSON can hold; it is fitted by
:func:`~crosswarp.training.expectation.fit_expectation`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Expectation = Mapping[str, Any]  # the model, as `fit_expectation` describes it

STEEPEST = 40.0  # ramps beyond the last knot: further than so many of the last step counts no more


def ramps(values: ArrayLike, knots: ArrayLike) -> Array:
    """Return ramps from each knot to the next, and one from the last knot on, as steep as the last step.

    Any function that is linear between the knots and nowhere falls is a sum of these with weights of at
    least 0.

    Args:
        values: ``[...]``; NaN is not known, and counts as nothing bad.
        knots: ``[J]``, rising, J at least 2.

    Returns:
        ``[..., J]``; the first J − 1 run from 0 to 1, the last from 0 to ``STEEPEST``.
    """
    knots = np.asarray(knots, np.float64)
    steps = np.diff(knots)
    start, length = knots, np.append(steps, steps[-1])
    most = np.append(np.ones(len(steps)), STEEPEST)
    found = (np.asarray(values, np.float64)[..., None] - start) / length
    return np.nan_to_num(np.clip(found, 0, most), nan=0.0)


def costs(features: Mapping[str, Array], model: Expectation) -> dict[str, Array]:
    """Return what each feature takes from the expectation, in logits, each of the shape of the features.

    Args:
        features: name -> ``[N, G]``, of N pairs and G classes; features that the model does not know are
            passed over, those that are missing count as not known.
        model: the fitted model.
    """
    return {
        name: ramps(features[name], part["knots"]) @ np.asarray(part["weights"], np.float64)
        for name, part in model["features"].items()
        if name in features
    }


def expected_overlap(features: Mapping[str, Array], model: Expectation) -> Array:
    """Return the expected Dice of each class, ``[N, G]`` in (0, 1); see :func:`costs`."""
    shape = np.shape(next(iter(features.values())))
    total = np.broadcast_to(np.asarray(model["intercepts"], np.float64), shape)
    for cost in costs(features, model).values():
        total = total - cost
    return 1 / (1 + np.exp(-np.clip(total, -50, 50)))


def interval(expected: ArrayLike, table: Mapping[str, Sequence[float]]) -> tuple[Array, Array]:
    """Return between what a Dice lies, nine times of ten, by what is expected of it.

    Args:
        expected: ``[...]``.
        table: ``expected`` ``[L]``, rising, and ``low`` and ``high`` there, neither falling; in between they
            are straight lines.

    Returns:
        lower and upper bounds, each ``[...]``, that enclose what is expected.
    """
    values = np.asarray(expected, np.float64)
    low, high = (np.interp(values, table["expected"], table[key]) for key in ("low", "high"))
    # below and above all levels of the table, bounds keep their distance
    levels = np.asarray(table["expected"], np.float64)
    shift = values - np.clip(values, levels[0], levels[-1])
    low, high = low + np.minimum(shift, 0), high + np.minimum(shift, 0)
    return np.clip(np.minimum(low, values), 0, 1), np.clip(np.maximum(high, values), 0, 1)
