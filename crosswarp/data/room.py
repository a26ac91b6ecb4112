"""What is prepared lies in memory up to a limit; what is beyond it lies in files, mapped into memory.

The system keeps of mapped files what there is memory for. They have no name, and vanish with the process,
however it ends.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

GIB = 2**30
TRIMMED = 2**24  # bytes that are moved, from one return of what they leave to the next


class Room:
    """How much may lie in memory, and does: of this process, as what is prepared is shared within it."""

    limit = 8.0 * GIB
    used = 0
    moved = 0
    folder: Path | None = None  # of the files; None for the system's


def limit_memory(gib: float, folder: str | Path | None = None) -> None:
    """Set the limit for what is prepared from now on.

    Args:
        gib: GiB of prepared images, labels and predictions that may lie in memory.
        folder: where the files of the others are; it needs that much space.
    """
    Room.limit, Room.folder = gib * GIB, None if folder is None else Path(folder)


def roomy(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Zeros of a shape, in memory where there is room, else in a mapped file.

    Raises:
        OSError: where the disk has no space for the file.
    """
    kind = _kind(dtype)
    size = prod(shape) * kind.itemsize
    if Room.used + size > Room.limit and size:
        return torch.from_numpy(_mapped(shape, kind, size))
    array = np.zeros(shape, kind)
    _count(array, size)
    return torch.from_numpy(array)


def placed(item: Mapping[Any, Any], owner: Any = None) -> dict[Any, Any]:
    """An item whose tensors lie in memory where there is room for them, else in mapped files.

    Args:
        item: a sample, tensors by key and more.
        owner: as long as it lives the tensors count as being in memory; None for the tensors' own lives.
    """
    tensors = {key: value for key, value in item.items() if isinstance(value, Tensor) and value.is_cpu}
    size = sum(value.nbytes for value in tensors.values())
    if Room.used + size <= Room.limit:
        for value in [owner] if owner is not None else tensors.values():
            _count(value, size if owner is not None else value.nbytes)
        return dict(item)
    return {**item, **{key: _moved(value) for key, value in tensors.items()}}


def _moved(value: Tensor) -> Tensor:
    plain = value.as_subclass(Tensor).detach()
    if not plain.nbytes:
        return value
    moved = torch.from_numpy(_mapped(plain.shape, _kind(plain.dtype), plain.nbytes)).copy_(plain)
    _return_what_is_left(plain.nbytes)
    return MetaTensor(moved).copy_meta_from(value) if isinstance(value, MetaTensor) else moved


def _kind(dtype: torch.dtype) -> np.dtype:
    return torch.empty(0, dtype=dtype).numpy().dtype


def _mapped(shape: Sequence[int], kind: np.dtype, size: int) -> np.ndarray:
    with TemporaryFile(dir=Room.folder) as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)  # a disk that is full says so now, not by a signal
        return np.memmap(file, kind, "r+", shape=tuple(shape))


def _return_what_is_left(size: int) -> None:
    """Let the C library give back what moved tensors leave, which small objects in between would keep."""
    Room.moved += size
    if Room.moved >= TRIMMED and os.name == "posix":
        Room.moved = 0
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
        if trim is not None:
            trim(0)


def _count(owner: Any, size: int) -> None:
    Room.used += size
    weakref.finalize(owner, _release, size)


def _release(size: int) -> None:
    Room.used -= size
