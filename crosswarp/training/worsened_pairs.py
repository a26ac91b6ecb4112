"""Registered pairs whose overlap is known, from good to hopeless, and what is to be expected by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data.room import roomy
from ..metrics import dice_per_class, likeliest, warp_labels
from ..metrics.pair_evidence import (
    UNITS,
    References,
    image_evidence,
    label_facts,
    learn_references,
    measuring_lengths,
    measuring_size,
    pair_evidence,
    pair_features,
    reduced,
)
from ..metrics.typicality import Statistics, appearance_features, atypicality
from ..metrics.usual import Usual, are_of_people, from_the_usual, learn_usual
from ..networks import Prediction
from ..spatial import resize_image
from ..spatial.grid import Grid
from .expectation import fit_expectation
from .precision import AutocastInferer
from .worsened import Recipe, draw_recipes, spoilt, worsen_images, worsen_predictions

PAIRS = (300, 3000)  # fewest and most, by the size of the grid
POINTS = {"cpu": 2**25, "cuda": 2**29}  # of the networks' grids of all pairs
SPOILT = (0.05, 0.1, 0.15, 0.25, 0.4)  # noise on the weights of networks, in standard deviations
BATCH = 2**17  # points of the networks' grid in a batch
USUAL_PAIRS = 96  # as they are, of either combination of modalities


@dataclass
class Images:
    """Images on the networks' grid, of one modality.

    Attributes:
        image: ``[N, C, *spatial]``.
        grids: where they lie.
        in_mm: whether lengths in mm are known.
        label: integers ``[N, 1, *spatial]``; None where there are none.
        people: a number for each person, ``[N]``.
        appearance: statistics of the modality's training images; None where they are not known.
    """

    image: Tensor
    grids: list[Grid]
    in_mm: bool
    label: Tensor | None = None
    people: Sequence[int] = ()
    appearance: Statistics | None = None

    def lengths(self, in_mm: bool) -> Tensor:
        """Spacing of the grid on which evidence is measured, ``[N, D]``, in mm or parts of the extent."""
        return torch.stack([measuring_lengths(grid, in_mm) for grid in self.grids])

    def facts(self, num_classes: int) -> dict[str, Tensor]:
        """What the labels are like, see :func:`~..metrics.pair_evidence.label_facts`."""
        assert self.label is not None
        size = measuring_size(self.image.shape[2:])
        label = _resized(self.label, size)
        return label_facts(resize_image(self.image, size), label, self.lengths(self.in_mm), num_classes)

    def atypical(self, image: Tensor) -> Tensor:
        """How unusual images of the modality look, ``[N]``; NaN where that is not known."""
        unknown = torch.full((len(image),), torch.nan)
        if self.appearance is None:
            return unknown
        found = atypicality(appearance_features(image), self.appearance)
        return unknown if found is None else found


class Networks:
    """The networks of a run, and copies of them that are spoilt.

    Args:
        source: segments source images; logits.
        target: segments target images.
        registration: registers label maps.
        exchangeable: whether the target network takes source images, too.
        device: where they compute.

    Attributes:
        segmentation: of source images: as trained, by the source and perhaps by the target, then spoilt.
        trained: how many of these are as they were trained.
        registration: as trained, then spoilt.
    """

    def __init__(
        self,
        source: nn.Module,
        target: nn.Module,
        registration: nn.Module,
        exchangeable: bool = True,
        device: torch.device | str = "cpu",
    ) -> None:
        self.target, self.device = target, torch.device(device)
        # as in use, see the inference config
        self.inferer = AutocastInferer("auto" if self.device.type == "cpu" else False)
        networks = [source, target] if exchangeable else [source]
        self.trained = len(networks)
        spoiled = [spoilt(networks[k % self.trained], strength, k) for k, strength in enumerate(SPOILT)]
        self.segmentation = networks + spoiled
        self.registration = [registration, *(spoilt(registration, each, 0) for each in SPOILT[1::2])]

    @torch.no_grad()
    def segment(self, network: nn.Module, image: Tensor) -> Tensor:
        """Class probabilities, on the CPU."""
        parts = [self.inferer(part.to(self.device), network) for part in image.split(_batch(image))]
        return torch.cat([part.softmax(1).cpu() for part in parts])

    @torch.no_grad()
    def register(self, number: int, moving: Tensor, fixed: Tensor) -> tuple[Tensor, Tensor]:
        """Maps both ways between class probabilities, on the CPU."""
        labels = torch.cat([torch.cat([moving, fixed], 1), torch.cat([fixed, moving], 1)])
        parts = labels.split(2 * _batch(labels))
        first, second = torch.cat(
            [self.inferer(part.to(self.device), self.registration[number]).cpu() for part in parts]
        ).chunk(2)
        return first, second


def learn_expectation(
    networks: Networks,
    manual: Images,
    source: Images,
    target: Images,
    num_classes: int,
    pairs: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Worsen pairs of labelled source images, and learn what overlap to expect of a pair.

    Args:
        networks: the networks.
        manual: source images with labels, of at least four people.
        source: many source images, which need no labels: of them is learnt what is usual.
        target: many target images, which need none either; their style is lent, too.
        num_classes: classes, background included.
        pairs: how many; None for as many as the size of the grid allows.
        seed: of all that is random.

    Returns:
        what :func:`~.expectation.fit_expectation` returns; ``references``, see
        :func:`~..metrics.pair_evidence.learn_references`; ``usual``, see :func:`usual_evidence`; ``in_mm``,
        whether lengths are.
    """
    references = learn_references(manual.facts(num_classes))
    usual = usual_evidence(networks, source, target, references, manual.in_mm, seed)
    worsened = worsened_pairs(networks, manual, target.image, usual, num_classes, pairs, seed)
    model = fit_expectation(*worsened, UNITS)
    return {**model, "references": references, "usual": usual, "in_mm": manual.in_mm}


