"""Connected components of label maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from torch import Tensor

LARGE_PIECE = 0.3  # share of a class from which on a piece of it may be another one of its kind


def _components(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbered components (neighbours across corners included), and the size of each from number 1 on."""
    numbered, _ = ndimage.label(mask, np.ones([3] * mask.ndim))
    return numbered, np.bincount(numbered.ravel())[1:]


def count_components(labels: Tensor, num_classes: int, min_share: float = 0.1) -> list[int]:
    """Return of how many pieces each class consists at most.

    Args:
        labels: integers ``[N, 1, *spatial]``.
        num_classes: classes, background included.
        min_share: smallest piece that counts, as a share of the class in its image.

    Returns:
        one number for each class but the background; 0 for a class that no image contains.
    """
    maps = labels[:, 0].cpu().numpy()
    counts = []
    for value in range(1, num_classes):
        sizes = [_components(label == value)[1] for label in maps]
        counts.append(max((int((s >= min_share * s.sum()).sum()) for s in sizes if s.size), default=0))
    return counts


def keep_components(labels: Tensor, counts: Sequence[int]) -> Tensor:
    """Keep the largest pieces of each class; the others become background.

    Args:
        labels: integers ``[N, 1, *spatial]``.
        counts: pieces to keep of each class but the background, as of :func:`count_components`.

    Returns:
        a copy, on the CPU.
    """
    kept = labels.cpu().clone()
    for label in kept[:, 0].numpy():  # shares the memory of `kept`
        for value, count in enumerate(counts, 1):
            numbered, sizes = _components(label == value)
            smaller = 1 + np.argsort(-sizes, kind="stable")[count:]
            label[np.isin(numbered, smaller)] = 0
    return kept
