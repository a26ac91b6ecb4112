"""Agreement of two soft segmentations."""

from __future__ import annotations

import torch
from torch import nn

from ..spatial import as_float32


class SoftAgreementLoss(nn.Module):
    """Dice loss of two probability maps that is 0 for equal maps, however unsure they are.

    ``Σ|p − q| / (Σp + Σq)`` for each image and class, averaged. For hard maps it is 1 − Dice; for soft ones
    the usual soft Dice costs something even where both agree, and so rewards confidence instead of agreement
    (Wang et al., "Dice Semimetric Losses", MICCAI 2023). A class that neither map contains costs nothing.

    Args:
        include_background: count class 0 too.
        smooth: added to the denominator, voxels.
    """

    def __init__(self, include_background: bool = True, smooth: float = 1e-5) -> None:
        super().__init__()
        self.include_background, self.smooth = include_background, smooth

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Compute the loss.

        Args:
            first: probabilities ``[B, K, *spatial]`` in [0, 1].
            second: probabilities ``[B, K, *spatial]`` in [0, 1].

        Returns:
            Scalar in [0, 1].

        Raises:
            ValueError: if the shapes differ.
        """
        if first.shape != second.shape:
            raise ValueError(
                f"Expected probability maps of one shape, got {tuple(first.shape)} and {tuple(second.shape)}."
            )
        start = 0 if self.include_background else 1
        p, q = as_float32(first)[:, start:].flatten(2), as_float32(second)[:, start:].flatten(2)
        return ((p - q).abs().sum(2) / (p.sum(2) + q.sum(2) + self.smooth)).mean()
