"""Trainings that diverge: stopped in time, explained, and nothing of it is kept."""

from __future__ import annotations

import math

import pytest
import torch
from ignite.engine import Events
from ignite.handlers import EMAHandler
from ignite.metrics import Average
from monai.data import DataLoader, MetaTensor
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import ValidationHandler
from monai.networks.nets import UNet
from torch import nn

from crosswarp.data import RandomBatches, RandomPairBatches
from crosswarp.losses import GradICONLoss, LNCCLoss, RegistrationLoss
from crosswarp.networks import DisplacementUNet, MultiStepRegistration
from crosswarp.training import (
    Checkpoints,
    PreparePairs,
    SeedEpochs,
    TrainingError,
    TrainingGuard,
    ZipBatches,
    guard,
    save_atomically,
)
from tests.training.test_adaptation import BATCH, CLASSES, TERMS, make_batch, make_networks, make_trainer

STEPS = 3


def read_images(dims=2, count=6):
    return [
        {
            "image": MetaTensor(torch.rand(1, *[8] * dims), meta={"filename_or_obj": f"knee{number}.nii"}),
            "label": torch.rand(1, *[8] * dims),
        }
        for number in range(count)
    ]


class Training:
    """A small training with checkpoints, of which the test breaks something."""

    def __init__(self, folder, loader=None, scores=(0.5, 0.6), epochs=2, loss=None):
        torch.manual_seed(0)
        self.network = nn.Conv2d(1, 1, 3, padding=1)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=0.01)
        self.average = EMAHandler(self.network)
        self.evaluator = SupervisedEvaluator(
            device="cpu",
            val_data_loader=[{"image": torch.rand(1, 1, 8, 8), "label": torch.rand(1, 1, 8, 8)}],
            network=self.network,
            key_val_metric={
                "val_dice": Average(output_transform=lambda _: scores[self.evaluator.state.epoch - 1])
            },
        )
        objects = {"network": self.network, "optimizer": self.optimizer, "average": self.average.ema_model}
        self.folder = folder / "domain_adaptation" / "checkpoints"
        rates = {"network": "segmentation_learning_rate", "missing": "learning_rate"}
        self.checkpoints = Checkpoints(
            str(self.folder), self.network, objects, self.evaluator, learning_rates=rates
        )
        self.loader = loader or RandomBatches(read_images(), ["image", "label"], 2, STEPS)
        self.trainer = SupervisedTrainer(
            device="cpu",
            max_epochs=epochs,
            train_data_loader=self.loader,
            network=self.network,
            optimizer=self.optimizer,
            loss_function=loss or nn.MSELoss(),
            decollate=False,
            train_handlers=[
                SeedEpochs(0),
                ValidationHandler(1, self.evaluator),
                self.average,
                self.checkpoints,
            ],
        )

    def at(self, step, change, event=Events.ITERATION_STARTED):
        """Change something once, before or after a step."""
        self.trainer.add_event_handler(event(once=step), lambda _: change())
        return self

    def fails(self):
        with pytest.raises(TrainingError) as caught:
            self.trainer.run()
        return str(caught.value)


@pytest.fixture(params=["read at once", "read after the epoch"])
def reading(request, monkeypatch):
    """Losses as on a CPU, and as on a device that they would have to be waited for."""
    if request.param == "read after the epoch":
        monkeypatch.setattr(guard, "free_to_read", lambda value: False)
    return request.param


def fill(parameters, value):
    with torch.no_grad():
        for parameter in parameters:
            parameter.fill_(value)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_reported_with_all_that_helps(tmp_path, reading, bad):
    training = Training(tmp_path)
    training.at(2 + STEPS, lambda: fill([training.network.bias], bad))
    drawn, weights = [], []
    training.trainer.add_event_handler(
        Events.ITERATION_STARTED, lambda _: drawn.append(training.loader.files(training.loader.drawn))
    )
    training.trainer.add_event_handler(
        Events.EPOCH_COMPLETED(once=1), lambda _: weights.append(training.network.weight.detach().clone())
    )
    message = training.fails()
    assert f"Training of domain_adaptation diverged in epoch 2, step 2 of 3: loss is {bad}." in message
    assert "Lower segmentation_learning_rate (in the chain --domain_adaptation#segmentation_l" in message
    assert f"The epochs before are in {training.folder / 'last.pt'}." in message
    assert message.endswith(
        "\n".join(["The images of the step:", *(f"- {file}" for file in drawn[1 + STEPS])])
    )
    state = torch.load(training.folder / "last.pt", weights_only=True)
    assert state["epoch"] == 1 and torch.equal(state["network"]["weight"], weights[0])
    assert torch.equal(torch.load(training.folder / "best.pt", weights_only=True)["weight"], weights[0])


def test_on_a_cpu_nothing_is_trained_on_the_loss(tmp_path):
    training = Training(tmp_path)
    training.at(2, lambda: fill([training.network.bias], math.nan))
    before = []
    training.trainer.add_event_handler(
        Events.ITERATION_COMPLETED(once=1), lambda _: before.append(training.network.weight.detach().clone())
    )
    message = training.fails()
    assert torch.equal(training.network.weight, before[0])
    assert training.trainer.state.iteration == 2 and not training.folder.exists()
    assert "The epochs before" not in message


