"""Speed, memory and operations of the training steps of each stage, and of the same steps written plainly.

    python benchmarks/stages.py --size 64 --batch_size 12

A step is what the trainer of the bundle does, drawing and augmenting the batch included; validation,
checkpoints, start-up and the target labels of stage 3 (made once per epoch) are not. Each row is measured in
processes of its own, in turns with those it is compared with. `plain` is benchmarks/plain.py with the
networks of the `paper` preset in float32; the last column is how many times as many images a second a row
trains on.
"""

from __future__ import annotations

import json
import logging
import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fire
import torch
from chain import train
from common import (
    STAGES,
    Row,
    default_device,
    in_new_process,
    in_turns,
    names,
    report,
    stage_workflow,
    synchronize,
)
from ignite.engine import Events
from plain import AdaptationStep, RegistrationStep, SegmentationStep
from torch.utils.flop_counter import FlopCounterMode

from crosswarp.commands.cohort import cohort

LIKE_PAPER = ("plain", "paper")
BLOCKS = 5  # the speed is the median of so many blocks of steps, waiting for a GPU after each


def prepare(
    folder: Path, size: int, presets: Sequence[str], device: str, datalist: str | None = None
) -> dict[str, Path]:
    """For each preset a run whose stages were trained for two steps of two images: networks to measure."""
    data = Path(datalist) if datalist else cohort(
        folder / "data", size, train_labelled=4, train_unlabelled=12, val=2, test=1, target_train=12,
        target_val=2, target_test=1,
    )  # fmt: skip
    short: dict[str, Any] = {"device": device, "source_segmentation#max_augmented_pairs": 24}
    short |= {"worsened_pairs": 0, "pose_recognition#examples": 0}
    for stage in STAGES:
        short |= {f"{stage}#max_epochs": 1, f"{stage}#steps_per_epoch": 2, f"{stage}#batch_size": 2}
    runs = {preset: folder / ("paper" if preset == "plain" else preset) for preset in presets}
    for run in set(runs.values()):
        train(data, run, run.name, short)
    return runs


class _Done(Exception):
    """Enough steps were timed."""


class _Clock:
    """Counts the operations of the first ``interval`` steps; after ``warmup`` of them, times blocks."""

    def __init__(self, warmup: int, steps: int, interval: int, device: str) -> None:
        self.interval, self.device = interval, device
        self.block = max(1, round(steps / BLOCKS / interval)) * interval  # whole intervals of translation
        self.first = max(warmup, interval)
        self.done = 0
        self.times: list[float] = []
        self.counter = FlopCounterMode(display=False)

    def start(self, *_: Any) -> None:
        """A step starts."""
        if self.done == 0:
            self.counter.__enter__()

    def stop(self, *_: Any) -> None:
        """A step ended.

        Raises:
            _Done: after the last one.
        """
        self.done += 1
        if self.done == self.interval:
            self.counter.__exit__(None, None, None)
        if self.done >= self.first and (self.done - self.first) % self.block == 0:
            synchronize(self.device)
            self.times.append(time.perf_counter())
        if len(self.times) > BLOCKS:
            raise _Done

    @property
    def seconds(self) -> float:
        """Time of a step."""
        blocks = [end - start for start, end in zip(self.times, self.times[1:], strict=False)]
        return statistics.median(blocks) / self.block

    @property
    def operations(self) -> float:
        """Operations of the convolutions and matrix products of a step, forward and backward."""
        return self.counter.get_total_flops() / self.interval


