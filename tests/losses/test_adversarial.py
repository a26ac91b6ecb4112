"""The adversarial loss against MONAI's, of which it differs in where it makes its targets."""

from __future__ import annotations

from itertools import product

import monai.losses
import pytest
import torch

from crosswarp.losses import PatchAdversarialLoss


@pytest.mark.parametrize("criterion", ["least_squares", "bce", "hinge"])
def test_values_and_gradients_are_those_of_monai(criterion):
    scores = [torch.randn(2, 1, 5, 4, requires_grad=True), torch.randn(2, 1, 3, 2, requires_grad=True)]
    theirs = monai.losses.PatchAdversarialLoss(criterion=criterion)
    ours = PatchAdversarialLoss(criterion=criterion)
    for real, critic in product((True, False), repeat=2):
        if not real and not critic:
            continue  # the generator always wants to be real
        losses = [loss(scores, target_is_real=real, for_discriminator=critic) for loss in (ours, theirs)]
        assert torch.equal(*losses) and losses[0] > 0
        for first, second in zip(*[torch.autograd.grad(loss, scores) for loss in losses], strict=True):
            assert torch.equal(first, second)
