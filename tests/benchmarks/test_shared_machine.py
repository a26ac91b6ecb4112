"""The benchmark of a shared machine: what its rows run with, and that nothing of it stays."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import shared_machine

NAMES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def test_rows_run_in_their_environment_alone_and_beside_others(monkeypatch, capsys):
    seen, started = [], []

    class Process:
        def __init__(self, command):
            self.command = command
            started.append(self)

        def kill(self):
            started.remove(self)

        def wait(self):
            assert self not in started

    def run(function, *arguments):
        assert function is shared_machine.measure and arguments == (Path("run"), 4, 8)
        seen.append((len(started), *(os.environ.get(name) for name in NAMES)))
        return {"seconds": 1.0 + len(started), "threads": 2}

    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setattr(shared_machine, "subprocess", SimpleNamespace(Popen=Process))
    monkeypatch.setattr(shared_machine, "in_new_process", run)
    monkeypatch.setattr(shared_machine, "prepare", lambda *_: {"demo": Path("run")})
    monkeypatch.setattr(shared_machine, "available_cores", lambda: 2)
    figures = shared_machine.main(steps=4)
    assert os.environ["OMP_NUM_THREADS"] == "7" and not started
    assert [environment for others, *environment in seen if others == 2] == [
        ["1", None, None],
        ["2", None, None],
        ["2", "PASSIVE", "10000"],
        [None, None, None],
        [None, "PASSIVE", "10000"],
    ]
    assert [others for others, *_ in seen] == [0, 2] * 5
    assert figures["rows"][0] == {
        "": "one thread",
        "alone, s": 1.0,
        "alone, threads": 2,
        "beside other work, s": 3.0,
        "beside other work, threads": 2,
    }
    assert "by load, spinning briefly" in capsys.readouterr().out
