"""What can be seen of a registered pair without any label of it, each the worse the larger it is.

Networks that are wrong together agree with each other. Some of what is measured here is their own doubt and
agreement; the rest comes from elsewhere: sizes, thicknesses and mutual places of the classes are compared
with those that people drew by hand of others, outlines with the edges of the image, the warped image with the
fixed one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..losses.mind import mind_ssc
from ..networks import Prediction
from ..spatial import (
    compose,
    displacement,
    fold_fraction,
    jacobian_determinant,
    resize_image,
    resize_map,
    sample,
)
from ..spatial.grid import Grid
from .evidence import edge_rank, near_outline, sizes, unit_lengths
from .expectation import Array
from .overlap import dice_per_class, likeliest, warp_labels
from .typicality import digits

References = Mapping[str, Any]

# feature -> a difference that is worth telling apart
UNITS: Mapping[str, float] = {
    "doubt": 0.5,
    "doubt_of_all": 0.5,
    "disagreement": 0.01,
    "disagreement_of_all": 0.01,
    "folds": 0.02,
    "inverse_error": 0.2,
    "strain": 0.05,
    "appearance": 0.2,
    "off_edges": 0.5,
    "off_edges_of_all": 0.5,
    "volume": 0.3,
    "thickness": 0.3,
    "place": 0.3,
    "size_of_all": 0.3,
    "place_of_all": 0.3,
    "structure": 0.5,
    "structure_of_all": 0.5,
}
WORST = ("doubt", "off_edges", "place", "structure")  # also of all classes the worst one's
MOST_POINTS = {2: 96, 3: 48}  # along an axis, of the grid on which all this is measured
LEAST_SPREAD = {"volume": 0.08, "thickness": 0.05}  # between people, natural logarithm
LEAST_PLACE_SPREAD = 0.04  # of distances between classes, as a share of their typical distance
BAND = 2  # points on either side of an outline in which structures are compared
SHIFTS = (2, 4)  # points by which the warped image is moved to see whether it fits better elsewhere


def measuring_size(spatial: Sequence[int]) -> list[int]:
    """The grid on which evidence is measured, for networks on a grid."""
    return [min(size, MOST_POINTS[len(spatial)]) for size in spatial]


def measuring_lengths(grid: Grid, in_mm: bool) -> Tensor:
    """Return the spacing by which sizes are measured, ``[D]``, on the grid that evidence is measured on.

    Args:
        grid: on which the networks see the image, with its place in space.
        in_mm: False where lengths in mm are not known: parts of the image's mean extent.
    """
    return unit_lengths(grid.resized(measuring_size(grid.shape)), in_mm)


def label_facts(image: Tensor, labels: Tensor, spacing: Tensor, num_classes: int) -> dict[str, Tensor]:
    """Return sizes and places of the classes, and how they lie on edges.

    Args:
        image: ``[B, C, *spatial]``, as the networks get it, on the grid of :func:`measuring_size`.
        labels: integers ``[B, 1, *spatial]``.
        spacing: ``[B, D]``, see :func:`measuring_lengths`.
        num_classes: classes, background included.

    Returns:
        ``volume`` and ``thickness`` (natural logarithms) and ``edge_rank``, each ``[B, G]``, and ``centre``
        ``[B, G, D]``, for the G classes but the background; NaN where absent.
    """
    found = {key: values.log() for key, values in sizes(labels, spacing, num_classes).items()}
    masks = torch.stack([(labels == value)[:, 0] for value in range(1, num_classes)], 1).flatten(2).double()
    numbers = [torch.arange(size, dtype=torch.float64, device=labels.device) for size in labels.shape[2:]]
    points = torch.stack(torch.meshgrid(*numbers, indexing="ij"), -1).flatten(0, -2)
    centre = masks @ points / masks.sum(2, keepdim=True)  # 0 / 0 is NaN, where absent
    ranks = edge_rank(image, labels, num_classes)
    return {**found, "edge_rank": ranks, "centre": centre.cpu() * spacing[:, None].double().cpu()}


def learn_references(facts: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return what the manual labels of many people are like, as numbers that JSON can hold.

    Args:
        facts: of their images, see :func:`label_facts`, one image for each person.

    Returns:
        ``present``, the share of people who have the class, ``[G]``; ``edge_rank``, its median; ``volume``
        and ``thickness``: ``mean`` and ``spread``; ``place``: of the ways from class to class ``mean``
        ``[G][G][D]`` and ``precision`` ``[G][G][D][D]``. Null where there is nothing to learn from.
    """
    result: dict[str, Any] = {
        "present": digits((~facts["volume"].isnan()).double().mean(0)),
        "edge_rank": digits(facts["edge_rank"].nanmedian(0).values),
    }
    for key, least in LEAST_SPREAD.items():
        mean, spread, count = _moments(facts[key])
        # a mean of few people is uncertain itself
        result[key] = {
            "mean": digits(mean),
            "spread": digits(((spread.square() + least**2) * (1 + 1 / count)).sqrt()),
        }
    ways = facts["centre"][:, None] - facts["centre"][:, :, None]  # [N, from, to, D]
    mean, _, count = _moments(ways)
    lengths = ways.square().sum(-1).sqrt()
    typical = lengths[lengths > 0].mean().nan_to_num(1.0)  # of a single class there is no way to another
    apart = torch.where(ways.isnan(), 0.0, ways - mean)
    known = (~ways[..., 0].isnan()).double().sum(0)
    covariance = torch.einsum("nghi,nghj->ghij", apart, apart) / (known - 1).clamp(min=1)[..., None, None]
    diagonal = torch.diag_embed(covariance.diagonal(dim1=-2, dim2=-1))
    # few people say little of how the axes depend on each other
    covariance = torch.lerp(covariance, diagonal, 0.3)
    covariance += (LEAST_PLACE_SPREAD * typical) ** 2 * torch.eye(ways.shape[-1]).double()
    covariance *= (1 + 1 / known.clamp(min=1))[..., None, None]
    result["place"] = {"mean": digits(mean), "precision": digits(torch.linalg.inv(covariance))}
    return result


