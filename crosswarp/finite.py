"""NaN and infinity, found before they do harm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


class NonFiniteError(ValueError):
    """NaN or infinity, where only numbers make sense."""


def is_finite(values: Tensor) -> bool:
    """Whether all values are numbers; reads the device once, and passes over them once if they are."""
    values = values.detach()
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())  # a sum may overflow


def tensors_of(state: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The floating point tensors of nested dictionaries and lists, such as a `state_dict`, by name."""
    if isinstance(state, Tensor):
        if state.is_floating_point():
            yield name, state.detach()
    elif isinstance(state, Mapping | list | tuple):
        for key, value in state.items() if isinstance(state, Mapping) else enumerate(state):
            yield from tensors_of(value, f"{name}.{key}" if name else str(key))


def non_finite(state: Any) -> list[str]:
    """Name the tensors of a state that hold NaN or infinity.

    Where all is well, each device is read once, however many tensors there are.

    Args:
        state: nested dictionaries and lists, see :func:`tensors_of`.
    """
    tensors = dict(tensors_of(state))
    sums: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors.values():
        sums.setdefault(tensor.device, []).append(tensor.sum(dtype=torch.float32))
    if all(is_finite(torch.stack(each)) for each in sums.values()):
        return []
    return [name for name, tensor in tensors.items() if not is_finite(tensor)]
