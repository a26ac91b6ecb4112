"""Seeds, checkpoints and history of small trainings, interrupted and not."""

from __future__ import annotations

import json
import logging
import random
from copy import deepcopy

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from ignite.metrics import Average
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import LrScheduleHandler, ValidationHandler
from torch import nn

from crosswarp.data import RandomBatches
from crosswarp.kept import DamagedError, keeping
from crosswarp.networks import DisplacementUNet, MultiStepRegistration
from crosswarp.training import (
    AddSteps,
    Checkpoints,
    EpochProgress,
    LoadWhole,
    SeedEpochs,
    save_atomically,
)

EPOCHS, STEPS = 4, 3
SCORES = {1: 0.2, 2: 0.9, 3: 0.5, 4: 0.4}


def test_weights_that_are_not_what_was_written_are_not_loaded(tmp_path):
    network, path = nn.Conv2d(1, 1, 1), tmp_path / "best.pt"
    with keeping(path) as partial:
        torch.save(network.state_dict(), partial)
    LoadWhole(str(path), {"network": network}, map_location="cpu")(Engine(lambda *_: None))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedError):
        LoadWhole(str(path), {"network": network}, map_location="cpu")(Engine(lambda *_: None))


class Noisy(nn.Module):
    """Draws random numbers in training and has buffers, so that forgetting either shows."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Conv2d(4, 1, 1))

    def forward(self, image):
        return self.layers(image)


class Training:
    """A whole training as a config sets it up; ``weights`` remembers those of each epoch."""

    def __init__(self, folder, validate=True, val_interval=1, interval=1, stop=None, seed=0):
        torch.manual_seed(0)
        data = {"image": torch.rand(7, 1, 6, 6), "label": torch.rand(7, 1, 4, 4)}
        torch.manual_seed(seed)
        self.network = Noisy()
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=0.01)
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, 0.01, EPOCHS * STEPS)
        self.evaluator = SupervisedEvaluator(
            device="cpu",
            val_data_loader=[{key: value[:2] for key, value in data.items()}],
            network=self.network,
            key_val_metric={"score": Average(output_transform=lambda _: SCORES[self.evaluator.state.epoch])},
        )
        objects = {"network": self.network, "optimizer": self.optimizer, "scheduler": self.scheduler}
        evaluator = self.evaluator if validate else None
        self.checkpoints = Checkpoints(folder, self.network, objects, evaluator, interval)
        self.weights = {}
        handlers = [SeedEpochs(3), LrScheduleHandler(self.scheduler, epoch_level=False, print_lr=False)]
        handlers += [ValidationHandler(val_interval, self.evaluator)] if validate else []
        self.trainer = SupervisedTrainer(
            device="cpu",
            max_epochs=EPOCHS,
            train_data_loader=RandomBatches(data, ("image", "label"), 2, STEPS),
            network=self.network,
            optimizer=self.optimizer,
            loss_function=nn.MSELoss(),
            decollate=False,
            key_train_metric={"loss": Average(output_transform=lambda output: output["loss"].detach())},
            train_handlers=[*handlers, self.checkpoints],
        )
        self.trainer.add_event_handler(Events.EPOCH_COMPLETED, self.remember)
        if stop:
            self.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=stop), self.interrupt)

    def remember(self, engine):
        self.weights[engine.state.epoch] = deepcopy(self.network.state_dict())

    def interrupt(self, engine):
        raise KeyboardInterrupt

    def run(self):
        self.trainer.run()
        return self


def load(path):
    return torch.load(path, weights_only=True)


def assert_same(first, second):
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@pytest.mark.parametrize("interval", [1, 2, 3])
def test_a_resumed_training_ends_as_an_uninterrupted_one(tmp_path, interval):
    whole = Training(tmp_path / "whole", interval=interval).run()
    with pytest.raises(KeyboardInterrupt):
        Training(tmp_path / "parts", interval=interval, stop=3 * STEPS + 2).run()  # within the fourth epoch
    resumed = Training(tmp_path / "parts", interval=interval, seed=9).run()  # from other random weights
    assert list(resumed.weights) == {1: [4], 2: [3, 4], 3: [4]}[interval]
    assert_same(resumed.network.state_dict(), whole.network.state_dict())
    states = [load(tmp_path / name / "last.pt") for name in ("parts", "whole")]
    assert_same(*(state.pop("network") for state in states))
    assert_same(*(state.pop("optimizer") for state in states))
    assert states[0] == states[1]
    assert_same(load(tmp_path / "parts" / "best.pt"), load(tmp_path / "whole" / "best.pt"))
    histories = [(tmp_path / name / "history.json").read_text() for name in ("parts", "whole")]
    assert histories[0] == histories[1]
    assert resumed.checkpoints.chosen["value"] == whole.checkpoints.chosen["value"] == pytest.approx(0.9)


def test_best_is_not_last_and_history_holds_every_epoch(tmp_path):
    training = Training(tmp_path).run()
    assert_same(load(tmp_path / "best.pt"), training.weights[2])
    assert_same(load(tmp_path / "last.pt")["network"], training.weights[4])
    assert training.checkpoints.chosen == {
        "weights": tmp_path / "best.pt",
        "criterion": "score",
        "value": pytest.approx(0.9),
        "epoch": 2,
    }
    history = json.loads((tmp_path / "history.json").read_text())
    assert [entry["epoch"] for entry in history] == [1, 2, 3, 4]
    assert [entry["score"] for entry in history] == pytest.approx(list(SCORES.values()))
    assert len({entry["loss"] for entry in history}) == 4


def test_no_state_stands_before_its_history(tmp_path):
    (tmp_path / "history.json").mkdir()  # cannot be written
    with pytest.raises(OSError):
        Training(tmp_path).run()
    assert not (tmp_path / "last.pt").exists()  # so that what goes on writes the history again


def test_the_last_epoch_is_validated_whatever_the_interval(tmp_path):
    training = Training(tmp_path, val_interval=3).run()
    history = json.loads((tmp_path / "history.json").read_text())
    assert [entry.get("score") for entry in history] == [None, None, pytest.approx(0.5), pytest.approx(0.4)]
    assert training.checkpoints.chosen["epoch"] == 3
    short = Training(tmp_path / "short", val_interval=99).run()
    assert short.checkpoints.chosen["epoch"] == 4
    assert_same(load(tmp_path / "short" / "best.pt"), short.weights[4])


def test_without_an_evaluator_the_last_weights_are_chosen(tmp_path):
    training = Training(tmp_path, validate=False).run()
    assert_same(load(tmp_path / "best.pt"), training.weights[4])
    chosen = training.checkpoints.chosen
    assert chosen["criterion"] == "last epoch" and chosen["epoch"] == 4


def test_a_finished_training_is_not_trained_again(tmp_path):
    Training(tmp_path).run()
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    again = Training(tmp_path, seed=9).run()
    assert again.weights == {} and again.checkpoints.chosen["epoch"] == 2
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_an_epoch_draws_the_same_whatever_came_before():
    def draws(seed, first_epoch=1):
        drawn = {}

        def step(engine, _):
            drawn[engine.state.epoch] = (random.random(), np.random.rand(), torch.rand(()).item())

        engine = Engine(step)
        SeedEpochs(seed).attach(engine)
        engine.load_state_dict({"epoch": first_epoch - 1, "max_epochs": 3, "epoch_length": 1})
        engine.run([0])
        return drawn

    whole = draws(seed=5)
    torch.rand(7)
    assert draws(seed=5, first_epoch=3)[3] == whole[3]
    for kind in range(3):
        assert len({values[kind] for values in (*whole.values(), *draws(seed=6).values())}) == 6


class TwoParts:
    """A registration whose second step joins after two of four epochs, with Adam, kept by `Checkpoints`."""

    def __init__(self, folder):
        steps = [DisplacementUNet(2, 2, (4,), (4,)) for _ in range(2)]
        for step in steps:
            nn.init.normal_(step.head.weight, std=0.1)
        self.network = MultiStepRegistration(steps, [2, 1], 1)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=0.01)
        self.engine = Engine(self.step)
        self.active, objects = {}, {"network": self.network, "optimizer": self.optimizer}
        AddSteps(self.network, first=1, epochs=2).attach(self.engine)
        Checkpoints(folder, self.network, objects).attach(self.engine)

    def step(self, engine, images):
        self.active[engine.state.epoch] = self.network.active
        self.optimizer.zero_grad()
        self.network(images).square().mean().backward()
        self.optimizer.step()

    def run(self, max_epochs):
        self.engine.run([torch.ones(1, 2, 8, 8).cumsum(3) / 8] * 2, max_epochs=max_epochs)
        return self


@pytest.mark.parametrize("interrupted", [1, 2, 3])
def test_steps_join_after_their_epochs_also_in_a_resumed_training(tmp_path, interrupted):
    torch.manual_seed(0)
    whole = TwoParts(tmp_path / "whole").run(4)
    assert whole.active == {1: 1, 2: 1, 3: 2, 4: 2}
    torch.manual_seed(0)
    first = TwoParts(tmp_path / "parts").run(interrupted)
    joined = first.network.networks[1].head.weight in first.optimizer.state
    assert joined == (interrupted > 2)
    resumed = TwoParts(tmp_path / "parts").run(4)  # from other random weights
    assert resumed.active == {epoch: whole.active[epoch] for epoch in range(interrupted + 1, 5)}
    assert_same(resumed.network.state_dict(), whole.network.state_dict())
    assert_same(resumed.optimizer.state_dict(), whole.optimizer.state_dict())


def test_steps_that_cannot_join_are_named():
    network = MultiStepRegistration([DisplacementUNet(2, 2, (4,), (4,))], [1], 1)
    for first in (0, 2):
        with pytest.raises(ValueError, match=f"between 1 and 1 steps, got {first}"):
            AddSteps(network, first, 2)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "new" / "state.pt"
    save_atomically({"epoch": 1}, path)
    assert {file.name for file in path.parent.iterdir()} == {"state.pt", "SHA256SUMS"}

    def fail(content, file):
        file.write_bytes(b"half a")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        save_atomically({"epoch": 2}, path)
    assert load(path) == {"epoch": 1}


def test_progress_is_a_plain_line_in_a_tenth_of_the_epochs(capsys, caplog):
    engine = Engine(lambda engine, value: value)
    Average().attach(engine, "loss")
    EpochProgress().attach(engine)
    with caplog.at_level(logging.INFO):
        engine.run([0.25], max_epochs=20)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[1] for line in lines] == [f"epoch {epoch}/20" for epoch in range(2, 21, 2)]
    assert all("the last epoch counts  loss 0.25  0:00 left" in line for line in lines)
    assert "\x1b" not in "".join(lines)
    assert sum(message.startswith("Epoch ") for message in caplog.messages) == 20  # all are in the log
    assert "Epoch 3 of 20: loss 0.25" in caplog.messages


def test_progress_says_what_chooses_and_its_best_value(tmp_path, capsys):
    training = Training(tmp_path)
    EpochProgress(training.evaluator).attach(training.trainer)  # after the validation
    training.run()
    lines = [line.split("  ")[1:3] for line in capsys.readouterr().out.splitlines()]
    best = {1: "0.2000 (epoch 1)", 2: "0.9000 (epoch 2)", 3: "0.9000 (epoch 2)", 4: "0.9000 (epoch 2)"}
    assert lines == [[f"epoch {epoch}/{EPOCHS}", f"score {best[epoch]}"] for epoch in best]


def test_progress_of_a_resumed_training_goes_on(tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt):
        Training(tmp_path, stop=2 * STEPS + 1).run()
    resumed = Training(tmp_path)
    progress = EpochProgress(resumed.evaluator)
    progress.attach(resumed.trainer)
    resumed.run()
    assert capsys.readouterr().out.split("  ")[1] == "epoch 3/4" and progress.line is None


@pytest.mark.parametrize(
    "injured",
    [["last.pt"], ["best.pt"], ["last.pt", "best.pt", "history.json"], ["last.pt", "last.previous.pt"]],
)
@pytest.mark.parametrize("how", ["flip", "cut", "gone"])
def test_damaged_checkpoints_are_made_again(tmp_path, injured, how):
    whole = Training(tmp_path / "whole").run()
    with pytest.raises(KeyboardInterrupt):
        Training(tmp_path / "parts", stop=3 * STEPS + 2).run()
    for name in injured:
        path = tmp_path / "parts" / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 8
        path.write_bytes(content if how == "flip" else content[: len(content) // 2])
        if how == "gone":
            path.unlink()
    resumed = Training(tmp_path / "parts", seed=9 if len(injured) != 2 else 0).run()
    first = {"last.pt": 3, "best.pt": 4}[injured[0]] if len(injured) != 2 else 1
    assert list(resumed.weights)[0] == first
    assert_same(resumed.network.state_dict(), whole.network.state_dict())
    assert_same(load(tmp_path / "parts" / "best.pt"), load(tmp_path / "whole" / "best.pt"))
    assert (tmp_path / "parts" / "history.json").read_text() == (
        tmp_path / "whole" / "history.json"
    ).read_text()
    assert all((tmp_path / "parts" / f"{name}.damaged").exists() is (how != "gone") for name in injured[:2])


def test_there_must_be_room_for_the_checkpoints_before_a_training_begins(tmp_path, monkeypatch):
    monkeypatch.setattr("crosswarp.training.handlers.num_bytes", lambda _: 2**60)
    training = Training(tmp_path)
    with pytest.raises(
        OSError, match="the disk is full .* for the stage's checkpoints needed, .* free on the disk"
    ):
        training.run()
    assert training.weights == {}
