"""What the evaluation asks of a registration method, and the method of a run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..metrics import MeasuredImage
from ..networks import SegmentAndRegister


class RegistrationMethod(Protocol):
    """A way to register pairs of a source and a target image, to be measured.

    Images come on the networks' grid, the extents of a pair laid onto each other: the identity map is the
    pair as it is, unregistered. A method may have ``digest``, of what it has learnt, by which stored
    measurements are known to be of the same, ``failures``, the number of maps that it did not find, and
    ``device``, where it computes if not where the networks of the run do.
    """

    def unavailable(self) -> str | None:
        """Why the method cannot be used here, such as the name of a missing package; None where it can."""

    def load(self) -> None:
        """Make it ready, outside what is timed: read or train networks."""

    def prepare(self, image: MeasuredImage, modality: str) -> Any:
        """What the method needs of an image of the modality ``"source"`` or ``"target"``, once for each."""

    def register(self, moving: Sequence[Any], fixed: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """Register prepared images; the maps moving_to_fixed and fixed_to_moving, ``[B, D, *spatial]``."""


class LabelRegistration:
    """Registration through predicted labels, with the networks of a run.

    Args:
        network: segments and registers.
        target: the segmentation network for target images, ``"target"`` or ``"source"`` as it is.
    """

    def __init__(self, network: SegmentAndRegister, target: str = "target") -> None:
        self.network, self.networks = network, {"source": "source", "target": target}

    def unavailable(self) -> str | None:
        """Nothing is missing."""
        return None

    def load(self) -> None:
        """The network is given."""

    def prepare(self, image: MeasuredImage, modality: str) -> Tensor:
        """Class probabilities ``[K, *spatial]``, on the CPU."""
        device = next(self.network.parameters()).device
        return self.network.segment(image.image[None].to(device), self.networks[modality])[0].cpu()

    def register(self, moving: Sequence[Tensor], fixed: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Register class probabilities."""
        device = next(self.network.parameters()).device
        return self.network.register(
            torch.stack(list(moving)).to(device), torch.stack(list(fixed)).to(device)
        )


@dataclass
class Cost:
    """What a computation took.

    Attributes:
        seconds: wall-clock time.
        memory_mib: the most memory at any time: on a GPU that of its tensors, otherwise that of the whole
            process, libraries included; NaN where the system does not tell (it is Linux that does).
    """

    seconds: float = nan
    memory_mib: float = nan


@contextmanager
def measured_cost(device: torch.device) -> Iterator[Cost]:
    """Measure what is computed inside; the values are there afterwards."""
    on_gpu, process = device.type == "cuda", Path("/proc/self")
    if on_gpu:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):
            (process / "clear_refs").write_text("5")  # sets the peak back to what is in use now
    cost, start = Cost(), time.perf_counter()
    yield cost
    if on_gpu:
        torch.cuda.synchronize(device)
    cost.seconds = time.perf_counter() - start
    if on_gpu:
        cost.memory_mib = torch.cuda.max_memory_allocated(device) / 2**20
    else:
        with suppress(OSError):
            status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
            cost.memory_mib = int(status["VmHWM"].split()[0]) / 2**10
