"""The generator that translates an image into the other modality."""

from __future__ import annotations

from itertools import pairwise

import torch
from monai.networks.layers.factories import Conv, Norm
from torch import nn

from ..spatial import as_float32


class _ResidualBlock(nn.Module):
    """Two convolutions with instance normalisation, added to their input."""

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        conv, norm = Conv[Conv.CONV, spatial_dims], Norm[Norm.INSTANCE, spatial_dims]
        self.layers = nn.Sequential(
            conv(channels, channels, 3, padding=1, padding_mode="reflect"),
            norm(channels),
            nn.ReLU(inplace=True),
            conv(channels, channels, 3, padding=1, padding_mode="reflect"),
            norm(channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x)


class TranslationGenerator(nn.Module):
    """The residual generator of CycleGAN (Zhu et al., ICCV 2017), in 2D and 3D.

    A 7-wide convolution, ``num_downsamples`` strided ones, ``num_blocks`` residual blocks, transposed
    convolutions back up and a 7-wide convolution, with instance normalisation. Weights start from
    N(0, 0.02²), biases from 0. The output has the input's size, even or odd.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image given.
        out_channels: channels of the image made.
        channels: channels of the first convolution, doubled by each downsampling.
        num_downsamples: halvings of the grid.
        num_blocks: residual blocks on the coarsest grid.
        residual: add the input to the output; the last convolution then starts a hundred times smaller, so
            that the untrained generator all but copies its input.
        activation: of the output (before the input is added): ``"tanh"`` or ``"identity"``.

    Raises:
        ValueError: for other spatial_dims or activation, or a residual generator between different channels.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        channels: int = 64,
        num_downsamples: int = 2,
        num_blocks: int = 9,
        residual: bool = False,
        activation: str = "tanh",
    ) -> None:
        super().__init__()
        if spatial_dims not in (2, 3):
            raise ValueError(f"Expected spatial_dims 2 or 3, got {spatial_dims}.")
        if activation not in ("tanh", "identity"):
            raise ValueError(f"Expected activation 'tanh' or 'identity', got {activation!r}.")
        if residual and in_channels != out_channels:
            raise ValueError(
                "A residual generator adds its input to its output: expected equal channels, "
                f"got {in_channels} in and {out_channels} out; use residual=False."
            )
        self.residual = residual
        conv, deconv = Conv[Conv.CONV, spatial_dims], Conv[Conv.CONVTRANS, spatial_dims]
        norm = Norm[Norm.INSTANCE, spatial_dims]
        widths = [channels * 2**level for level in range(num_downsamples + 1)]

        layers: list[nn.Module] = [conv(in_channels, channels, 7, padding=3, padding_mode="reflect")]
        layers += [norm(channels), nn.ReLU(inplace=True)]
        for narrow, wide in pairwise(widths):
            layers += [conv(narrow, wide, 3, stride=2, padding=1), norm(wide), nn.ReLU(inplace=True)]
        layers += [_ResidualBlock(spatial_dims, widths[-1]) for _ in range(num_blocks)]
        for wide, narrow in pairwise(reversed(widths)):
            layers += [deconv(wide, narrow, 3, stride=2, padding=1, output_padding=1), norm(narrow)]
            layers += [nn.ReLU(inplace=True)]
        layers += [conv(channels, out_channels, 7, padding=3, padding_mode="reflect")]
        layers += [nn.Tanh() if activation == "tanh" else nn.Identity()]
        self.layers = nn.Sequential(*layers)

        convolutions = [module for module in self.modules() if isinstance(module, (conv, deconv))]
        for convolution in convolutions:
            nn.init.normal_(convolution.weight, 0.0, 0.02)
            nn.init.zeros_(convolution.bias)
        if residual:
            with torch.no_grad():
                convolutions[-1].weight.mul_(0.01)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Translate images.

        Args:
            image: ``[B, in_channels, *spatial]``, each axis longer than 3 and than ``2 ** num_downsamples``.

        Returns:
            ``[B, out_channels, *spatial]``.
        """
        image = as_float32(image)
        translated = self.layers(image)[tuple(map(slice, (None, None, *image.shape[2:])))]
        return image + translated if self.residual else translated
