"""Images, networks and predictions made worse on purpose, so that registered pairs of any overlap are known.

A *recipe* says what is done to an image, by which network it is then segmented, and what is done to the
prediction. It does the same to all images that it is given: networks that are wrong together, and images
that are wrong in the same way, are part of what is to be known again.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..metrics.evidence import dilated
from ..spatial import identity_map, map_about_middle, sample
from .augmentation import RandomCurve, RandomField, RandomNoise, RandomOverlay, RandomSpatial, RandomSpectrum
from .seeded import seeded

# what happens to images, and how often in a hundred or so
IMAGES: Mapping[str, int] = {
    "as it is": 14,
    "a little": 18,
    "pose": 12,
    "turned": 7,
    "cropped": 6,
    "stretched": 6,
    "shifted": 5,
    "scaled": 10,
    "inverted": 4,
    "curve": 5,
    "noise": 4,
    "style": 8,
    "overlay": 4,
    "another object": 4,
}
# what happens to predictions
PREDICTIONS: Mapping[str, int] = {
    "nothing": 58,
    "deformed": 14,
    "scaled": 8,
    "grown": 6,
    "exchanged": 5,
    "shifted": 6,
    "lost": 3,
}
GOOD = ("as it is", "a little")


@dataclass(frozen=True)
class Recipe:
    """What is done to images.

    Attributes:
        image: a key of ``IMAGES``.
        network: number of the network that segments.
        prediction: a key of ``PREDICTIONS``.
        seed: of all that is random in it.
        good: whether next to nothing is done, by one of the networks as they were trained.
    """

    image: str
    network: int
    prediction: str
    seed: int
    good: bool = False


def draw_recipes(
    count: int, networks: int, trained: int = 2, seed: int = 0, good: float = 0.3
) -> list[Recipe]:
    """Draw recipes, a share of them good.

    Args:
        count: recipes.
        networks: to choose from.
        trained: how many of them, the first ones, are as they were trained; the others are spoilt.
        seed: of the draw.
        good: least share of good ones.
    """
    chance = random.Random(seed)
    recipes = []
    for number in range(count):
        image, prediction = (
            chance.choices(list(kinds), list(kinds.values()))[0] for kinds in (IMAGES, PREDICTIONS)
        )
        network = chance.choice([*range(trained), 0, chance.randrange(networks)])
        if number < good * count:
            image, prediction, network = chance.choice(GOOD), "nothing", number % trained
        elif prediction != "nothing" and chance.random() < 0.6:
            image = chance.choice(GOOD)  # one thing at a time shows more
        fine = image in GOOD and prediction == "nothing" and network < trained
        recipes.append(Recipe(image, network, prediction, chance.randrange(2**31), fine))
    return recipes


def spoilt(network: nn.Module, strength: float, seed: int) -> nn.Module:
    """Return a copy of a network with noise on its weights.

    Args:
        network: stays as it is.
        strength: of the noise, in standard deviations of each tensor.
        seed: of the noise.
    """
    noisy, generator = copy.deepcopy(network), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in noisy.parameters():
            if weight.ndim > 1 and weight.numel() > 1:
                noise = torch.randn(weight.shape, generator=generator).to(weight)
                weight.add_(strength * weight.std() * noise)
    return noisy


def worsen_images(
    recipe: Recipe, image: Tensor, label: Tensor, style: Tensor, length: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Do to images, and to their labels, what a recipe says.

    Args:
        recipe: the recipe.
        image: ``[B, C, *spatial]`` in [0, 1].
        label: integers ``[B, 1, *spatial]``.
        style: images of the target ``[M, C', *spatial]`` in [0, 1].
        length: of the axes of the grid, in any one unit.

    Returns:
        images and labels.
    """
    with seeded(recipe.seed):
        phi = _spatial_map(recipe.image, image, length)
        if phi is not None:
            padding = "border" if random.random() < 0.7 else "zeros"
            image = sample(image, phi, padding=padding)
            label = sample(label, phi, "nearest", padding=padding)
        elif recipe.image == "another object":
            return _another_object(image), torch.zeros_like(label)
        batch = {"image": image, "style": style[torch.randint(len(style), (len(image),))]}
        return _intensities(recipe.image, batch).clamp(0, 1), label