def image_evidence(
    image: Tensor,
    probabilities: Tensor,
    spacing: Tensor,
    references: References,
    atypical: Tensor,
) -> dict[str, Tensor]:
    """Return what can be seen of segmented images, each ``[B, G]``, the worse the larger; NaN if not known.

    Args:
        image: ``[B, C, *spatial]``, as the networks get it, on the grid of :func:`measuring_size`.
        probabilities: ``[B, K, *spatial]``, of the classes.
        spacing: ``[B, D]``, see :func:`measuring_lengths`; NaN where lengths are not known.
        references: what :func:`learn_references` returned.
        atypical: ``[B]``, how unlike those in training the image is; NaN if not known.

    Returns:
        ``doubt``, 1 minus the mean probability of the class over its points; ``off_edges``, the share that
        its edge rank lacks of what manual outlines have above chance; ``volume`` and ``thickness``, standard
        deviations from those of people; ``place``, that of the ways to the other classes, of those the one
        that is furthest from what it is in people; ``appearance``.
    """
    classes = probabilities.shape[1]
    best, labels = probabilities.max(1, keepdim=True)
    facts = label_facts(image, labels, torch.nan_to_num(spacing, nan=1.0), classes)
    unknown = spacing.isnan().any(1)
    sums = [
        torch.stack([(weight * (labels == k)).flatten(1).sum(1) for k in range(1, classes)], 1).cpu()
        for weight in (best, torch.ones_like(best))
    ]
    found = {"doubt": 1 - torch.where(sums[1] > 0, sums[0] / sums[1].clamp(min=1), 0.0)}
    ranks = _numbers(references["edge_rank"])
    lacking = (ranks - facts["edge_rank"].double()) / (ranks - 0.5).clamp(min=0.05)
    found["off_edges"] = lacking.clamp(min=0)
    for key in LEAST_SPREAD:
        mean, spread = (_numbers(references[key][name]) for name in ("mean", "spread"))
        found[key] = ((facts[key].cpu() - mean) / spread).abs()
    ways = facts["centre"][:, None] - facts["centre"][:, :, None]
    apart = ways - _numbers(references["place"]["mean"])
    precision = _numbers(references["place"]["precision"])
    distance = torch.einsum("bghi,ghij,bghj->bgh", apart, precision, apart).div(ways.shape[-1]).sqrt()
    distance.diagonal(dim1=1, dim2=2).fill_(torch.nan)
    found["place"] = _nanmax(distance, 2)
    for key in (*LEAST_SPREAD, "place"):
        found[key] = found[key].masked_fill(unknown[:, None].cpu(), torch.nan)
    found["appearance"] = atypical.cpu()[:, None].expand_as(found["doubt"])
    return {key: values.double().cpu() for key, values in found.items()}


