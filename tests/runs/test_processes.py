"""Several processes train what one trains; one of them writes, and says what is wrong."""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import scripts.training
from crosswarp import processes
from crosswarp.data import RandomBatches
from crosswarp.runs.config import read_config
from crosswarp.training import AddSteps
from tests.cohorts import write_blob_cohort
from tests.runs.test_chain import TINY, execute, one_thread, read, times, weights_of
from tests.trained_run import ROOT, STAGES

__all__ = ["one_thread"]

# Adam takes the sign of gradients that are zero but for rounding; with a large eps it does not
SMOOTH = {"train.optimizer.eps": 1.0}
VALUES = {name: values | SMOOTH for name, values in TINY.items()}
VALUES["domain_adaptation"] |= {"train.discriminator_optimizer.eps": 1.0, "steps_per_epoch": 6}
CHAIN = {f"{name}#{key}": value for name, values in VALUES.items() for key, value in values.items()}
CHAIN |= {"worsened_pairs": 0, "pose_recognition#examples": 8, "pose_recognition#steps": 2}


def torchrun(*words: object, count: int = 2) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [*command, *map(str, words)], cwd=ROOT, capture_output=True, text=True, env=environment, timeout=300
    )


def options(values: dict[str, object]) -> list[str]:
    return [
        f"--{key}={json.dumps(value) if isinstance(value, list) else value}" for key, value in values.items()
    ]


def losses(run: Path, stage: str) -> list[float]:
    return [each["loss"] for each in read(run / stage / "checkpoints" / "history.json")]


def assert_same_weights(first: Path, second: Path) -> None:
    for key, value in torch.load(first, weights_only=True).items():
        other = torch.load(second, weights_only=True)[key]
        torch.testing.assert_close(value, other, atol=1e-4, rtol=1e-3, msg=f"{second}: {key}")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_blob_cohort(tmp_path_factory.mktemp("data"), spatial_size=(32, 24))