def usual_evidence(
    networks: Networks,
    source: Images,
    target: Images,
    references: References,
    in_mm: bool,
    seed: int = 0,
) -> dict[str, Any]:
    """Return what evidence is usual for both modalities, and for pairs of them.

    Args:
        networks: see :func:`learn_expectation`, as all others.
        source: images.
        target: images.
        references: of the manual labels.
        in_mm: whether their lengths are.
        seed: of the pairs.

    Returns:
        what :func:`~..metrics.usual.learn_usual` returns, for ``source``, ``source_to_source``, ``target``,
        ``source_to_target``, ``target_to_source`` and ``target_to_target``. The latter four are left out
        where sizes and places of the target's labels are not those of people: what is usual is wrong then.
    """
    size = measuring_size(source.image.shape[2:])
    own = {"source": source, "target": target}
    probabilities = {
        key: networks.segment(network, own[key].image)
        for key, network in (("source", networks.segmentation[0]), ("target", networks.target))
    }
    spacing = {
        key: images.lengths(in_mm) * (1.0 if images.in_mm or not in_mm else torch.nan)
        for key, images in own.items()
    }
    found = {
        key: image_evidence(
            resize_image(own[key].image, size),
            resize_image(probabilities[key], size),
            spacing[key],
            references,
            own[key].atypical(own[key].image),
        )
        for key in own
    }
    if not are_of_people(found["target"]):
        own.pop("target")
    chance = torch.Generator().manual_seed(seed)
    pairs = {}
    for moving, fixed in product(own, own):
        first = torch.randint(len(own[moving].image), (USUAL_PAIRS,), generator=chance)
        second = torch.randint(len(own[fixed].image), (USUAL_PAIRS,), generator=chance)
        second = torch.where(
            (first == second) & (moving == fixed), (second + 1) % len(own[fixed].image), second
        )
        parts = []
        for one, other in zip(*(each.split(_batch(source.image)) for each in (first, second)), strict=True):
            seen = probabilities[moving][one], probabilities[fixed][other]
            pred = Prediction(*networks.register(0, *seen), *seen)
            pred, images = reduced(pred, own[moving].image[one], own[fixed].image[other])
            parts.append(pair_evidence(pred, images[0], images[1], spacing[moving][one]))
        pairs[f"{moving}_to_{fixed}"] = {name: torch.cat([each[name] for each in parts]) for name in parts[0]}
    return {
        key: learn_usual(evidence) for key, evidence in ({key: found[key] for key in own} | pairs).items()
    }