def test_the_same_run_again_fails_alike_and_another_goes_on_from_the_last_good_epoch(tmp_path):
    def broken():
        training = Training(tmp_path)
        return training.at(2 + STEPS, lambda: fill([training.network.bias], math.nan))

    assert broken().fails() == broken().fails()
    training = Training(tmp_path)
    training.trainer.run()
    assert [entry["epoch"] for entry in training.checkpoints.history] == [1, 2]


@pytest.mark.parametrize(
    ("what", "change", "named"),
    [
        ("weights", lambda t: fill([t.network.weight], math.nan), "network.weight"),
        ("average", lambda t: fill([t.average.ema_model.bias], math.inf), "average.bias"),
        (
            "optimiser",
            lambda t: fill([t.optimizer.state[t.network.bias]["exp_avg_sq"]], math.inf),
            "optimizer.state.1.exp_avg_sq",
        ),
    ],
)
def test_what_an_epoch_ends_with_must_be_finite_before_it_is_validated_or_saved(
    tmp_path, reading, what, change, named
):
    training = Training(tmp_path)
    training.at(2 * STEPS, lambda: change(training), Events.ITERATION_COMPLETED)
    # the handlers of a step run in order: the guard's must see what the average became
    message = Training.fails(reordered(training))
    assert f"epoch 2, step 3 of 3: NaN or infinity in {named}" in message
    assert training.evaluator.state.epoch == 1  # the second epoch was not validated
    assert torch.load(training.folder / "last.pt", weights_only=True)["epoch"] == 1


def reordered(training):
    """Put the handler that was added last before all others of its event."""
    handlers = training.trainer._event_handlers[Events.ITERATION_COMPLETED]
    handlers.insert(0, handlers.pop())
    return training


def test_an_infinite_gradient_of_a_finite_loss_is_found_before_saving(tmp_path):
    training = Training(tmp_path, epochs=1)
    training.network.weight.register_hook(lambda gradient: gradient * math.inf)
    training.at(STEPS, lambda: None)
    message = training.fails()
    assert "step 2 of 3: loss is nan" in message and not training.folder.exists()
    training = Training(tmp_path, epochs=1, loader=RandomBatches(read_images(), ["image", "label"], 2, 1))
    training.network.weight.register_hook(lambda gradient: gradient * math.inf)
    assert "step 1 of 1: NaN or infinity in network.weight, optimizer.state.0.exp_avg" in training.fails()
    assert not training.folder.exists()


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_validation_that_measures_nothing_is_an_error(tmp_path, epoch):
    scores = [0.5, 0.6]
    scores[epoch - 1] = math.nan
    training = Training(tmp_path, scores=scores)
    assert f"epoch {epoch}, step 3 of 3: the validation's val_dice is nan" in training.fails()
    assert (training.folder / "best.pt").exists() == (epoch == 2)


def test_a_state_with_nan_is_not_gone_on_from(tmp_path):
    training = Training(tmp_path, epochs=1)
    training.trainer.run()
    state = torch.load(training.folder / "last.pt", weights_only=True)
    state["network"]["bias"][0] = math.nan
    save_atomically(state, training.folder / "last.pt")  # as a training that goes wrong would
    assert "holds NaN or infinity in 1 tensors, network.bias first: remove" in Training(tmp_path).fails()


def test_other_errors_pass_as_they_are(tmp_path):
    training = Training(tmp_path)
    training.at(2, lambda: {}["missing"])
    with pytest.raises(KeyError, match="missing"):
        training.trainer.run()


def test_images_that_a_data_loader_read_are_named_too():
    network = nn.Conv2d(1, 1, 1)
    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=1,
        train_data_loader=DataLoader(read_images(), batch_size=4),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=1.0),
        loss_function=lambda prediction, label: prediction.sum() * math.nan,
        decollate=False,
        train_handlers=[TrainingGuard({"network": network}, learning_rates={"network": "learning_rate"})],
    )
    with pytest.raises(TrainingError) as caught:
        trainer.run()
    assert str(caught.value).split("\n") == [
        "Training diverged in epoch 1, step 1 of 2: loss is nan.",
        "Lower learning_rate. Nothing of it was saved.",
        "The images of the step:",
        *(f"- knee{number}.nii" for number in range(4)),
    ]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("steps", "broken"), [((1,), 0), ((2, 1), 0), ((2, 1), 1)])
def test_a_map_with_nan_ends_a_registration_not_the_process(dims, steps, broken):
    networks = [DisplacementUNet(dims, 2, (4,), (4,)) for _ in steps]
    network = MultiStepRegistration(networks, steps, 1)
    fill([networks[broken].head.bias], math.nan)
    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=1,
        train_data_loader=RandomPairBatches(read_images(dims), ["image"], 2, 2),
        network=network,
        optimizer=torch.optim.Adam(network.parameters()),
        loss_function=RegistrationLoss(LNCCLoss(), GradICONLoss()),
        prepare_batch=PreparePairs(),
        decollate=False,
        train_handlers=[TrainingGuard({"network": network}, "multimodal_registration")],
    )
    with pytest.raises(TrainingError, match=r"step 1 of 2: Expected a map of finite coord(.|\n)*- knee"):
        trainer.run()


