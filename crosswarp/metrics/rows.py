"""Measurements as flat rows, one for each class of an image or pair: what metrics.csv holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isnan
from statistics import fmean
from typing import Any

import torch

from ..spatial import compose, fold_fraction, to_voxel_displacement
from .overlap import dice_per_class, warp_labels

Row = dict[str, Any]


def registration_rows(
    moving_label: torch.Tensor,
    fixed_label: torch.Tensor,
    moving_to_fixed: torch.Tensor,
    fixed_to_moving: torch.Tensor,
    moving_id: str,
    fixed_id: str,
    direction: str,
    label_names: Sequence[str],
) -> list[Row]:
    """Measure one registered pair.

    Args:
        moving_label: ``[1, 1, *spatial]``, class of every point.
        fixed_label: ``[1, 1, *spatial]``, class of every point.
        moving_to_fixed: ``[1, D, *spatial]``, normalised map.
        fixed_to_moving: ``[1, D, *spatial]``, the map of the other direction.
        moving_id: name of the moving image.
        fixed_id: name of the fixed image.
        direction: moving and fixed modality, as ``"dxa_to_xray"``.
        label_names: name of every class, background first.

    Returns:
        A row for each class but the background, with ``dice`` of the warped moving and the fixed label,
        ``unregistered_dice``, ``folds_percent`` (points of ``moving_to_fixed`` with a Jacobian determinant
        at or below 0) and ``inverse_error_voxels`` (mean distance of ``moving_to_fixed ∘ fixed_to_moving``
        to the identity). The last two belong to the pair and are the same in all its rows.

    Raises:
        ValueError: where more than one pair is given, or shapes do not fit.
    """
    if moving_label.shape[0] != 1:
        raise ValueError(
            f"Expected one pair, got a batch of {moving_label.shape[0]}: measure them one by one."
        )
    num_classes = len(label_names)
    warped = warp_labels(moving_label, moving_to_fixed, num_classes)
    dice = dice_per_class(warped, fixed_label, num_classes)[0].tolist()
    unregistered = dice_per_class(moving_label, fixed_label, num_classes)[0].tolist()
    round_trip = to_voxel_displacement(compose(moving_to_fixed, fixed_to_moving))
    pair = {
        "folds_percent": 100 * fold_fraction(moving_to_fixed).item(),
        "inverse_error_voxels": round_trip.norm(dim=1).mean().item(),
    }
    names = {"kind": "registration", "direction": direction, "moving": moving_id, "fixed": fixed_id}
    return [
        {**names, "class": name, "dice": after, "unregistered_dice": before, **pair}
        for name, after, before in zip(label_names[1:], dice, unregistered, strict=True)
    ]


def segmentation_rows(
    predicted: torch.Tensor,
    reference: torch.Tensor,
    image_id: str,
    modality: str,
    network: str,
    label_names: Sequence[str],
) -> list[Row]:
    """Measure the segmentation of one image.

    Args:
        predicted: ``[1, 1, *spatial]``, class of every point.
        reference: ``[1, 1, *spatial]``, class of every point.
        image_id: name of the image.
        modality: its modality.
        network: ``"source"``, ``"target"``, or ``"source as is"``: the source network on target images.
        label_names: name of every class, background first.

    Returns:
        A row for each class but the background.

    Raises:
        ValueError: where more than one image is given, or shapes do not fit.
    """
    if predicted.shape[0] != 1:
        raise ValueError(f"Expected one image, got a batch of {predicted.shape[0]}: measure them one by one.")
    dice = dice_per_class(predicted, reference, len(label_names))[0].tolist()
    names = {"kind": "segmentation", "modality": modality, "network": network, "image": image_id}
    return [{**names, "class": name, "dice": d} for name, d in zip(label_names[1:], dice, strict=True)]


def representative_pairs(rows: Iterable[Row]) -> list[Row]:
    """Choose the pairs to look at: worst, median and best by the Dice averaged over classes.

    Args:
        rows: measurements; those of segmentations are passed over.

    Returns:
        Up to three rows ``{"rank", "direction", "moving", "fixed", "dice"}``, the worst first; fewer where
        there are fewer pairs.
    """
    registered = (row for row in rows if row["kind"] == "registration")
    return _representative(registered, "direction", "moving", "fixed")


def representative_images(rows: Iterable[Row]) -> list[Row]:
    """Choose the segmented images to look at, of each modality: worst, median and best, as of pairs.

    Args:
        rows: measurements; those of registrations and of the source network as it is are passed over.

    Returns:
        Up to three rows ``{"rank", "modality", "image", "dice"}`` for each modality, the worst first.
    """
    modalities: dict[str, list[Row]] = {}
    for row in rows:
        if row["kind"] == "segmentation" and row["network"] != "source as is":
            modalities.setdefault(row["modality"], []).append(row)
    return [each for rows in modalities.values() for each in _representative(rows, "modality", "image")]


def _representative(rows: Iterable[Row], *keys: str) -> list[Row]:
    """Worst, median and best by mean Dice of what the keys name."""
    samples: dict[tuple[str, ...], list[float]] = {}
    for row in rows:
        if not isnan(row["dice"]):
            samples.setdefault(tuple(row[key] for key in keys), []).append(row["dice"])
    ranked = sorted((fmean(dice), *sample) for sample, dice in samples.items())
    places = {len(ranked) // 2: "median", len(ranked) - 1: "best", 0: "worst"} if ranked else {}
    names = ("dice", *keys)
    return [{"rank": rank, **dict(zip(names, ranked[i], strict=True))} for i, rank in sorted(places.items())]
