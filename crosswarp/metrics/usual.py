"""What evidence is usual for a class and a modality, so that it is not held against each of its images.

Networks are less sure of a thin class than of a thick one, and all may be a little worse in a modality other
than that of the manual labels, in pairs that are right. So evidence is measured from what is usual for the
class; what is usual for the other modality is first brought to what is usual for that of the labels, within
limits. Sizes and places never are: they are those of people in any modality, and tell where what is usual is
wrong. Nor is the disagreement of labels, which is overlap itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

Usual = Mapping[str, Mapping[str, list[float | None]]]

# evidence that depends on class and modality, and the most that is excused of it in the other modality
EXCUSED: Mapping[str, float] = {"doubt": 0.1, "off_edges": 1.0, "structure": 0.5}
# the least that is a difference from the usual
LEAST_SPREAD: Mapping[str, float] = {"doubt": 0.01, "off_edges": 0.05, "structure": 0.05}
SHARE = 0.5  # of what is usual in the other modality is held to be its look; half, as no data tell
LEAST_SLOPE = 0.1  # of what goes beyond the usual in the other modality, at least this part counts
MOST_UNUSUAL = 3.0  # standard deviations of people, within which sizes and places are those of people


def learn_usual(found: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return what evidence is usual.

    Args:
        found: evidence of many images, or pairs, as they are, each ``[N, G]``.

    Returns:
        for each of :data:`EXCUSED` among them, by class, the ``middle``, which is the median, and ``spread``,
        what lies from there to the ninth decile; None for a class that was never found.
    """
    result = {}
    for name in sorted(EXCUSED.keys() & found.keys()):
        values = found[name].double()
        middle, upper = values.nanmedian(0).values, values.nanquantile(0.9, dim=0)
        columns = {"middle": middle, "spread": (upper - middle).clamp(min=LEAST_SPREAD[name])}
        result[name] = {
            key: [None if value != value else float(f"{value:.4g}") for value in column.tolist()]
            for key, column in columns.items()
        }
    return result


def from_the_usual(
    evidence: Mapping[str, Tensor], own: Usual, other: Usual | None = None
) -> dict[str, Tensor]:
    """Return how far evidence ``[B, G]`` is from the usual, in spreads; what has no usual stays as it is.

    Args:
        evidence: the worse, the larger.
        own: what :func:`learn_usual` returned of the modality whose people are labelled.
        other: the same of the modality of the evidence, where that is another. Nothing becomes worse by it,
            or better by more than :data:`EXCUSED`.
    """
    result = dict(evidence)
    for name in own.keys() & evidence.keys():
        (middle, spread), found = _columns(own[name]), evidence[name].double()
        brought = found
        if other is not None:
            theirs, their_spread = _columns(other[name])
            slope = (spread / their_spread).clamp(LEAST_SLOPE, 1)
            brought = torch.fmin(found, middle + (found - theirs) * slope)
            brought = torch.fmax(brought, found - EXCUSED[name])
            brought = torch.lerp(found, brought, SHARE).masked_fill(found.isnan(), torch.nan)
        result[name] = (brought - torch.nan_to_num(middle)) / torch.nan_to_num(spread, nan=LEAST_SPREAD[name])
    return result


def are_of_people(evidence: Mapping[str, Tensor]) -> bool:
    """Return whether sizes and places of most images of a modality are as people have them.

    Args:
        evidence: of many images, see :func:`~.pair_evidence.image_evidence`; NaN is passed over.
    """
    middles = [evidence[name].nanmedian(0).values for name in ("volume", "thickness", "place")]
    return not any((each > MOST_UNUSUAL).any() for each in middles)


def _columns(usual: Mapping[str, list[float | None]]) -> tuple[Tensor, Tensor]:
    """Middle and spread, NaN for null."""
    middle, spread = (
        torch.from_numpy(np.array(usual[key], dtype=np.float64)) for key in ("middle", "spread")
    )
    return middle, spread
