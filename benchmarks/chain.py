"""Time and accuracy of the whole chain, as a user runs it, over several seeds.

    python benchmarks/chain.py --size 64 --preset demo --seeds 3
    python benchmarks/chain.py --budget_seconds 470 --size 256 --preset default

The time is that of the command that trains, from its start to its end; drawing the cohort and evaluating are
not part of it. Test labels are read by the evaluation alone.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import fire
from common import ROOT, STAGES, Row, report, spread

from crosswarp.commands.cohort import cohort


def train(datalist: Path, run_dir: Path, preset: str, overrides: Mapping[str, Any]) -> dict[str, float]:
    """Run the chain; return the seconds in all and of each stage."""
    configs = ["configs/train.json"]
    if (ROOT / "configs" / "presets" / f"{preset}.json").is_file():
        configs.append(f"configs/presets/{preset}.json")
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(configs)]
    for key, value in {"datalist": datalist.resolve(), "run_dir": run_dir.resolve(), **overrides}.items():
        command += [f"--{key}", str(value)]
    start = time.perf_counter()
    call(command, run_dir.with_suffix(".log"))
    seconds = {"total": time.perf_counter() - start}
    for stage in STAGES:
        seconds[stage] = json.loads((run_dir / stage / "manifest.json").read_text())["seconds"]
    return seconds


def call(command: list[str], log: Path) -> None:
    """Run a command; what it prints goes to the log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        code = subprocess.call(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, env=os.environ)
    if code:
        raise SystemExit(f"Expected the command to succeed, it ended with {code}: see {log}.")


def accuracy(run_dir: Path) -> dict[str, float]:
    """Mean Dice by network or direction, in all and by class, and folds, from the run's evaluation."""
    call([sys.executable, "-m", "crosswarp", "evaluate", "--run", str(run_dir)], run_dir.with_suffix(".log"))
    values: dict[str, list[float]] = defaultdict(list)
    with (run_dir / "evaluation" / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            if row["kind"] == "segmentation":
                group = row["network"]
            else:
                group = row["direction"]
                if row["unregistered_dice"]:
                    values["unregistered"].append(float(row["unregistered_dice"]))
                if row["folds_percent"]:
                    values["folds %"].append(float(row["folds_percent"]))
            if row["dice"]:
                values[group].append(float(row["dice"]))
                values[f"{group} {row['class']}"].append(float(row["dice"]))
    return {name: mean(numbers) for name, numbers in values.items()}


def scale_epochs(
    epochs: Mapping[str, int], probe: Mapping[str, tuple[float, float]], seconds: float
) -> dict[str, int]:
    """Epochs of each stage, in the preset's proportions, so that the chain takes the given time.

    Args:
        epochs: of the preset.
        probe: of each stage, seconds that do not depend on epochs and seconds of one epoch.
        seconds: for the chain.
    """
    fixed = sum(probe[stage][0] for stage in epochs)
    variable = sum(probe[stage][1] * count for stage, count in epochs.items())
    factor = max(0.0, seconds - fixed) / variable
    return {stage: max(1, int(factor * count)) for stage, count in epochs.items()}


def preset_epochs(stage: str, preset: str) -> int:
    """Epochs that a stage trains under a preset."""
    folder = ROOT / "bundles" / stage / "configs"
    overlay = folder / "presets" / f"{preset}.json"
    values = json.loads((folder / "train.json").read_text())
    return (values | (json.loads(overlay.read_text()) if overlay.is_file() else {}))["max_epochs"]


def fit_budget(
    datalist: Path, folder: Path, preset: str, overrides: Mapping[str, Any], seconds: float
) -> dict[str, int]:
    """Overrides of ``max_epochs`` so that the chain takes 0.9 of a time, by runs of one and of two epochs."""
    times = []
    for count in (1, 2):
        short = {f"{stage}#max_epochs": count for stage in STAGES}
        times.append(train(datalist, folder / f"probe_{count}", preset, {**overrides, **short}))
    one, two = times
    start = one["total"] - sum(one[stage] for stage in STAGES)
    probe = {}
    for stage in STAGES:
        each = max(two[stage] - one[stage], 1e-3)
        probe[stage] = (max(one[stage] - each, 0.0) + start / len(STAGES), each)
    epochs = {stage: preset_epochs(stage, preset) for stage in STAGES}
    return {f"{stage}#max_epochs": n for stage, n in scale_epochs(epochs, probe, 0.9 * seconds).items()}


def main(
    size: int = 64,
    preset: str = "demo",
    seeds: int = 3,
    budget_seconds: float | None = None,
    datalist: str | None = None,
    cohort_seed: int = 0,
    folder: str | None = None,
    out: str | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """Train and evaluate the chain with each seed.

    Args:
        size: of the synthetic knees.
        preset: `demo`, `default` or `paper`.
        seeds: how many; 0, 1, ....
        budget_seconds: time for the training command; the stages' epochs are scaled to it.
        datalist: other data than the synthetic knees.
        cohort_seed: which knees.
        folder: where the runs are kept; a temporary one otherwise.
        out: file for the figures as JSON.
        overrides: ids of the chain's config, those of a stage as `--<stage>#<id> value`.
    """
    arguments = locals().copy()
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(folder or temporary).resolve()
        data = Path(datalist) if datalist else cohort(place / "data", size, cohort_seed)
        if budget_seconds:
            overrides |= fit_budget(data, place, preset, overrides, budget_seconds)
        rows: list[Row] = []
        for seed in range(seeds):
            run_dir = place / f"seed_{seed}"
            seconds = train(data, run_dir, preset, {**overrides, "seed": seed})
            rows.append({"seed": seed} | {f"{key} s": value for key, value in seconds.items()})
            rows[-1] |= accuracy(run_dir)
            print({key: round(value, 3) for key, value in rows[-1].items()}, flush=True)
    table = [
        {"": key}
        | {f"seed {row['seed']}": row[key] for row in rows}
        | {"mean": spread([r[key] for r in rows])}
        for key in list(rows[0])[1:]
    ]
    return report("chain", arguments, table, out, seeds=rows, overrides=overrides)


if __name__ == "__main__":
    fire.Fire(main, serialize=lambda _: None)
