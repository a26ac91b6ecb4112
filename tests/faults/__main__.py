"""Torment a miniature chain, and print what became of it: `python -m tests.faults --kills 200`."""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from .chain import Chain
from .process import warm_up
from .trials import COMMANDS, Table, Trials

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def main(arguments: list[str] | None = None) -> Table:
    """Run the trials that are asked for; prints and returns their table."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    for name, what in (
        ("kills", "SIGKILL at random moments of training, evaluation and packaging"),
        ("flips", "single bits of files, and cuts"),
        ("vanished", "files that are not there any more"),
        ("full", "disks that get full, and limits of a file's size, each so often"),
        ("clocks", "times of files in the future and the past"),
        ("two", "two processes at once"),
        ("signals", "SIGTERM, SIGINT and SIGHUP at random moments"),
    ):
        parser.add_argument(f"--{name}", type=int, default=0, help=what)
    parser.add_argument("--commands", default=",".join(COMMANDS), help="beside train, on a finished run")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder if not given")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="crosswarp_faults_", dir=given.folder) as folder:
        start = time.monotonic()
        warm_up()
        chain, table = Chain(Path(folder)), Table()
        chain.prepare(given.commands.split(","))
        print(f"seed {given.seed}; prepared in {time.monotonic() - start:.0f} s", flush=True)
        trials = Trials(chain, table, random.Random(given.seed), given.commands.split(","))
        trials.kills(given.kills)
        trials.damage(given.flips, ("flipped bits", "cuts"))
        trials.damage(given.vanished, ("vanished files",))
        trials.full(given.full)
        trials.clocks(given.clocks)
        trials.two(given.two)
        trials.kills(given.signals, STOPPING, "signals")
    print(table.text())
    print(f"{time.monotonic() - start:.0f} s, seed {given.seed}")
    return table


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(0 if main().good else 1)
