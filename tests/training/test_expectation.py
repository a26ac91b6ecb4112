"""Expectations fitted to overlap whose law is known."""

from __future__ import annotations

import json

import numpy as np
import pytest

from crosswarp.metrics.expectation import expected_overlap, interval
from crosswarp.training.expectation import conformal_bounds, fit_expectation

UNITS = {"bad": 0.1, "worse": 0.1, "idle": 0.1, "unknown": 0.1}


def drawn(seed, count=1200, noise=0.05):
    """Pairs of two classes: `bad` counts from 1 on, `worse` everywhere, `idle` not at all."""
    rng = np.random.default_rng(seed)
    features = {name: rng.exponential(1.0, (count, 2)) for name in ("bad", "worse", "idle")}
    features["unknown"] = np.full((count, 2), np.nan)
    logit = np.array([3.0, 2.0]) - 2 * np.maximum(features["bad"] - 1, 0) - 0.8 * features["worse"]
    overlap = np.clip(1 / (1 + np.exp(-logit)) + noise * rng.standard_normal(logit.shape), 0, 1)
    overlap[rng.random(logit.shape) < 0.1] = np.nan
    return features, overlap, rng.integers(0, 4, count)


@pytest.fixture(scope="module")
def model():
    return fit_expectation(*drawn(0), UNITS)


def test_a_law_that_is_monotone_is_found_again(model):
    features, overlap, _ = drawn(1, noise=0.0)
    error = np.abs(expected_overlap(features, model) - overlap)
    assert np.nanmean(error) < 0.025 and np.nanquantile(error, 0.99) < 0.12
    weights = {name: sum(part["weights"][:-1]) for name, part in model["features"].items()}
    assert weights["idle"] < 0.15 * weights["worse"]
    assert all(weight >= 0 for part in model["features"].values() for weight in part["weights"])
    assert json.loads(json.dumps(model, allow_nan=False)) == model


def test_the_interval_covers_what_it_says_on_pairs_that_were_not_fitted(model):
    features, overlap, _ = drawn(2)
    expected, known = expected_overlap(features, model), ~np.isnan(overlap)
    for k, table in enumerate(model["interval"]["classes"]):
        own, found = expected[known[:, k], k], overlap[known[:, k], k]
        low, high = interval(own, table)
        assert 0.85 < ((found >= low) & (found <= high)).mean() < 0.95
        assert np.mean(high - low) < 0.25, "no wider than the noise asks for: 3.3 standard deviations of 0.05"
    known = known[known.any(1)]
    both = (each[~np.isnan(overlap).all(1)] for each in (expected, overlap))
    means = [np.where(known, each, 0).sum(1) / known.sum(1) for each in both]
    low, high = interval(means[0], model["interval"]["mean"])
    assert 0.87 < ((means[1] >= low) & (means[1] <= high)).mean() < 0.97


def test_bounds_of_a_level_are_those_of_its_neighbours():
    rng = np.random.default_rng(3)
    expected = rng.uniform(0.2, 0.8, 4000)
    found = expected + np.where(expected < 0.5, 0.1, 0.02) * rng.uniform(-1, 1, 4000)
    bounds = {key: np.array(values) for key, values in conformal_bounds(expected, found, 0.8).items()}
    width = bounds["high"] - bounds["low"]
    levels = bounds["expected"]
    np.testing.assert_allclose(width[levels < 0.4], 0.16, atol=0.03)
    np.testing.assert_allclose(width[levels > 0.6], 0.032, atol=0.01)
    assert (np.diff(bounds["low"]) >= 0).all() and (np.diff(bounds["high"]) >= 0).all()


def test_what_is_expected_alike_is_bounded_together_in_any_order():
    found = np.repeat([0.9, 0.5], 40)
    for each in (found, found[::-1], np.tile([0.9, 0.5], 40)):
        assert conformal_bounds(np.full(80, 0.7), each) == {"expected": [0.7], "low": [0.5], "high": [0.9]}
    rng = np.random.default_rng(0)
    expected = 0.95 + 0.004 * np.sort(rng.random(1000))
    found = expected - np.where(np.arange(1000) < 400, 0.02, 0.3) * rng.random(1000)
    low, high = interval(expected, conformal_bounds(expected, found))
    assert 0.87 < ((found >= low) & (found <= high)).mean() < 0.97


def test_bounds_are_of_people_that_were_not_fitted():
    overlap, groups = np.repeat([[0.9], [0.5]], 40, axis=0), np.repeat([0, 1], 40)
    model = fit_expectation({"idle": np.zeros((80, 1))}, overlap, groups, UNITS)
    assert model["fit"]["mean_absolute_error"] == pytest.approx(0.4, abs=0.02)
    for bounds in (model["interval"]["mean"], model["interval"]["classes"][0]):
        assert bounds["high"][-1] - bounds["low"][0] > 0.7, "each group is expected as the other one is"


def test_one_group_cannot_be_held_out():
    features, overlap, groups = drawn(0, 50)
    with pytest.raises(ValueError, match="at least two groups"):
        fit_expectation(features, overlap, 0 * groups, UNITS)
