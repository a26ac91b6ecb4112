"""How far a registration of two images without manual labels can be trusted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor

from ..metrics.evidence import confidence
from ..metrics.overlap import dice_per_class, likeliest, warp_labels
from ..metrics.typicality import Statistics, appearance_features, atypicality, shape_features
from ..networks import Prediction
from ..spatial import compose, fold_fraction, identity_map, jacobian_determinant
from ..spatial.alignment import apply_affine
from ..spatial.grid import Grid
from ..spatial.physical import physical_displacement

# Quantity -> limits beyond which a pair is to be looked at, and beyond which it has failed. Those of
# atypicality are what the most unusual training image has, and twice as much. Of an expected overlap, the
# lower end of its interval has to reach the first, the upper end the second.
LIMITS: Mapping[str, tuple[float, float]] = {
    "expected_overlap": (0.8, 0.5),
    "expected_class_overlap": (0.5, 0.0),
    "confidence": (0.9, 0.75),
    "overlap": (0.8, 0.5),
    "folds_percent": (0.1, 1.0),
    "inverse_error_percent": (1.5, 5.0),
    "atypical_appearance": (1.0, 2.0),
    "atypical_shape": (1.0, 2.0),
    "extent_overlap": (0.01, 0.0),
}
# An expected overlap is learnt from these: with one, they decide only beyond their second limit, or no more
LEARNT = ("confidence", "overlap", "folds_percent", "inverse_error_percent")
EXPLAINED = ("atypical_appearance", "atypical_shape")
_PLACES = 9  # along each axis, at which extents are compared


def pair_quality(found: Prediction, moving: MetaTensor, fixed: MetaTensor) -> dict[str, Any]:
    """Measure what shows in a registered pair itself, without any manual label.

    Args:
        found: what is predicted of the one pair.
        moving: the moving image ``[C, *its_spatial]``, for lengths in mm.
        fixed: the fixed image ``[C, *its_spatial]``.

    Returns:
        ``confidence`` of both segmentations (mean probability of the likeliest class, over all points but
        the background's; 0 without any); ``overlap`` by class, Dice of the warped moving and the fixed
        predicted label (0 where one of the two lacks the class, None where both do); ``folds_percent``;
        ``jacobian``, smallest and largest determinant; ``inverse_error_mm``, mean distance of
        ``moving_to_fixed ∘ fixed_to_moving`` to the identity where that stays within the fixed image, and
        ``inverse_error_percent``, the same in percent of the moving image's diagonal; ``extent_overlap``, the
        part of the fixed image, 0 to 1, that the moving one covers in space as it lies.
    """
    moving_to_fixed, fixed_to_moving, *probabilities = found
    classes = found.moving_probabilities.shape[1]
    labels = {}
    sure = {}
    for name, each in zip(("moving", "fixed"), probabilities, strict=True):
        labels[name] = likeliest(each)
        sure[name] = confidence(each).item()
    warped = warp_labels(labels["moving"], moving_to_fixed, classes)
    dice = dice_per_class(warped, labels["fixed"], classes)[0]
    absent = [bool(dice[k - 1].isnan()) and not (labels["moving"] == k).any() for k in range(1, classes)]
    determinant = jacobian_determinant(moving_to_fixed)
    grid = Grid.of(moving)
    # of the round trip on the moving image
    error = physical_displacement(compose(moving_to_fixed, fixed_to_moving), grid)
    within = _inside(fixed_to_moving)[0].cpu().numpy()
    error_mm = float(np.linalg.norm(error, axis=-1)[within | ~within.any()].mean())
    to_moving = np.linalg.solve(grid.extent, Grid.of(fixed).extent)
    places = apply_affine(torch.as_tensor(to_moving)[None], identity_map([_PLACES] * grid.dims))
    return {
        "confidence": sure,
        "overlap": {
            str(k): None if absent[k - 1] else float(dice[k - 1].nan_to_num()) for k in range(1, classes)
        },
        "folds_percent": 100 * fold_fraction(moving_to_fixed).item(),
        "jacobian": [determinant.min().item(), determinant.max().item()],
        "inverse_error_mm": error_mm,
        "inverse_error_percent": 100 * error_mm / grid.diagonal,
        "extent_overlap": _inside(places, tolerance=1e-4).float().mean().item(),
    }


def _inside(points: torch.Tensor, tolerance: float = 0.0) -> torch.Tensor:
    """Which points ``[B, D, *any]`` lie within an image, ``[B, *any]``."""
    return ((points >= -tolerance) & (points <= 1 + tolerance)).all(1)


def image_atypicality(
    image: torch.Tensor, probabilities: torch.Tensor, statistics: Mapping[str, Statistics] | None
) -> dict[str, float | None]:
    """Measure how unlike an image and its segmentation are to those in training.

    Args:
        image: ``[1, C, *spatial]``, as the network gets it.
        probabilities: ``[1, K, *spatial]``, what it predicts.
        statistics: of ``appearance`` and ``shape`` of the modality's training images, each from
            :func:`~.typicality.learn_statistics`; None where they are not known.

    Returns:
        ``appearance`` and ``shape``: 1 is as unlike as the most unusual training image; None if not known.
    """
    if statistics is None:
        return {"appearance": None, "shape": None}
    features = {"appearance": appearance_features(image), "shape": shape_features(probabilities)}
    found = {key: atypicality(each, statistics[key]) for key, each in features.items()}
    return {key: None if value is None else value.item() for key, value in found.items()}


def judge(
    quality: Mapping[str, Any],
    limits: Mapping[str, tuple[float, float]] = LIMITS,
    statistics: Mapping[str, Statistics | None] | None = None,
) -> tuple[str, list[str]]:
    """Put the quality of a pair into a word, and say why.

    Args:
        quality: what :func:`pair_quality` returns, and perhaps ``atypicality`` of the ``moving`` and the
            ``fixed`` image, each what :func:`image_atypicality` returns, and ``expected_overlap``, what
            :func:`~.expectation.expected_pair` returns. That decides, where it is there; what it was learnt
            from then gives the reasons, and decides where it is beyond any doubt. ``pose_odds`` are the
            logarithms of those that the two images lie as the training's, and ``pieces`` of how many large
            ones their classes consist.
        limits: see ``LIMITS``; a quantity that is not named is not judged.
        statistics: of the ``moving`` and the ``fixed`` image's modality: ``pose``, the least odds of an image
            that lies as it should, and ``pieces`` of each class in training. With less odds, or more pieces,
            a pair is to be checked. None if not known.

    Returns:
        ``"ok"``, ``"check"`` or ``"failed"``, and a sentence for each limit that is passed.
    """
    verdict, reasons = judge_expectation(quality.get("expected_overlap"), limits)
    learnt = quality.get("expected_overlap") is not None and "expected_overlap" in limits
    measured = [
        (f"confidence of the {k} segmentation", "confidence", v) for k, v in quality["confidence"].items()
    ]
    measured += [
        (f"overlap of class {k} after warping", "overlap", v)
        for k, v in quality["overlap"].items()
        if v is not None
    ]
    measured += [
        ("percent of folded points", "folds_percent", quality["folds_percent"]),
        (
            "error of the inverse in percent of the diagonal",
            "inverse_error_percent",
            quality["inverse_error_percent"],
        ),
        (
            "part of the fixed image that the moving covers",
            "extent_overlap",
            quality["extent_overlap"],
        ),
    ]
    measured += [
        (f"unusual {kind} of the {k} image, 1 being the most unusual in training", f"atypical_{kind}", v)
        for k, values in quality.get("atypicality", {}).items()
        for kind, v in values.items()
        if v is not None
    ]
    for words, name, value in measured:
        if name not in limits:
            continue
        soft, hard = limits[name]
        rising = soft > hard  # more is better
        # the other way round, NaN would pass for good
        level = sum(not (value >= limit if rising else value <= limit) for limit in (soft, hard))
        if level:
            sign, limit = "<" if rising else ">", (soft, hard)[level - 1]
            reasons.append(f"{words}: {value:.3g} {sign} {limit:g}")
        if learnt and name in EXPLAINED or learnt and name in LEARNT and level < 2:
            continue
        verdict = max(verdict, level)
    if not any(value is not None for value in quality["overlap"].values()):
        verdict = 2
        reasons.append("no class was found in either image")
    if learnt and verdict == 0:
        reasons = []  # limits of what the expectation has taken into account
    if said := unlike_training(quality, statistics or {}):
        verdict, reasons = max(verdict, 1), reasons + said
    return ("ok", "check", "failed")[verdict], reasons


def unlike_training(quality: Mapping[str, Any], statistics: Mapping[str, Statistics | None]) -> list[str]:
    """Say what shows that an image is none of those that the networks were trained for; see :func:`judge`."""
    said = []
    for key, known in statistics.items():
        least, most = ((known or {}).get(name) for name in ("pose", "pieces"))
        odds, pieces = (quality.get(name, {}).get(key) for name in ("pose_odds", "pieces"))
        if odds is not None and least is not None and odds < least:
            said.append(
                f"the {key} image hardly lies as those of the training (odds {np.exp(odds):.2g} to 1, and "
                f"{np.exp(least):.2g} or more where one does): the pose auto looks for others"
            )
        if more := [str(k + 1) for k, number in enumerate(pieces or []) if most and number > most[k] > 0]:
            said.append(
                f"the {key} image seems to show more than one of class {', '.join(more)}: cut it so that it "
                "shows the anatomy once"
            )
    return said


def judge_expectation(
    expected: Mapping[str, Any] | None, limits: Mapping[str, tuple[float, float]] = LIMITS
) -> tuple[int, list[str]]:
    """Judge a pair by the overlap that is to be expected of it.

    Args:
        expected: what :func:`~.expectation.expected_pair` returns; None where that is not known.
        limits: ``expected_overlap``, of the mean over classes, and ``expected_class_overlap``, of each: what
            the lower end of the interval has to reach not to be looked at, the upper end not to have failed.

    Returns:
        0, 1 or 2, for ``"ok"``, ``"check"`` and ``"failed"``, and a sentence for each limit that is passed.
    """
    verdict, reasons = 0, []
    for key, value in (expected or {}).items():
        name = "expected_overlap" if key == "mean" else "expected_class_overlap"
        if key == "untrusted" and value and "expected_overlap" in limits:
            verdict = 2
            reasons.append(
                f"the networks give most {' and '.join(value)} images of the training sizes or places of the "
                "classes that the labelled people have not"
            )
        if key == "unseen" and value and "expected_class_overlap" in limits:
            verdict = max(verdict, 1)
            reasons.append(
                f"class {', '.join(value)} was found in neither image, and nearly all labelled people have it"
            )
        if name not in limits or value is None or key in ("untrusted", "unseen"):
            continue
        soft, hard = limits[name]
        level = 2 if not value["high"] >= hard else 1 if not value["low"] >= soft else 0
        what = "overlap" if key == "mean" else f"overlap of class {key}"
        if level:
            end, limit = ("high", hard) if level == 2 else ("low", soft)
            because = f", above all for {' and '.join(value['because'])}" if value.get("because") else ""
            reasons.append(
                f"{what} of {value['value']:.2f} to be expected{because}; {value[end]:.2f} at the "
                f"{'most' if level == 2 else 'least'}, below {limit:g}"
            )
        verdict = max(verdict, level)
    return verdict, reasons
