"""What the chain finds of a pair, and how that is packed into the one tensor that a MONAI network gives."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ..spatial import as_float32, identity_map


def pack(
    moving_to_fixed: torch.Tensor,
    fixed_to_moving: torch.Tensor,
    moving_probabilities: torch.Tensor,
    fixed_probabilities: torch.Tensor,
) -> torch.Tensor:
    """Return a prediction as one tensor, ``[B, 2 * D + 2 * K, *spatial]``; TorchScript compiles this, too."""
    return torch.cat([moving_to_fixed, fixed_to_moving, moving_probabilities, fixed_probabilities], dim=1)


def moving_to_fixed(pred: torch.Tensor) -> torch.Tensor:
    """Return the map of one pair's output, as transforms get it.

    Args:
        pred: ``[D + ..., *spatial]``, of the whole chain, or of a registration network, which gives the map
            alone.

    Returns:
        ``[1, D, *spatial]``, float32.
    """
    return as_float32(pred[: pred.ndim - 1])[None]


class Prediction(NamedTuple):
    """Maps and class probabilities of pairs: what :class:`~.cross_modal.SegmentAndRegister` predicts.

    Attributes:
        moving_to_fixed: ``[B, D, *spatial]``, normalised map.
        fixed_to_moving: ``[B, D, *spatial]``, the map of the other direction.
        moving_probabilities: ``[B, K, *spatial]``, of each class.
        fixed_probabilities: ``[B, K, *spatial]``, of each class.
    """

    moving_to_fixed: torch.Tensor
    fixed_to_moving: torch.Tensor
    moving_probabilities: torch.Tensor
    fixed_probabilities: torch.Tensor

    @classmethod
    def split(cls, pred: torch.Tensor) -> Prediction:
        """Name the parts of a network's output, views of it.

        Args:
            pred: ``[B, 2 * D + 2 * K, *spatial]``.
        """
        dims = pred.ndim - 2
        classes = pred.shape[1] // 2 - dims
        return cls(*pred.split([dims, dims, classes, classes], dim=1))

    @classmethod
    def of_item(cls, pred: torch.Tensor) -> Prediction:
        """Name the parts of one pair's output, as transforms get it.

        Args:
            pred: ``[2 * D + 2 * K, *spatial]``.

        Returns:
            each ``[1, ..., *spatial]``, float32, a plain tensor.
        """
        return cls.split(as_float32(pred)[None])

    @classmethod
    def of_image(cls, probabilities: torch.Tensor) -> Prediction:
        """Return what is predicted of an image that is registered to itself, by the identity.

        Args:
            probabilities: of each class, ``[1, K, *spatial]``.
        """
        identity = identity_map(probabilities.shape[2:], probabilities.device)
        return cls(identity, identity, probabilities, probabilities)

    def packed(self) -> torch.Tensor:
        """Return the one tensor, ``[B, 2 * D + 2 * K, *spatial]``."""
        return pack(*self)
