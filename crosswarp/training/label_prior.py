"""Where labels may lie: reference labels, laid over what a network says."""

from __future__ import annotations

import torch
from monai.networks.utils import one_hot
from torch import Tensor
from torch.nn import functional

from ..spatial import identity_map, sample
from ..spatial.alignment import align, apply_affine


class LabelPrior:
    """Takes from label probabilities what no reference label explains.

    Some reference labels are aligned to the labels of an image by an affine of greatest overlap. A voxel may
    have a class where most of those that show it, or a margin about them, do; elsewhere its probability is 0.
    What looks like a structure beside it, as the sacrum like a vertebra, so does not teach a network to grow
    into it.
    Registered atlases as a prior of segmentation: Iglesias and Sabuncu, "Multi-atlas segmentation of
    biomedical images: A survey", Medical Image Analysis 2015.

    Args:
        labels: integers ``[M, 1, *spatial]``, drawn by hand.
        num_classes: K, background included.
        references: how many of the labels are aligned, evenly spaced among them.
        margin: about the aligned labels, as a share of the longest axis.
        steps: of gradient descent on the affine.
        points: of the overlap along each axis, at most.
    """

    def __init__(
        self,
        labels: Tensor,
        num_classes: int,
        references: int = 3,
        margin: float = 0.06,
        steps: int = 25,
        points: int = 24,
    ) -> None:
        count = min(references, len(labels))
        chosen = torch.linspace(0, len(labels) - 1, count).round().long()
        self.references = one_hot(labels[chosen].cpu(), num_classes)
        self.margin = round(margin * max(labels.shape[2:]))
        self.steps, self.points = steps, points

    @torch.no_grad()
    def __call__(self, probabilities: Tensor) -> Tensor:
        """Return probabilities ``[B, K, *spatial]`` of images, 0 where a class may not be."""
        size, dims = len(probabilities), probabilities.dim() - 2
        votes = torch.zeros_like(probabilities[:, 1:])
        grid = identity_map(probabilities.shape[2:], probabilities.device)
        for reference in self.references.to(probabilities.device):
            moving = reference.expand(size, *reference.shape)
            matrix = align(moving, probabilities, method="affine", steps=self.steps, points=self.points)
            votes += sample(moving, apply_affine(matrix, grid))[:, 1:]
        shown = self.references[:, 1:].flatten(2).any(2).sum(0).to(votes)  # by how many references
        shown = shown.reshape(-1, *[1] * dims)
        allowed = ((votes > 0.5 * shown) | (shown == 0)).float()
        pool = functional.max_pool2d if dims == 2 else functional.max_pool3d
        allowed = pool(allowed, 2 * self.margin + 1, stride=1, padding=self.margin)
        found = probabilities[:, 1:].flatten(2).amax(2) > 0.5
        allowed = torch.where(found.reshape(*found.shape, *[1] * dims), allowed, torch.ones_like(allowed))
        return torch.cat([probabilities[:, :1], probabilities[:, 1:] * allowed], 1)
