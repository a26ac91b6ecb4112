"""The U-Net that predicts one step's displacement."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from monai.networks.layers.factories import Conv, Norm
from torch import nn

from ..spatial import as_float32
from .pooling import halve


def _match_channels(x: torch.Tensor, channels: int) -> torch.Tensor:
    """Put zero channels in front, or drop the last ones, so that there are ``channels``."""
    missing = channels - x.shape[1]
    return F.pad(x, [0, 0] * (x.ndim - 2) + [max(missing, 0), min(missing, 0)])


def _crop(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Cut off the end of each axis of space where ``x`` is longer; TorchScript needs the axes written out."""
    if x.ndim == 4:
        return x[:, :, : like.shape[2], : like.shape[3]]
    return x[:, :, : like.shape[2], : like.shape[3], : like.shape[4]]


class DisplacementUNet(nn.Module):
    """Residual U-Net from a moving and a fixed image to the displacement between them.

    Each level halves the grid by a strided convolution beside an average-pooled shortcut, and doubles it by a
    transposed convolution beside an interpolated shortcut. The last convolution starts at zero, so that an
    untrained network is the identity. It takes any spatial size. The architecture is ``tallUNet2`` of
    icon-registration (Greer et al., ICCV 2021; Tian et al., "GradICON", CVPR 2023).

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of moving and fixed image together.
        down_channels: output channels of each halving, finest first.
        up_channels: output channels of each doubling, finest first.

    Raises:
        ValueError: if the two lists of channels are empty or differ in length, or for other spatial_dims.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        down_channels: Sequence[int] = (16, 32, 64, 256, 512),
        up_channels: Sequence[int] = (16, 32, 64, 128, 256),
    ) -> None:
        super().__init__()
        if spatial_dims not in (2, 3):
            raise ValueError(f"Expected spatial_dims 2 or 3, got {spatial_dims}.")
        if len(down_channels) != len(up_channels) or not down_channels:
            raise ValueError(
                "Expected one up_channels entry for each down_channels entry and at least one, "
                f"got {list(down_channels)} and {list(up_channels)}."
            )
        conv, deconv = Conv[Conv.CONV, spatial_dims], Conv[Conv.CONVTRANS, spatial_dims]
        down_in = (in_channels, *down_channels[:-1])
        up_in = [skip + below for skip, below in zip(down_channels, (*up_channels[1:], 0), strict=True)]
        self.interpolation = "bilinear" if spatial_dims == 2 else "trilinear"
        self.downs = nn.ModuleList(
            conv(i, o, 3, stride=2, padding=1) for i, o in zip(down_in, down_channels, strict=True)
        )
        self.ups = nn.ModuleList(
            deconv(i, o, 4, stride=2, padding=1) for i, o in zip(up_in, up_channels, strict=True)
        )
        self.norms = nn.ModuleList(Norm[Norm.BATCH, spatial_dims](channels) for channels in up_channels)
        self.head = conv(up_channels[0] + in_channels, spatial_dims, kernel_size=3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Predict the displacement.

        Args:
            x: ``[B, in_channels, *spatial]``, moving then fixed.

        Returns:
            ``[B, D, *spatial]``, float32, normalised units.
        """
        x = self._laid_out(as_float32(x))
        skips: list[torch.Tensor] = []
        for down in self.downs:
            skips.append(x)
            y = down(F.leaky_relu(x))
            x = y + _match_channels(halve(x), y.shape[1]).to(y.dtype)
        # of the modules in a slice, TorchScript knows nothing but `forward`
        for up, norm in zip(self.ups[::-1], self.norms[::-1]):  # noqa: B905
            skip = skips.pop()
            y = up.forward(F.leaky_relu(x))
            x = _match_channels(x, y.shape[1])
            x = F.interpolate(x, scale_factor=2.0, mode=self.interpolation, align_corners=False)
            x = _crop(norm.forward(y + x.to(y.dtype)), skip)
            x = torch.cat([x.to(skip.dtype), skip], dim=1)  # of two types, `cat` copies value by value
        if torch.jit.is_scripting():
            return self.head(x) / 10
        device = x.device.type if torch.amp.is_autocast_available(x.device.type) else "cpu"  # "meta" has none
        with torch.autocast(device, enabled=False):  # half precision would put steps into the field
            return self.head(x.float()) / 10

    def _laid_out(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` in the memory format of the weights: where they differ, each concatenation mixes the two."""
        layout = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
        return (
            x.contiguous(memory_format=layout) if self.head.weight.is_contiguous(memory_format=layout) else x
        )
