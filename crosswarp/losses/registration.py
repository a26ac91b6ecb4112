"""The loss of a registration network that sees both directions of its pairs."""

from __future__ import annotations

import torch
from torch import nn

from ..spatial import sample


class RegistrationLoss(nn.Module):
    """Dissimilarity of both warped images plus the weighted irregularity of the two maps.

    ``similarity(A ∘ φ_AB, B) + similarity(B ∘ φ_BA, A) + regularity_weight · regularity(φ_AB, φ_BA)``
    (Tian et al., "GradICON", CVPR 2023).

    Args:
        similarity: module or function of warped and fixed image, lower for better agreement, e.g.
            :class:`LNCCLoss` or ``monai.losses.DiceLoss(include_background=False)`` on one-hot labels.
        regularity: module or function of both maps, e.g. :class:`GradICONLoss`.
        regularity_weight: λ of the paper.

    Attributes:
        terms: ``similarity`` and ``regularity`` of the latest batch, without gradients.
    """

    terms: dict[str, torch.Tensor]

    def __init__(self, similarity: nn.Module, regularity: nn.Module, regularity_weight: float = 1.5) -> None:
        super().__init__()
        self.similarity, self.regularity, self.regularity_weight = similarity, regularity, regularity_weight

    def forward(self, phi: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Compute the loss of one batch of pairs.

        Args:
            phi: ``[2B, D, *spatial]``: the maps of the first images onto the second, then the other way.
            images: ``[2B, C, *spatial]``: the first images, then the second.

        Returns:
            Scalar.

        Raises:
            ValueError: if the batches differ or are odd.
        """
        if len(phi) != len(images) or len(phi) % 2:
            raise ValueError(
                "Expected as many maps as images, both directions of each pair in one batch, "
                f"got {len(phi)} maps and {len(images)} images."
            )
        first, second = images.chunk(2)
        first_warped, second_warped = sample(images, phi).chunk(2)
        dissimilarity = self.similarity(first_warped, second) + self.similarity(second_warped, first)
        irregularity = self.regularity(*phi.chunk(2))
        self.terms = {"similarity": dissimilarity.detach(), "regularity": irregularity.detach()}
        return dissimilarity + self.regularity_weight * irregularity
