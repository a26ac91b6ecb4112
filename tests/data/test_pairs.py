"""Lining files up as pairs."""

from __future__ import annotations

import pytest

from crosswarp.data import pair_records


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