def worsened_pairs(
    networks: Networks,
    manual: Images,
    style: Tensor,
    usual: Mapping[str, Usual],
    num_classes: int,
    pairs: int | None = None,
    seed: int = 0,
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Register pairs of worsened images.

    Args:
        networks: see :func:`learn_expectation`, as all others.
        manual: images with labels.
        style: images of the target ``[M, C', *spatial]``.
        usual: evidence.
        num_classes: classes.
        pairs: how many.
        seed: of all that is random.

    Returns:
        features by name ``[P, G]``; the overlap ``[P, G]``: of the registered manual labels and of both
        predicted ones with the manual ones, the least; the group of people of each pair ``[P]``.
    """
    limit = POINTS.get(networks.device.type, POINTS["cuda"]) // int(np.prod(manual.image.shape[2:]))
    pairs = pairs or int(np.clip(limit, *PAIRS))
    sides = _Sides(networks, manual, style, usual, num_classes, max(12, pairs // 24), seed)
    group_of = _groups(manual.people, seed)
    chosen = _choose_pairs(sides, group_of, pairs, np.random.default_rng(seed))
    networks_drawn = np.random.default_rng(seed + 1).choice(
        len(networks.registration), pairs, p=_mostly_first(len(networks.registration))
    )
    found, groups = [], []
    for number in range(len(networks.registration)):
        own = chosen[networks_drawn == number]
        size = _batch(manual.image)
        found += [sides.pair(own[start : start + size], number) for start in range(0, len(own), size)]
        groups += [group_of[sides.image_number[first]] for first, _ in own]
    features = {name: np.concatenate([each[name] for each, _ in found]) for name in found[0][0]}
    return features, np.concatenate([overlap for _, overlap in found]), np.array(groups)


class _Sides:
    """All worsened images, segmented, each with its evidence: what pairs are made of.

    They are hundreds, and of volumes more than there may be memory for: what is beyond lies in files.
    """

    def __init__(
        self,
        networks: Networks,
        manual: Images,
        style: Tensor,
        usual: Mapping[str, Usual],
        num_classes: int,
        recipes: int,
        seed: int,
    ) -> None:
        self.networks, self.classes, self.people = networks, num_classes, manual.people
        self.usual = usual
        self.recipes = draw_recipes(recipes, len(networks.segmentation), networks.trained, seed)
        count, shape = len(manual.people), manual.image.shape[2:]
        self.size = measuring_size(shape)
        self.spacing = manual.lengths(manual.in_mm).repeat(recipes, 1)
        self.image_number = np.tile(np.arange(count), recipes)
        self.recipe_number = np.repeat(np.arange(recipes), count)
        facts = manual.facts(num_classes)
        others = {
            person: learn_references(
                {key: values[torch.tensor(manual.people) != person] for key, values in facts.items()}
            )
            for person in set(manual.people)
        }
        lengths = (manual.grids[0].spacing * (np.array(shape) - 1)).tolist()
        channels = {"image": manual.image.shape[1], "label": 1, "probabilities": num_classes}
        self.image, self.label, self.probabilities = (
            roomy((recipes * count, each, *shape), torch.uint8 if name == "label" else torch.float32)
            for name, each in channels.items()
        )
        looks, small, segmented = [], [], []
        for recipe, part in zip(self.recipes, torch.arange(recipes * count).split(count), strict=True):
            image, label, probabilities = self._made(recipe, manual, style, lengths)
            self.image[part], self.label[part], self.probabilities[part] = image, label.byte(), probabilities
            looks.append(manual.atypical(image))
            small.append([resize_image(each, self.size) for each in (image, probabilities)])
            segmented.append(dice_per_class(likeliest(probabilities), label, num_classes))
        atypical, self.segmented = torch.cat(looks), torch.cat(segmented)
        images, probabilities = (torch.cat(each) for each in zip(*small, strict=True))
        person = torch.tensor(manual.people)[self.image_number]
        own = [part for each in others for part in (person == each).nonzero()[:, 0].split(_batch(images))]
        evidence = [
            image_evidence(
                images[part],
                probabilities[part],
                self.spacing[part],
                others[int(person[part[0]])],
                atypical[part],
            )
            for part in own
        ]
        order = torch.cat(own).argsort()
        together = {name: torch.cat([each[name] for each in evidence])[order] for name in evidence[0]}
        self.evidence = from_the_usual(together, usual["source"])

    def _made(
        self, recipe: Recipe, manual: Images, style: Tensor, lengths: Sequence[float]
    ) -> tuple[Tensor, Tensor, Tensor]:
        assert manual.label is not None
        image, label = worsen_images(recipe, manual.image, manual.label, style, lengths)
        network = self.networks.segmentation[recipe.network]
        return image, label, worsen_predictions(recipe, self.networks.segment(network, image))

    def pair(self, chosen: np.ndarray, registration: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Features and overlap of pairs ``[P, 2]`` of sides."""
        first, second = (torch.from_numpy(each) for each in chosen.T)
        probabilities = self.probabilities[first], self.probabilities[second]
        found = Prediction(*self.networks.register(registration, *probabilities), *probabilities)
        label = self.label[first].long(), self.label[second].long()
        warped = warp_labels(label[0], found.moving_to_fixed, self.classes)
        overlap = dice_per_class(warped, label[1], self.classes)
        least = torch.fmin(torch.fmin(self.segmented[first], self.segmented[second]), overlap)
        least = least.masked_fill(overlap.isnan(), torch.nan)
        found, (moving, fixed) = reduced(found, self.image[first], self.image[second])
        evidence = pair_evidence(found, moving, fixed, self.spacing[first])
        evidence = from_the_usual(evidence, self.usual["source_to_source"])
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


def _resized(label: Tensor, size: Sequence[int]) -> Tensor:
    if list(label.shape[2:]) == list(size):
        return label
    return nn.functional.interpolate(label.float(), list(size), mode="nearest-exact").long()


def _mostly_first(count: int) -> np.ndarray:
    return np.array([1.0]) if count == 1 else np.array([0.85, *[0.15 / (count - 1)] * (count - 1)])


def _batch(image: Tensor) -> int:
    return max(1, BATCH // int(np.prod(image.shape[2:])))
