"""Speed, memory and operations of the training steps of each stage, and of the same steps written plainly.

    python benchmarks/stages.py --size 64 --batch_size 12

A step is what the trainer of the bundle does, drawing and augmenting the batch included; validation,
checkpoints, start-up and the target labels of stage 3 (made once per epoch) are not. Each row is measured in
a process of its own. `plain` is benchmarks/plain.py with the networks of the `paper` preset in float32; the
last column is how many times as many images a second a row trains on.
"""

from __future__ import annotations

import logging
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import fire
import torch
from chain import train
from common import STAGES, Row, report, stage_workflow
from ignite.engine import Events
from plain import AdaptationStep, RegistrationStep, SegmentationStep
from torch.utils.flop_counter import FlopCounterMode

from crosswarp.data import write_knee_cohort


class _Done(Exception):
    """Enough steps were timed."""


def prepare(folder: Path, size: int, preset: str, device: str) -> Path:
    """A run with all stages, each trained for one step of two images: networks to measure with."""
    data = write_knee_cohort(
        folder / "data", size, train_labelled=4, train_unlabelled=12, val=2, test=1, target_train=12,
        target_val=2, target_test=1,
    )  # fmt: skip
    run = folder / preset
    short: dict[str, Any] = {"device": device, "source_segmentation#max_augmented_pairs": 24}
    for stage in STAGES:
        short |= {f"{stage}#max_epochs": 1, f"{stage}#steps_per_epoch": 2, f"{stage}#batch_size": 2}
    train(data, run, preset, short)
    return run


def measure(
    stage: str,
    preset: str,
    run: str,
    batch_size: int,
    steps: int,
    warmup: int,
    device: str,
    active: int | None,
) -> Row:
    """Time a stage's steps; called in a process of its own."""
    logging.disable(logging.CRITICAL)
    plain = preset == "plain"
    with tempfile.TemporaryDirectory() as temporary:
        for name in STAGES[: STAGES.index(stage)]:
            (Path(temporary) / name).symlink_to(Path(run) / name)
        overrides: dict[str, Any] = {"batch_size": batch_size, "max_epochs": 1, "device": device}
        if stage == "domain_adaptation" and not plain and preset != "paper":
            overrides["self_training_start"] = 0
        overrides["steps_per_epoch"] = 1000
        files = "paper" if plain else preset
        parser = stage_workflow(stage, Path(temporary), Path(run).parent / "data" / "datalist.json", files,
                                **overrides).parser  # fmt: skip
        network = parser.get_parsed_content("network")
        if active:
            network.active = active
        interval = parser.get("translation_interval", 1)
        steps = -(-steps // interval) * interval  # whole intervals between translations
        warmup = max(warmup, interval)
        clock = _Clock(warmup, steps, interval, device)
        if plain:
            step = plain_step(stage, parser)
            loader = parser.get_parsed_content("train#loader")
            try:
                for batch in loader:
                    clock.start()
                    step(batch)
                    clock.stop()
            except _Done:
                pass
        else:
            trainer = parser.get_parsed_content("train#trainer")
            trainer.add_event_handler(Events.ITERATION_STARTED, clock.start)
            trainer.add_event_handler(Events.ITERATION_COMPLETED, clock.stop)
            try:
                trainer.run()
            except _Done:
                pass
    seconds = (clock.times[-1] - clock.times[warmup - 1]) / steps
    if device.startswith("cuda"):
        memory = torch.cuda.max_memory_allocated() / 2**30
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        "stage": stage + (f" ({active} steps)" if active else ""),
        "preset": preset,
        "steps/s": 1 / seconds,
        "images/s": batch_size * (2 if "registration" in stage else 1) / seconds,
        "memory GiB": memory,
        "GFLOP/step": clock.operations / 1e9,
    }


class _Clock:
    """The times at which steps end, and the mean number of operations of the first ``counted`` steps."""

    def __init__(self, warmup: int, steps: int, counted: int, device: str) -> None:
        self.warmup, self.steps, self.counted, self.device = warmup, steps, counted, device
        self.times: list[float] = []
        self.counter = FlopCounterMode(display=False)

    def start(self, *_: Any) -> None:
        if not self.times:
            self.counter.__enter__()

    def stop(self, *_: Any) -> None:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())
        if len(self.times) == self.counted:
            self.counter.__exit__(None, None, None)
        if len(self.times) == self.warmup + self.steps:
            raise _Done

    @property
    def operations(self) -> float:
        """Operations of a step."""
        return self.counter.get_total_flops() / self.counted


def plain_step(stage: str, parser: Any) -> Any:
    """The plain step of a stage with the networks of a config."""
    network, rate = parser.get_parsed_content("network"), float(parser["learning_rate"])
    if stage == "source_segmentation":
        return SegmentationStep(network, rate)
    if stage == "domain_adaptation":
        generators, discriminators, source = (
            parser.get_parsed_content(key) for key in ("generators", "discriminators", "source_segmentation")
        )
        networks = {"source_segmentation": source, "target_segmentation": network}
        return AdaptationStep(
            {**networks, **generators, **discriminators}, parser.get_parsed_content("weights"), rate
        )
    classes = parser.get_parsed_content("num_classes") if stage == "multimodal_registration" else None
    return RegistrationStep(network, rate, classes)


def main(
    size: int = 64,
    batch_size: int = 12,
    steps: int = 10,
    warmup: int = 2,
    presets: str | tuple[str, ...] = "plain,paper,default,demo",
    stages: str | tuple[str, ...] = ",".join(STAGES),
    device: str | None = None,
    out: str | None = None,
) -> dict[str, Any]:
    """Measure each stage under each preset.

    Args:
        size: of the synthetic knees.
        batch_size: pairs or images in a step, the same for all.
        steps: steps that are timed.
        warmup: steps before these.
        presets: of `plain`, `paper`, `default`, `demo`.
        stages: names of stages.
        device: `cpu` or `cuda`; a GPU if there is one.
        out: file for the figures as JSON.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    arguments = locals().copy()
    wanted, names = (v.split(",") if isinstance(v, str) else list(v) for v in (presets, stages))
    rows: list[Row] = []
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as temporary:
        runs: dict[str, Path] = {}
        for stage in names:
            parts = (3, 4) if stage == "registration_augmentation" else (None,)
            for active in parts:
                for preset in wanted:
                    if active == 3 and preset not in ("plain", "paper"):
                        continue
                    files = "paper" if preset == "plain" else preset
                    if files not in runs:
                        runs[files] = prepare(Path(temporary), size, files, device)
                    part = active if preset in ("plain", "paper") else None
                    with context.Pool(1) as pool:
                        row = pool.apply(
                            measure,
                            (stage, preset, str(runs[files]), batch_size, steps, warmup, device, part),
                        )
                    base = [r for r in rows if r["preset"] == "plain" and r["stage"].startswith(stage)]
                    row["× plain"] = row["images/s"] / base[-1]["images/s"] if base else None
                    rows.append(row)
                    print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
    return report("stages", arguments, rows, out)


if __name__ == "__main__":
    fire.Fire(main, serialize=lambda _: None)
