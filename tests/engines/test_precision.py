"""Half precision in the networks, float32 outside."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import PatchDiscriminator, UNet

from crosswarp.engines import AutocastInferer, fast_bfloat16


@pytest.mark.parametrize("shape", [(16, 24), (8, 16, 8)])
def test_results_are_float32_and_close_to_those_of_float32(shape):
    torch.manual_seed(0)
    network = UNet(len(shape), 1, 3, (4, 8), (2,), norm="INSTANCE")
    image = torch.rand(2, 1, *shape)
    full, half = AutocastInferer(False)(image, network), AutocastInferer(True)(image, network)
    assert torch.equal(full, network(image))
    assert half.dtype == torch.float32 and not torch.equal(half, full)
    torch.testing.assert_close(half, full, atol=0.05, rtol=0.05)
    half.sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in network.parameters())


def test_lists_of_features_are_converted_too():
    features = AutocastInferer(True)(torch.rand(1, 1, 16, 16), PatchDiscriminator(2, 4, 1, num_layers_d=1))
    assert {feature.dtype for feature in features} == {torch.float32}


def test_auto_follows_the_device():
    network = torch.nn.Conv2d(1, 1, 3)
    image = torch.rand(1, 1, 8, 8)
    wanted = AutocastInferer(fast_bfloat16("cpu"))(image, network)
    assert torch.equal(AutocastInferer()(image, network), wanted)
