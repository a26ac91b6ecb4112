"""What engines measure: metrics for training and validation, and whose images a batch holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from ignite.metrics import Average
from monai.metrics import CumulativeIterationMetric
from monai.metrics.utils import do_metric_reduction

from ..spatial import fold_fraction
from .overlap import dice_per_class, warp_labels


def _loss(output: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return output["loss"].detach()


class MeanLoss(Average):
    """Mean of the steps' losses in an epoch, of the output ``{"loss": ...}`` of MONAI's trainers.

    Args:
        device: where to add up.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        super().__init__(output_transform=_loss, device=device)


def image_meta(batch: Sequence[Mapping[str, Any]] | Mapping[str, Any]) -> list[dict[str, Any]]:
    """The meta data of the images of a batch, for ``monai.handlers.MetricsSaver``.

    Args:
        batch: items with an ``image``, or a batch of pairs, whose images have no meta data.

    Returns:
        that of each image; none for pairs.
    """
    return [] if isinstance(batch, Mapping) else [item["image"].meta for item in batch]


class RegistrationDice(CumulativeIterationMetric):
    """Dice of the warped moving label and the fixed label.

    Called with ``y_pred``, maps moving to fixed ``[B, D, *spatial]``, and ``y``, integer labels ``[B, 2,
    *spatial]`` (channel 0 moving, channel 1 fixed), or with lists of those without the batch axis. It
    returns and keeps ``[B, num_classes - 1]``, NaN for a class that is absent from the fixed label.
    ``aggregate`` averages over the classes of each pair, then over pairs, NaN left out; it is 0 where
    nothing was measured.

    Args:
        num_classes: number of classes, background included.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def _compute_tensor(
        self, y_pred: torch.Tensor, y: torch.Tensor | None = None, **kwargs: Any
    ) -> torch.Tensor:
        if y is None or y.shape[1] != 2:
            raise ValueError(
                "Expected y to be the labels [B, 2, *spatial], moving then fixed, "
                f"got {None if y is None else tuple(y.shape)}."
            )
        warped = warp_labels(y[:, :1], y_pred, self.num_classes)
        return dice_per_class(warped, y[:, 1:], self.num_classes)

    def aggregate(self) -> torch.Tensor:
        """Return the mean over classes and pairs, a scalar in [0, 1]."""
        return do_metric_reduction(self.get_buffer(), "mean")[0]


class FoldPercent(CumulativeIterationMetric):
    """Percentage of points at which a map folds (Jacobian determinant at or below 0).

    Called with ``y_pred``, maps ``[B, D, *spatial]``, or with a list of those without the batch axis; ``y``
    is not read. It returns and keeps ``[B, 1]``; ``aggregate`` averages over maps.
    """

    def _compute_tensor(
        self, y_pred: torch.Tensor, y: torch.Tensor | None = None, **kwargs: Any
    ) -> torch.Tensor:
        return 100 * fold_fraction(y_pred)[:, None]

    def aggregate(self) -> torch.Tensor:
        """Return the mean over maps, a scalar in [0, 100]."""
        return self.get_buffer().mean()
