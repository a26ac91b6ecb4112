"""Time of registering a pair of images: both segmented by networks, both directions.

    python benchmarks/pairs.py --size 256

`cold` is the first call after the networks were built, `warm` the median of many, `batch` the time of one
pair in a batch of them. `plain` is what a straightforward evaluation does with the `paper` preset's networks:
segment one image after the other, evaluate the whole loss of both directions, then the map once more.
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
from common import Row, report
from monai.losses import DiceLoss
from monai.networks.utils import one_hot
from plain import registration_loss
from stages import prepare
from torch import Tensor, nn

from crosswarp.pipeline import load_network


def plain_pair(network: nn.Module, images: Tensor) -> Tensor:
    """Segment and register a pair ``[1, 2, *spatial]`` plainly; the map on the grid."""
    moving, fixed = (
        network.segmentation[name](image).softmax(1)
        for name, image in zip(("source", "target"), images.split(1, dim=1), strict=True)
    )
    moving, fixed = (one_hot(label.argmax(1, keepdim=True), label.shape[1]) for label in (moving, fixed))
    return registration_loss(network.registration, moving, fixed, DiceLoss())[1]


def plain_pairs(network: nn.Module, images: Tensor) -> Tensor:
    """One pair after the other."""
    return torch.cat([plain_pair(network, pair) for pair in images.split(1)])


def seconds(call: Callable[[Tensor], Tensor], images: Tensor, device: str) -> float:
    """Time of one call."""
    start = time.perf_counter()
    call(images)
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main(
    size: int = 256,
    batch_size: int = 16,
    repeats: int = 10,
    presets: str | tuple[str, ...] = "plain,paper,default,demo",
    device: str | None = None,
    out: str | None = None,
) -> dict[str, Any]:
    """Measure each preset.

    Args:
        size: of the images, both axes.
        batch_size: pairs in a batch.
        repeats: calls that are timed.
        presets: of `plain`, `paper`, `default`, `demo`.
        device: `cpu` or `cuda`; a GPU if there is one.
        out: file for the figures as JSON.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    arguments = locals().copy()
    wanted = presets.split(",") if isinstance(presets, str) else list(presets)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        runs: dict[str, Path] = {}
        for preset in wanted:
            files = "paper" if preset == "plain" else preset
            if files not in runs:
                runs[files] = prepare(Path(temporary), size, files, device)
            network = load_network(runs[files], device)
            images = torch.rand(batch_size, 2, size, size, device=device)
            run = partial(plain_pairs, network) if preset == "plain" else network
            with torch.inference_mode():
                cold = seconds(run, images[:1], device)
                warm = statistics.median(seconds(run, images[:1], device) for _ in range(repeats))
                batch = min(seconds(run, images, device) for _ in range(2)) / batch_size
            row: Row = {
                "preset": preset,
                "cold ms": 1e3 * cold,
                "warm ms": 1e3 * warm,
                "batch ms": 1e3 * batch,
            }
            base = [r["warm ms"] for r in rows if r["preset"] == "plain"]
            row["× plain"] = base[0] / row["warm ms"] if base else None
            rows.append(row)
            print({k: round(v, 2) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
    return report("pairs", arguments, rows, out)


if __name__ == "__main__":
    fire.Fire(main, serialize=lambda _: None)
