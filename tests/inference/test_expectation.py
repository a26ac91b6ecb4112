"""What each argument of an expectation does, by a model made by hand: a logit for each step of a feature."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from crosswarp.inference.expectation import expected_pair
from crosswarp.metrics.pair_evidence import label_facts, learn_references
from crosswarp.networks import Prediction
from crosswarp.spatial import identity_map
from crosswarp.spatial.grid import Grid
from tests.metrics.test_pair_evidence import lengths, shapes, sure

SIZE, SPACING = (40, 32), (2.0, 3.0)
GRID = Grid(SIZE, np.diag([*SPACING, 1.0]))
EXCUSED = ("doubt", "structure")


def usual(middle: float) -> dict[str, Any]:
    return {name: {"middle": [middle] * 2, "spread": [0.1] * 2} for name in EXCUSED}


def model(feature: str, knots: tuple[float, float] = (0.0, 3.0), **others: Any) -> dict[str, Any]:
    """One feature alone counts, from the first knot on."""
    drawn = [shapes(SIZE, SPACING, seed) for seed in range(8)]
    image, label = (torch.cat(each) for each in zip(*drawn, strict=True))
    table = {"expected": [0.0, 1.0], "low": [0.0, 1.0], "high": [0.0, 1.0]}
    return {
        "in_mm": True,
        "references": learn_references(label_facts(image, label, lengths(SPACING, 8), 3)),
        "usual": {"source": usual(0.0), "source_to_source": usual(0.0)} | others,
        "features": {feature: {"knots": knots, "weights": [2.0, 0.0]}},
        "intercepts": [2.0, 2.0],
        "interval": {"classes": [table, table], "mean": table},
    }


def expected(
    fitted: Mapping[str, Any],
    grids: tuple[Grid, Grid] = (GRID, GRID),
    sureness: tuple[float, float] = (1.0, 1.0),
    **arguments: Any,
) -> float:
    """What is expected of one and the same person twice."""
    image, label = shapes(SIZE, SPACING, 30)
    seen: list[Tensor] = [torch.lerp(torch.full((), 1 / 3), sure(label), each) for each in sureness]
    pair = Prediction(*[identity_map(SIZE)] * 2, *seen)
    return expected_pair(pair, [image, image], grids, fitted, **arguments)["mean"]["value"]


@pytest.mark.parametrize("number", [0, 1])
def test_sizes_count_in_each_image_on_its_own_grid_where_its_spacing_is_known(number):
    fitted, best = model("volume"), 1 / (1 + np.exp(-2.0))
    assert expected(fitted) > 0.8 * best
    large = Grid(SIZE, np.diag([3 * SPACING[0], 3 * SPACING[1], 1.0]))
    grids = (large, GRID) if number == 0 else (GRID, large)
    assert expected(fitted, grids) == pytest.approx(0.5, abs=1e-3), "two logits less"
    known = [each != number for each in (0, 1)]
    assert expected(fitted, grids, spacing_known=known) > 0.8 * best
    assert expected(fitted, grids, spacing_known=known[::-1]) == pytest.approx(0.5, abs=1e-3)


def test_an_unusual_look_of_either_image_counts():
    fitted = model("appearance")
    none, *either = (
        expected(fitted, atypical=each) for each in ((None, None), (9.0, None), (None, 9.0), (9.0, 0.0))
    )
    assert none == pytest.approx(1 / (1 + np.exp(-2.0)), abs=1e-3)
    assert either == pytest.approx([0.5] * 3, abs=1e-3)


@pytest.mark.parametrize("number", [0, 1])
def test_what_is_usual_for_a_modality_excuses_its_own_image_alone(number):
    target = {"target": usual(0.1)} | {
        f"{a}_to_{b}": usual(0.0) for a in ("source", "target") for b in ("source", "target")
    }
    fitted = model("doubt", (0.0, 10.0), **target)
    unsure = (0.85, 1.0) if number == 0 else (1.0, 0.85)
    names = ("target", "source") if number == 0 else ("source", "target")
    plain, own, other = (
        expected(fitted, sureness=unsure, modalities=each) for each in (("source",) * 2, names, names[::-1])
    )
    assert own > plain + 0.01 and other == plain


@pytest.mark.parametrize("kind", ["source_to_target", "target_to_source", "target_to_target"])
def test_what_is_usual_for_pairs_is_that_of_their_direction(kind):
    modalities = kind.split("_to_")
    ways = {f"{a}_to_{b}": usual(0.0) for a in ("source", "target") for b in ("source", "target")}
    fitted = model("structure", (-10.0, 10.0), target=usual(0.0), **ways)
    plain = expected(fitted, modalities=modalities)
    for way in ways.keys() - {"source_to_source"}:
        fitted["usual"] |= ways | {way: usual(2.0)}
        value = expected(fitted, modalities=modalities)
        assert value > plain + 0.01 if way == kind else value == plain


def test_modalities_of_which_nothing_is_usual_are_not_trusted():
    image, label = shapes(SIZE, SPACING, 30)
    pair = Prediction(*[identity_map(SIZE)] * 2, *[sure(label)] * 2)
    found = expected_pair(pair, [image] * 2, [GRID] * 2, model("doubt"), modalities=("target", "source"))
    assert found["untrusted"] == ["target"]
