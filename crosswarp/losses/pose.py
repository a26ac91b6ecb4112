"""The loss of a network that tells which of several views of an image is upright."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class PoseLoss(nn.Module):
    """Cross entropy of which view is right, and of whether each one is: odds to be compared and believed."""

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the loss.

        Args:
            logits: ``[B, V]``, of V views of each image, of which the first is right.
        """
        first = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
        right = F.one_hot(first, logits.shape[1]).to(logits)
        return F.cross_entropy(logits, first) + F.binary_cross_entropy_with_logits(logits, right)
