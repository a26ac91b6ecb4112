"""TorchScript and ONNX; `tests/bundles/test_packaged.py` exports whole bundles, with MONAI's commands."""

from __future__ import annotations

import io

import numpy as np
import onnxruntime
import pytest
import torch
from monai.networks.nets import UNet
from monai.networks.utils import convert_to_onnx
from torch import nn

from crosswarp.networks import DisplacementUNet, MultiStepRegistration, SegmentAndRegister
from crosswarp.spatial import identity_map


def registration(dims: int, channels: int, downsampling: tuple[int, ...] = (2, 1)) -> MultiStepRegistration:
    steps = [DisplacementUNet(dims, 2 * channels, (4, 8), (4, 8)) for _ in downsampling]
    for step in steps:
        nn.init.normal_(step.head.weight, std=0.05)
    return MultiStepRegistration(steps, downsampling, channels).eval()


def test_volumes_register_alike_in_onnxruntime() -> None:
    torch.manual_seed(0)
    network = registration(3, 2)
    images = torch.rand(1, 4, 12, 10, 9)
    with torch.inference_mode():
        expected = network(images).numpy()
    model = convert_to_onnx(network, [images], use_trace=False)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    assert np.abs(expected - identity_map(images.shape[2:]).numpy()).max() > 0.01
    np.testing.assert_allclose(found, expected, atol=1e-5)  # in units of the image's extent


def whole(dims: int, **options) -> SegmentAndRegister:
    def segmentation(channels: int) -> UNet:
        return UNet(dims, channels, 3, [4, 8], [2], num_res_units=1, norm="INSTANCE")

    return SegmentAndRegister(segmentation(1), segmentation(2), registration(dims, 3), 1, **options).eval()


def reloaded(module: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    buffer.seek(0)
    return torch.jit.load(buffer)


@pytest.mark.parametrize(("dims", "soft_labels"), [(2, False), (3, True)])
def test_a_scripted_network_computes_the_same_bits(dims: int, soft_labels: bool) -> None:
    """Traced ones are in `test_multi_step.py`."""
    torch.manual_seed(0)
    size = (18, 14, 16)[:dims]
    network, images = whole(dims, soft_labels=soft_labels), torch.rand(2, 3, *size)
    with torch.inference_mode():
        expected, found = network(images), reloaded(torch.jit.script(network))(images)
    assert torch.equal(found, expected)
    assert (expected[:, :dims] - identity_map(size)).abs().max() > 0.01


def test_a_scripted_network_says_that_it_aligns_nothing() -> None:
    scripted = torch.jit.script(whole(2, initialisation="moments"))
    with pytest.raises(torch.jit.Error, match="export with initialisation null"):
        scripted(torch.rand(1, 3, 16, 16))
