"""Multi-step registration: analytic displacements first, then icon-registration's nested networks."""

from __future__ import annotations

import copy
import io
import warnings

import pytest
import torch
import torch.nn.functional as F
from icon_registration import DownsampleRegistration, FunctionFromVectorField, TwoStepRegistration
from icon_registration.networks import UNet2
from monai.data import MetaTensor
from torch import nn

from crosswarp.networks import DisplacementUNet, MultiStepRegistration
from crosswarp.spatial import displacement, identity_map, resize_map, sample

SHAPES = [(32, 32), (37, 51), (18, 21, 17)]
CHANNELS = ((8, 6, 16), (8, 4, 8))


class AffineStep(nn.Module):
    """Predicts ``centre + matrix (x - centre) - x`` whatever it sees, and remembers what it saw."""

    def __init__(self, matrix):
        super().__init__()
        self.matrix, self.seen = matrix, []

    def forward(self, x):
        self.seen.append(x)
        centred = identity_map(x.shape[2:]) - 0.5
        shift = torch.einsum("ij,nj...->ni...", self.matrix, centred) - centred
        return shift.expand(len(x), *shift.shape[1:])


def randomise(network, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                noise = torch.randn(value.shape, generator=generator)
                value.copy_(
                    0.5 + noise.abs() if name.endswith("running_var") else noise / value[0].numel() ** 0.5
                )
        network.head.weight *= (
            0.25  # untrained fields jump from voxel to voxel and so amplify rounding errors
        )


def registration(dims, downsampling=(4, 2, 1), image_channels=1):
    networks = [DisplacementUNet(dims, 2 * image_channels, *CHANNELS) for _ in downsampling]
    for seed, network in enumerate(networks):
        randomise(network, seed)
    return MultiStepRegistration(networks, downsampling, image_channels).eval()


@pytest.mark.parametrize("spatial_shape", SHAPES)
def test_steps_compose_with_the_coarsest_outermost(spatial_shape):
    dims = len(spatial_shape)
    generator = torch.Generator().manual_seed(0)
    # contractions, so that no point leaves the grid and linear interpolation stays exact
    matrices = [
        0.8 * torch.eye(dims) + 0.1 * torch.randn(dims, dims, generator=generator) / dims for _ in range(3)
    ]
    phi = MultiStepRegistration([AffineStep(m) for m in matrices], [4, 2, 1], 1)(
        torch.rand(2, 2, *spatial_shape)
    )
    product = matrices[0] @ matrices[1] @ matrices[2]
    expected = torch.einsum("ij,nj...->ni...", product, identity_map(spatial_shape) - 0.5) + 0.5
    torch.testing.assert_close(phi, expected.expand_as(phi), atol=1e-5, rtol=0)


@pytest.mark.parametrize("spatial_shape", SHAPES)
def test_each_step_sees_the_moving_image_warped_so_far(spatial_shape):
    dims = len(spatial_shape)
    steps = [AffineStep(scale * torch.eye(dims)) for scale in (0.8, 0.9, 1.0)]
    images = torch.rand(2, 6, *spatial_shape)
    MultiStepRegistration(steps, [4, 1, 1], 3)(images)
    pool = F.avg_pool2d if dims == 2 else F.avg_pool3d
    quarter = pool(pool(images, 2, ceil_mode=True), 2, ceil_mode=True)
    torch.testing.assert_close(steps[0].seen[0], quarter)
    for step, scale in zip(steps[1:], (0.8, 0.8 * 0.9), strict=True):
        phi = scale * (identity_map(spatial_shape) - 0.5) + 0.5
        moving, fixed = step.seen[0].chunk(2, 1)
        torch.testing.assert_close(moving, sample(images[:, :3], phi), atol=1e-4, rtol=0)
        torch.testing.assert_close(fixed, images[:, 3:])


def test_coarse_last_step_is_put_on_the_grid_of_the_images():
    model, images = registration(2, [2]), torch.rand(2, 2, 20, 31)
    shift = model.networks[0](F.avg_pool2d(images, 2, ceil_mode=True))
    expected = resize_map(identity_map(shift.shape[2:]) + shift, (20, 31))
    torch.testing.assert_close(model(images), expected, atol=1e-6, rtol=0)


def icon_nest(dims, steps):
    """icon-registration's nest: two halvings, a step at full resolution, further steps on top of it."""
    networks = [UNet2(3, [[2, *CHANNELS[0]], list(CHANNELS[1])], dims) for _ in range(steps)]
    nest = FunctionFromVectorField(networks[0])
    for network in networks[1:3]:
        nest = TwoStepRegistration(DownsampleRegistration(nest, dims), FunctionFromVectorField(network))
    for network in networks[3:]:
        nest = TwoStepRegistration(nest, FunctionFromVectorField(network))
    return nest, networks


@pytest.mark.parametrize("spatial_shape", SHAPES)
@pytest.mark.parametrize("downsampling", [[4, 2, 1], [4, 2, 1, 1]])
@pytest.mark.parametrize("training", [False, True])
def test_agrees_with_icons_nested_networks(spatial_shape, downsampling, training):
    dims = len(spatial_shape)
    ours = registration(dims, downsampling).train(training)
    nest, icon_networks = icon_nest(dims, len(downsampling))
    names = {"downs": "downConvs", "ups": "upConvs", "norms": "batchNorms", "head": "lastConv"}
    for network, icon_network in zip(ours.networks, icon_networks, strict=True):
        keys = [key.split(".", 1) for key in network.state_dict()]
        icon_keys = [f"{names[first]}.{rest}" for first, rest in keys]
        icon_network.load_state_dict(dict(zip(icon_keys, network.state_dict().values(), strict=True)))
    nest.assign_identity_map([1, 1, *spatial_shape])
    nest.train(training)
    moving, fixed = torch.rand(2, 2, 1, *spatial_shape)
    expected = nest(moving, fixed)(nest.identity_map)
    assert displacement(expected).std() > 0.02, "too small a displacement would prove nothing"
    torch.testing.assert_close(ours(torch.cat([moving, fixed], 1)), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("spatial_shape", [(9, 30), (8, 5, 11)])
def test_untrained_registration_is_the_identity(spatial_shape):
    dims = len(spatial_shape)
    model = MultiStepRegistration([DisplacementUNet(dims, 4, (4, 8), (4, 4)) for _ in range(3)], [4, 2, 1], 2)
    phi = model(torch.rand(2, 4, *spatial_shape))
    torch.testing.assert_close(phi, identity_map(spatial_shape).expand_as(phi), atol=0, rtol=0)


@pytest.mark.parametrize("spatial_shape", SHAPES)
def test_a_trace_serves_other_sizes_and_batches(spatial_shape):
    model = registration(len(spatial_shape))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # the checks of shapes become constants
        traced = torch.jit.trace(model, torch.rand(2, 2, *spatial_shape))
    other = torch.rand(3, 2, *(size + 5 for size in spatial_shape))
    torch.testing.assert_close(traced(other), model(other), atol=1e-6, rtol=0)


def test_exports_without_control_flow_on_data():
    model, images = registration(2), torch.rand(2, 2, 32, 40)
    exported = torch.export.export(model, (images,)).module()
    torch.testing.assert_close(exported(images), model(images), atol=1e-6, rtol=0)


def test_copies_and_checkpoints_give_the_same_map():
    model, images = registration(2), torch.rand(2, 2, 20, 20)
    expected = model(images)
    assert torch.equal(copy.deepcopy(model)(images), expected)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    fresh = MultiStepRegistration([DisplacementUNet(2, 2, *CHANNELS) for _ in range(3)], [4, 2, 1], 1).eval()
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(fresh(images), expected)


@pytest.mark.parametrize("spatial_shape", SHAPES)
def test_field_is_float32_under_autocast(spatial_shape):
    model, images = registration(len(spatial_shape)), torch.rand(2, 2, *spatial_shape)
    expected = model(images)
    with torch.autocast("cpu", torch.bfloat16):
        phi = model(images)
    assert phi.dtype == torch.float32
    assert (phi - expected).abs().max() < 0.05 * displacement(expected).abs().max()


def test_every_step_learns_and_metatensors_are_taken_as_tensors():
    model = registration(2)
    phi = model(MetaTensor(torch.rand(1, 2, 17, 16)))
    assert type(phi) is torch.Tensor and phi.shape == (1, 2, 17, 16)
    phi.square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters())


def test_only_the_active_steps_take_part():
    model, images = registration(2, [4, 2, 1, 1]), torch.rand(2, 2, 20, 31)
    truncated = MultiStepRegistration(list(model.networks)[:3], [4, 2, 1], 1).eval()
    whole = model(images)
    model.active = 3
    phi = model(images)
    assert torch.equal(phi, truncated(images))
    assert (phi - whole).abs().max() > 0.01  # normalised units: the fourth step would have moved points
    phi.square().sum().backward()
    learns = [[p.grad is not None for p in network.parameters()] for network in model.networks]
    assert all(map(all, learns[:3])) and not any(learns[3])


def test_a_step_that_has_not_trained_adds_nothing():
    trained = registration(2)
    model = MultiStepRegistration([*trained.networks, DisplacementUNet(2, 2, *CHANNELS)], [4, 2, 1, 1], 1)
    images = torch.rand(2, 2, 20, 31)
    torch.testing.assert_close(model.eval()(images), trained(images), atol=1e-6, rtol=0)


def test_faulty_arguments_are_named():
    networks = [DisplacementUNet(2, 2, (4,), (4,)) for _ in range(2)]
    with pytest.raises(ValueError, match=r"2 networks and factors \[1\]"):
        MultiStepRegistration(networks, [1], 1)
    with pytest.raises(ValueError, match="at least one network"):
        MultiStepRegistration([], [], 1)
    for factors in ([3, 1], [1, 2], [2, 0]):
        with pytest.raises(ValueError, match="powers of two from coarse to fine"):
            MultiStepRegistration(networks, factors, 1)
    with pytest.raises(ValueError, match=r"stacked to 2 channels, got shape \[1, 3, 8, 8\]"):
        MultiStepRegistration(networks, [2, 1], 1)(torch.rand(1, 3, 8, 8))
