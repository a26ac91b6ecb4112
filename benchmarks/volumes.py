"""Time and memory of registering a pair of large volumes, as `register` does it, step by step.

    python benchmarks/volumes.py --size 256

Volumes of smooth noise, seen on a grid of 64³ points by networks in miniature with random weights: what is
measured is what happens on the volumes' own grids, from reading to the last file. Importing libraries is not
part of it. Memory is the process's peak, libraries included.
"""

from __future__ import annotations

import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import fire
import monai.transforms.compose
import nibabel as nib
import numpy as np
import torch
from common import Row, in_new_process, report
from scipy.ndimage import zoom

from crosswarp import load
from crosswarp.runs.config import verbatim
from crosswarp.terminal import silence_others
from tests.cohorts import write_blob_cohort
from tests.trained_run import write_trained_run

GRID = (64, 64, 64)


def draw(path: Path, size: int, seed: int) -> Path:
    """Write a volume of smooth noise under fine noise, as a scanner stores it."""
    rng = np.random.default_rng(seed)
    coarse = zoom(rng.random((16,) * 3, dtype=np.float32), size / 16, order=1)
    values = 1000 * coarse + rng.normal(0, 20, coarse.shape)
    nib.save(nib.Nifti1Image(values.clip(0).astype(np.int16), np.diag([-0.8, -0.8, 0.8, 1])), path)
    return path


def measure(run: Path, moving: Path, fixed: Path, out: Path, threads: int) -> Row:
    """Register a pair in this process: seconds of each step of the config, and of all."""
    torch.set_num_threads(threads)
    silence_others()
    place = {"moving": moving, "fixed": fixed, "output_dir": out}
    registrar = load(run, **verbatim(place | {"moving_modality": "source", "fixed_modality": "target"}))
    seconds: dict[str, float] = {}
    apply = monai.transforms.compose.apply_transform

    def timed(transform: Any, *arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        result = apply(transform, *arguments, **options)
        name = type(transform).__name__
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
        return result

    monai.transforms.compose.apply_transform = timed  # type: ignore[attr-defined]
    start, before = time.perf_counter(), time.process_time()
    registrar.register_files()
    row = {"seconds": time.perf_counter() - start, "CPU seconds": time.process_time() - before}
    row["memory GiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    longest = sorted(seconds.items(), key=lambda each: -each[1])
    return {**row, **{name: value for name, value in longest if value > 0.02 * row["seconds"]}}


def main(size: int = 256, rounds: int = 2, threads: int = 2, out: str | None = None) -> dict[str, Any]:
    """Measure.

    Args:
        size: voxels along each axis.
        rounds: the fastest counts.
        threads: of the CPU.
        out: file for the figures as JSON.
    """
    arguments = {"size": size, "rounds": rounds, "threads": threads, "device": "cpu"}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = write_blob_cohort(folder / "data", spatial_dims=3, spatial_size=GRID)
        run = write_trained_run(folder / "run", data, deformation=0.05, worsened_pairs=0)
        pair = [draw(folder / f"{name}.nii.gz", size, seed) for seed, name in enumerate(("moving", "fixed"))]
        rows = [
            in_new_process(measure, run, *pair, folder / f"out{number}", threads) for number in range(rounds)
        ]
    best = min(rows, key=lambda row: row["seconds"])
    return report("volumes", arguments, [{"step": name, "value": value} for name, value in best.items()], out)


if __name__ == "__main__":
    fire.Fire(main, serialize=lambda _: None)
