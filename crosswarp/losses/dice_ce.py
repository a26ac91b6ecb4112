"""Dice and cross entropy of a whole batch, also where several processes share it."""

from __future__ import annotations

import monai.losses
import torch
from monai.networks.utils import one_hot

from .. import processes
from ..spatial.deterministic import is_needed


class DiceCELoss(monai.losses.DiceCELoss):
    """MONAI's loss of the same name, with the same values.

    With ``batch=True`` Dice is that of all voxels of a batch. Where several processes share the batch, these
    are the voxels of all of them, so that their gradients, averaged, are those of one process.
    """

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Compute the loss of logits ``[B, K, *spatial]`` and integer or one-hot labels.

        Raises:
            ValueError: where several processes share a batch, for options that this does not have.
        """
        if not self.dice.batch or processes.count() == 1:
            return super().forward(input, target)
        dice, options = self.dice, ("jaccard", "squared_pred", "sigmoid", "other_act", "soft_label")
        given = [name for name in options if getattr(dice, name)]
        given += [name for name in ("class_weight", "ignore_index") if getattr(dice, name, None) is not None]
        if given or dice.reduction != "mean":
            raise ValueError(
                "Expected Dice of a batch that processes share with softmax and reduction 'mean' alone, got "
                f"{', '.join(given) or dice.reduction}: leave that out, or set batch to false."
            )
        probability = input.softmax(1) if dice.softmax and input.shape[1] > 1 else input
        truth = one_hot(target, input.shape[1]) if dice.to_onehot_y else target
        start, axes = 0 if dice.include_background else 1, [0, *range(2, input.dim())]
        probability, truth = probability[:, start:], truth[:, start:]
        overlap, size = processes.summed(
            torch.stack([(probability * truth).sum(axes), (probability + truth).sum(axes)])
        )
        loss = 1 - ((2 * overlap + dice.smooth_nr) / (size + dice.smooth_dr)).mean()
        return self.lambda_dice * loss + self.lambda_ce * self.ce(input, target)

    def ce(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Cross entropy; torch's own has no deterministic algorithm on a GPU."""
        plain = self.cross_entropy.weight is None and self.cross_entropy.label_smoothing == 0
        if not (is_needed(input) and plain and self.cross_entropy.reduction == "mean"):
            return super().ce(input, target)
        truth = one_hot(target, input.shape[1]) if target.shape[1] == 1 else target
        return -(truth * input.log_softmax(1)).sum(1).mean()
