"""A network that looks at a segmented image and says whether it lies as those of the training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from monai.networks.nets import Regressor

MOST_POINTS = {2: 64, 3: 32}  # along an axis; how an image lies shows on a coarse grid


class PoseNetwork(Regressor):
    """Says whether a segmented image lies as those of the training: not turned, mirrored or inverted.

    It sees the mean of the channels of an image and the class probabilities that the segmentation network
    finds in it, on a coarse grid, and serves both modalities.

    Args:
        spatial_size: of the images.
        num_classes: classes, background included.
        channels: of each layer.
        strides: of each layer.
        num_res_units: convolutions of each layer beyond its first; 0 for none.
        dropout: share of the features that is dropped in training; None for none.
    """

    def __init__(
        self,
        spatial_size: Sequence[int],
        num_classes: int,
        channels: Sequence[int] = (16, 32, 64, 64),
        strides: Sequence[int] = (2, 2, 2, 2),
        num_res_units: int = 0,
        dropout: float | None = None,
    ) -> None:
        self.grid = [min(int(size), MOST_POINTS[len(spatial_size)]) for size in spatial_size]
        shape = (1 + num_classes, *self.grid)
        super().__init__(shape, (1,), channels, strides, num_res_units=num_res_units, dropout=dropout)

    def forward(self, image: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Judge segmented images.

        Args:
            image: ``[B, C, *spatial]`` in [0, 1].
            probabilities: ``[B, K, *spatial]``, of the classes.

        Returns:
            ``[B]``, the logarithm of the odds that an image lies as those of the training.
        """
        return self.judged(self.seen(image, probabilities))

    def seen(self, image: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
        """What is looked at, ``[B, 1 + K, *grid]``; see :meth:`forward`."""
        both = torch.cat([image.mean(1, keepdim=True), probabilities], 1).float()
        return F.interpolate(both, self.grid, mode="area")

    def judged(self, seen: torch.Tensor) -> torch.Tensor:
        """Judge what :meth:`seen` returned, ``[B, 1 + K, *grid]``, as :meth:`forward` does."""
        return self.final(self.net(2 * seen - 1)).flatten()
