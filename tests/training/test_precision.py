"""Half precision in the networks, float32 outside."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import PatchDiscriminator, UNet
from torch import nn

from crosswarp.networks import DisplacementUNet, MultiStepRegistration
from crosswarp.training import AutocastInferer, fast_bfloat16


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


LAYERS = [  # class, keywords, size of the grid: each reads or writes a grid one voxel wide
    ("conv", {"kernel_size": 3, "stride": 2, "padding": 1}, (2, 2)),
    ("conv", {"kernel_size": 3, "stride": 2, "padding": 1}, (16, 2)),
    ("conv", {"kernel_size": 3, "stride": 2, "padding": 1}, (1, 16)),
    ("conv", {"kernel_size": 4, "stride": 2, "padding": 1}, (7, 2)),
    ("conv", {"kernel_size": 3, "stride": 2, "padding": 1, "groups": 2}, (6, 2)),
    ("conv", {"kernel_size": 3, "padding": 1}, (5, 1)),
    ("conv", {"kernel_size": 3, "padding": "same"}, (5, 1)),
    ("conv", {"kernel_size": 3, "padding": "valid"}, (5, 3)),
    ("conv", {"kernel_size": 1}, (3, 1)),
    ("conv", {"kernel_size": 3, "dilation": 2, "padding": 1}, (5, 3)),
    ("transposed", {"kernel_size": 4, "stride": 2, "padding": 1}, (1, 1)),
    ("transposed", {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1}, (4, 1)),
    ("transposed", {"kernel_size": 1, "stride": 2, "padding": 1}, (4, 2)),
]


SHORT = [  # from each voxel along an axis the kernel reaches into the padding
    ("conv", {"kernel_size": 3, "padding": 1}, (2, 5, 4)),
    ("conv", {"kernel_size": 3, "padding": "same"}, (5, 2, 3)),
    ("conv", {"kernel_size": 4, "padding": "same"}, (3, 6, 4)),
    ("conv", {"kernel_size": 3, "stride": 2, "padding": 1}, (3, 8, 8)),
    ("conv", {"kernel_size": 5, "stride": 2, "padding": 2}, (4, 8, 8)),
    ("conv", {"kernel_size": 3, "dilation": 2, "padding": 2}, (4, 8, 8)),
    ("transposed", {"kernel_size": 3, "padding": 1}, (2, 4, 4)),
    ("transposed", {"kernel_size": 4, "stride": 2, "padding": 1}, (2, 4, 4)),
]


def layer_and_image(kind, keywords, size, batch=3, memory_format=torch.contiguous_format, channels=(4, 6)):
    name = {"conv": "Conv", "transposed": "ConvTranspose"}[kind]
    torch.manual_seed(0)
    layer = getattr(nn, f"{name}{len(size)}d")(*channels, **keywords)
    image = torch.rand(batch, channels[0], *size).to(memory_format=memory_format).requires_grad_()
    return layer.to(memory_format=memory_format), image


def gradients(inferer, network, image):
    """Output, and the gradients of weights and image."""
    image.grad = None
    network.zero_grad()
    result = inferer(image, network)
    (result * torch.linspace(-1, 1, result.numel()).reshape(result.shape)).sum().backward()
    return [result.detach(), *(p.grad.clone() for p in network.parameters()), image.grad.clone()]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("kind", "keywords", "size"), LAYERS)
def test_grids_one_voxel_wide_are_computed_in_float32(kind, keywords, size, dims, batch, channels_last):
    size = (size[0],) * (dims - 1) + size[1:]
    memory_format = (torch.channels_last, torch.channels_last_3d)[dims - 2]
    memory_format = memory_format if channels_last else torch.contiguous_format
    assert_in_float32(*layer_and_image(kind, keywords, size, batch, memory_format))


@pytest.mark.parametrize("channels", [(4, 6), (16, 32)])  # oneDNN has other kernels for whole blocks of 16
@pytest.mark.parametrize(("kind", "keywords", "size"), SHORT)
def test_short_volumes_are_computed_in_float32(kind, keywords, size, channels):
    assert_in_float32(*layer_and_image(kind, keywords, size, channels=channels))


def assert_in_float32(layer, image):
    full = gradients(AutocastInferer(False), layer, image)
    first, second = (gradients(AutocastInferer(True), layer, image) for _ in range(2))
    assert all(map(torch.equal, first, full)) and all(map(torch.equal, first, second))
    assert not layer._forward_hooks and not layer._forward_pre_hooks


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kind", ["conv", "transposed"])
@pytest.mark.parametrize("size", [(2, 2), (3, 5), (8, 4), (3, 3, 4), (4, 4, 3)])
@pytest.mark.parametrize("channels", [(4, 6), (16, 32)])
def test_other_grids_are_computed_in_half_precision_to_its_rounding(kind, stride, size, channels):
    size = tuple(n * stride for n in size) if kind == "conv" else size
    keywords = {"kernel_size": 3, "stride": stride, "padding": 1}
    layer, image = layer_and_image(kind, keywords, size, channels=channels)
    full = gradients(AutocastInferer(False), layer, image)
    first, second = (gradients(AutocastInferer(True), layer, image) for _ in range(2))
    assert not torch.equal(first[0], full[0]) and all(map(torch.equal, first, second))
    for found, expected in zip(first, full, strict=True):  # 8 bits of mantissa
        torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02 * expected.abs().max().item())


@pytest.mark.parametrize("dims", [2, 3])
def test_networks_train_alike_twice_where_their_coarsest_grid_is_one_voxel(dims):
    def train():
        torch.manual_seed(0)
        steps = [DisplacementUNet(dims, 2, (4, 8, 8), (4, 8, 8)) for _ in range(2)]
        network = MultiStepRegistration(steps, (2, 1), 1)
        for step in steps:
            nn.init.normal_(step.head.weight, std=0.05)
        return gradients(AutocastInferer(True), network, torch.rand(2, 2, *[8] * dims, requires_grad=True))

    first, second = train(), train()
    assert all(map(torch.equal, first, second)) and all(value.isfinite().all() for value in first)


def test_an_error_in_a_narrow_layer_leaves_autocast_and_network_as_they_were():
    network = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(5, 1, 1))
    with pytest.raises(RuntimeError, match="channels"):
        AutocastInferer(True)(torch.rand(1, 1, 4, 1), network)
    assert not torch.is_autocast_enabled("cpu")
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in network)
    network[1] = nn.Conv2d(2, 1, 1)
    assert AutocastInferer(True)(torch.rand(1, 1, 4, 1), network).shape == (1, 1, 4, 1)
