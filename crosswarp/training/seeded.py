"""Random numbers of a seed of their own, which leave all others as they are."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Python's and torch's random numbers from a seed, within; afterwards they go on as before.

    Args:
        seed: of both.
        device: a GPU whose numbers are to be of the seed, too.
    """
    device, before = torch.device(device), random.getstate()
    on_gpu = device.type == "cuda"
    try:
        with torch.random.fork_rng(devices=[device] if on_gpu else []):
            torch.random.default_generator.manual_seed(seed)
            if on_gpu:
                torch.cuda.manual_seed(seed)
            random.seed(seed)
            yield
    finally:
        random.setstate(before)
