"""The translation generator, against the published architecture written out in plain torch."""

from __future__ import annotations

import pytest
import torch
from monai.bundle import ConfigParser
from torch import nn

from crosswarp.networks import TranslationGenerator

SMALL = {"channels": 4, "num_downsamples": 2, "num_blocks": 2}


class PlainBlock(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


def plain_generator():
    """CycleGAN's generator with SMALL's sizes, layer by layer as the paper's appendix lists them."""
    down = [nn.ReflectionPad2d(3), nn.Conv2d(1, 4, 7), nn.InstanceNorm2d(4), nn.ReLU()]
    for channels in (4, 8):
        down += [nn.Conv2d(channels, 2 * channels, 3, 2, 1), nn.InstanceNorm2d(2 * channels), nn.ReLU()]
    blocks = [
        PlainBlock(*half, nn.ReLU(), nn.ReflectionPad2d(1), nn.Conv2d(16, 16, 3), nn.InstanceNorm2d(16))
        for half in ([nn.ReflectionPad2d(1), nn.Conv2d(16, 16, 3), nn.InstanceNorm2d(16)] for _ in range(2))
    ]
    up = []
    for channels in (16, 8):
        up += [
            nn.ConvTranspose2d(channels, channels // 2, 3, 2, 1, 1),
            nn.InstanceNorm2d(channels // 2),
            nn.ReLU(),
        ]
    return nn.Sequential(*down, *blocks, *up, nn.ReflectionPad2d(3), nn.Conv2d(4, 2, 7), nn.Tanh())


def test_is_the_published_architecture():
    ours, plain = TranslationGenerator(2, 1, 2, **SMALL), plain_generator()
    for parameter in ours.parameters():
        nn.init.normal_(parameter, 0, 0.1)  # biases too
    plain.load_state_dict(dict(zip(plain.state_dict(), ours.state_dict().values(), strict=True)))
    image = torch.rand(2, 1, 16, 24)
    torch.testing.assert_close(ours(image), plain(image), atol=1e-5, rtol=0)


def test_default_has_the_published_number_of_weights():
    weights = sum(parameter.numel() for parameter in TranslationGenerator(2, 3, 3).parameters())
    assert weights == 11_378_179  # what the authors' implementation prints as 11.378 M


@pytest.mark.parametrize("spatial_shape", [(16, 16), (17, 22), (11, 35), (8, 13, 10), (9, 12, 15)])
@pytest.mark.parametrize("num_downsamples", [1, 2])
def test_size_is_kept_whether_divisible_or_not(spatial_shape, num_downsamples):
    generator = TranslationGenerator(len(spatial_shape), 2, 3, 4, num_downsamples, num_blocks=1)
    assert generator(torch.rand(2, 2, *spatial_shape)).shape == (2, 3, *spatial_shape)


@pytest.mark.parametrize("dims", [2, 3])
def test_weights_start_as_published(dims):
    generator = TranslationGenerator(dims, 1, 1, channels=16, num_blocks=2)
    for name, parameter in generator.named_parameters():
        if name.endswith("bias"):
            assert parameter.abs().max() == 0
        else:
            error = 5 * 0.02 / parameter.numel() ** 0.5  # five standard errors
            assert parameter.mean().abs() < error and (parameter.std() - 0.02).abs() < error


@pytest.mark.parametrize("dims", [2, 3])
def test_residual_generator_starts_near_the_identity(dims):
    image = 5 * torch.rand(2, 1, *[16] * dims)
    residual = TranslationGenerator(dims, 1, 1, 16, num_blocks=1, residual=True)
    assert 0 < (residual(image) - image).abs().max() < 0.1
    full = TranslationGenerator(dims, 1, 1, 16, num_blocks=1)
    assert (full(image) - image).abs().max() > 1


def test_activation_bounds_the_output_or_not():
    image = torch.rand(1, 1, 16, 16)
    bounded, free = (TranslationGenerator(2, 1, 1, **SMALL, activation=name) for name in ("tanh", "identity"))
    free.load_state_dict({name: 50 * value for name, value in bounded.state_dict().items()})
    bounded.load_state_dict(free.state_dict())
    assert free(image).abs().max() > 1
    torch.testing.assert_close(bounded(image), free(image).tanh())


def test_a_json_config_makes_it():
    config = {"_target_": "crosswarp.networks.TranslationGenerator", "spatial_dims": 3, "in_channels": 1}
    parser = ConfigParser({"generator": {**config, **SMALL, "out_channels": 1, "residual": True}})
    assert parser.get_parsed_content("generator")(torch.rand(1, 1, 8, 9, 8)).shape == (1, 1, 8, 9, 8)


def test_faulty_arguments_are_named():
    with pytest.raises(ValueError, match="expected equal channels, got 1 in and 3 out; use residual=False"):
        TranslationGenerator(2, 1, 3, residual=True)
    with pytest.raises(ValueError, match="'tanh' or 'identity', got 'relu'"):
        TranslationGenerator(2, 1, 1, activation="relu")
    with pytest.raises(ValueError, match="spatial_dims 2 or 3, got 1"):
        TranslationGenerator(1, 1, 1)
