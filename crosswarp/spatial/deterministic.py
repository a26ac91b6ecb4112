"""Sampling whose gradients are the same bits each time, also on a GPU.

Torch's ``grid_sample`` has no deterministic gradient on a GPU, in none of its modes: threads add to one voxel
in any order. Reading the corners of each cell by ``gather`` has one, at several times the time and memory.
"""

from __future__ import annotations

from itertools import product

import torch


def is_needed(*tensors: torch.Tensor) -> bool:
    """Whether deterministic algorithms are asked for, and a gradient on a GPU is to come."""
    return (
        torch.are_deterministic_algorithms_enabled()
        and torch.is_grad_enabled()
        and any(tensor.requires_grad and on_gpu(tensor) for tensor in tensors)
    )


def on_gpu(tensor: torch.Tensor) -> bool:
    """Whether a tensor is on a GPU."""
    return tensor.is_cuda


def sample_linearly(image: torch.Tensor, phi: torch.Tensor, padding: str = "border") -> torch.Tensor:
    """What ``spatial.sample`` gives with mode ``"linear"``, by ``gather``.

    Args:
        image: ``[B, C, *image_spatial]``, float32.
        phi: ``[B, D, *spatial]``, normalised coordinates.
        padding: ``"border"`` or ``"zeros"``.

    Returns:
        ``[B, C, *spatial]``.
    """
    size, shape = image.shape[2:], phi.shape[2:]
    low, high, weights = [], [], []
    for axis, count in enumerate(size):
        place = ((2 * phi[:, axis].flatten(1) - 1) + 1) / 2 * (count - 1)  # rounded as torch rounds
        if padding == "border":  # beyond the border, and on it, nothing depends on the place
            inside = (place > 0) & (place < count - 1)
            place = torch.where(inside, place, place.detach().clamp(0, count - 1))
        start = place.detach().floor()
        low.append(start.long())
        high.append(low[-1] + 1)
        weights.append(place - start)
    values = image.flatten(2)
    result = torch.zeros((), device=image.device)
    for corner in product((False, True), repeat=len(size)):
        index, weight = torch.zeros_like(low[0]), torch.ones_like(weights[0])
        for axis, (count, upper) in enumerate(zip(size, corner, strict=True)):
            at = high[axis] if upper else low[axis]
            weight = weight * (weights[axis] if upper else 1 - weights[axis])
            weight = weight * ((at >= 0) & (at < count))
            index = index * count + at.clamp(0, count - 1)
        read = values.gather(2, index[:, None].expand(-1, values.shape[1], -1))
        result = result + weight[:, None] * read
    return result.reshape(*image.shape[:2], *shape)
