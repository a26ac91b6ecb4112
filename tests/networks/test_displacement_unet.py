"""The displacement U-Net against icon-registration's, weight for weight."""

from __future__ import annotations

import copy

import pytest
import torch
from icon_registration.networks import UNet2, tallUNet2

from crosswarp.networks import DisplacementUNet

NAMES = {"downConvs": "downs", "upConvs": "ups", "batchNorms": "norms", "lastConv": "head"}


def randomise(network, seed=0):
    """Give every parameter and running statistic a value of its own, of the size training gives them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                noise = torch.randn(value.shape, generator=generator)
                fan_in = max(value[0].numel(), 1)
                value.copy_(0.5 + noise.abs() if name.endswith("running_var") else noise / fan_in**0.5)


def icon_state(icon_network):
    """The weights of icon-registration's network under our names."""
    return {
        ".".join([NAMES[first], *rest]): value
        for first, *rest, value in (
            (*key.split("."), value) for key, value in icon_network.state_dict().items()
        )
    }


def assert_same_as_icon(ours, icon, moving, fixed):
    randomise(icon)
    ours.load_state_dict(icon_state(icon))
    for training in (False, True, False):  # the third run uses the statistics that the second one updated
        ours.train(training), icon.train(training)
        expected = icon(moving, fixed)
        assert expected.std() > 0.02, "too small a displacement would prove nothing"
        torch.testing.assert_close(ours(torch.cat([moving, fixed], 1)), expected, atol=1e-5, rtol=1e-4)
    for name, value in icon_state(icon).items():
        torch.testing.assert_close(ours.state_dict()[name], value, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("spatial_shape", [(32, 32), (37, 50), (1, 45)])
@pytest.mark.parametrize("channels", [1, 3])
def test_default_is_tall_unet_2d(spatial_shape, channels):
    moving, fixed = torch.randn(2, 2, channels, *spatial_shape)
    ours = DisplacementUNet(2, 2 * channels)
    assert_same_as_icon(ours, tallUNet2(2, channels), moving, fixed)


def test_default_is_tall_unet_3d():
    moving, fixed = torch.randn(2, 2, 1, 17, 18, 21)
    assert_same_as_icon(DisplacementUNet(3, 2), tallUNet2(3), moving, fixed)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(
    ("down", "up"),
    [
        ((8,), (4,)),
        ((8, 4, 12), (16, 3, 5)),
        ((4, 4), (4, 40)),
    ],  # channels that grow, shrink, and need padding
)
def test_any_channels_pad_and_crop_as_icon(dims, down, up):
    moving, fixed = torch.randn(2, 2, 1, *(13, 10, 7)[:dims])
    icon = UNet2(len(down), [[2, *down], [*up]], dims)
    assert_same_as_icon(DisplacementUNet(dims, 2, down, up), icon, moving, fixed)


@pytest.mark.parametrize("dims", [2, 3])
def test_untrained_network_moves_nothing_yet_learns(dims):
    network = DisplacementUNet(dims, 2, (4, 8), (4, 4))
    output = network(torch.rand(2, 2, *[9] * dims))
    assert output.shape == (2, dims, *[9] * dims) and output.abs().max() == 0
    output.sum().backward()
    assert network.head.weight.grad.abs().max() > 0


@pytest.mark.parametrize("dims", [2, 3])
def test_autocast_spares_the_last_convolution(dims):
    network, x = DisplacementUNet(dims, 2, (4, 8), (4, 4)), torch.rand(2, 2, *[9] * dims)
    randomise(network)
    expected = network.eval()(x)
    with torch.autocast("cpu", torch.bfloat16):
        output = network(x)
    assert output.dtype == torch.float32
    assert not torch.equal(output, output.bfloat16().float()), "the field has only half precision's steps"
    assert (output - expected).abs().max() < 0.02 * expected.abs().max()  # bfloat16 carries 2 to 3 digits


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_images_are_taken_in_the_memory_format_of_the_weights(dims, precision):
    """Mixed formats and types within a concatenation cost a fourth of a pair's time."""
    plain = DisplacementUNet(dims, 3, (4, 8), (4, 8)).eval()
    randomise(plain)
    layout = (torch.channels_last, torch.channels_last_3d)[dims - 2]
    fast, images, seen = (
        copy.deepcopy(plain).to(memory_format=layout),
        torch.randn(2, 3, *(12, 10, 9)[:dims]),
        [],
    )
    for module in fast.modules():
        if not list(module.children()):
            module.register_forward_pre_hook(
                lambda _, given: seen.append(given[0].is_contiguous(memory_format=layout))
            )
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        found, expected = fast(images), plain(images)
    assert seen == [True] * 3  # two halvings and the last convolution
    torch.testing.assert_close(found, expected, atol=1e-5 if precision == torch.float32 else 1e-2, rtol=1e-4)


def test_faulty_arguments_are_named():
    with pytest.raises(ValueError, match=r"one up_channels entry.*\[16, 32\] and \[8\]"):
        DisplacementUNet(2, 2, (16, 32), (8,))
    with pytest.raises(ValueError, match="at least one"):
        DisplacementUNet(2, 2, (), ())
    with pytest.raises(ValueError, match="spatial_dims 2 or 3, got 4"):
        DisplacementUNet(4, 2)
