"""How many threads a stage computes with on the CPU, on a machine that others use too.

The threads of a step wait for each other a thousand times. Where something else takes a core for a while, all
of them wait for the one that has none, and two threads are several times slower than one.
"""

from __future__ import annotations

import logging
import math
import os
import time
from functools import cache
from pathlib import Path

import torch
from torch.nn import functional

logger = logging.getLogger(__name__)

WINDOW = 0.05  # seconds that a measurement computes with a number of threads, twice
GAIN = 1.25  # fewer threads have to be faster by this factor: alone, nothing changes


def choose_threads(recorded: int | None = None) -> int:
    """Let torch compute with as many threads as are fastest now: all, half of them, ..., or one.

    Sums have another order with another number of threads. A stage therefore keeps the number that it began
    with, also where it goes on after an interruption: it ends with the same bits. Measuring takes some tenths
    of a second. Whoever sets ``OMP_NUM_THREADS`` has chosen.

    Args:
        recorded: what the stage began with; None to measure.

    Returns:
        the number of threads.
    """
    most = all_threads()
    if "OMP_NUM_THREADS" in os.environ or most == 1:
        return torch.get_num_threads()
    if recorded is not None:
        torch.set_num_threads(min(recorded, most))
        return torch.get_num_threads()
    speeds = dict.fromkeys(halves(most), 0.0)
    for count in (*speeds, *reversed(speeds)):  # both ways: load may come and go meanwhile
        speeds[count] += speed(count)
    best = max(speeds, key=lambda count: speeds[count])
    chosen = best if speeds[best] > GAIN * speeds[most] else most
    torch.set_num_threads(chosen)
    if chosen < most:
        logger.info(f"  computes with {chosen} of {most} threads: others work on this machine")
    return chosen


@cache
def all_threads() -> int:
    """The threads that torch has before any are chosen, and no more than there are cores for."""
    return min(torch.get_num_threads(), available_cores())


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
