"""Lining files up as pairs, and choosing among pairs."""

from __future__ import annotations

from collections import Counter
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosswarp.data import pair_records
from crosswarp.data.pairs import spread_pairs

sizes = st.integers(1, 12)


@pytest.fixture
def folder(tmp_path):
    for name in ("a", "b", "c", "d"):
        (tmp_path / name).touch()
    return tmp_path


def names(records):
    return [{key: path.rpartition("/")[2] for key, path in record.items()} for record in records]


def test_files_pair_up_in_order_and_one_file_serves_all(folder):
    records = pair_records(str(folder), moving=["a", "b"], fixed="c", moving_label=["c", "d"], other=None)
    assert names(records) == [
        {"moving": "a", "fixed": "c", "moving_label": "c"},
        {"moving": "b", "fixed": "c", "moving_label": "d"},
    ]
    assert records[0]["moving"] == str(folder / "a")
    assert pair_records("elsewhere", moving=str(folder / "a"), fixed=[str(folder / "b")]) == [
        {"moving": str(folder / "a"), "fixed": str(folder / "b")}
    ]


@pytest.mark.parametrize(
    ("files", "error", "message"),
    [
        ({"moving": "a"}, ValueError, "for fixed: give --moving A --fixed B"),
        ({"moving": None, "fixed": []}, ValueError, "for moving and fixed"),
        ({"moving": ["a", "b", "c"], "fixed": ["a", "b"]}, ValueError, "one file or 3 files.*'fixed': 2"),
        ({"moving": ["a", "x"], "fixed": ["b", "y"]}, FileNotFoundError, "/x, .*/y"),
    ],
)
def test_what_cannot_be_paired_is_said(folder, files, error, message):
    with pytest.raises(error, match=message):
        pair_records(str(folder), **files)


@pytest.mark.parametrize("key", ["moving", "fixed"])
def test_files_whose_results_would_overwrite_each_other_are_refused(tmp_path, key):
    for file in ("first/t1.nii.gz", "second/t1.nii.gz", "first/t2.nii.gz"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    other = "fixed" if key == "moving" else "moving"
    alone = pair_records(str(tmp_path), **{key: ["first/t1.nii.gz"] * 2, other: "second/t1.nii.gz"})
    assert len(alone) == 2
    with pytest.raises(ValueError, match=f"Expected {key} files of different names.*first/t1.*second/t1"):
        pair_records(
            str(tmp_path), **{key: ["first/t1.nii.gz", "second/t1.nii.gz"], other: "first/t2.nii.gz"}
        )


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
