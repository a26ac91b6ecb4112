"""Distances between the surfaces of label maps, in mm."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from math import hypot, nan

import torch
from monai.metrics.utils import get_edge_surface_distance


def surface_distances(
    predicted: torch.Tensor, reference: torch.Tensor, num_classes: int, spacing: Sequence[float]
) -> tuple[list[float], list[float]]:
    """Return the Hausdorff distance at 95 % and the average symmetric surface distance, background excluded.

    They are those of MONAI's ``compute_hausdorff_distance(percentile=95)`` and
    ``compute_average_surface_distance(symmetric=True)``, both from surfaces that are found once.

    Args:
        predicted: ``[1, 1, *spatial]``, class of every point.
        reference: ``[1, 1, *spatial]``, class of every point.
        num_classes: number of classes, background included.
        spacing: of the grid along each axis, mm.

    Returns:
        HD95 and ASSD in mm, one of each for every class but the background. They are NaN for a class that is
        absent from the reference, as its Dice is, and the diagonal of the grid for one that is missed
        altogether: leaving it out would favour whoever misses it.
    """
    diagonal = hypot(*(step * (size - 1) for step, size in zip(spacing, reference.shape[2:], strict=True)))
    hausdorff, average = [], []
    for value in range(1, num_classes):
        masks = predicted[0, 0] == value, reference[0, 0] == value
        if not all(mask.any() for mask in masks):
            missed = diagonal if masks[1].any() else nan
            hausdorff.append(missed)
            average.append(missed)
            continue
        with warnings.catch_warnings():  # of an argument that MONAI passes to itself
            warnings.simplefilter("ignore", FutureWarning)
            _, distances, _ = get_edge_surface_distance(*masks, spacing=list(spacing), symmetric=True)
        hausdorff.append(max(torch.quantile(each, 0.95).item() for each in distances))
        average.append(torch.cat(distances).mean().item())
    return hausdorff, average
