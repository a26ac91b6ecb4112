"""How many threads a training on the CPU computes with, on a machine that others use too.

The threads of a step wait for each other a thousand times. Where something else takes a core for a while, all
of them wait for the one that has none, and two threads are several times slower than one.
"""

from __future__ import annotations

import logging
import math
import os
import time
from pathlib import Path

import torch
from ignite.engine import Engine, Events
from torch.nn import functional

logger = logging.getLogger(__name__)

INTERVAL = 15.0  # seconds between two measurements
WINDOW = 0.05  # seconds that a measurement computes with a number of threads, twice
GAIN = 1.1  # another number has to be faster by this factor


class ThreadsByLoad:
    """Lets torch compute with as many threads as are fastest at present: all, half of them, ..., or one.

    It measures when a training starts and every quarter of a minute after that, for some tenths of a second.
    On a machine of one's own nothing changes. Sums have another order with another number of threads, so that
    a training is repeated to the bit where each epoch has the same number. Whoever sets ``OMP_NUM_THREADS``
    has chosen it for good.
    """

    def __init__(self) -> None:
        self.most = min(torch.get_num_threads(), available_cores())
        self.fixed = self.most == 1 or "OMP_NUM_THREADS" in os.environ
        self.due = -math.inf

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.ITERATION_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Measure, if it is time to."""
        device = getattr(engine.state, "device", None)
        if not self.fixed and device is not None and torch.device(device).type == "cpu":
            self.fit()

    def fit(self) -> None:
        """Choose the number of threads, if it is time to."""
        if self.fixed or time.monotonic() < self.due:
            return
        current = min(torch.get_num_threads(), self.most)
        counts = [current, *(n for n in halves(self.most) if n != current)]
        speeds = dict.fromkeys(counts, 0.0)
        for count in (*counts, *reversed(counts)):  # both ways: load may come and go meanwhile
            speeds[count] += speed(count)
        best = max(counts, key=lambda count: speeds[count])
        chosen = best if speeds[best] > GAIN * speeds[current] else current
        torch.set_num_threads(chosen)
        if chosen != current:
            why = "others work on this machine" if chosen < current else "they are free again"
            logger.info(f"  computes with {chosen} of {self.most} threads: {why}")
        self.due = time.monotonic() + INTERVAL


def halves(count: int) -> list[int]:
    """A number, half of it, and so on to one."""
    return [count] if count == 1 else [count, *halves(count // 2)]


def speed(threads: int) -> float:
    """Steps in a second, of a small convolution there and back, with a number of threads."""
    torch.set_num_threads(threads)
    image, weight = torch.ones(8, 16, 48, 48), torch.ones(16, 16, 3, 3, requires_grad=True)
    steps, start = 0, time.perf_counter()
    with torch.enable_grad():
        while time.perf_counter() - start < WINDOW:
            functional.conv2d(image, weight, padding=1).relu().mean().backward()
            steps += 1
    return steps / (time.perf_counter() - start)


def available_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """The cores that this process may use: those it is bound to, and its share of time on them.

    Args:
        cgroup: where Linux says of a container's share.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    version_2, version_1 = cgroup / "cpu.max", cgroup / "cpu" / "cpu.cfs_quota_us"
    try:
        if version_2.is_file():
            quota, period = version_2.read_text().split()
        else:
            quota, period = version_1.read_text(), version_1.with_name("cpu.cfs_period_us").read_text()
        share = int(quota) / int(period)
    except (OSError, ValueError):  # nothing is said, or "max"
        share = -1.0
    return max(1, min(bound, math.ceil(share))) if share > 0 else bound
