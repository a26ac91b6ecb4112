"""What is usual for a modality is excused, within limits."""

from __future__ import annotations

import json

import pytest
import torch

from crosswarp.metrics.usual import EXCUSED, SHARE, are_of_people, from_the_usual, learn_usual


def spread_about(middle, spread, count=101):
    """Values of two classes, symmetric about a middle; the ninth decile is 0.8 spreads above it."""
    steps = torch.linspace(-1, 1, count, dtype=torch.float64)
    return torch.stack([middle + spread * steps, middle + 0.1 + spread * steps], 1)


def numbers(*rows):
    return torch.tensor(rows, dtype=torch.float64)


OWN = learn_usual({"doubt": spread_about(0.1, 0.05), "volume": spread_about(0.5, 0.1)})


def test_evidence_is_measured_from_what_is_usual_for_the_class():
    assert OWN == {"doubt": {"middle": [0.1, 0.2], "spread": [0.04, 0.04]}}, "sizes are those of people"
    assert json.loads(json.dumps(OWN)) == OWN
    found = from_the_usual(
        {"doubt": numbers([0.1, 0.28], [0.06, torch.nan]), "volume": numbers([1.0, 2.0])}, OWN
    )
    torch.testing.assert_close(found["doubt"], numbers([0, 2], [-1, torch.nan]), equal_nan=True)
    assert torch.equal(found["volume"], numbers([1.0, 2.0]))
    least = learn_usual({"doubt": spread_about(0.1, 0.0)})
    assert least["doubt"]["spread"] == [0.01, 0.01], "differences that mean nothing"


def test_what_is_usual_for_the_other_modality_is_brought_to_what_is_usual_here():
    other = learn_usual({"doubt": spread_about(0.15, 0.1)})
    found = from_the_usual({"doubt": numbers([0.15, 0.25], [0.23, 0.33], [0.45, 0.05])}, OWN, other)["doubt"]
    # half as steep: to 0.1, 0.14 and, by at most 0.1, from 0.45 to 0.35; nothing becomes worse
    brought = numbers([0.1, 0.2], [0.14, 0.24], [0.35, 0.05])
    before = numbers([0.15, 0.25], [0.23, 0.33], [0.45, 0.05])
    expected = (SHARE * brought + (1 - SHARE) * before - numbers([0.1, 0.2])) / 0.04
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_what_goes_far_beyond_the_usual_still_counts():
    own, other = (learn_usual({"off_edges": spread_about(*each)}) for each in ((0.05, 0.01), (0.3, 0.9)))
    found = from_the_usual({"off_edges": numbers([0.9, torch.nan], [1.6, 0.4])}, own, other)["off_edges"]
    near, far = 0.05 + 0.6 / 10, 1.6 - EXCUSED["off_edges"]
    for value, before, brought in ((found[0, 0], 0.9, near), (found[1, 0], 1.6, far)):
        expected = (SHARE * brought + (1 - SHARE) * before - 0.05) / 0.05
        assert value == pytest.approx(expected, abs=1e-3)
    assert found[0, 1].isnan()


def test_classes_that_were_never_found_have_no_usual():
    values = spread_about(0.3, 0.125)
    values[:, 1] = torch.nan
    usual = learn_usual({"structure": values})
    assert usual["structure"] == {"middle": [0.3, None], "spread": [0.1, None]}
    found = from_the_usual({"structure": numbers([0.4, 0.7])}, usual, usual)["structure"]
    torch.testing.assert_close(found, numbers([1, 0.7 / 0.05]), msg="measured from 0, and nothing excused")


def test_sizes_and_places_tell_whether_the_usual_is_right():
    people = {name: torch.rand(20, 2) * 2 for name in ("volume", "thickness", "place")}
    assert are_of_people(people)
    some = people["place"].clone()
    some[:5] = 9.0
    assert are_of_people(people | {"place": some}), "most of them are"
    assert not are_of_people(people | {"thickness": people["thickness"] + torch.tensor([0.0, 5.0])})
    assert are_of_people(people | {"place": torch.full((20, 2), torch.nan)})
