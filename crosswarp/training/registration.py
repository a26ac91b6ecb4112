"""Batches of pairs for MONAI's ``SupervisedTrainer`` and ``SupervisedEvaluator``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.networks.utils import one_hot
from torch import Tensor


class PreparePairs:
    """Both directions of each pair in one batch, as ``losses.RegistrationLoss`` expects.

    Args:
        key: what is registered: ``moving_<key>`` and ``fixed_<key>``, each ``[B, C, *spatial]``, are taken
            from a batch.
        num_classes: when given, ``key`` holds integer labels ``[B, 1, *spatial]``, which become one-hot.
        both_directions: with False, only moving to fixed, and the targets are the labels of the pair
            (``moving_label`` and ``fixed_label`` on channels, ``[B, 2, *spatial]``): for validation.
    """

    def __init__(
        self, key: str = "image", num_classes: int | None = None, both_directions: bool = True
    ) -> None:
        self.key, self.num_classes, self.both_directions = key, num_classes, both_directions

    def __call__(
        self,
        batch: Mapping[str, Tensor],
        device: torch.device | str | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """Returns the network's input and the targets.

        Input: ``[2B, 2C, *spatial]``, first moving to fixed, then fixed to moving; targets ``[2B, C,
        *spatial]``, the moving images of both.
        """
        batch = {key: value.to(device, non_blocking=non_blocking, **kwargs) for key, value in batch.items()}
        pair = torch.cat([batch[f"moving_{self.key}"], batch[f"fixed_{self.key}"]])
        if self.num_classes is not None:
            pair = one_hot(pair, self.num_classes)
        moving, fixed = pair.chunk(2)
        if self.both_directions:
            return torch.cat([pair, torch.cat([fixed, moving])], dim=1), pair
        labels = torch.cat([batch["moving_label"], batch["fixed_label"]], dim=1)
        return torch.cat([moving, fixed], dim=1), labels
