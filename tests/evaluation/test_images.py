"""Choosing among the pairs of test images."""

from __future__ import annotations

from collections import Counter
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosswarp.evaluation.images import spread_pairs

sizes = st.integers(1, 12)


@given(sizes, sizes)
def test_all_pairs_come_once(first: int, second: int) -> None:
    assert sorted(spread_pairs(first, second)) == sorted(product(range(first), range(second)))


@given(sizes, sizes, st.integers(1, 150))
def test_members_are_used_evenly(first: int, second: int, max_pairs: int) -> None:
    pairs = spread_pairs(first, second, max_pairs)
    assert len(pairs) == len(set(pairs)) == min(max_pairs, first * second)
    for size, members in zip((first, second), zip(*pairs, strict=True), strict=True):
        uses = Counter(members)
        counts = [uses[member] for member in range(size)]
        assert max(counts) - min(counts) <= 1
        assert min(counts) >= 1 or max_pairs < max(first, second)


def test_pairs_worked_out_by_hand() -> None:
    assert spread_pairs(2, 2) == [(0, 0), (1, 1), (0, 1), (1, 0)]
    assert spread_pairs(2, 3, 4) == [(0, 0), (1, 1), (0, 2), (1, 0)]
    assert spread_pairs(0, 3) == spread_pairs(3, 0, 5) == []


def test_no_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one pair or null for all pairs, got max_pairs 0"):
        spread_pairs(2, 2, 0)