def pair_evidence(
    found: Prediction, moving: Tensor, fixed: Tensor, moving_spacing: Tensor
) -> dict[str, Tensor]:
    """Return what can be seen of registered pairs, each ``[B, G]``, the worse the larger; NaN if not known.

    Args:
        found: what is predicted of them, on the grid of :func:`measuring_size`.
        moving: images ``[B, C, *spatial]``, as the networks get them.
        fixed: images ``[B, C', *spatial]``.
        moving_spacing: ``[B, D]``, of the moving grid, for the error of the inverse; any unit.

    Returns:
        ``disagreement``, 1 minus the Dice of the two predicted labels after warping, the worse of both
        directions, 1 for a class that only one of them has; ``folds``, percent of the points;
        ``inverse_error``, percent of the moving image's diagonal; ``strain``, mean logarithm of the volume
        change, either way, where the fixed image is labelled; ``structure``, how alike the warped and the
        fixed image are about the outline of the class (Heinrich's descriptors), as a part of how alike
        they are when the warped one is moved a little: 1 is no better than elsewhere.
    """
    classes = found.moving_probabilities.shape[1]
    labels = [likeliest(each) for each in found[2:]]
    absent = [torch.stack([~(each == k).flatten(1).any(1) for k in range(1, classes)], 1) for each in labels]
    overlaps = [
        dice_per_class(warp_labels(labels[i], phi, classes), labels[1 - i], classes)
        for i, phi in enumerate(found[:2])
    ]
    agreement = torch.fmin(*(each.nan_to_num() for each in overlaps))
    disagreement = (1 - agreement).masked_fill(absent[0] & absent[1], torch.nan)
    determinant = jacobian_determinant(found.moving_to_fixed).clamp(1e-2, 1e2).log2().abs()
    inside = (labels[1][:, 0] > 0).float()
    strain = (determinant * inside).flatten(1).sum(1) / inside.flatten(1).sum(1)
    pair = {
        "folds": 100 * fold_fraction(found.moving_to_fixed),
        "inverse_error": _inverse_error(found, moving_spacing),
        "strain": strain,
    }
    shape = disagreement.shape
    return {
        "disagreement": disagreement.double().cpu(),
        "structure": _lost_structure(found.moving_to_fixed, moving, fixed, labels[1], classes).double().cpu(),
        **{key: values[:, None].expand(shape).double().cpu() for key, values in pair.items()},
    }


def pair_features(
    moving: Mapping[str, Tensor], fixed: Mapping[str, Tensor], pair: Mapping[str, Tensor]
) -> dict[str, Array]:
    """Put together what tells of the overlap of each class, ``[B, G]`` by name of :data:`UNITS`.

    Args:
        moving: what :func:`image_evidence` returned of the moving images, from the usual on, see
            :func:`~.usual.from_the_usual`, as all that follow.
        fixed: the same of the fixed images; the worse of both counts.
        pair: what :func:`pair_evidence` returned.
    """
    found = {key: torch.fmax(moving[key], fixed[key]) for key in moving} | dict(pair)
    seen = ~found["disagreement"].isnan()  # a class that neither image shows is not judged
    found = {key: values.masked_fill(~seen, torch.nan) for key, values in found.items()}
    worst = torch.fmax(found["volume"], found["thickness"])
    of_all = {
        "disagreement_of_all": found["disagreement"].nanmean(1),
        "size_of_all": _nanmax(worst, 1),
        **{f"{key}_of_all": _nanmax(found[key], 1) for key in WORST},
    }
    found |= {
        key: values[:, None].expand_as(seen).masked_fill(~seen, torch.nan) for key, values in of_all.items()
    }
    return {key: found[key].numpy() for key in UNITS}