def measure(
    stage: str,
    preset: str,
    run: Path,
    batch_size: int,
    steps: int,
    warmup: int,
    device: str,
    threads: int | None = None,
    active: int | None = None,
) -> Row:
    """Measure a stage's steps; called in a process of its own.

    Args:
        stage: name of the stage.
        preset: `plain` or one of the stage's.
        run: a trained run with networks of that preset, its data beside it.
        batch_size: pairs or images in a step.
        steps: about how many are timed.
        warmup: steps before these.
        device: `cpu` or `cuda`.
        threads: of the CPU.
        active: steps of the registration network that take part.
    """
    logging.disable(logging.CRITICAL)
    if threads:
        torch.set_num_threads(threads)
    plain = preset == "plain"
    overrides: dict[str, Any] = {"batch_size": batch_size, "steps_per_epoch": 10_000, "device": device}
    overrides["max_epochs"] = 2 if active == 3 else 1  # the paper's fourth step joins after half the epochs
    if stage == "domain_adaptation" and preset not in LIKE_PAPER:
        overrides["self_training_start"] = 0
    if plain:
        overrides["memory_format"] = "$torch.contiguous_format"
    with tempfile.TemporaryDirectory() as temporary:
        for name in STAGES[: STAGES.index(stage)]:
            (Path(temporary) / name).symlink_to(run / name)
        datalist = json.loads((run / "run.json").read_text())["datalist"]
        parser = stage_workflow(
            stage, Path(temporary), datalist, "paper" if plain else preset, **overrides
        ).parser
        if plain and active:
            parser.get_parsed_content("network").active = active
        clock = _Clock(warmup, steps, parser.get("translation_interval", 1), device)
        try:
            if plain:
                step = plain_step(stage, parser)
                for batch in parser.get_parsed_content("train#loader"):
                    clock.start()
                    step(batch)
                    clock.stop()
            else:
                trainer = parser.get_parsed_content("train#trainer")
                trainer.add_event_handler(Events.ITERATION_STARTED, clock.start)
                trainer.add_event_handler(Events.ITERATION_COMPLETED, clock.stop)
                trainer.run()
        except _Done:
            pass
        if device.startswith("cuda"):
            memory = torch.cuda.max_memory_allocated() / 2**30
        else:
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        batches = iter(parser.get_parsed_content("train#loader"))
        next(batches)
        start = time.perf_counter()
        for _ in range(BLOCKS):
            next(batches)
        synchronize(device)
        drawing = (time.perf_counter() - start) / BLOCKS
    return {
        "stage": stage + (f" ({active} steps)" if active else ""),
        "preset": preset,
        "steps/s": 1 / clock.seconds,
        "images/s": batch_size * (2 if "registration" in stage else 1) / clock.seconds,
        "of a step, drawing ms": 1e3 * drawing,
        "memory GiB": memory,
        "GFLOP/step": clock.operations / 1e9,
    }


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
    datalist: str | None = None,
    batch_size: int = 12,
    steps: int = 10,
    warmup: int = 3,
    presets: str | tuple[str, ...] = "plain,paper,default,demo",
    stages: str | tuple[str, ...] = STAGES,
    device: str | None = None,
    threads: int | None = None,
    rounds: int = 3,
    out: str | None = None,
) -> dict[str, Any]:
    """Measure each stage under each preset.

    Args:
        size: of the synthetic knees.
        datalist: other data than these, 2D or 3D.
        batch_size: pairs or images in a step, the same for all.
        steps: about how many are timed, in whole intervals between translations.
        warmup: steps before these.
        presets: of `plain`, `paper`, `default`, `demo`.
        stages: names of stages.
        device: `cpu` or `cuda`; a GPU if there is one.
        threads: of the CPU.
        rounds: of measuring each preset in turn; the fastest counts.
        out: file for the figures as JSON.
    """
    device = device or default_device()
    arguments = locals().copy()
    if threads:
        torch.set_num_threads(threads)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        runs = prepare(Path(temporary), size, names(presets), device, datalist)
        for stage in names(stages):
            # the paper's stage 1 trains three steps of the network first, then a fourth
            for active in (3, 4) if stage == "registration_augmentation" else (None,):

                def row(preset: str, stage: str = stage, active: int | None = active) -> Row:
                    part = active if preset in LIKE_PAPER else None
                    return in_new_process(
                        measure, stage, preset, runs[preset], batch_size, steps, warmup, device, threads, part
                    )

                compared = [name for name in runs if active != 3 or name in LIKE_PAPER]
                rows += in_turns(rounds, compared, row, lambda row: row["images/s"])
    return report("stages", arguments, rows, out)


if __name__ == "__main__":
    fire.Fire(main, serialize=lambda _: None)
