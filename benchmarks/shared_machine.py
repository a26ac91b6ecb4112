"""An epoch of stage 3 beside another process of low priority, by how many threads compute and how they wait.

    python benchmarks/shared_machine.py --size 128 --steps 50

The other process computes on every core, at the lowest priority. `by load` is what a training does by itself:
`monai.bundle run` with torch's own waiting, `crosswarp train` with brief spinning. Each row is measured in a
process of its own, in turns with the others; the fastest of the rounds counts.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fire
import torch
from common import Row, in_new_process, report, stage_workflow
from ignite.engine import Events
from stages import prepare

from crosswarp.__main__ import WAITING
from crosswarp.training.threads import available_cores

BUSY = "while True: sum(range(10**6))"


def settings(cores: int) -> dict[str, dict[str, str]]:
    """The environment of each row."""
    every = {"OMP_NUM_THREADS": str(cores)}
    return {
        "one thread": {"OMP_NUM_THREADS": "1"},
        "all threads": every,
        "all threads, spinning briefly": every | WAITING,
        "by load": {},
        "by load, spinning briefly": dict(WAITING),
    }


@contextmanager
def other_work(cores: int) -> Iterator[None]:
    """Processes that compute on every core at the lowest priority."""
    command = ["nice", "-n", "19", sys.executable, "-c", BUSY]
    others = [subprocess.Popen(command) for _ in range(cores)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """What the threads of new processes go by, and nothing else of the kind."""
    names = ("OMP_NUM_THREADS", *WAITING)
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            del os.environ[name]
        os.environ.update(before)


def measure(run: Path, steps: int, batch_size: int) -> Row:
    """Train two epochs of stage 3; the seconds of the second, and its threads. Called in a new process."""
    shutil.rmtree(run / "domain_adaptation" / "checkpoints", ignore_errors=True)  # of the row before
    data = run.parent / "data" / "datalist.json"
    overrides = {"batch_size": batch_size, "steps_per_epoch": steps, "max_epochs": 2, "device": "cpu"}
    workflow = stage_workflow("domain_adaptation", run, data, "demo", self_training_start=0, **overrides)
    trainer = workflow.parser.get_parsed_content("train#trainer")
    times: list[float] = []
    for event in (Events.EPOCH_STARTED(once=2), Events.EPOCH_COMPLETED(once=2)):
        trainer.add_event_handler(event, lambda _: times.append(time.perf_counter()))
    trainer.run()
    return {"seconds": times[1] - times[0], "threads": torch.get_num_threads()}


def main(
    size: int = 128, steps: int = 50, batch_size: int = 8, rounds: int = 1, out: str | None = None
) -> dict[str, Any]:
    """Measure an epoch, alone and beside other work.

    Args:
        size: of the synthetic knees.
        steps: of an epoch.
        batch_size: images of each modality in a step.
        rounds: of measuring each row in turn.
        out: file for the figures as JSON.
    """
    arguments = locals().copy()
    cores = available_cores()
    rows: dict[str, Row] = {name: {"": name} for name in settings(cores)}
    with tempfile.TemporaryDirectory() as temporary:
        run = prepare(Path(temporary), size, ["demo"], "cpu")["demo"]
        for _ in range(rounds):
            for name, values in settings(cores).items():
                for state, others in (("alone", 0), ("beside other work", cores)):
                    with environment(values), other_work(others):
                        row = in_new_process(measure, run, steps, batch_size)
                    if row["seconds"] < rows[name].get(f"{state}, s", float("inf")):
                        rows[name] |= {f"{state}, s": row["seconds"], f"{state}, threads": row["threads"]}
                    print(name, state, row, flush=True)
    return report("shared_machine", arguments, list(rows.values()), out)


if __name__ == "__main__":
    fire.Fire(main, serialize=lambda _: None)
