"""What results are called, whose they are, and that nobody's are overwritten by others'."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosswarp.inference import image_records, pair_records
from crosswarp.inference.results import SOURCES, claim, file_stem, pair_results, result_faults


@pytest.mark.parametrize(
    ("path", "stem"),
    [
        ("/data/knee.v1.nii.gz", "knee.v1"),
        ("ray.1", "ray.1"),
        ("series.2/", "series.2"),
        ("1.2.840.113619.2", "1.2.840.113619.2"),
        ("a.NII.GZ", "a"),
        ("a.nii.nii.gz", "a.nii"),
        ("scan 1.dcm", "scan 1"),
        (".nii", ".nii"),
        ("x/../y.png", "y"),
        ("moving", "moving"),
    ],
)
def test_only_the_suffix_of_an_image_is_cut_off(path, stem):
    assert file_stem(path) == stem


@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=30))
def test_the_stem_of_a_stem_with_a_suffix_is_the_stem(name):
    if name not in (".", ".."):
        assert file_stem(f"{name}.nii.gz") == name


def pair(moving, fixed):
    return pair_results({"moving": moving, "fixed": fixed})


@pytest.mark.parametrize(
    ("first", "second", "clash"),
    [
        (("/p1/a.nii", "/b.nii"), ("/p2/a.nii", "/c.nii"), "a_moving_seg, got /p1/a.nii, /p2/a.nii"),
        (("/a.nii", "/p1/b.nii"), ("/c.nii", "/p2/b.png"), "b_fixed_seg, got /p1/b.nii, /p2/b.png"),
        (("/A.nii", "/b.nii"), ("/a.nii", "/b.nii"), "overwrite each other .*got /A.nii, /a.nii, /b.nii"),
        (("/caf\u00e9.nii", "/b.nii"), ("/x/cafe\u0301.nii", "/c.nii"), "_moving_seg, got "),
        (("/a.nii", "/b_to_c.nii"), ("/a_to_b.nii", "/c.nii"), "overwrite each other as a_to_b_to_c_warped,"),
    ],
)
def test_results_of_one_name_are_refused(first, second, clash):
    found = result_faults([pair(*first), pair(*second)])
    assert any(re.search(clash, fault) for fault in found), found
    assert not result_faults([pair(*first), pair(*first)]), "the same pair twice"


def test_names_with_dots_differ_and_names_that_are_too_long_are_refused():
    assert not result_faults([pair("/knee.v1.nii.gz", "/ray.1"), pair("/knee.v1.nii.gz", "/ray.2")])
    (*_, fault) = result_faults([pair(f"/{'x' * 120}.nii", f"/{'y' * 120}.nii")])
    assert "has more than 220 bytes: shorten the files' names" in fault and len(fault) < 300


def test_only_the_same_pair_replaces_its_results(tmp_path):
    mine, others = pair("/p1/a.nii", "/p1/b.nii"), pair("/p2/a.nii", "/p2/b.nii")
    out = tmp_path / "out"
    claim(out, [mine])
    claim(out, [others])  # nothing was written yet
    claim(out, [mine])
    (out / "A_to_b_warped.nii.gz").write_text("mine")
    claim(out, [mine])
    with pytest.raises(ValueError, match="A_to_b_warped.nii.gz is there and was made of /p1/a.nii"):
        claim(out, [others])
    with pytest.raises(ValueError, match=r"not of /p1/a.nii, /p1/b.nii, /l.nii"):
        claim(out, [pair_results({"moving": "/p1/a.nii", "fixed": "/p1/b.nii", "moving_label": "/l.nii"})])
    claim(out, [pair("/p2/c.nii", "/p2/b.nii")])
    (out / "b_fixed_seg.nii.gz").write_text("of p2")
    with pytest.raises(ValueError, match="b_fixed_seg.nii.gz is there and was made of /p2/b.nii, not of"):
        claim(out, [mine])
    lines = [json.loads(line) for line in (out / SOURCES).read_text().splitlines()]
    assert lines[0]["made_of"] == ["/p1/a.nii", "/p1/b.nii"] and "a_to_b_transform" in lines[0]["results"]


def test_what_nobody_has_noted_is_not_replaced(tmp_path):
    (tmp_path / "scan_seg.nii.gz").write_text("drawn by hand")
    (tmp_path / "scan.nii.gz").touch()
    (tmp_path / SOURCES).write_text('{"made_of": ["cut sh\n[]\n{"results": 3, "made_of": []}\n')
    with pytest.raises(ValueError, match="scan_seg.nii.gz is there and was made of something unknown"):
        image_records(str(tmp_path / "scan.nii.gz"), str(tmp_path))
    assert image_records([str(tmp_path / "scan.nii.gz")], str(tmp_path / "out")) == [
        {"image": str(tmp_path / "scan.nii.gz")}
    ]
    with pytest.raises(FileNotFoundError, match="not there: lost.nii"):
        image_records(["lost.nii"], str(tmp_path))


def test_pairs_take_their_names_before_anything_is_computed(tmp_path):
    for name in ("p1/a.nii", "p2/a.nii", "b.nii"):
        Path(tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    out = str(tmp_path / "out")
    files = {"moving": "p1/a.nii", "fixed": ["b.nii", "./b.nii"]}
    assert len(pair_records(str(tmp_path), output_dir=out, **files)) == 2, "one file, spelt twice"
    (tmp_path / "out" / "a_to_b_transform.h5").touch()
    pair_records(str(tmp_path), output_dir=out, **files)
    with pytest.raises(ValueError, match="a_to_b_transform.h5 is there and was made of .*p1/a.nii"):
        pair_records(str(tmp_path), output_dir=out, moving="p2/a.nii", fixed="b.nii")
    with pytest.raises(FileNotFoundError, match=r"(?s)lost.nii\n- Expected files of different names"):
        pair_records(str(tmp_path), output_dir=out, moving=["p1/a.nii", "p2/a.nii"], fixed="lost.nii")
