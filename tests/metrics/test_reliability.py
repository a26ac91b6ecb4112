"""Reliability of expectations, worked out by hand."""

from __future__ import annotations

from math import isnan, nan

import numpy as np
import pytest

from crosswarp.metrics.reliability import auroc, reliability


def row(dice, expected, low, high, name="mean"):
    return {"class": name, "dice": dice, "expected": expected, "expected_low": low, "expected_high": high}


def test_wrong_pairs_score_below_right_ones():
    score = np.array([0.1, 0.5, 0.5, 0.9])
    assert auroc(score, np.array([True, True, False, False])) == (2 + 1.5) / 4
    assert auroc(-score, np.array([True, True, False, False])) == (0 + 0.5) / 4
    assert isnan(auroc(score, np.zeros(4, bool))) and isnan(auroc(score, np.ones(4, bool)))


def test_reliability_of_pairs():
    rows = [
        row(0.9, 0.85, 0.8, 0.95),
        row(0.6, 0.7, 0.65, 0.8),
        row(0.7, 0.9, 0.6, 0.95),
        row(0.95, 0.92, 0.9, 0.94),
        row(0.0, 0.9, 0.8, 1.0, "femur"),
        row(nan, 0.9, 0.8, 1.0),
    ]
    found = reliability(rows)
    assert found["pairs"] == 4 and found["coverage"] == 0.5 and found["below"] == 0.25
    assert found["error"] == pytest.approx((0.05 + 0.1 + 0.2 + 0.03) / 4)
    assert found["auroc"] == 0.75, "0.7 below both right ones, 0.9 below one of two"
    assert reliability(rows[4:]) is None and reliability([]) is None
