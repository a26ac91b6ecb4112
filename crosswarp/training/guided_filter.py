"""Outlines that follow the edges of an image."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional


class GuidedFilter:
    """Moves the borders of probabilities to edges of the image that are near.

    In each window the result is a linear function of the image, so that it has edges only where the image
    has (He, Sun, Tang, "Guided Image Filtering", IEEE TPAMI 2013). At borders windows are smaller. Channels
    of the image are averaged.

    Args:
        radius: of the windows, in points; one for all axes, or one for each.
        epsilon: variance, of intensities in [0, 1], below which a window counts as having no edge.
    """

    def __init__(self, radius: int | Sequence[int] = 1, epsilon: float = 1e-4) -> None:
        self.radius, self.epsilon = radius, epsilon

    def __call__(self, probabilities: Tensor, image: Tensor) -> Tensor:
        """Filter ``[B, K, *spatial]`` by the image ``[B, C, *spatial]``; each point still sums to 1."""
        guide = image.float().mean(1, keepdim=True)
        centre, middle = self._mean(guide), self._mean(probabilities)
        variance = self._mean(guide**2) - centre**2
        slope = (self._mean(guide * probabilities) - centre * middle) / (variance + self.epsilon)
        return self._mean(slope) * guide + self._mean(middle - slope * centre)

    def _mean(self, values: Tensor) -> Tensor:
        dims = values.dim() - 2
        radii = [self.radius] * dims if isinstance(self.radius, int) else list(self.radius)
        pool = functional.avg_pool2d if dims == 2 else functional.avg_pool3d
        return pool(values, [2 * r + 1 for r in radii], 1, radii, count_include_pad=False)
