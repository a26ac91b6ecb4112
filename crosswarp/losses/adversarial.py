"""The adversarial loss of patch discriminators."""

from __future__ import annotations

import monai.losses
import torch


class PatchAdversarialLoss(monai.losses.PatchAdversarialLoss):
    """MONAI's loss of the same name, with the same values; its targets are made where the scores are.

    MONAI copies a number from the host for each target, and at each copy the host waits for the device.
    """

    def get_target_tensor(self, input: torch.Tensor, target_is_real: bool) -> torch.Tensor:
        """Return what the scores ``input`` of any shape should be: a tensor of that shape."""
        return torch.full_like(input, self.real_label if target_is_real else self.fake_label)

    def get_zero_tensor(self, input: torch.Tensor) -> torch.Tensor:
        """Return zeros shaped as ``input``."""
        return torch.zeros_like(input)
