"""The overlap to be expected of a registered pair, by what the run learnt of worsened ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..metrics.expectation import Expectation, costs, expected_overlap, interval
from ..metrics.pair_evidence import image_evidence, measuring_lengths, pair_evidence, pair_features, reduced
from ..metrics.usual import from_the_usual
from ..networks import Prediction
from ..spatial.grid import Grid

WORDS: Mapping[str, str] = {
    "doubt": "the networks' doubt",
    "doubt_of_all": "the networks' doubt",
    "disagreement": "labels that differ after warping",
    "disagreement_of_all": "labels that differ after warping",
    "folds": "folds",
    "inverse_error": "the error of the inverse",
    "strain": "a large change of volume",
    "appearance": "an unusual appearance",
    "off_edges": "outlines beside edges",
    "off_edges_of_all": "outlines beside edges",
    "volume": "an unusual size",
    "thickness": "an unusual thickness",
    "size_of_all": "an unusual size",
    "place": "an unusual place",
    "place_of_all": "unusual places",
    "structure": "images that differ after warping",
    "structure_of_all": "images that differ after warping",
}
NEARLY_ALL = 0.95  # share of the labelled people who have a class, from which on its absence is remarkable
LEAST_COST = 0.5  # logits: what takes less from an expectation is not named


def expected_pair(
    found: Prediction,
    images: Sequence[Tensor],
    grids: Sequence[Grid],
    expectation: Expectation,
    spacing_known: Sequence[bool] = (True, True),
    atypical: Sequence[float | None] = (None, None),
    modalities: Sequence[str] = ("source", "target"),
) -> dict[str, Any]:
    """Return what overlap is to be expected of a pair: Dice of the warped moving and the fixed anatomy.

    Args:
        found: what is predicted of the one pair.
        images: the moving and the fixed image, as the networks get them, each ``[1, C, *spatial]``.
        grids: on which the networks see them, with their place in space.
        expectation: what the run learnt, see :func:`~crosswarp.runs.expected_overlap.fit_run`.
        spacing_known: whether the two images state their spacing.
        atypical: how unusual the appearance of either is; None if not known.
        modalities: of the two images, ``"source"`` or ``"target"``.

    Returns:
        for the ``mean`` over classes, and for each class by its number, ``value``, the bounds ``low`` and
        ``high`` of its interval and ``because``, what takes most from it; None for a class that neither image
        shows, and for the mean where there is no class at all. ``untrusted`` are the modalities most of whose
        images the networks give sizes or places that people do not have: they have learnt something else.
        ``unseen`` are the classes that neither image shows although nearly all labelled people have them:
        nothing is expected of these, so they would pass for good.
    """
    in_mm, references = expectation["in_mm"], expectation["references"]
    spacing = [
        measuring_lengths(grid, in_mm)[None] * (1.0 if known or not in_mm else torch.nan)
        for grid, known in zip(grids, spacing_known, strict=True)
    ]
    found, (moving, fixed) = reduced(found, *images)
    usual = expectation["usual"]
    of_moving, of_fixed = (
        from_the_usual(
            image_evidence(
                image,
                probabilities,
                lengths,
                references,
                torch.tensor([torch.nan if unusual is None else unusual]),
            ),
            usual["source"],
            usual.get(modality) if modality != "source" else None,
        )
        for image, probabilities, lengths, unusual, modality in zip(
            (moving, fixed), found[2:], spacing, atypical, modalities, strict=True
        )
    )
    base, kind = "source_to_source", "_to_".join(modalities)
    of_pair = from_the_usual(
        pair_evidence(found, moving, fixed, spacing[0]),
        usual[base],
        usual.get(kind) if kind != base else None,
    )
    features = pair_features(of_moving, of_fixed, of_pair)
    values, taken = expected_overlap(features, expectation)[0], costs(features, expectation)
    shown = ~np.isnan(features["disagreement"][0])
    common = np.array(references["present"]) >= NEARLY_ALL
    result: dict[str, Any] = {
        "untrusted": sorted({*modalities} - usual.keys()),
        "unseen": [str(number + 1) for number in np.flatnonzero(common & ~shown)],
        "mean": None,
    }
    for number, (value, table) in enumerate(zip(values, expectation["interval"]["classes"], strict=True)):
        taken_of_it = {name: float(cost[0, number]) for name, cost in taken.items()}
        known = shown[number] and table is not None
        result[str(number + 1)] = _bounded(value, taken_of_it, table) if known else None
    if shown.any():
        mean = {name: float(cost[0, shown].mean()) for name, cost in taken.items()}
        result["mean"] = _bounded(values[shown].mean(), mean, expectation["interval"]["mean"])
    return result


def _bounded(value: float, taken: Mapping[str, float], table: Mapping[str, Any]) -> dict[str, Any]:
    low, high = interval(value, table)
    by_words: dict[str, float] = {}
    for name, cost in taken.items():
        by_words[WORDS[name]] = by_words.get(WORDS[name], 0.0) + cost
    most = sorted(by_words, key=by_words.__getitem__, reverse=True)[:2]
    numbers = {"value": value, "low": float(low), "high": float(high)}
    return {
        **{key: round(float(number), 4) for key, number in numbers.items()},
        "because": [words for words in most if by_words[words] >= LEAST_COST],
    }


def in_words(expected: Mapping[str, Any] | None, worth_naming: float = 0.8) -> str | None:
    """Return in a few words what is to be expected: "expected overlap 0.91, 0.84 to 0.95; class 3 0.71".

    Args:
        expected: what :func:`expected_pair` returned.
        worth_naming: classes of which less is expected are named.
    """
    if not expected or expected["mean"] is None:
        return None
    mean = expected["mean"]
    classes = [
        f"class {key} {value['value']:.2f}"
        for key, value in expected.items()
        if key.isdigit() and value is not None and value["value"] < worth_naming
    ]
    words = f"expected overlap {mean['value']:.2f}, {mean['low']:.2f} to {mean['high']:.2f}"
    return "; ".join([words, *classes])
