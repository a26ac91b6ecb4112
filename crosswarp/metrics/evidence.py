"""Whether segmentations that no manual label can be compared with are plausible.

Networks that are wrong together agree with each other, and one that is wrong agrees with itself. What is
measured here comes from elsewhere: from the images (outlines lie on edges) and from labels that were drawn
by hand of other people (sizes and shapes are alike).
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..spatial import as_float32, identity_map, sample
from ..spatial.grid import Grid

BAND = 4  # points on either side of an outline that it is compared with
MOST_TURNED = 45  # degrees, that people lie turned against each other
LARGEST = 64  # points along an axis on which shapes are laid over each other


def gradient_magnitude(image: Tensor) -> Tensor:
    """Return how steep an image is: central differences after binomial smoothing, the border repeated.

    Args:
        image: ``[B, C, *spatial]``; the squares of the channels' gradients are added.

    Returns:
        ``[B, 1, *spatial]``, change of intensity from point to point.
    """
    smooth = as_float32(image)
    axes = range(2, image.ndim)
    for axis in axes:
        smooth = _filtered(smooth, (0.25, 0.5, 0.25), axis)
    squares = [_filtered(smooth, (-0.5, 0.0, 0.5), axis).square() for axis in axes]
    return torch.stack(squares).sum((0, 2))[:, None].sqrt()


def _filtered(image: Tensor, kernel: tuple[float, float, float], axis: int) -> Tensor:
    last = image.movedim(axis, -1)
    rows = F.pad(last.flatten(0, -2)[:, None], (1, 1), mode="replicate")
    return F.conv1d(rows, rows.new_tensor([[kernel]])).reshape(last.shape).movedim(-1, axis)


def edge_rank(image: Tensor, labels: Tensor, num_classes: int, band: int = BAND) -> Tensor:
    """Return how often the image is steeper on an outline than beside it.

    Args:
        image: ``[B, C, *spatial]``.
        labels: integers ``[B, 1, *spatial]``.
        num_classes: classes, background included.
        band: points on either side that an outline is compared with.

    Returns:
        ``[B, num_classes - 1]``: the probability that the gradient at a random point of the class's outline
        exceeds that at a random point of the band (Mann and Whitney's statistic): 1 on clear edges, 0.5 by
        chance; NaN without an outline.
    """
    steep = gradient_magnitude(image)[:, 0]
    ranks = torch.full((len(labels), num_classes - 1), torch.nan)
    outlines = near_outline(labels, num_classes, 1)  # either side of it
    beside = near_outline(labels, num_classes, band + 1) & ~(dilated(outlines.float(), 1) > 0)
    for number, value in itertools.product(range(len(labels)), range(num_classes - 1)):
        on = steep[number][outlines[number, value]]
        off = steep[number][beside[number, value]].sort().values
        if len(on) and len(off):
            below = torch.searchsorted(off, on) + torch.searchsorted(off, on, right=True)
            ranks[number, value] = below.double().mean() / (2 * len(off))
    return ranks


def near_outline(labels: Tensor, num_classes: int, steps: int) -> Tensor:
    """Return where the outline of each class lies within so many points along each axis.

    Args:
        labels: integers ``[B, 1, *spatial]``.
        num_classes: classes, background included.
        steps: points.

    Returns:
        ``[B, num_classes - 1, *spatial]``, boolean.
    """
    masks = torch.cat([labels == value for value in range(1, num_classes)], 1).float()
    inside, outside = dilated(torch.cat([masks, 1 - masks], 1), steps).chunk(2, 1)
    return inside + outside > 1


def dilated(mask: Tensor, steps: int) -> Tensor:
    """Return the largest value within so many points along each axis, ``[B, C, *spatial]``."""
    dims = mask.ndim - 2
    pool = F.max_pool2d if dims == 2 else F.max_pool3d
    for axis in range(dims):  # one after the other: that costs their sum instead of their product
        reach = [steps if each == axis else 0 for each in range(dims)]
        mask = pool(mask, [2 * each + 1 for each in reach], stride=1, padding=reach)
    return mask


def confidence(probabilities: Tensor) -> Tensor:
    """Return the mean probability of the likeliest class, the background's points left out, ``[B]``.

    Args:
        probabilities: ``[B, K, *spatial]``.
    """
    best, label = probabilities.flatten(2).double().max(1)
    inside = label > 0
    return (best * inside).sum(1) / inside.sum(1).clamp(min=1)


def unit_lengths(grid: Grid, in_mm: bool) -> Tensor:
    """Return the spacing of a grid in mm, or if not known in parts of its mean extent, ``[D]``."""
    extent = grid.spacing * np.maximum(np.array(grid.shape) - 1, 1)
    return torch.as_tensor(grid.spacing if in_mm else grid.spacing / np.prod(extent) ** (1 / grid.dims))


def sizes(labels: Tensor, spacing: Tensor, num_classes: int) -> dict[str, Tensor]:
    """Return how large and how thick each class is.

    Args:
        labels: integers ``[B, 1, *spatial]``.
        spacing: ``[B, D]``, of the grid in mm, or in whatever lengths are to be measured.
        num_classes: classes, background included.

    Returns:
        ``volume`` (in 2D an area) and ``thickness``, twice the volume by the surface, each
        ``[B, num_classes - 1]``; a strip that crosses the image is as thick as it is wide. NaN where absent.
    """
    spacing = spacing.double()
    masks = torch.stack([(labels == value)[:, 0] for value in range(1, num_classes)], 1)
    volume = masks.flatten(2).sum(2) * spacing.prod(1, keepdim=True)
    surface = torch.zeros_like(volume)
    for axis in range(spacing.shape[1]):
        faces = masks.diff(dim=2 + axis).flatten(2).sum(2)
        surface += faces * (spacing.prod(1) / spacing[:, axis])[:, None]
    absent = volume == 0
    return {
        "volume": volume.masked_fill(absent, torch.nan),
        "thickness": (2 * volume / surface).masked_fill(absent | (surface == 0), torch.nan),
    }


def shape_fit(
    labels: Tensor,
    spacing: Tensor,
    references: Tensor,
    reference_spacing: Tensor,
    num_classes: int,
    compared: Tensor | None = None,
    same_scale: bool = True,
) -> Tensor:
    """Lay labels over manual labels of other people, and return how well the best of those fits.

    Shifted and turned (Kabsch 1976, of the classes' centres; where that is by more than ``MOST_TURNED``, not
    at all) but not deformed; what only one of the two images shows does not count.

    Args:
        labels: integers ``[N, 1, *spatial]``.
        spacing: ``[N, D]`` of their grids, mm.
        references: integers ``[M, 1, *spatial]``.
        reference_spacing: ``[M, D]``.
        num_classes: classes, background included.
        compared: ``[N, M]``, which references each label is laid over; None for all.
        same_scale: False to scale each reference to the spread of the label first: where lengths in
            mm are not known.

    Returns:
        ``[N, num_classes - 1]``: Dice of each class with the reference whose mean Dice is highest; 0 for a
        class that one of the two lacks, NaN where both lack it.
    """
    compared = torch.ones(len(labels), len(references), dtype=torch.bool) if compared is None else compared
    own, theirs = _Shapes(labels, spacing, num_classes), _Shapes(references, reference_spacing, num_classes)
    fits = []
    for number in range(len(labels)):
        chosen = compared[number].nonzero()[:, 0]
        phi = _best_alignment(own, number, theirs, chosen, same_scale)
        found = sample(theirs.labels[chosen].float(), phi.float(), "nearest")
        seen = ((phi >= -1e-6) & (phi <= 1 + 1e-6)).all(1, keepdim=True)
        pairs = [(own.labels[number] == k, found == k) for k in range(1, num_classes)]
        total = torch.stack(
            [((a & seen).float() + (b & seen).float()).flatten(1).sum(1) for a, b in pairs], 1
        )
        both = torch.stack([(a & b & seen).flatten(1).sum(1) for a, b in pairs], 1)
        dice = 2 * both / total  # NaN where neither has the class
        fits.append(dice[dice.nan_to_num().mean(1).argmax()])
    return torch.stack(fits)


class _Shapes:
    """Labels on a grid of few points, with the volumes, centres and variances of their classes in mm."""

    def __init__(self, labels: Tensor, spacing: Tensor, num_classes: int) -> None:
        size = [min(n, LARGEST) for n in labels.shape[2:]]
        self.extent = spacing.double() * torch.tensor([n - 1 for n in labels.shape[2:]])
        places = identity_map(size)
        self.labels = sample(labels.float(), places.expand(len(labels), *places.shape[1:]), "nearest").round()
        self.places = places[0].double() - 0.5  # fractions, from the middle of the image
        masks = torch.stack([(self.labels == k)[:, 0] for k in range(1, num_classes)], 1).flatten(2).double()
        self.volumes = masks.mean(2) * self.extent.clamp(min=1e-9).prod(1, keepdim=True)
        mass = masks / masks.sum(2, keepdim=True).clamp(min=1)
        points = self.places.flatten(1).T
        means = mass @ points
        self.centres = means * self.extent[:, None]
        variances = (mass @ points.square() - means.square()) * self.extent[:, None].square()
        self.variances = variances.sum(2)


def _best_alignment(own: _Shapes, number: int, theirs: _Shapes, chosen: Tensor, same_scale: bool) -> Tensor:
    """Where the points of a label lie in each reference, in fractions ``[M, D, *size]``."""
    dims = own.extent.shape[1]
    shares = [own.volumes[number].expand(len(chosen), -1), theirs.volumes[chosen]]
    present = (shares[0] > 0) & (shares[1] > 0)
    weights = sum(each / each.sum(1, keepdim=True).clamp(min=1e-9) for each in shares) * present
    weights = (weights / weights.sum(1, keepdim=True).clamp(min=1e-9))[..., None]
    middles = [
        (weights * each).sum(1, keepdim=True) for each in (own.centres[number], theirs.centres[chosen])
    ]
    first, second = own.centres[number] - middles[0], theirs.centres[chosen] - middles[1]
    spreads = [
        (weights * (each.square().sum(2) + variances)[..., None]).sum((1, 2))
        for each, variances in ((first, own.variances[number]), (second, theirs.variances[chosen]))
    ]
    # a little of the identity: centres on one line do not say how to turn about it
    covariance = (second * weights).mT @ first
    covariance += 1e-3 * (spreads[0] + spreads[1] + 1e-9)[:, None, None] * torch.eye(dims).double()
    left, _, right = torch.linalg.svd(covariance)
    signs = torch.ones(len(chosen), dims).double()
    signs[:, -1] = torch.linalg.det(left @ right).sign()
    turn = left @ (signs[..., None] * right)
    cosine = (turn.diagonal(dim1=1, dim2=2).sum(1) - (dims - 2)) / 2
    far = cosine < math.cos(math.radians(MOST_TURNED))
    turn = torch.where(far[:, None, None], torch.eye(dims).double(), turn)
    if not same_scale:
        turn = turn * (spreads[1] / spreads[0].clamp(min=1e-9)).sqrt()[:, None, None]
    points = own.places.flatten(1) * own.extent[number][:, None]
    moved = turn @ (points - middles[0].mT) + middles[1].mT
    fractions = moved / theirs.extent[chosen][..., None].clamp(min=1e-9) + 0.5
    return fractions.reshape(len(chosen), dims, *own.places.shape[1:])
