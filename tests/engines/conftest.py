"""Every test draws the same random numbers in any order."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


class HostReads(TorchDispatchMode):
    """Counts what makes the host wait for a device: reading a value, or a shape that depends on values."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            self.found[str(function)] += 1
        return function(*args, **(kwargs or {}))


@pytest.fixture
def host_reads():
    mode = HostReads()
    with mode:
        torch.rand(2).sum().item()
        torch.rand(2).nonzero()
    assert mode.found.total() == 2  # it does see them
    mode.found.clear()
    return mode
