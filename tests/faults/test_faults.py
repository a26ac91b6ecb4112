"""A short form of `make test-long`: some of every fault, at the same moments every time."""

from __future__ import annotations

import os
import subprocess
import sys

from .process import ROOT

FEW = {"kills": 3, "flips": 5, "vanished": 1, "full": 1, "clocks": 1, "two": 1, "signals": 1}


def test_nothing_is_lost() -> None:
    words = [word for name, count in FEW.items() for word in (f"--{name}", str(count))]
    command = [sys.executable, "-m", "tests.faults", "--seed", "4", "--commands", "train,evaluate,register"]
    command += words
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    everything = done.stdout.rpartition("| all | ")[2].split("|")
    assert int(everything[0]) >= sum(FEW.values()) and everything[3:5] == [" 0 ", " 0 "]
