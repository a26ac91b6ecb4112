"""The monotone model on numbers that can be worked out by hand, and its fit on laws that are known."""

from __future__ import annotations

import numpy as np

from crosswarp.metrics.expectation import STEEPEST, costs, expected_overlap, interval, ramps

MODEL = {
    "features": {
        "doubt": {"knots": [0.1, 0.3], "weights": [1.0, 2.0]},
        "place": {"knots": [1.0, 2.0, 4.0], "weights": [0.0, 0.5, 0.25]},
    },
    "intercepts": [2.0, 3.0],
}


def logistic(value):
    return 1 / (1 + np.exp(-value))


def test_ramps_run_from_knot_to_knot_and_on():
    found = ramps([0.0, 1.0, 1.5, 3.0, 8.0, 1e9, np.nan], [1.0, 2.0, 4.0])
    expected = [[0, 0, 0], [0, 0, 0], [0.5, 0, 0], [1, 0.5, 0], [1, 1, 2], [1, 1, STEEPEST], [0, 0, 0]]
    np.testing.assert_allclose(found, expected)


def test_each_feature_takes_its_share_of_the_logit():
    features = {"doubt": np.array([[0.2, 0.5]]), "place": np.array([[3.0, np.nan]])}
    taken = costs(features, MODEL)
    np.testing.assert_allclose(taken["doubt"], [[0.5, 1 + 2 * 1]])
    np.testing.assert_allclose(taken["place"], [[0.25, 0.0]])
    np.testing.assert_allclose(
        expected_overlap(features, MODEL), [[logistic(2 - 0.5 - 0.25), logistic(3 - 3)]]
    )
    alone = expected_overlap({"doubt": features["doubt"]}, MODEL)
    np.testing.assert_allclose(alone, [[logistic(1.5), logistic(0)]])


def test_nothing_beyond_the_training_raises_the_expectation():
    rng = np.random.default_rng(0)
    features = {name: rng.uniform(-2, 8, (500, 2)) for name in MODEL["features"]}
    before = expected_overlap(features, MODEL)
    worse = {name: values + rng.uniform(0, 5, values.shape) for name, values in features.items()}
    assert (expected_overlap(worse, MODEL) <= before).all()
    assert (expected_overlap({"doubt": np.full((1, 2), 1e6)}, MODEL) < 1e-6).all()


def test_bounds_are_straight_between_levels_and_keep_their_distance_beyond():
    table = {"expected": [0.4, 0.8], "low": [0.2, 0.7], "high": [0.7, 0.9]}
    low, high = interval([0.6, 0.3, 0.9, 0.05], table)
    np.testing.assert_allclose(low, [0.45, 0.1, 0.7, 0.0])
    np.testing.assert_allclose(high, [0.8, 0.6, 0.9, 0.35])
    values = np.linspace(0, 1, 101)
    low, high = interval(values, table)
    assert (low <= values).all() and (values <= high).all()
