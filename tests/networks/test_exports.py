"""Volumes in ONNX; `tests/bundles/test_packaged.py` exports networks of images, with MONAI's commands."""

from __future__ import annotations

import numpy as np
import onnxruntime
import torch
from monai.networks.utils import convert_to_onnx
from torch import nn

from crosswarp.networks import DisplacementUNet, MultiStepRegistration
from crosswarp.spatial import identity_map


def test_volumes_register_alike_in_onnxruntime() -> None:
    torch.manual_seed(0)
    steps = [DisplacementUNet(3, 4, (4, 8), (4, 8)) for _ in range(2)]
    for step in steps:
        nn.init.normal_(step.head.weight, std=0.05)
    network = MultiStepRegistration(steps, (2, 1), 2).eval()
    images = torch.rand(1, 4, 12, 10, 9)
    with torch.inference_mode():
        expected = network(images).numpy()
    model = convert_to_onnx(network, [images], use_trace=False)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    assert np.abs(expected - identity_map(images.shape[2:]).numpy()).max() > 0.01
    np.testing.assert_allclose(found, expected, atol=1e-5)  # in units of the image's extent
