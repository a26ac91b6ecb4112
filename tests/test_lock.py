"""One process writes, others are told who."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from crosswarp.lock import LOCK, BusyError, Writer, one_writer

HOLD = """
import sys, time
from crosswarp.lock import Writer
writer = Writer(sys.argv[1])
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """Another process, which writes to the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]
    )
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()


def test_another_process_is_named_and_its_death_releases(other, tmp_path):
    with pytest.raises(
        BusyError, match=f"being written to by process {other.pid} of .* since 2.*: wait for it"
    ):
        Writer(tmp_path)
    assert (tmp_path / LOCK).stat().st_size == 0  # nobody tries the disk by writing to another one's lock
    start = time.monotonic()
    with pytest.raises(BusyError), one_writer(tmp_path, wait=0.3):
        pass
    assert 0.3 <= time.monotonic() - start < 5
    os.kill(other.pid, signal.SIGKILL)
    other.wait()
    with one_writer(tmp_path):
        assert (tmp_path / LOCK).exists()
    assert not list(tmp_path.iterdir())


def test_a_process_may_take_it_several_times(tmp_path):
    with one_writer(tmp_path), one_writer(tmp_path):
        first = Writer(tmp_path)
        del first
        assert (tmp_path / LOCK).exists()
    assert not list(tmp_path.iterdir())
