"""What is usual for a modality is excused, within limits."""

from __future__ import annotations

import json

import pytest
import torch

from crosswarp.metrics.usual import EXCUSED, are_of_people, excuse, learn_usual


def spread_about(middle, spread, count=101):
    """Values of two classes, symmetric about a middle; the ninth decile is 0.8 spreads above it."""
    steps = torch.linspace(-1, 1, count, dtype=torch.float64)
    return torch.stack([middle + spread * steps, middle + 0.1 + spread * steps], 1)


def test_what_is_usual_is_brought_to_what_was_fitted():
    found = {"doubt": spread_about(0.15, 0.04), "volume": spread_about(1.0, 0.1)}
    fitted = {"doubt": spread_about(0.1, 0.02), "volume": spread_about(0.5, 0.1)}
    usual = learn_usual(found, fitted)
    assert list(usual) == ["doubt"], "sizes are those of people"
    assert usual["doubt"] == {"middle": [0.15, 0.25], "fitted": [0.1, 0.2], "slope": [0.5, 0.5]}
    assert json.loads(json.dumps(usual)) == usual
    brought = excuse({"doubt": torch.tensor([[0.15, 0.25], [0.19, 0.29], [0.35, 0.05]])}, usual)["doubt"]
    expected = [[0.1, 0.2], [0.12, 0.22], [0.25, 0.05]]  # at most 0.1 less; nothing becomes worse
    torch.testing.assert_close(brought, torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0)
    unchanged = excuse({"doubt": found["doubt"]}, None)
    assert torch.equal(unchanged["doubt"], found["doubt"])


def test_what_goes_far_beyond_the_usual_still_counts():
    usual = learn_usual({"off_edges": spread_about(0.3, 0.9)}, {"off_edges": spread_about(0.05, 0.01)})
    assert usual["off_edges"]["slope"] == pytest.approx([0.1, 0.1], abs=1e-3)
    values = torch.tensor([[0.9, float("nan")], [1.6, 0.4]], dtype=torch.float64)
    brought = excuse({"off_edges": values}, usual)["off_edges"]
    assert brought[0, 0] == pytest.approx(0.05 + 0.6 / 10, abs=1e-3) and brought[0, 1].isnan()
    assert brought[1, 0] == pytest.approx(1.6 - EXCUSED["off_edges"], abs=1e-3)


def test_classes_that_were_never_found_are_excused_nothing():
    found = spread_about(0.3, 0.1)
    found[:, 1] = torch.nan
    usual = learn_usual({"structure": found}, {"structure": spread_about(0.2, 0.1)})
    assert usual["structure"]["middle"][1] is None
    values = torch.tensor([[0.3, 0.7]], dtype=torch.float64)
    torch.testing.assert_close(
        excuse({"structure": values}, usual)["structure"], values - torch.tensor([[0.1, 0]])
    )


def test_sizes_and_places_tell_whether_the_usual_is_right():
    people = {name: torch.rand(20, 2) * 2 for name in ("volume", "thickness", "place")}
    assert are_of_people(people)
    some = people["place"].clone()
    some[:5] = 9.0
    assert are_of_people(people | {"place": some}), "most of them are"
    assert not are_of_people(people | {"thickness": people["thickness"] + torch.tensor([0.0, 5.0])})
    assert are_of_people(people | {"place": torch.full((20, 2), torch.nan)})
