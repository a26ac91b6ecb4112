"""People are split, not images, over both modalities at once."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crosswarp.data.entries import Entries, Entry
from crosswarp.data.people import SPLITS, name_key
from crosswarp.data.splits import split_entries

GIVEN = ("", "", "", "train", "val", "test", "train_unlabelled")


def entries_of(source: dict[str, bool], target: dict[str, bool]) -> Entries:
    """One image each of people that are labelled or not."""
    return Entries(
        *(
            [Entry(name, Path(f"{key}/{name}"), Path("label") if labelled else None) for name, labelled in of]
            for key, of in (("source", source.items()), ("target", target.items()))
        )
    )


def split(entries: Entries, shared: bool = True, val: float = 0.15, test: float = 0.15, seed: int = 0):
    split_entries(entries, shared, val, test, np.random.default_rng(seed))
    return entries


def sections(entries: list[Entry]) -> dict[str, list[str]]:
    found = defaultdict(list)
    for each in entries:
        found[each.split].append(each.subject)
    return dict(found)


def people(prefix: str, count: int, labelled: bool) -> dict[str, bool]:
    return {f"{prefix}{number:02d}": labelled for number in range(count)}


def test_names_that_do_not_coincide_are_split_as_they_always_were():
    """The expected values are from when each modality was split by itself."""
    source = people("s", 10, True) | people("u", 3, False)
    target = people("t", 6, False) | people("l", 4, True)
    entries = split(entries_of(source, target), val=0.2, test=0.3, seed=7)
    assert sections(entries.source) == {
        "val": ["s00", "s08"],
        "test": ["s01", "s03", "s07"],
        "train_labelled": ["s02", "s04", "s05", "s06", "s09"],
        "train_unlabelled": ["u00", "u01", "u02"],
    }
    assert sections(entries.target) == {
        "train_unlabelled": ["t00", "t01", "t02", "t04", "t05"],
        "val": ["t03"],
        "test": ["l00", "l01", "l02", "l03"],
    }


def test_a_paired_cohort_keeps_every_person_in_one_split():
    everyone = people("p", 20, True)
    entries = split(entries_of(everyone, everyone), val=0.2, test=0.3)
    source, target = sections(entries.source), sections(entries.target)
    assert {key: len(names) for key, names in source.items()} == {"train_labelled": 10, "val": 4, "test": 6}
    assert target == {
        "train_unlabelled": source["train_labelled"],
        "val": source["val"],
        "test": source["test"],
    }


def test_people_with_labels_in_both_modalities_are_tested_first():
    source = people("a", 6, True) | people("b", 4, True)
    target = people("b", 4, True) | people("c", 4, False)
    entries = split(entries_of(source, target), val=0.2, test=0.2)
    source, target = sections(entries.source), sections(entries.target)
    assert [name[0] for name in source["test"]] == ["b", "b"] and [name[0] for name in source["val"]] == [
        "a",
        "a",
    ]
    assert target["test"] == source["test"]  # the other two have labels that train in the source
    assert len(target["val"]) == 1 and target["val"][0].startswith("c")  # a fifth of the six
    assert len(target["train_unlabelled"]) == 5
    assert entries.notes == ["2 labels of images that train or validate without (the first: label)"]


def test_unlabelled_source_images_of_tested_people_are_left_out_and_said():
    source = people("a", 4, True) | people("b", 4, False)
    entries = split(entries_of(source, people("b", 4, True)))
    tested = sections(entries.target)["test"]
    assert len(tested) == 2
    assert sections(entries.source)["left_out"] == tested
    assert entries.notes[0] == "2 source images without label, of people in val or test"


def test_a_given_split_binds_the_person_in_the_other_modality():
    entries = entries_of(people("a", 6, True), people("a", 6, True))
    entries.source[2].split, entries.target[4].split = "test", "val"
    split(entries, val=0, test=0)
    assert entries.target[2].split == "test" and entries.source[4].split == "val"
    assert sections(entries.source)["test"] == ["a02"]


def test_names_per_modality_are_split_as_if_they_differed():
    everyone = people("p", 12, True)
    apart = split(entries_of(everyone, {f"x{name}": True for name in everyone}))
    entries = split(entries_of(everyone, everyone), shared=False)
    assert [each.split for each in entries.source] == [each.split for each in apart.source]
    assert [each.split for each in entries.target] == [each.split for each in apart.target]
    assert sections(entries.source) != sections(entries.target)


def test_two_spellings_stay_together():
    entries = entries_of({"P1": True, "a": True, "b": True, "c": True}, {"p1 ": True, "d": False})
    for seed in range(10):
        for each in entries.source + entries.target:
            each.split = ""
        split(entries, seed=seed, val=0.3, test=0.3)
        assert SPLITS[entries.source[0].split] == SPLITS[entries.target[0].split]


@pytest.mark.parametrize("given_val", [True, False])
def test_one_labelled_person_needs_another_to_validate(given_val):
    entries = entries_of(people("a", 2, True), people("t", 3, False))
    entries.source[0].split = "val" if given_val else "train"
    split(entries)
    assert bool(entries.faults) is not given_val
    assert entries.source[1].split == "train_labelled"


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["source", "target"]), st.integers(0, 9), st.booleans(), st.sampled_from(GIVEN)
        ),
        max_size=40,
    ),
    st.floats(0, 0.5),
    st.floats(0, 0.49),
    st.integers(0, 9),
)
def test_no_person_whose_split_is_open_parts(images, val, test, seed):
    entries = Entries()
    given_splits = defaultdict(set)
    for modality, person, labelled, chosen in images:
        name = f"{person:02d}"
        entries.of(modality).append(Entry(name, Path(name), Path("l") if labelled else None, split=chosen))
        given_splits[name_key(name)] |= {SPLITS.get(chosen, chosen)} - {""}
    split(entries, val=val, test=test, seed=seed)
    found = defaultdict(set)
    for each in entries.source + entries.target:
        assert each.split in (*SPLITS, "left_out")
        if each.split != "left_out":
            found[name_key(each.subject)].add(SPLITS[each.split])
    for person, splits in found.items():
        assert len(splits) == 1 or len(given_splits[person]) > 1
        assert given_splits[person] <= splits or not given_splits[person]
