"""What evidence is usual for a modality, so that it is not held against each of its images.

A model that was fitted to pairs of one modality knows how sure its networks are there, how clear its edges
are, and how alike two of its images. Of another modality all of that may be a little worse, in pairs that are
right. What is usual there is brought to what was usual where the model was fitted, within limits; sizes and
places never are: they are those of people in any modality, and tell where what is usual is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Usual = Mapping[str, Mapping[str, list[float | None]]]

# evidence that depends on the modality, and the most that is excused of it
EXCUSED: Mapping[str, float] = {"doubt": 0.1, "off_edges": 1.0, "structure": 0.5, "disagreement": 0.1}
LEAST_SLOPE = 0.1  # of what goes beyond the usual, at least this part counts
MOST_UNUSUAL = 3.0  # standard deviations of people, within which sizes and places are those of people
LEAST_SPREAD = 1e-3


def learn_usual(found: Mapping[str, Tensor], fitted: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return how to bring evidence to what was usual where a model was fitted.

    Args:
        found: evidence of many images, or pairs, as they are, each ``[N, G]``.
        fitted: the same of the modality that the model was fitted to.

    Returns:
        for each of :data:`EXCUSED` among them, by class: the ``middle`` of what was found, ``fitted``, what
        that is brought to, and ``slope``, what becomes of the way from the middle; None for a class that
        was never found.
    """
    result = {}
    for name in EXCUSED.keys() & found.keys() & fitted.keys():
        middle, spread = _middle_and_spread(found[name])
        own, own_spread = _middle_and_spread(fitted[name])
        slope = (own_spread / spread).clamp(LEAST_SLOPE, 1)
        columns = {"middle": middle, "fitted": own, "slope": slope}
        result[name] = {
            key: [None if value != value else float(f"{value:.4g}") for value in values.tolist()]
            for key, values in columns.items()
        }
    return dict(sorted(result.items()))


def excuse(evidence: Mapping[str, Tensor], usual: Usual | None) -> dict[str, Tensor]:
    """Return evidence ``[B, G]`` of a modality as if it was of that which the model was fitted to.

    Args:
        evidence: the worse, the larger.
        usual: what :func:`learn_usual` returned; None to change nothing. Nothing becomes worse, or better by
            more than :data:`EXCUSED`.
    """
    result = dict(evidence)
    for name, columns in (usual or {}).items():
        middle, fitted, slope = (
            torch.tensor(
                [torch.nan if value is None else value for value in columns[key]], dtype=torch.float64
            )
            for key in ("middle", "fitted", "slope")
        )
        found = evidence[name].double()
        brought = torch.fmin(found, fitted + (found - middle) * slope)
        brought = torch.fmax(brought, found - EXCUSED[name])
        result[name] = torch.where(found.isnan(), torch.nan, brought)
    return result


def are_of_people(evidence: Mapping[str, Tensor]) -> bool:
    """Return whether sizes and places of most images of a modality are as people have them.

    Args:
        evidence: of many images, see :func:`~.pair_evidence.image_evidence`; NaN is passed over.
    """
    middles = [evidence[name].nanmedian(0).values for name in ("volume", "thickness", "place")]
    return not any((each > MOST_UNUSUAL).any() for each in middles)


def _middle_and_spread(values: Tensor) -> tuple[Tensor, Tensor]:
    """Median, and what lies from there to the ninth decile, of what is known, by class."""
    middle = values.double().nanmedian(0).values
    upper = values.double().nanquantile(0.9, dim=0)
    return middle, (upper - middle).clamp(min=LEAST_SPREAD)