def test_two_processes_train_the_chain_that_one_trains(data, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    given = {"datalist": str(data), "run_dir": str(one)}
    execute(ROOT / "configs" / "train.json", **given, **CHAIN)
    result = torchrun("-m", "crosswarp", "train", data, two, "--backend=gloo", *options(CHAIN))
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.count("[1/4] registration_augmentation: trains") == 1, "one speaks"
    for stage in STAGES:
        assert losses(two, stage) == pytest.approx(losses(one, stage), rel=1e-3)
        assert_same_weights(weights_of(one)[stage], weights_of(two)[stage])
        assert len(list((two / stage / "tensorboard").glob("*"))) == len(
            list((one / stage / "tensorboard").glob("*"))
        )
        # what is recorded is the training of one process, which finds nothing left to do
        assert read(two / stage / "configs" / "train.json") == read(
            one / stage / "configs" / "train.json"
        ) | {"run_dir": str(two)} | {"device": read(two / stage / "configs" / "train.json")["device"]}
    pairs = [read(run / "source_segmentation" / "augmented" / "index.json") for run in (one, two)]
    assert [each["kept"] for each in pairs[0]["pairs"]] == [each["kept"] for each in pairs[1]["pairs"]]
    before = times(two)
    execute(ROOT / "configs" / "train.json", **given | {"run_dir": str(two)}, **CHAIN)
    assert times(two) == before and not (two / "previous").exists()


def test_a_stage_goes_on_with_another_number_of_processes(data, tmp_path, monkeypatch):
    stage = "registration_augmentation"
    config = ROOT / "bundles" / stage / "configs" / "train.json"
    values = {key.replace(".", "#"): value for key, value in VALUES[stage].items()}
    given = {"datalist": str(data)} | values
    execute(config, **given, run_dir=str(tmp_path / "whole"))
    save = scripts.training.Checkpoints.save

    def interrupt(self, engine):
        if engine.state.epoch == 2:
            raise KeyboardInterrupt
        save(self, engine)

    with monkeypatch.context() as patch:
        patch.setattr(scripts.training.Checkpoints, "save", interrupt)
        with pytest.raises(KeyboardInterrupt):
            execute(config, **given, run_dir=str(tmp_path / "run"))
    gc.collect()  # the interrupted stage gives its folder free
    files = [f"bundles/{stage}/configs/{name}.json" for name in ("train", "multi_gpu_train")]
    words = options({"config_file": str(files), "bundle_root": f"bundles/{stage}", "backend": "gloo"})
    words += options(given | {"run_dir": str(tmp_path / "run")})
    result = torchrun("-m", "monai.bundle", "run", *words)
    assert result.returncode == 0, result.stderr[-2000:]
    assert f"{stage}: goes on where it was interrupted" in result.stdout
    assert losses(tmp_path / "run", stage) == pytest.approx(losses(tmp_path / "whole", stage), rel=1e-4)
    assert_same_weights(*(weights_of(tmp_path / name)[stage] for name in ("whole", "run")))


WORKER = """
import os, signal, sys, torch
from crosswarp import processes
from crosswarp.errors import end_with_message
sys.excepthook = end_with_message
processes.join("gloo")
number, how = processes.number(), sys.argv[1]
processes.gathered(torch.zeros(1))  # all have joined, however busy the machine is
if how == "one" and number == 1:
    raise ValueError("the data are wrong")
if how == "killed" and number == 1:
    os.kill(os.getpid(), signal.SIGKILL)
while True:
    processes.gathered(torch.zeros(1))
"""


@pytest.mark.parametrize(
    ("how", "said"),
    [("one", "the data are wrong"), ("killed", "another of the processes that train together")],
)
def test_a_process_that_fails_ends_all_with_one_message(how, said, tmp_path):
    (tmp_path / "worker.py").write_text(WORKER)
    result = torchrun(tmp_path / "worker.py", how)
    assert result.returncode != 0
    assert result.stderr.count(said) == len(re.findall(r"^\[rank\d\]: error: ", result.stderr, re.M)) == 1


def test_of_processes_that_fail_alike_the_first_says_it(monkeypatch):
    monkeypatch.setattr(processes.State, "failed", False)
    monkeypatch.setattr(processes.State, "store", torch.distributed.HashStore())
    assert [processes.speaks() for _ in range(3)] == [True, False, False]


def test_a_batch_that_cannot_be_shared_out_is_refused(monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 3)
    samples = {"image": torch.zeros(8, 1, 4, 4)}
    with pytest.raises(ValueError, match="batch_size that 3 processes can share out, got 8.*Choose 6, or"):
        RandomBatches(samples, ["image"], batch_size=8, num_batches=1)


def test_one_process_by_itself_is_told_how_to_start_several():
    with pytest.raises(
        ValueError, match="run `torchrun --nproc_per_node 2 .* leave multi_gpu_train.json out"
    ):
        processes.join("gloo")


def test_steps_that_join_later_need_all_processes_to_know():
    class Network(torch.nn.Module):
        networks = (None, None)

    engine = torch.nn.Module()
    engine.network = torch.nn.Module()
    engine.network.find_unused_parameters = False
    with pytest.raises(ValueError, match="--registration_augmentation#find_unused_parameters"):
        AddSteps(Network(), 1, 1)(engine)


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_has_its_overlay_and_its_trainer_alone_has_the_wrapped_networks(stage):
    configs = ROOT / "bundles" / stage / "configs"
    parser = read_config(configs / "train.json", configs / "multi_gpu_train.json")
    trainer = parser["train"]["trainer"]
    wrapped = json.dumps(trainer).count("scripts.training.DistributedDataParallel")
    assert wrapped == (5 if stage == "domain_adaptation" else 1)
    assert json.dumps(parser.get()).count("scripts.training.DistributedDataParallel") == wrapped


def test_an_error_of_the_system_reaches_other_processes_with_its_number_and_file(monkeypatch, tmp_path):
    sent: list[object] = []
    monkeypatch.setattr(processes, "count", lambda: 2)
    for first, broadcast in ((True, sent.extend), (False, lambda held: held.__setitem__(slice(None), sent))):
        monkeypatch.setattr(processes, "is_first", lambda first=first: first)
        monkeypatch.setattr(processes.dist, "broadcast_object_list", lambda held, src, do=broadcast: do(held))
        with pytest.raises(FileNotFoundError) as raised:
            processes.agreed(lambda: (tmp_path / "gone").read_text())
        assert raised.value.filename == str(tmp_path / "gone") and raised.value.errno == 2
        assert str(tmp_path / "gone") in str(raised.value)
