"""The same bits from the same seed, on a GPU too."""

from __future__ import annotations

import os

import torch


def use_deterministic(wanted: bool) -> None:
    """Let torch use deterministic algorithms alone, and raise an error where it has none.

    On a CPU a training gives the same bits anyhow, with the same number of threads. On a GPU sampling,
    pooling and cross entropy then take other ways, see ``spatial.deterministic``: slower, with more memory.

    Args:
        wanted: False leaves everything as it is.
    """
    if not wanted:
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True)
