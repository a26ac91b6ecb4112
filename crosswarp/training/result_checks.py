"""Whether a trained stage is better than what it started from, judged without any label of the target.

A check is called with the stage's published network and returns what it measured, and a warning for each
limit that is passed. The stage is done all the same, but says what is wrong with it; where the check finds
stage 3 worse than its start, the start is what it publishes (``runs.Stage.judge``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isnan
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..metrics import dice_per_class, likeliest, warp_labels
from ..spatial import fold_fraction

Batches = Iterable[Mapping[str, Tensor]]
Findings = tuple[dict[str, Any], list[str]]


def by_class(values: Tensor, names: Sequence[str]) -> dict[str, float | None]:
    """One value for each class but the background, rounded, by name; None for NaN, which JSON has not."""
    found = zip(names[1:], values.tolist(), strict=True)
    return {name: None if isnan(value) else round(value, 4) for name, value in found}


def listed(values: Mapping[str, str]) -> str:
    """Values by class, in words."""
    return ", ".join(f"{name} {value}" for name, value in values.items())


class RegistrationCheck:
    """Compares validated pairs, registered, with the same pairs as they are.

    Args:
        pairs: batches to validate on.
        prepare_batch: makes of a batch the network's input and the labels ``[B, 2, *spatial]``, moving and
            fixed; called with the batch and the device.
        inferer: runs the network.
        class_names: of all classes, background first.
        least_gain: of the overlap that is missing before registration, the share that it has to bring.
        most_lost: Dice that a class may lose by registration.
        most_folds_percent: of points at which the maps may fold.
    """

    def __init__(
        self,
        pairs: Batches,
        prepare_batch: Callable[..., tuple[Tensor, Tensor]],
        inferer: Callable[..., Tensor],
        class_names: Sequence[str],
        least_gain: float = 0.15,
        most_lost: float = 0.02,
        most_folds_percent: float = 0.5,
    ) -> None:
        self.pairs, self.prepare_batch, self.inferer = pairs, prepare_batch, inferer
        self.class_names = list(class_names)
        self.least_gain, self.most_lost, self.most_folds_percent = least_gain, most_lost, most_folds_percent

    @torch.no_grad()
    def __call__(self, network: nn.Module) -> Findings:
        """Measure the pairs, and say what is no better than before."""
        device, classes = next(network.parameters()).device, len(self.class_names)
        registered, unregistered, folds = [], [], []
        for batch in self.pairs:
            image, labels = self.prepare_batch(batch, device)
            phi, (moving, fixed) = self.inferer(image, network), labels.split(1, dim=1)
            registered.append(dice_per_class(warp_labels(moving, phi, classes), fixed, classes))
            unregistered.append(dice_per_class(moving, fixed, classes))
            folds.append(fold_fraction(phi))
        after, before = (torch.cat(each).cpu().nanmean(0) for each in (registered, unregistered))
        percent = 100 * torch.cat(folds).mean().item()
        measured = {
            "dice": by_class(after, self.class_names),
            "unregistered_dice": by_class(before, self.class_names),
            "folds_percent": round(percent, 4),
        }
        warnings = []
        mean, start = after.nanmean().item(), before.nanmean().item()
        gain = (mean - start) / max(1 - start, 1e-6)
        if not gain >= self.least_gain:
            warnings.append(
                f"registered validation pairs overlap hardly better than unregistered ones: Dice {mean:.3f}, "
                f"unregistered {start:.3f}, which is {gain:.0%} of what was missing; expected at least "
                f"{self.least_gain:.0%}. Look at the training curves: a learning_rate too high or too low, "
                "or too few epochs"
            )
        worse = {
            name: f"{a:.3f} instead of {b:.3f}"
            for name, a, b in zip(self.class_names[1:], after.tolist(), before.tolist(), strict=True)
            if not isnan(b) and not a >= b - self.most_lost
        }
        if worse:
            warnings.append(
                f"classes overlap less than without registration: {listed(worse)}. Look at these classes in "
                "the report's pairs, and at the labels that the stage was given"
            )
        if not percent <= self.most_folds_percent:
            warnings.append(
                f"the maps fold at {percent:.2g} % of all points, expected at most "
                f"{self.most_folds_percent:g} %: they cannot be inverted there. Raise regularity_weight, or "
                "lower learning_rate"
            )
        return measured, warnings


class SegmentationCheck:
    """Compares validated segmentations with the best that could be drawn without looking at the image.

    Args:
        batches: ``image`` and integer ``label`` to validate on.
        training_labels: integers ``[M, 1, *spatial]``, from which the guess is made: each class where it lies
            in most of them.
        inferer: runs the network.
        class_names: of all classes, background first.
        least_gain: of the overlap that the guess misses, the share that the network has to bring.
    """

    def __init__(
        self,
        batches: Batches,
        training_labels: Tensor,
        inferer: Callable[..., Tensor],
        class_names: Sequence[str],
        least_gain: float = 0.3,
    ) -> None:
        self.batches, self.training_labels, self.inferer = batches, training_labels, inferer
        self.class_names, self.least_gain = list(class_names), least_gain

    @torch.no_grad()
    def __call__(self, network: nn.Module) -> Findings:
        """Measure the images, and say which classes are no better than a guess."""
        device, classes = next(network.parameters()).device, len(self.class_names)
        guesses = best_guess(self.training_labels, classes)
        found, guessed = [], []
        for batch in self.batches:
            predicted = likeliest(self.inferer(batch["image"].to(device), network)).cpu()
            label = batch["label"].as_subclass(Tensor).cpu()
            found.append(dice_per_class(predicted.as_subclass(Tensor), label, classes))
            guessed.append(
                torch.cat(
                    [
                        dice_per_class(guess.expand_as(label).long(), (label == k).long(), 2)
                        for k, guess in enumerate(guesses, 1)
                    ],
                    1,
                )
            )
        dice, chance = torch.cat(found).nanmean(0), torch.cat(guessed).nanmean(0)
        measured = {
            "dice": by_class(dice, self.class_names),
            "guessed_dice": by_class(chance, self.class_names),
        }
        poor = {
            name: f"{a:.3f} (guess {b:.3f})"
            for name, a, b in zip(self.class_names[1:], dice.tolist(), chance.tolist(), strict=True)
            if not isnan(b) and not a >= b + self.least_gain * (1 - b)
        }
        if not poor:
            return measured, []
        return measured, [
            "validated Dice is hardly above a guess from the training labels that does not look at the "
            f"image: {listed(poor)}; expected at least {self.least_gain:.0%} of the way from the guess to 1. "
            "Check that labels belong to their images, then the training curves: learning_rate, epochs"
        ]


def best_guess(labels: Tensor, num_classes: int) -> list[Tensor]:
    """Return of each class but the background the region that overlaps best with its labels on average.

    Args:
        labels: integers ``[M, 1, *spatial]``.
        num_classes: classes, background included.

    Returns:
        masks ``[1, 1, *spatial]``: where the class lies in at least some share of the labels.
    """
    guesses = []
    for value in range(1, num_classes):
        masks = labels.as_subclass(Tensor) == value
        often = masks.float().mean(0, keepdim=True)
        candidates = [often >= share / 10 for share in range(1, 10)]
        scores = [
            dice_per_class(each.expand_as(masks).long(), masks.long(), 2).nanmean().nan_to_num().item()
            for each in candidates
        ]
        guesses.append(candidates[int(np.argmax(scores))])
    return guesses
