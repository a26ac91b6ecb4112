"""What a run learns of its own mistakes: from pairs that it worsens on purpose, what overlap to expect."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import __version__
from ..data import Datalist
from ..files import file_digest
from ..metrics import dice_per_class, warp_labels
from ..metrics.pair_evidence import (
    UNITS,
    image_evidence,
    label_facts,
    learn_references,
    measuring_size,
    pair_evidence,
    pair_features,
    reduced,
    unit_lengths,
)
from ..metrics.typicality import Statistics, appearance_features, atypicality
from ..networks import Prediction
from ..spatial import resize_image
from ..spatial.grid import Grid
from ..training.expectation import fit_expectation
from ..training.worsened import Recipe, draw_recipes, spoilt, worsen_images, worsen_predictions
from .bundle import INFERENCE, WEIGHTS, load_network, read_json, write_json
from .config import read_config

logger = logging.getLogger(__name__)

EXPECTED = Path("expected_overlap.json")  # in a run's folder: the fitted model, and what it was fitted to
LEAST_PEOPLE = 4  # with manual labels: two groups of two
MOST_IMAGES = 24
PAIRS = (240, 2000)  # fewest and most, by the size of the grid
POINTS = 2**25  # of the networks' grids of all pairs, on a CPU
SPOILT = (0.05, 0.1, 0.15, 0.25, 0.4)  # noise on the weights of networks, in standard deviations
BATCH = 2**17  # points of the networks' grid in a batch


@dataclass
class Manual:
    """Images with manual labels on the networks' grid.

    Attributes:
        image: ``[N, C, *spatial]``.
        label: integers ``[N, 1, *spatial]``.
        grids: where they lie.
        people: a number for each person, ``[N]``.
        in_mm: whether all state their spacing.
    """

    image: Tensor
    label: Tensor
    grids: list[Grid]
    people: list[int]
    in_mm: bool

    @property
    def spacing(self) -> Tensor:
        """Of the grid on which evidence is measured, ``[N, D]``."""
        return torch.stack([unit_lengths(grid, self.in_mm) for grid in self.grids])


@dataclass
class Networks:
    """The networks that worsened images go through.

    Attributes:
        segmentation: of the source, of the target where that takes source images, and spoilt ones.
        registration: of label maps; as trained, then spoilt.
        trained: how many for segmentation are as they were trained.
        device: where they compute.
    """

    segmentation: list[nn.Module]
    registration: list[nn.Module]
    trained: int = 2
    device: torch.device = torch.device("cpu")

    @classmethod
    def of_bundles(cls, bundles: Mapping[str, Path], device: torch.device | str) -> Networks:
        """Load trained bundles, see :func:`fit_run`, and spoil copies of them."""
        source, target = (bundles[f"{modality}_segmentation"] for modality in ("source", "target"))
        networks = [load_network(source, device)]
        configs = [read_config(each / INFERENCE) for each in (source, target)]
        if configs[0]["source_channels"] == configs[1]["target_channels"]:
            networks.append(load_network(target, device))
        trained, registers = len(networks), load_network(bundles["registration"], device)
        networks += [spoilt(networks[k % trained], strength, k) for k, strength in enumerate(SPOILT)]
        spoiled = [spoilt(registers, strength, 0) for strength in SPOILT[1::2]]
        return cls(networks, [registers, *spoiled], trained, torch.device(device))

    @torch.no_grad()
    def segment(self, number: int, image: Tensor) -> Tensor:
        """Class probabilities, on the CPU."""
        return torch.cat(
            [
                self.segmentation[number](part.to(self.device)).float().softmax(1).cpu()
                for part in image.split(_batch(image))
            ]
        )

    @torch.no_grad()
    def register(self, number: int, moving: Tensor, fixed: Tensor) -> tuple[Tensor, Tensor]:
        """Maps both ways between class probabilities, on the CPU."""
        labels = torch.cat([torch.cat([moving, fixed], 1), torch.cat([fixed, moving], 1)])
        maps = [
            self.registration[number](part.to(self.device)).cpu() for part in labels.split(2 * _batch(labels))
        ]
        first, second = torch.cat(maps).chunk(2)
        return first, second


def run_expectation(
    run_dir: Path,
    bundles: Mapping[str, Path],
    data: Datalist,
    statistics: Mapping[str, Mapping[str, Statistics]],
    data_digest: str,
    device: torch.device | str = "cpu",
    pairs: int | None = None,
) -> dict[str, Any] | None:
    """The expectation of a run, fitted anew where its networks, configs or data are others.

    Args:
        run_dir: the run's folder.
        bundles: the trained stages ``source_segmentation``, ``target_segmentation`` and ``registration``.
        data: the datalist.
        statistics: of the training images, see :mod:`~.training_statistics`.
        data_digest: of the datalist.
        device: where the networks compute.
        pairs: how many to worsen; None for as many as the size of the grid allows, 0 for no expectation.

    Returns:
        what :func:`fit_run` returns.
    """
    files = [folder / file for folder in bundles.values() for file in (WEIGHTS, INFERENCE)]
    of = [data_digest, __version__, pairs, *map(file_digest, files)]
    known = read_json(run_dir / EXPECTED) if (run_dir / EXPECTED).is_file() else {}
    if known.get("of") != of:
        known = {"of": of, "expected_overlap": fit_run(bundles, data, statistics, device, pairs)}
        write_json(run_dir / EXPECTED, known)
    return known["expected_overlap"]


def fit_run(
    bundles: Mapping[str, Path],
    data: Datalist,
    statistics: Mapping[str, Mapping[str, Statistics]],
    device: torch.device | str = "cpu",
    pairs: int | None = None,
) -> dict[str, Any] | None:
    """Worsen pairs of the labelled source images, and learn what overlap to expect of a pair.

    Args:
        bundles: the trained stages ``source_segmentation``, ``target_segmentation`` and ``registration``.
        data: the datalist; its test images are left alone.
        statistics: of the training images of both modalities.
        device: where the networks compute.
        pairs: how many to worsen.

    Returns:
        what :func:`~..training.expectation.fit_expectation` returns, ``references`` of manual labels and
        ``in_mm``, whether lengths are; None where too few people have labels, or there are to be no pairs.
    """
    if pairs == 0:
        return None
    records = data.source.records("val", "train_labelled")
    people = {record["subject"] for record in records}
    if len(people) < LEAST_PEOPLE:
        logger.info(
            f"  What overlap to expect of a pair is not learnt: expected manual labels of at least "
            f"{LEAST_PEOPLE} people, got {len(people)}. Verdicts go by the limits of single quantities."
        )
        return None
    manual = read_manual(bundles["source_segmentation"], records)
    preprocessing = read_config(bundles["target_segmentation"] / INFERENCE).get_parsed_content(
        "preprocessing"
    )
    targets = data.target.records("train_unlabelled", "val")
    style = torch.stack(
        [
            preprocessing({"image": each["image"]})["image"].as_tensor()
            for each in targets[:: -(-len(targets) // MOST_IMAGES)]
        ]
    )
    networks = Networks.of_bundles(bundles, device)
    return fit_networks(networks, manual, style, statistics["source"]["appearance"], data.num_classes, pairs)


def read_manual(bundle: Path, records: Sequence[Mapping[str, str]]) -> Manual:
    """Read images with labels as a trained segmentation stage did it in training."""
    preprocessing = read_config(bundle / "configs" / "train.json").get_parsed_content("preprocessing")
    chosen = records[:: -(-len(records) // MOST_IMAGES)]
    samples = [preprocessing({"image": each["image"], "label": each["label"]}) for each in chosen]
    names = sorted({each["subject"] for each in chosen})
    return Manual(
        torch.stack([each["image"].as_tensor() for each in samples]).float(),
        torch.stack([each["label"].as_tensor() for each in samples]).long(),
        [Grid.of(each["image"]) for each in samples],
        [names.index(each["subject"]) for each in chosen],
        all(each["image"].meta.get("spacing_known", True) for each in samples),
    )


def fit_networks(
    networks: Networks,
    manual: Manual,
    style: Tensor,
    appearance: Statistics,
    num_classes: int,
    pairs: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Worsen pairs, and fit.

    Args:
        networks: the networks.
        manual: images with labels, of at least four people.
        style: images of the target, ``[M, C', *spatial]``.
        appearance: statistics of the source's training images.
        num_classes: classes, background included.
        pairs: how many; None for as many as the size of the grid allows.
        seed: of all that is random.

    Returns:
        see :func:`fit_run`.
    """
    features, overlap, groups = worsened_pairs(networks, manual, style, appearance, num_classes, pairs, seed)
    model = fit_expectation(features, overlap, groups, UNITS)
    size = measuring_size(manual.image.shape[2:])
    facts = label_facts(
        resize_image(manual.image, size), _resized(manual.label, size), manual.spacing, num_classes
    )
    return {**model, "references": learn_references(facts), "in_mm": manual.in_mm}


