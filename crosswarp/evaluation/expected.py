"""What overlap was to be expected of test pairs, and what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import nan
from typing import Any

import torch
from torch import Tensor

from ..inference.expectation import expected_pair
from ..inference.quality import image_atypicality
from ..inference.save_quality import SaveQualityd
from ..metrics import MeasuredImage, Row, dice_per_class, likeliest, warp_labels
from ..metrics.reliability import ENOUGH, reliability
from ..networks import Prediction
from ..terminal import track
from .images import Pair
from .measure import Measure, Prepared
from .methods import LabelRegistration


def expected_rows(
    own: LabelRegistration,
    prepared: Prepared,
    pairs: Sequence[Pair],
    measure: Measure,
) -> list[Row]:
    """Compare, both ways, what is to be expected of pairs with what is found by their manual labels.

    Args:
        own: the run.
        prepared: what it made of the images.
        pairs: the images; those without labels are left out.
        measure: its batch size and names of classes count.

    Returns:
        a row for each class of a pair that has it, and one for the ``class`` ``"mean"``, with ``expected``,
        ``expected_low`` and ``expected_high``, NaN where nothing is expected, and ``dice``, which here is the
        least of the registered label's and both predicted labels'; none for a run that expects nothing.
    """
    savers = [runner.component(SaveQualityd) for runner in (own.runner, own.back)]
    labelled = [pair for pair in pairs if all(image.label is not None for image in pair)]
    if savers[0].expectation is None:
        return []
    rows: list[Row] = []
    for start in track(range(0, len(labelled), measure.batch_size), "expected overlap"):
        batch = labelled[start : start + measure.batch_size]
        for pair, *maps in zip(
            batch, *(phi.cpu().split(1) for phi in measure.maps(own, prepared, batch)), strict=True
        ):
            for m, f in ((0, 1), (1, 0)):
                probabilities = [
                    torch.as_tensor(prepared[pair[k].name][0]["probabilities"])[None] for k in (m, f)
                ]
                found = Prediction(maps[m], maps[1 - m], *probabilities)
                rows += _rows((pair[m], pair[f]), found, savers[m], measure.label_names)
    return rows


def _rows(pair: Pair, found: Prediction, saver: SaveQualityd, names: Sequence[str]) -> list[Row]:
    moving, fixed = pair
    images = [image.image[None].float() for image in pair]
    unusual = [
        image_atypicality(image, probabilities, saver.statistics.get(key))["appearance"]
        for key, image, probabilities in zip(("moving", "fixed"), images, found[2:], strict=True)
    ]
    known = [bool(image.item["image"].meta.get("spacing_known", True)) for image in pair]
    assert saver.expectation is not None
    grids = [moving.grid, fixed.grid]
    expected = expected_pair(found, images, grids, saver.expectation, known, unusual, saver.modalities)
    overlap = found_overlap(pair, found, len(names))
    common = {
        "kind": "expectation",
        "direction": f"{moving.modality}_to_{fixed.modality}",
        "moving": moving.name,
        "fixed": fixed.name,
    }
    by_class = {"mean": overlap.nanmean().item()} | dict(
        zip(map(str, range(1, len(names))), overlap.tolist(), strict=True)
    )
    return [
        common | {"class": key if key == "mean" else names[int(key)], "dice": dice} | _bounds(expected[key])
        for key, dice in by_class.items()
        if dice == dice
    ]


def found_overlap(pair: tuple[MeasuredImage, MeasuredImage], found: Prediction, classes: int) -> Tensor:
    """Return the least Dice, by class, of the registered and both predicted labels with the manual ones.

    Args:
        pair: the moving and the fixed image, both with a label.
        found: what is predicted of them.
        classes: background included.

    Returns:
        ``[classes - 1]``; NaN for a class that the fixed image lacks.
    """
    labels = [image.label[None] for image in pair if image.label is not None]
    registered = dice_per_class(warp_labels(labels[0], found.moving_to_fixed, classes), labels[1], classes)
    segmented = [
        dice_per_class(likeliest(each), label, classes) for each, label in zip(found[2:], labels, strict=True)
    ]
    least = torch.fmin(torch.fmin(*segmented), registered)
    return least.masked_fill(registered.isnan(), torch.nan)[0]


def _bounds(expected: Mapping[str, Any] | None) -> Row:
    keys = {"value": "expected", "low": "expected_low", "high": "expected_high"}
    return {name: nan if expected is None else expected[key] for key, name in keys.items()}


def expectation_note(rows: Sequence[Row], coverage: float = 0.9) -> list[str]:
    """How far expectations are to be believed, in a sentence; none without any.

    Args:
        rows: what :func:`expected_rows` returned.
        coverage: of the intervals, as they say.
    """
    found = reliability(rows)
    if found is None:
        return []
    ranked = (
        ""
        if found["auroc"] != found["auroc"]
        else f" Pairs below {ENOUGH:g} are expected to be worse than the others: AUROC {found['auroc']:.3f}."
    )
    return [
        f"The overlap to expect, which decides verdicts, was learnt from worsened pairs of other people. Of "
        f"{found['pairs']:g} test registrations {found['coverage']:.0%} are within its interval "
        f"({coverage:.0%} expected) and {found['below']:.0%} below; the mean error is "
        f"{found['error']:.3f}.{ranked}"
    ]
