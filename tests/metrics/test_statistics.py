from __future__ import annotations

from math import isnan, nan
from statistics import NormalDist

import numpy as np
import pytest
from scipy.stats import bootstrap, wilcoxon

from crosswarp.metrics import bootstrap_interval, compare_methods
from crosswarp.metrics.statistics import disjoint_pairs, holm


def test_one_image_of_each_subject_is_the_ordinary_bootstrap() -> None:
    values = np.random.default_rng(0).normal(size=40)
    subjects = [str(i) for i in range(40)]
    interval = bootstrap_interval(values, subjects, resamples=20000)
    expected = bootstrap((values,), np.mean, method="percentile", n_resamples=20000, rng=1)
    # the ends of both are quantiles of 20,000 draws, with a standard error of about 0.003
    assert interval == pytest.approx(expected.confidence_interval, abs=0.012)
    assert bootstrap_interval(values, subjects, seed=3) == bootstrap_interval(values, subjects, seed=3)


def test_images_of_one_subject_bring_nothing_new() -> None:
    values = np.random.default_rng(0).normal(size=12)
    subjects = [str(i) for i in range(12)]
    interval = bootstrap_interval(values, subjects)
    assert bootstrap_interval(values.repeat(9), np.repeat(subjects, 9)) == pytest.approx(interval)
    apart = bootstrap_interval(values.repeat(9), [str(i) for i in range(108)])
    assert apart[1] - apart[0] < 0.5 * (interval[1] - interval[0]), "that is what it would be otherwise"


def test_both_sides_of_pairs_vary() -> None:
    """The variance of the mean of a crossed design is that of both sides' means together."""
    rng = np.random.default_rng(0)
    effects = rng.normal(size=(2, 60))
    values = effects[0][:, None] + effects[1]
    moving, fixed = (np.broadcast_to(names, (60, 60)).ravel() for names in np.ogrid[:60, :60])
    low, high = bootstrap_interval(values.ravel(), moving, fixed, resamples=4000)
    expected = 2 * NormalDist().inv_cdf(0.975) * np.sqrt(effects.var(axis=1).sum() / 60)
    assert high - low == pytest.approx(expected, rel=0.06)  # of quantiles of 4000 draws


def test_what_is_missing() -> None:
    assert bootstrap_interval([1.0, nan, 3.0], ["a", "b", "c"]) == (1, 3)
    for values, *subjects in ([], []), ([1.0, 2.0], ["a", "a"], ["b", "b"]), ([nan], ["a"]):
        assert all(map(isnan, bootstrap_interval(values, *subjects)))


def test_holm_by_hand() -> None:
    # 3 × 0.01; 2 × 0.03; max(1 × 0.04, 0.06)
    assert holm([0.03, 0.01, 0.04]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1, 1] and holm([]) == []


def rows_of(method: str, dice: np.ndarray, direction: str = "a_to_b") -> list[dict]:
    """Rows of two classes, the mean of which is `dice` `[moving, fixed]`."""
    names = direction.split("_to_")
    return [
        {
            "kind": "registration",
            "method": method,
            "direction": direction,
            "moving": f"{names[0]}{i}.nii",
            "fixed": f"{names[1]}{j}.nii",
            "moving_subject": f"{names[0]}{i}",
            "fixed_subject": f"{names[1]}{j}",
            "class": str(k),
            "dice": float(value + (k - 0.5) / 10),
        }
        for (i, j), value in np.ndenumerate(dice)
        for k in (0, 1)
    ]


def test_comparison_worked_out() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.uniform(0.6, 0.9, (2, 7, 5))
    theirs -= 0.1
    rows = [{"kind": "segmentation", "dice": 1.0}, *rows_of("syn", theirs), *rows_of("crosswarp", ours)]
    rows += rows_of("identity", ours)
    reference, syn, identity = compare_methods(rows)
    assert [row["method"] for row in (reference, syn, identity)] == ["crosswarp", "syn", "identity"]
    assert (reference["pairs"], "p" in reference) == (35, False)
    assert reference["dice_mean"] == pytest.approx(ours.mean())
    assert syn["difference_mean"] == pytest.approx((ours - theirs).mean())
    assert syn["difference_low"] < syn["difference_mean"] < syn["difference_high"]
    assert syn["disjoint_pairs"] == 5
    assert syn["p_holm"] == pytest.approx(2 * syn["p"])
    assert (identity["p"], identity["p_holm"], identity["difference_mean"]) == (1, 1, 0)


def test_both_directions_resample_the_same_subjects() -> None:
    dice = np.random.default_rng(0).uniform(0.6, 0.9, (6, 4))
    rows = [*rows_of("crosswarp", dice), *rows_of("syn", dice - 0.1)]
    rows += [*rows_of("crosswarp", dice.T, "b_to_a"), *rows_of("syn", dice.T - 0.1, "b_to_a")]
    compared = compare_methods(rows)
    one, _, _, _, both, syn = compared
    assert [row["direction"] for row in compared] == ["a_to_b", "a_to_b", "b_to_a", "b_to_a", "both", "both"]
    assert (both["pairs"], syn["disjoint_pairs"]) == (48, 4)
    # every pair twice, the other way round the second time: nothing new is known
    assert both["dice_low"] == pytest.approx(one["dice_low"])
    assert both["dice_high"] == pytest.approx(one["dice_high"])
    assert syn["difference_low"] == pytest.approx(0.1) == syn["difference_high"]
    assert syn["p"] == compared[1]["p"] == pytest.approx(2 / 2**4), "all of four on one side of 0"


def test_disjoint_pairs_share_no_subject() -> None:
    # a with x or y, b with x alone; twice a and y, as in both directions
    values, first, second = [1.0, 2.0, 4.0, 8.0], ["a", "a", "a", "b"], ["x", "y", "y", "x"]
    assert disjoint_pairs(values, first, second).tolist() == [3, 8]
    moving, fixed = np.indices((7, 5))
    chosen = disjoint_pairs((10 * moving + fixed).ravel(), moving.ravel(), fixed.ravel())
    assert len(set(chosen // 10)) == len(set(chosen % 10)) == 5


def test_methods_of_which_none_is_better_are_rarely_told_apart() -> None:
    """Differences vary by subject on both sides; means over the fixed subjects had p < .05 in every tenth."""
    rng = np.random.default_rng(0)
    names = np.indices((8, 8)).reshape(2, -1)
    found = []
    for _ in range(400):
        values = rng.normal(size=(8, 1)) + rng.normal(size=8) + 0.5 * rng.normal(size=(8, 8))
        found.append(wilcoxon(disjoint_pairs(values.ravel(), *names)).pvalue < 0.05)
    # of 8 values .039 is what the test can come nearest to .05; 3 standard errors of 400 draws
    assert np.mean(found) == pytest.approx(0.039, abs=0.03)


def test_nothing_to_compare() -> None:
    assert compare_methods([]) == []
    assert compare_methods(rows_of("syn", np.ones((2, 2)))) == []
