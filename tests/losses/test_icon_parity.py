"""The loss of a pair of images, its parts and its gradients, against icon-registration."""

from __future__ import annotations

import pytest
import torch
from icon_registration import LNCC, FunctionFromVectorField, config
from icon_registration.losses import GradientICONSparse
from torch import nn

from crosswarp.losses import GradICONLoss, LNCCLoss, RegistrationLoss
from crosswarp.spatial import identity_map

SHAPES = [(24, 24), (25, 38), (14, 17, 20)]


class FieldOfPair(nn.Module):
    """Stands for a trained network: one displacement for (A, B), the other for (B, A)."""

    def __init__(self, image_a, a_to_b, b_to_a):
        super().__init__()
        self.image_a, self.a_to_b, self.b_to_a = image_a, a_to_b, b_to_a

    def forward(self, moving, fixed):
        return self.a_to_b if moving is self.image_a else self.b_to_a


@pytest.mark.parametrize("spatial_shape", SHAPES)
@pytest.mark.parametrize("amplitude", [0.02, 0.2])  # the second leaves the grid at many points
def test_registration_loss_and_gradients(spatial_shape, amplitude, monkeypatch):
    monkeypatch.setattr(config, "device", torch.device("cpu"))
    dims = len(spatial_shape)
    image_a, image_b = torch.rand(2, 3, 1, *spatial_shape)
    fields = [(amplitude * torch.randn(3, dims, *spatial_shape)).requires_grad_() for _ in range(2)]
    icon = GradientICONSparse(FunctionFromVectorField(FieldOfPair(image_a, *fields)), LNCC(3), 1.5)
    icon.assign_identity_map([1, 1, *spatial_shape])
    torch.manual_seed(7)
    expected = icon(image_a, image_b)
    expected_gradients = torch.autograd.grad(expected.all_loss, fields)

    torch.manual_seed(7)
    noise = 2 * torch.randn(1, dims, *spatial_shape) / spatial_shape[-1]
    noise = noise[(..., *[slice(None, None, 2)] * dims)]
    phi = torch.cat(fields) + identity_map(spatial_shape)
    # rounding of a coordinate, 6e-8, over delta, 1e-3, times slopes of order 1 to 10
    regularity = GradICONLoss()(*phi.chunk(2), noise)
    torch.testing.assert_close(regularity, expected.inverse_consistency_loss, atol=1e-4, rtol=1e-4)
    loss = RegistrationLoss(LNCCLoss(), lambda forth, back: GradICONLoss()(forth, back, noise))
    total = loss(phi, torch.cat([image_a, image_b]))
    torch.testing.assert_close(total, expected.all_loss, atol=1e-4, rtol=1e-4)
    for gradient, reference in zip(torch.autograd.grad(total, fields), expected_gradients, strict=True):
        error = (gradient - reference).norm() / reference.norm()
        assert error < 1e-2  # a point that rounding moves across a voxel's edge gets another slope


@pytest.mark.parametrize("spatial_shape", [*SHAPES, (7, 30)])  # the last is narrower than the window
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("sigma", [2, 3, 5])
def test_lncc(spatial_shape, channels, sigma):
    first, second = torch.rand(2, 2, channels, *spatial_shape)
    second = 0.5 * first + 0.5 * second
    expected = LNCC(sigma)(first, second)
    assert 0.05 < expected < 0.95
    torch.testing.assert_close(LNCCLoss(sigma)(first, second), expected, atol=1e-5, rtol=0)