def worsened_pairs(
    networks: Networks,
    manual: Manual,
    style: Tensor,
    appearance: Statistics,
    num_classes: int,
    pairs: int | None = None,
    seed: int = 0,
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Register pairs of worsened images.

    Args:
        networks: see :func:`fit_networks`, as all others.
        manual: images with labels.
        style: images of the target.
        appearance: statistics.
        num_classes: classes.
        pairs: how many.
        seed: of all that is random.

    Returns:
        features by name ``[P, G]``; the overlap ``[P, G]``: of the registered manual labels and of both
        predicted ones with the manual ones, the least; the group of people of each pair ``[P]``.
    """
    points = int(np.prod(manual.image.shape[2:]))
    limit = PAIRS[1] if networks.device.type != "cpu" else POINTS // points
    pairs = pairs or int(np.clip(limit, *PAIRS))
    sides = _Sides(networks, manual, style, appearance, num_classes, max(12, pairs // 24), seed)
    group_of = _groups(manual.people, seed)
    chosen = _choose_pairs(sides, group_of, pairs, np.random.default_rng(seed))
    features: list[dict[str, np.ndarray]] = []
    overlaps = []
    size = _batch(manual.image)
    registration = np.random.default_rng(seed + 1).choice(
        len(networks.registration), len(chosen), p=_mostly_first(len(networks.registration))
    )
    for number in range(len(networks.registration)):
        own = chosen[registration == number]
        for start in range(0, len(own), size):
            found, overlap = sides.pair(own[start : start + size], number)
            features.append(found)
            overlaps.append(overlap)
    order = np.concatenate([chosen[registration == number] for number in range(len(networks.registration))])
    groups = np.array([group_of[sides.image_number[first]] for first, _ in order])
    together = {name: np.concatenate([each[name] for each in features]) for name in features[0]}
    return together, np.concatenate(overlaps), groups


class _Sides:
    """All worsened images, segmented, each with its evidence: what pairs are made of."""

    def __init__(
        self,
        networks: Networks,
        manual: Manual,
        style: Tensor,
        appearance: Statistics,
        num_classes: int,
        recipes: int,
        seed: int,
    ) -> None:
        self.networks, self.classes, self.people = networks, num_classes, manual.people
        self.recipes = draw_recipes(recipes, len(networks.segmentation), networks.trained, seed)
        count, shape = len(manual.people), manual.image.shape[2:]
        self.size = measuring_size(shape)
        self.spacing = manual.spacing.repeat(recipes, 1)
        self.image_number = np.tile(np.arange(count), recipes)
        self.recipe_number = np.repeat(np.arange(recipes), count)
        facts = label_facts(
            resize_image(manual.image, self.size),
            _resized(manual.label, self.size),
            manual.spacing,
            num_classes,
        )
        others = {
            person: learn_references(_facts_of(facts, [p != person for p in manual.people]))
            for person in set(manual.people)
        }
        lengths = (manual.grids[0].spacing * (np.array(shape) - 1)).tolist()
        parts = [self._made(recipe, manual, style, lengths) for recipe in self.recipes]
        self.image, self.label, self.probabilities = (torch.cat(each) for each in zip(*parts, strict=True))
        atypical = atypicality(appearance_features(self.image), appearance)
        images, probabilities = (resize_image(each, self.size) for each in (self.image, self.probabilities))
        evidence = [
            image_evidence(
                images[i : i + 1],
                probabilities[i : i + 1],
                self.spacing[i : i + 1],
                others[manual.people[self.image_number[i]]],
                None if atypical is None else atypical[i : i + 1],
            )
            for i in range(len(images))
        ]
        self.evidence = {name: torch.cat([each[name] for each in evidence]) for name in evidence[0]}
        self.segmented = dice_per_class(self.probabilities.argmax(1, keepdim=True), self.label, num_classes)

    def _made(
        self, recipe: Recipe, manual: Manual, style: Tensor, lengths: Sequence[float]
    ) -> tuple[Tensor, Tensor, Tensor]:
        image, label = worsen_images(recipe, manual.image, manual.label, style, lengths)
        return image, label, worsen_predictions(recipe, self.networks.segment(recipe.network, image))

    def pair(self, chosen: np.ndarray, registration: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Features and overlap of pairs ``[P, 2]`` of sides."""
        first, second = (torch.from_numpy(each) for each in chosen.T)
        probabilities = self.probabilities[first], self.probabilities[second]
        found = Prediction(*self.networks.register(registration, *probabilities), *probabilities)
        warped = warp_labels(self.label[first], found.moving_to_fixed, self.classes)
        overlap = dice_per_class(warped, self.label[second], self.classes)
        least = torch.fmin(torch.fmin(self.segmented[first], self.segmented[second]), overlap)
        least = least.masked_fill(overlap.isnan(), torch.nan)
        found, (moving, fixed) = reduced(found, self.image[first], self.image[second])
        evidence = pair_evidence(found, moving, fixed, self.spacing[first])
        features = pair_features(self._evidence(first), self._evidence(second), evidence)
        return features, least.double().numpy()

    def _evidence(self, numbers: Tensor) -> dict[str, Tensor]:
        return {name: values[numbers] for name, values in self.evidence.items()}


def _choose_pairs(sides: _Sides, group_of: Sequence[int], count: int, rng: np.random.Generator) -> np.ndarray:
    """Pairs of sides of different images, within a group: alike in what is wrong, one good, or any."""
    total, images = len(sides.image_number), len(group_of)
    good = np.array([number for number in range(total) if sides.recipes[sides.recipe_number[number]].good])
    chosen: list[tuple[int, int]] = []
    while len(chosen) < count:
        first = int(rng.choice(good) if rng.random() < 0.35 else rng.integers(total))
        own = sides.image_number[first]
        partners = [
            n for n in range(images) if sides.people[n] != sides.people[own] and group_of[n] == group_of[own]
        ]
        image, kind = rng.choice(partners), rng.random()
        if kind < 0.35:  # the same is wrong with both
            second = sides.recipe_number[first] * images + image
        elif kind < 0.8:
            of_image = good[sides.image_number[good] == image]
            second = rng.choice(of_image)
        else:
            second = rng.integers(len(sides.recipes)) * images + image
        chosen.append((first, int(second)) if rng.random() < 0.5 else (int(second), first))
    return np.array(chosen)


def _groups(people: Sequence[int], seed: int) -> list[int]:
    """A group for each image: at least two, each of at least two people."""
    names = sorted(set(people))
    order = np.random.default_rng(seed).permutation(len(names))
    count = int(np.clip(len(names) // 3, 2, 6))
    return [int(order[names.index(person)]) % count for person in people]


def _facts_of(facts: Mapping[str, Tensor], chosen: Sequence[bool]) -> dict[str, Tensor]:
    return {key: values[torch.tensor(chosen)] for key, values in facts.items()}


def _resized(label: Tensor, size: Sequence[int]) -> Tensor:
    if list(label.shape[2:]) == list(size):
        return label
    return nn.functional.interpolate(label.float(), list(size), mode="nearest-exact").long()


def _mostly_first(count: int) -> np.ndarray:
    return np.array([1.0]) if count == 1 else np.array([0.85, *[0.15 / (count - 1)] * (count - 1)])


def _batch(image: Tensor) -> int:
    return max(1, BATCH // int(np.prod(image.shape[2:])))
