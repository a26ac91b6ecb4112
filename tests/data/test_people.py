"""One name is one person in both modalities, and a person is in one split."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crosswarp.data import DatalistError, check_people, load_datalist
from crosswarp.data.people import name_key
from tests.cohorts import write_blob_cohort


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> str:
    return write_blob_cohort(tmp_path_factory.mktemp("cohort"), num_classes=2).read_text()


def faults(content: str, folder: Path, named: dict[str, str], **more: str) -> list[str]:
    """What is found when some records, by `modality.section`, have other subjects."""
    changed = json.loads(content) | more
    for place, subject in named.items():
        modality, section = place.split(".")
        changed[modality][section][0]["subject"] = subject
    path = folder / "datalist.json"
    path.write_text(json.dumps(changed))
    try:
        check_people(load_datalist(path))
    except DatalistError as error:
        assert str(path) in str(error)
        return error.faults
    return []


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("P01", "p01 ", True),
        (" a  b", "A B", True),
        ("007", "7", True),
        ("7.0", "7", True),
        ("Zoë", "Zoe\u0308", True),
        ("Straße", "STRASSE", True),
        ("p1", "p01", False),
        ("7", "70", False),
        ("1.5", "1", False),
        ("0", "00", True),
        ("a_b", "ab", False),
    ],
)
def test_spellings_of_one_name(one, other, alike):
    assert (name_key(one) == name_key(other)) is alike


@pytest.mark.parametrize("train", ["source.train_labelled", "source.train_unlabelled"])
@pytest.mark.parametrize("test", ["target.test", "target.val"])
def test_nobody_trains_in_one_modality_and_tests_in_the_other(content, tmp_path, train, test):
    (found,) = faults(content, tmp_path, {train: "a", test: "a"})
    split = test.split(".")[1]
    assert found.startswith(f"subject 'a' is in {split} of cold and train of warm") or found.startswith(
        f"subject 'a' is in train of warm and {split} of cold"
    )
    assert "keep this person in one" in found and '"subjects": "per_modality"' in found
    assert "--subjects per_modality" in found
    assert not faults(content, tmp_path, {train: "a", test: "a"}, subjects="per_modality")


def test_one_split_in_both_modalities_is_right(content, tmp_path):
    same = {
        "source.test": "a",
        "target.test": "a",
        "source.train_labelled": "b",
        "target.train_unlabelled": "b",
    }
    assert not faults(content, tmp_path, same)


@pytest.mark.parametrize("more", [{}, {"subjects": "shared"}, {"subjects": "per_modality"}])
def test_two_splits_of_one_modality_are_never_right(content, tmp_path, more):
    (found,) = faults(content, tmp_path, {"source.val": "a", "source.test": "a"}, **more)
    assert found == "warm: subject 'a' is in test and val; keep it in one"


def test_two_spellings_are_named_even_in_one_split(content, tmp_path):
    same = {"source.train_labelled": "P01", "source.train_unlabelled": "p01 "}
    (found,) = faults(content, tmp_path, same)
    assert found.startswith("subjects 'P01' and 'p01 ' (train of warm) are one name in two spellings; ")
    assert "per_modality" not in found
    (found,) = faults(content, tmp_path, {"source.train_labelled": "7", "target.test": "007"})
    assert found.startswith("subjects '007' and '7' (test of cold and train of warm) are one name")
    assert '"subjects": "per_modality"' in found


def test_every_person_is_named_at_once(content, tmp_path):
    found = faults(
        content,
        tmp_path,
        {"source.train_labelled": "a", "target.test": "a", "source.val": "b", "target.train_unlabelled": "b"},
    )
    assert [fault.split(" is in ")[0] for fault in found] == ["subject 'a'", "subject 'b'"]
