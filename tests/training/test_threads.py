"""The number of threads follows what is measured; the machine is made of numbers here."""

from __future__ import annotations

import os

import pytest
import torch

from crosswarp.training import threads
from crosswarp.training.threads import available_cores, choose_threads, halves


class Machine:
    """Cores on which others may work: how fast steps are with a number of threads."""

    def __init__(self, monkeypatch, cores=4):
        self.speeds, self.threads, self.measured = {}, cores, []
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        monkeypatch.setattr(threads, "all_threads", lambda: cores)
        monkeypatch.setattr(torch, "get_num_threads", lambda: self.threads)
        monkeypatch.setattr(torch, "set_num_threads", self.set)
        monkeypatch.setattr(threads, "speed", self.speed)

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


@pytest.mark.parametrize(
    ("speeds", "chosen"), [(QUIET, 4), (BUSY, 1), (HALF, 2), ({4: 100, 2: 115, 1: 124}, 4)]
)
def test_all_are_used_alone_one_or_some_beside_others(machine, caplog, speeds, chosen):
    machine.speeds = speeds
    with caplog.at_level("INFO"):
        assert choose_threads() == machine.threads == chosen
    said = f"  computes with {chosen} of 4 threads: others work on this machine"
    assert caplog.messages == ([said] if chosen < 4 else [])
    assert machine.measured == [4, 2, 1, 1, 2, 4]


def test_a_stage_that_goes_on_keeps_its_number_as_far_as_there_are_cores(machine):
    assert choose_threads(recorded=2) == machine.threads == 2
    assert choose_threads(recorded=8) == machine.threads == 4
    assert machine.measured == []


def test_the_next_stage_may_have_all_again(machine):
    machine.speeds = BUSY
    choose_threads()
    machine.speeds = QUIET
    assert choose_threads() == 4


def test_a_number_that_was_given_and_one_thread_stay(machine, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    machine.threads = 3
    assert choose_threads(recorded=2) == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    machine.threads = 1
    monkeypatch.setattr(threads, "all_threads", lambda: 1)
    assert choose_threads() == 1
    assert machine.measured == []


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