def reduced(found: Prediction, *images: Tensor) -> tuple[Prediction, list[Tensor]]:
    """Bring predictions and images ``[B, C, *spatial]`` to the grid of :func:`measuring_size`."""
    size = measuring_size(found.moving_to_fixed.shape[2:])
    if size == list(found.moving_to_fixed.shape[2:]):
        return found, list(images)
    maps = [resize_map(phi, size) for phi in found[:2]]
    return Prediction(*maps, *(resize_image(each, size) for each in found[2:])), [
        resize_image(each, size) for each in images
    ]


def _inverse_error(found: Prediction, spacing: Tensor) -> Tensor:
    """Where the maps lead there and back, percent of the moving diagonal, within the fixed image ``[B]``."""
    size = torch.tensor([max(n - 1, 1) for n in found.moving_to_fixed.shape[2:]])
    extent = (torch.nan_to_num(spacing, nan=1.0) * size).float().to(found.moving_to_fixed.device)
    apart = displacement(compose(found.moving_to_fixed, found.fixed_to_moving))
    # of two or three axes torch's own norm takes eighty times as long on a CPU
    far = (apart * extent.reshape(*extent.shape, *[1] * len(size))).square().sum(1).sqrt().flatten(1)
    within = ((found.fixed_to_moving >= 0) & (found.fixed_to_moving <= 1)).all(1).flatten(1)
    within = within | ~within.any(1, keepdim=True)
    return 100 * (far * within).sum(1) / within.sum(1) / extent.norm(dim=1)


def _lost_structure(phi: Tensor, moving: Tensor, fixed: Tensor, labels: Tensor, classes: int) -> Tensor:
    descriptors = [_descriptors(sample(moving, phi)), _descriptors(fixed)]
    dims = fixed.ndim - 2
    band = near_outline(labels, classes, BAND).float()

    def apart(shift: Sequence[int]) -> Tensor:
        axes = [2 + axis for axis in range(dims)]
        rolled = descriptors[0].roll(list(shift), axes)
        away = (rolled - descriptors[1]).square().mean(1, keepdim=True)
        seen = torch.ones_like(away)
        for axis, step in zip(axes, shift, strict=True):  # what came round from the other side does not count
            if step:
                size = away.shape[axis]
                seen.narrow(axis, 0 if step > 0 else size + step, abs(step)).zero_()
        weight = band * seen
        return (away * weight).flatten(2).sum(2) / weight.flatten(2).sum(2)

    shifts = [
        [sign * step if each == axis else 0 for each in range(dims)]
        for axis, sign, step in product(range(dims), (-1, 1), SHIFTS)
    ]
    elsewhere = torch.stack([apart(shift) for shift in shifts]).nanmean(0)
    return (apart([0] * dims) / elsewhere.clamp(min=1e-6)).clamp(max=2)


def _descriptors(image: Tensor) -> Tensor:
    """Self-similarities of an image, averaged over its channels, ``[B, P, *spatial]``."""
    channels = image.shape[1]
    found = mind_ssc(image, radius=1, dilation=2)
    return found.reshape(len(image), channels, -1, *image.shape[2:]).mean(1)


def _moments(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, standard deviation and number of what is known along the first axis."""
    count = (~values.isnan()).double().sum(0)
    mean = values.nanmean(0)
    squares = torch.where(values.isnan(), 0.0, values - mean).square().sum(0)
    return mean, (squares / (count - 1).clamp(min=1)).sqrt(), count.clamp(min=1)


def _nanmax(values: Tensor, axis: int) -> Tensor:
    found = values.nan_to_num(nan=-torch.inf).amax(axis)
    return found.masked_fill(found == -torch.inf, torch.nan)


def _numbers(values: Any) -> Tensor:
    """What :func:`~.typicality.digits` wrote, NaN for null."""
    return torch.as_tensor(np.array(values, dtype=np.float64))
