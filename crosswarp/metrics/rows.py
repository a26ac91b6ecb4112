"""Measurements as flat rows, one for each class of an image or pair: what metrics.csv holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan, nan
from statistics import fmean
from typing import Any

import torch

from ..spatial import compose, displacement, fold_fraction, identity_map, jacobian_determinant
from ..spatial.grid import Grid, Points
from .landmarks import target_registration_error
from .overlap import dice_per_class, warp_labels
from .surface import surface_distances

Row = dict[str, Any]
OURS = "crosswarp"  # the method that is evaluated, among those it is compared with


@dataclass
class MeasuredImage:
    """An image on the networks' grid with what it is measured by.

    Attributes:
        name: the image as its datalist names it.
        subject: whose image it is.
        modality: name of its modality.
        image: ``[C, *spatial]``.
        grid: where it lies in space.
        label: the manual label ``[1, *spatial]``, class of every point; None where there is none.
        landmarks: name -> point ``[D]``, mm in LPS.
        item: all that the inference config makes of it, ``image`` among that.
    """

    name: str
    subject: str
    modality: str
    image: torch.Tensor
    grid: Grid
    label: torch.Tensor | None = None
    landmarks: Mapping[str, Points] = field(default_factory=dict)
    item: Mapping[Any, Any] = field(default_factory=dict)


def registration_rows(
    moving: MeasuredImage,
    fixed: MeasuredImage,
    moving_to_fixed: torch.Tensor,
    fixed_to_moving: torch.Tensor,
    label_names: Sequence[str],
    method: str = OURS,
    seconds: float = nan,
    memory_mib: float = nan,
) -> list[Row]:
    """Measure one registered pair.

    Args:
        moving: the image that is warped.
        fixed: the image that it is warped to.
        moving_to_fixed: ``[1, D, *spatial]``, normalised map.
        fixed_to_moving: ``[1, D, *spatial]``, the map of the other direction.
        label_names: name of every class, background first.
        method: what registered them.
        seconds: what it took.
        memory_mib: what it took at most.

    Returns:
        A row for each class but the background, with ``dice``, ``hd95_mm`` and ``assd_mm`` of the warped
        moving and the fixed label (:func:`~.overlap.dice_per_class`, :func:`~.surface.surface_distances`) and
        ``unregistered_dice``, all NaN unless both images have a label. What follows belongs to the pair and
        is the same in all its rows: ``tre_mm`` and ``unregistered_tre_mm``
        (:func:`~.landmarks.target_registration_error`, NaN without landmarks); ``folds_percent``, points of
        ``moving_to_fixed`` with a Jacobian determinant at or below 0; ``sd_log_jacobian``, standard deviation
        of the determinant's natural logarithm over all other points; ``inverse_error_mm``, mean distance of
        ``moving_to_fixed ∘ fixed_to_moving`` to the identity, in the moving image.

    Raises:
        ValueError: where more than one pair is given, or shapes do not fit.
    """
    if len(moving_to_fixed) != 1:
        raise ValueError(f"Expected one pair, got {len(moving_to_fixed)} maps: measure them one by one.")
    identity = identity_map(moving_to_fixed.shape[2:], moving_to_fixed.device)
    errors = [
        target_registration_error(moving.landmarks, fixed.landmarks, phi, moving.grid, fixed.grid)
        for phi in (moving_to_fixed, identity)
    ]
    determinant = jacobian_determinant(moving_to_fixed)
    logs = determinant[determinant > 0].log()
    round_trip = displacement(compose(moving_to_fixed, fixed_to_moving))
    to_mm = torch.from_numpy(moving.grid.extent[:-1, :-1]).float().to(round_trip.device)
    pair = {
        "tre_mm": errors[0],
        "unregistered_tre_mm": errors[1],
        "folds_percent": 100 * fold_fraction(moving_to_fixed).item(),
        "sd_log_jacobian": logs.std(correction=0).item() if len(logs) else nan,
        "inverse_error_mm": torch.einsum("ij,bj...->bi...", to_mm, round_trip).norm(dim=1).mean().item(),
        "seconds": seconds,
        "memory_mib": memory_mib,
    }
    names = {
        "kind": "registration",
        "method": method,
        "direction": f"{moving.modality}_to_{fixed.modality}",
        "moving": moving.name,
        "fixed": fixed.name,
        "moving_subject": moving.subject,
        "fixed_subject": fixed.subject,
    }
    num_classes = len(label_names)
    overlap = [[nan] * (num_classes - 1)] * 4
    if moving.label is not None and fixed.label is not None:
        device = moving_to_fixed.device
        before, reference = moving.label[None].to(device), fixed.label[None].to(device)
        warped = warp_labels(before, moving_to_fixed, num_classes)
        overlap = [
            dice_per_class(warped, reference, num_classes)[0].tolist(),
            dice_per_class(before, reference, num_classes)[0].tolist(),
            *surface_distances(warped, reference, num_classes, fixed.grid.spacing.tolist()),
        ]
    keys = ("class", "dice", "unregistered_dice", "hd95_mm", "assd_mm")
    return [
        names | dict(zip(keys, values, strict=True)) | pair
        for values in zip(label_names[1:], *overlap, strict=True)
    ]


def segmentation_rows(
    predicted: torch.Tensor, image: MeasuredImage, network: str, label_names: Sequence[str]
) -> list[Row]:
    """Measure the segmentation of one image.

    Args:
        predicted: ``[1, *spatial]``, class of every point.
        image: the image; it has a label.
        network: ``"source"``, ``"target"``, or ``"source as is"``: the source network on target images.
        label_names: name of every class, background first.

    Returns:
        A row for each class but the background, with ``dice``, ``hd95_mm`` and ``assd_mm``.

    Raises:
        ValueError: where the image has no label, or shapes do not fit.
    """
    if image.label is None:
        raise ValueError(f"Expected a label of {image.name} to measure by, but it has none.")
    reference = image.label[None].to(predicted.device)
    measured = (
        dice_per_class(predicted[None], reference, len(label_names))[0].tolist(),
        *surface_distances(predicted[None], reference, len(label_names), image.grid.spacing.tolist()),
    )
    names = {
        "kind": "segmentation",
        "modality": image.modality,
        "network": network,
        "image": image.name,
        "subject": image.subject,
    }
    keys = ("class", "dice", "hd95_mm", "assd_mm")
    return [
        names | dict(zip(keys, values, strict=True))
        for values in zip(label_names[1:], *measured, strict=True)
    ]


def representative_pairs(rows: Iterable[Row]) -> list[Row]:
    """Choose the pairs to look at: worst, median and best by the Dice averaged over classes.

    Args:
        rows: measurements; those of segmentations and of other methods are passed over.

    Returns:
        Up to three rows ``{"rank", "direction", "moving", "fixed", "dice"}``, the worst first; fewer where
        there are fewer pairs.
    """
    registered = (row for row in rows if row["kind"] == "registration" and row["method"] == OURS)
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
        if row["kind"] == "segmentation" and row["network"] in ("source", "target"):
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
