"""The number of threads follows what is measured; the machine is made of numbers here."""

from __future__ import annotations

import os

import pytest
import torch
from ignite.engine import Engine

from crosswarp.training import threads
from crosswarp.training.threads import ThreadsByLoad, available_cores, halves


class Machine:
    """Cores on which others may work: how fast steps are with a number of threads."""

    def __init__(self, monkeypatch, cores=4):
        self.speeds, self.threads, self.now, self.measured = {}, cores, 0.0, []
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        monkeypatch.setattr(threads, "available_cores", lambda: cores)
        monkeypatch.setattr(torch, "get_num_threads", lambda: self.threads)
        monkeypatch.setattr(torch, "set_num_threads", self.set)
        monkeypatch.setattr(threads, "speed", self.speed)
        monkeypatch.setattr(threads.time, "monotonic", lambda: self.now)

    def set(self, count):
        self.threads = count

    def speed(self, count):
        self.set(count)
        self.measured.append(count)
        return self.speeds[count]


@pytest.fixture
def machine(monkeypatch):
    return Machine(monkeypatch)


QUIET, BUSY, HALF = {4: 300, 2: 190, 1: 100}, {4: 20, 2: 40, 1: 90}, {4: 50, 2: 150, 1: 100}


def test_all_are_used_alone_one_or_some_beside_others_and_all_again(machine, caplog):
    load = ThreadsByLoad()
    with caplog.at_level("INFO"):
        for speeds, chosen in ((QUIET, 4), (BUSY, 1), (HALF, 2), (QUIET, 4)):
            machine.speeds = speeds
            load.fit()
            assert machine.threads == chosen
            machine.now += threads.INTERVAL
    assert caplog.messages == [
        "  computes with 1 of 4 threads: others work on this machine",
        "  computes with 2 of 4 threads: they are free again",
        "  computes with 4 of 4 threads: they are free again",
    ]


def test_what_is_hardly_faster_changes_nothing(machine):
    load = ThreadsByLoad()
    machine.speeds = {4: 100, 2: 105, 1: 109}
    load.fit()
    assert machine.threads == 4


def test_it_measures_now_and_then(machine):
    load, machine.speeds = ThreadsByLoad(), QUIET
    for machine.now in (0.0, 1.0, threads.INTERVAL - 1, threads.INTERVAL + 1):
        load.fit()
    assert machine.measured == 2 * [4, 2, 1, 1, 2, 4]


def test_a_number_that_was_given_and_one_thread_stay(machine, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    ThreadsByLoad().fit()
    monkeypatch.delenv("OMP_NUM_THREADS")
    machine.threads = 1
    ThreadsByLoad().fit()
    assert machine.measured == []


@pytest.mark.parametrize(("device", "measures"), [("cpu", True), ("cuda:0", False), (None, False)])
def test_a_training_on_a_gpu_is_left_alone(machine, device, measures):
    machine.speeds = QUIET
    engine = Engine(lambda engine, batch: None)
    ThreadsByLoad().attach(engine)
    engine.state.device = device
    engine.run([0, 1], max_epochs=1)
    assert bool(machine.measured) is measures


def test_measuring_draws_no_random_numbers_and_leaves_no_gradients():
    before = torch.random.get_rng_state()
    with torch.no_grad():
        assert threads.speed(1) > 0
    assert torch.equal(torch.random.get_rng_state(), before)


def test_halves_end_with_one():
    assert halves(12) == [12, 6, 3, 1] and halves(1) == [1]


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "250000 100000\n"}, 3),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "1600000 100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
    ],
)
def test_a_container_has_the_cores_that_it_has_time_for(tmp_path, monkeypatch, files, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_cores(tmp_path) == cores
