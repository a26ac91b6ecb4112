"""Time of registering a pair of images: both segmented by networks, both directions, by the bundle's inferer.

    python benchmarks/pairs.py --size 256

`cold` is the first call in a process after the networks were built, `warm` the median of many, `batch` the
time of one pair in a batch of them. `plain` is what a straightforward evaluation does with the `paper`
preset's networks: segment one image after the other, evaluate the whole loss of both directions, then the map
once more.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import fire
import torch
from common import Row, default_device, in_new_process, in_turns, names, report, synchronize
from monai.losses import DiceLoss
from monai.networks.utils import one_hot
from plain import registration_loss
from stages import prepare
from torch import Tensor

from crosswarp.runs.bundle import INFERENCE, load_network
from crosswarp.runs.config import read_config
from crosswarp.spatial import identity_map


def plain_pair(network: Any, images: Tensor) -> Tensor:
    """Segment and register a pair ``[1, 2, H, W]`` plainly; the map moving_to_fixed on the grid."""
    labels = []
    for name, image in zip(("source", "target"), images.split(1, dim=1), strict=True):
        logits = network.segmentation[name](image)
        labels.append(one_hot(logits.argmax(1, keepdim=True), logits.shape[1]))
    moving, fixed = labels
    _, phi = registration_loss(network.registration, moving, fixed, DiceLoss())
    return phi(identity_map(images.shape[2:], images.device))


def plain_pairs(network: Any, images: Tensor) -> Tensor:
    """One pair after the other."""
    return torch.cat([plain_pair(network, pair) for pair in images.split(1)])


def measure(
    preset: str, run: Path, size: int, batch_size: int, repeats: int, device: str, threads: int | None = None
) -> Row:
    """Time a run's networks; called in a process of its own."""
    if threads:
        torch.set_num_threads(threads)
    network = load_network(run, device)
    if preset == "plain":
        register: Callable[[Tensor], Tensor] = partial(plain_pairs, network)
    else:
        config = read_config(run / INFERENCE)
        config["device"] = f"$torch.device('{device}')"
        layout = config.get_parsed_content("memory_format")
        network = network.to(memory_format=layout)  # type: ignore[call-overload]  # torch's stubs lack it
        register = partial(config.get_parsed_content("inferer"), network=network)
    images = torch.rand(batch_size, 2, size, size, device=device)

    def seconds(images: Tensor) -> float:
        synchronize(device)
        start = time.perf_counter()
        register(images)
        synchronize(device)
        return time.perf_counter() - start

    with torch.inference_mode():
        cold = seconds(images[:1])
        warm = statistics.median(seconds(images[:1]) for _ in range(repeats))
        seconds(images)
        batch = statistics.median(seconds(images) for _ in range(3)) / batch_size
    return {
        "device": device,
        "preset": preset,
        "cold ms": 1e3 * cold,
        "warm ms": 1e3 * warm,
        "batch ms": 1e3 * batch,
        "pairs/s": 1 / batch,
    }


def main(
    size: int = 256,
    batch_size: int = 16,
    repeats: int = 20,
    presets: str | tuple[str, ...] = "plain,paper,default,demo",
    device: str | None = None,
    threads: int | None = None,
    rounds: int = 3,
    out: str | None = None,
) -> dict[str, Any]:
    """Measure each preset, on the CPU and, if there is one, on the GPU.

    Args:
        size: of the images, both axes.
        batch_size: pairs in a batch.
        repeats: calls that are timed.
        presets: of `plain`, `paper`, `default`, `demo`.
        device: `cpu` or `cuda` alone.
        threads: of the CPU.
        rounds: of measuring each preset in turn; the fastest counts.
        out: file for the figures as JSON.
    """
    arguments = locals().copy()
    if threads:
        torch.set_num_threads(threads)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        # the networks take images of any size
        runs = prepare(Path(temporary), 64, names(presets), device or default_device())
        for place in [device] if device else sorted({"cpu", default_device()}):

            def row(preset: str, place: str = place) -> Row:
                return in_new_process(
                    measure, preset, runs[preset], size, batch_size, repeats, place, threads
                )

            rows += in_turns(rounds, list(runs), row, lambda row: 1 / row["warm ms"])
    return report("pairs", arguments, rows, out)


if __name__ == "__main__":
    fire.Fire(main, serialize=lambda _: None)