@pytest.mark.parametrize("term", ["similarity", "regularity"])
def test_the_terms_of_a_registration_are_named(term, reading):
    class Broken(nn.Module):
        def forward(self, *inputs):
            return sum(each.sum() for each in inputs) * math.nan

    parts = {"similarity": LNCCLoss(), "regularity": GradICONLoss()} | {term: Broken()}
    network = DisplacementUNet(2, 2, (4,), (4,))
    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=1,
        train_data_loader=RandomPairBatches(read_images(), ["image"], 2, 1),
        network=MultiStepRegistration([network], [1], 1),
        optimizer=torch.optim.Adam(network.parameters()),
        loss_function=RegistrationLoss(**parts),
        prepare_batch=PreparePairs(),
        decollate=False,
        train_handlers=[TrainingGuard({"network": network})],
    )
    with pytest.raises(TrainingError, match=rf"step 1 of 1: {term} is nan\."):
        trainer.run()


LEARNS = {
    "target_segmentation": "segmentation_learning_rate",
    "source_to_target": "learning_rate",
    "target_to_source": "learning_rate",
    "source_discriminator": "discriminator_learning_rate",
    "target_discriminator": "discriminator_learning_rate",
}
SEEN = {  # the terms that a network takes part in
    "target_segmentation": {term for term in TERMS if "mixed" in term or "self" in term}
    | {"translated_segmentation", "agreement", "cycle_agreement"},
    "source_to_target": {*TERMS} - {"agreement", "mixed_segmentation", "self_training"},
    "target_to_source": {*TERMS} - {"translated_segmentation", "mixed_segmentation", "self_training"},
    "source_discriminator": {"adversarial"},
    "target_discriminator": {"adversarial"},
}


@pytest.mark.parametrize("shape", [(16, 12), (16, 12, 8)])
@pytest.mark.parametrize("broken", LEARNS)
def test_the_terms_and_the_learning_rate_of_a_broken_network_are_named(broken, shape):
    networks = make_networks(len(shape))
    networks["target_segmentation"] = UNet(len(shape), 1, CLASSES, (4, 8), (2,), norm="INSTANCE")
    fill(list(networks[broken].parameters())[-1:], math.nan)
    objects = {name: network for name, network in networks.items() if name != "source_segmentation"}
    before = {name: [p.detach().clone() for p in n.parameters()] for name, n in objects.items()}
    trainer = make_trainer(
        networks, [make_batch(shape)], train_handlers=[TrainingGuard(objects, "s3", LEARNS)]
    )
    with pytest.raises(TrainingError) as caught:
        trainer.run()
    first, second = str(caught.value).split("\n")[:2]
    named = first.partition("step 1 of 1: ")[2]
    assert {part.split(" is ")[0] for part in named.rstrip(".").split(", ")} == SEEN[broken]
    assert second.startswith(f"Lower {LEARNS[broken]} (in the chain --s3#{LEARNS[broken]}).")
    for name, network in objects.items():  # nothing was trained
        for old, new in zip(before[name], network.parameters(), strict=True):
            assert torch.equal(old.nan_to_num(), new.nan_to_num())


def test_the_loss_of_the_discriminators_is_checked_before_they_learn_from_it(reading):
    networks = make_networks(2)
    critics = [p for name in networks if "discriminator" in name for p in networks[name].parameters()]
    trainer = make_trainer(networks, [make_batch((16, 12))], train_handlers=[TrainingGuard(networks)])
    trainer._discriminator_loss = lambda *_: critics[0].sum() * math.nan
    before = [p.detach().clone() for p in critics]
    with pytest.raises(TrainingError, match=r"step 1 of 1: discriminator is nan\."):
        trainer.run()
    if reading == "read at once":
        assert all(map(torch.equal, before, critics))


def test_the_images_of_both_modalities_are_named():
    labelled = RandomBatches(read_images(), ["image"], BATCH, 1)
    others = RandomBatches([read_images()[5]], ["image"], BATCH, 1)
    both = ZipBatches(labelled, others)
    next(iter(both))
    assert both.files(both.drawn) == [*labelled.files(labelled.drawn), "knee5.nii", "knee5.nii"]


def test_the_largest_weights_tell_the_learning_rate_where_none_is_broken_yet():
    networks = {name: nn.Linear(2, 2) for name in ("network", "generators")}
    rates = {"network": "segmentation_learning_rate", "generators": "learning_rate"}
    fill([networks["generators"].bias], 1e20)
    assert TrainingGuard(networks, learning_rates=rates).suspects() == ["learning_rate"]
    fill([networks["network"].bias], -1e21)
    assert TrainingGuard(networks, learning_rates=rates).suspects() == ["segmentation_learning_rate"]
    fill([networks["generators"].bias], math.inf)
    assert TrainingGuard(networks, learning_rates=rates).suspects() == ["learning_rate"]