def worsen_predictions(recipe: Recipe, probabilities: Tensor) -> Tensor:
    """Do to predictions ``[B, K, *spatial]`` what a recipe says; they stay probabilities."""
    with seeded(recipe.seed + 1):
        classes = probabilities.shape[1]
        if recipe.prediction in ("deformed", "shifted", "scaled"):
            shift = random.uniform(0.03, 0.25) if recipe.prediction == "shifted" else 0.0
            deformation = random.uniform(0.02, 0.09) if recipe.prediction == "deformed" else 0.0
            phi = RandomSpatial(rotation=0, scaling=0, shift=shift, deformation=deformation).draw_map(
                probabilities[:1]
            )
            if recipe.prediction == "scaled":
                phi = (phi - 0.5) / random.choice([random.uniform(0.55, 0.9), random.uniform(1.1, 1.7)]) + 0.5
            return sample(probabilities, phi)
        if recipe.prediction == "grown":
            steps = random.randint(1, 3)
            chosen = random.sample(range(classes), random.randint(1, max(1, classes - 1)))
            grown = dilated(probabilities[:, chosen], steps)
            probabilities = probabilities.clone()
            probabilities[:, chosen] = 3 * grown
            return probabilities / probabilities.sum(1, keepdim=True)
        if recipe.prediction == "exchanged" and classes > 2:
            order = list(random.choice([p for p in permutations(range(1, min(classes, 6)))][1:]))
            return probabilities[:, [0, *order, *range(1 + len(order), classes)]]
        if recipe.prediction in ("lost", "exchanged"):
            gone = random.randrange(1, classes)
            probabilities = probabilities.clone()
            probabilities[:, 0] += probabilities[:, gone] * 0.98
            probabilities[:, gone] *= 0.02
        return probabilities


def _spatial_map(kind: str, image: Tensor, length: Sequence[float]) -> Tensor | None:
    """The map of one kind of change for all images, or of each its own; None where nothing moves."""
    dims = image.ndim - 2
    lengths = torch.tensor([max(each, 1e-6) for each in length], dtype=torch.float32)
    identity = identity_map(image.shape[2:])
    matrix, shift = torch.eye(dims), torch.zeros(dims)
    if kind == "a little":
        return RandomSpatial(rotation=8, scaling=0.07, shift=0.04, deformation=0.008).draw_map(image).cpu()
    if kind == "cropped":
        low = torch.tensor([random.choice([0.0, random.uniform(0, 0.35)]) for _ in range(dims)])
        high = 1 - torch.tensor([random.choice([0.0, random.uniform(0, 0.35)]) for _ in range(dims)])
        bounds = [each.reshape(1, dims, *[1] * dims) for each in (low, high)]
        return torch.minimum(torch.maximum(identity, bounds[0]), bounds[1])
    if kind == "pose":
        order = random.choice(list(permutations(range(dims))) if dims == 2 else [tuple(range(dims))])
        signs = [random.choice([-1.0, 1.0]) for _ in range(dims)]
        if order == tuple(range(dims)) and min(signs) > 0:
            signs[random.randrange(dims)] = -1.0
        matrix = torch.eye(dims)[list(order)] * torch.tensor(signs)
    elif kind == "turned":
        angle = math.radians(random.choice([-1, 1]) * random.uniform(10, 50))
        first, second = random.sample(range(dims), 2)
        matrix[first, first] = matrix[second, second] = math.cos(angle)
        matrix[first, second], matrix[second, first] = -math.sin(angle), math.sin(angle)
    elif kind == "scaled":
        matrix = matrix / random.choice([random.uniform(0.6, 0.92), random.uniform(1.08, 1.6)])
    elif kind == "stretched":
        matrix = torch.diag(torch.tensor([random.uniform(0.6, 1.0) for _ in range(dims)]))
        shift = torch.tensor([random.uniform(-0.2, 0.2) for _ in range(dims)]) * (1 - matrix.diagonal())
    elif kind == "shifted":
        shift = torch.tensor([random.uniform(-0.35, 0.35) for _ in range(dims)])
    else:
        return None
    return map_about_middle(matrix, lengths, image.shape[2:], shift)


def _intensities(kind: str, batch: dict[str, Tensor]) -> Tensor:
    image = batch["image"]
    if kind == "inverted":
        return 1 - image
    if kind == "curve":
        batch = RandomField(probability=1)(RandomCurve(strength=1.0, probability=1)(batch))
    elif kind == "noise":
        batch = RandomNoise(noise=random.uniform(0.05, 0.5), blur=1.0, probability=1)(batch)
    elif kind == "style":
        batch = RandomSpectrum(probability=1)(batch)
    elif kind == "overlay":
        batch = RandomOverlay(probability=1)(batch)
    elif kind == "a little":
        batch = RandomNoise(noise=0.05, blur=0.5)(RandomCurve(strength=0.2)(batch))
    return batch["image"]


def _another_object(image: Tensor) -> Tensor:
    """Noise of several coarsenesses, or blobs: none of the anatomy."""
    dims = image.ndim - 2
    nodes = random.choice([4, 8, 16, max(image.shape[2:])])
    noise = torch.rand(len(image), image.shape[1], *[min(nodes, size) for size in image.shape[2:]])
    mode = "bilinear" if dims == 2 else "trilinear"
    made = F.interpolate(noise, image.shape[2:], mode=mode, align_corners=True)
    return ((made > 0.6).float() if random.random() < 0.4 else made).to(image)
