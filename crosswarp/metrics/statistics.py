"""How far a mean can be trusted where images share subjects, and tests between methods on the same pairs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isnan, nan
from statistics import fmean

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching
from scipy.stats import wilcoxon

from .rows import OURS, Row

BOTH = "both"
Array = NDArray[np.float64]


def bootstrap_interval(
    values: ArrayLike,
    *subjects: Sequence[str],
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return a percentile bootstrap interval of a mean, resampling subjects.

    Values of one subject are not independent, and pairs share the subjects of both sides. Subjects are
    therefore drawn, not values: those of each side by themselves, and a pair counts as often as its moving
    times its fixed subject was drawn (the pigeonhole bootstrap). With few subjects, below about ten, such
    intervals are too narrow.

    Args:
        values: ``[N]``; NaN are left out.
        subjects: for each side, of segmentations one and of pairs two, the subject of each value, ``[N]``.
        level: of confidence.
        resamples: how often to draw.
        seed: of the draws; the same for methods that are compared.

    Returns:
        lower and upper end; NaN unless one of the sides has two subjects.

    References:
        Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1(2), 2007.
    """
    measured = np.asarray(values, float)
    kept = ~np.isnan(measured)
    sides = [np.asarray(side)[kept] for side in subjects]
    if all(len(set(side.tolist())) < 2 for side in sides):
        return nan, nan
    one = np.zeros(kept.sum())  # the other side of segmentations
    total, count = _by_subjects(measured[kept], *[*sides, one][:2])
    generator = np.random.default_rng(seed)
    first, second = (generator.multinomial(n, np.full(n, 1 / n), size=resamples) for n in total.shape)
    sums, weights = ((first @ table * second).sum(1) for table in (total, count))
    drawn = weights > 0  # where few of all pairs were measured, a draw may hold none of them
    if not drawn.any():
        return nan, nan
    means = sums[drawn] / weights[drawn]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = highest
    return corrected


def disjoint_pairs(values: ArrayLike, first: Sequence[str], second: Sequence[str]) -> Array:
    """Return values of pairs that share no subject, as a test needs them that takes values to be independent.

    The mean over all pairs of a subject would not do: those of two subjects share everyone on the other side.

    Args:
        values: ``[N]``.
        first: subject of each value on one side, ``[N]``.
        second: subject of each value on the other side, ``[N]``.

    Returns:
        The mean values of as many pairs of subjects as there can be, each subject in one of them at most on
        its side. The values have no part in the choice.
    """
    total, count = _by_subjects(np.asarray(values, float), first, second)
    partner = maximum_bipartite_matching(csr_array(count), perm_type="column")
    chosen = np.flatnonzero(partner >= 0), partner[partner >= 0]
    return total[chosen] / count[chosen]


def _by_subjects(values: Array, first: ArrayLike, second: ArrayLike) -> tuple[Array, Array]:
    """Sum and number of values ``[N]`` of each subject of one side with each of the other."""
    index = tuple(np.unique(side, return_inverse=True)[1] for side in (first, second))
    total, count = np.zeros((2, index[0].max() + 1, index[1].max() + 1))
    np.add.at(total, index, values)
    np.add.at(count, index, 1)
    return total, count


def compare_methods(rows: Iterable[Row], reference: str = OURS) -> list[Row]:
    """Compare methods with one of them on the same pairs, by Dice averaged over the classes of each pair.

    Args:
        rows: what :func:`~.rows.registration_rows` returns, of several methods; others are passed over.
        reference: the method that the others are compared with.

    Returns:
        For each direction, then for both together (``"both"``), a row for each method, the reference first:
        ``pairs``, ``dice_mean`` with its 95 % interval ``dice_low`` and ``dice_high``
        (:func:`bootstrap_interval`), and, but for the reference, ``difference_mean``, ``difference_low`` and
        ``difference_high`` (reference minus method, above 0 where the reference is ahead), ``p``, of
        Wilcoxon's signed-rank test on the differences of :func:`disjoint_pairs`, two-sided, their number
        ``disjoint_pairs``, and ``p_holm``, corrected for the number of methods in the direction.
    """
    classes: dict[str, dict[tuple[str, ...], list[float]]] = {}
    for row in rows:
        if row["kind"] == "registration" and not isnan(row["dice"]):
            key = (row["direction"], row["moving_subject"], row["fixed_subject"], row["moving"], row["fixed"])
            classes.setdefault(row["method"], {}).setdefault(key, []).append(row["dice"])
    if reference not in classes:
        return []
    dice = {name: {key: fmean(values) for key, values in pairs.items()} for name, pairs in classes.items()}
    dice = {reference: dice[reference]} | dice
    directions = list(dict.fromkeys(key[0] for key in dice[reference]))
    compared = []
    for direction in [*directions, *([BOTH] if len(directions) > 1 else [])]:
        entries: list[Row] = []
        for name, pairs in dice.items():
            keys = [key for key in dice[reference] if key in pairs and direction in (key[0], BOTH)]
            # of both directions, the sides are the two modalities, whichever moves
            turned = [key[0] != directions[0] for key in keys]
            sides = [
                [key[2 - i if turn else 1 + i] for key, turn in zip(keys, turned, strict=True)]
                for i in range(2)
            ]
            values = np.array([pairs[key] for key in keys])
            low, high = bootstrap_interval(values, *sides)
            entry: Row = {"method": name, "direction": direction, "pairs": len(keys)}
            entry |= {"dice_mean": float(values.mean()) if keys else nan, "dice_low": low, "dice_high": high}
            if name != reference and keys:
                difference = np.array([dice[reference][key] for key in keys]) - values
                low, high = bootstrap_interval(difference, *sides)
                entry |= {"difference_mean": float(difference.mean())}
                entry |= {"difference_low": low, "difference_high": high}
                independent = disjoint_pairs(difference, *sides)
                entry["disjoint_pairs"] = len(independent)
                entry["p"] = float(wilcoxon(independent).pvalue) if independent.any() else 1.0
            entries.append(entry)
        tested: list[Row] = [entry for entry in entries if "p" in entry]
        for entry, p in zip(tested, holm([entry["p"] for entry in tested]), strict=True):
            entry["p_holm"] = p
        compared += entries
    return compared
