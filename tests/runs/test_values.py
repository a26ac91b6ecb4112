"""Values that cannot be trained with are named, all of them, before anything is trained."""

from __future__ import annotations

import pytest
from monai.bundle import ConfigParser

from crosswarp.runs.values import check_values, number_faults, schedule_faults
from tests.trained_run import ROOT, STAGES

SCHEDULER = {
    "_target_": "torch.optim.lr_scheduler.OneCycleLR",
    "optimizer": "@train#optimizer",
    "max_lr": "@learning_rate",
    "epochs": "@max_epochs",
    "steps_per_epoch": "@steps_per_epoch",
    "pct_start": 0.1,
}


def config(**values) -> ConfigParser:
    numbers = {"max_epochs": 4, "steps_per_epoch": 5, "learning_rate": 0.1}
    content = {"stage": {"name": "segment"}, **numbers, "train": {"scheduler": dict(SCHEDULER)}}
    parser = ConfigParser(content)
    parser.update(values)
    return parser


@pytest.mark.parametrize("value", [0, -3, 2.5, "abc", None, True, [4], float("nan")])
def test_what_counts_is_a_whole_number_from_one_on(value):
    (fault,) = number_faults(config(max_epochs=value))
    assert fault.startswith("max_epochs: expected a whole number of at least 1, got ")


@pytest.mark.parametrize(
    ("identifier", "good", "wrong", "expected"),
    [
        ("learning_rate", 1e-9, -0.1, "a number of at least 0"),
        ("ema_decay", 0.99, 1.5, "a number from 0 to 1"),
        ("seed", 0, -1, "a whole number of at least 0"),
        ("max_augmented_pairs", None, 0, "a whole number of at least 1"),
    ],
)
def test_limits_of_other_numbers(identifier, good, wrong, expected):
    assert not list(number_faults(config(**{identifier: good})))
    assert list(number_faults(config(**{identifier: wrong}))) == [
        f"{identifier}: expected {expected}, got {wrong}"
    ]


def test_expressions_are_left_to_the_training():
    assert not list(number_faults(config(steps_per_epoch="$len(@train#dataset)", batch_size="@max_epochs")))


def test_a_schedule_that_torch_cannot_follow_is_named_with_what_it_was_given():
    (fault,) = schedule_faults(config(max_epochs=2), "train#scheduler")  # ten steps: it would rise in one
    assert fault == (
        "train#scheduler, a OneCycleLR of max_lr 0.1, epochs 2, steps_per_epoch 5, pct_start 0.1: float "
        "division by zero; train more epochs or steps"
    )
    (fault,) = schedule_faults(config(**{"train#scheduler#pct_start": 3}), "train#scheduler")
    assert "pct_start" in fault and fault.endswith("; correct it")
    (fault,) = schedule_faults(config(**{"train#scheduler#pct_begin": 0.2}), "train#scheduler")
    assert "unexpected keyword argument 'pct_begin'" in fault
    assert not list(schedule_faults(config(max_epochs=3), "train#scheduler"))
    assert not list(schedule_faults(config(**{"train#scheduler#max_lr": [0.1, 0.2]}), "train#scheduler"))
    assert not list(schedule_faults(config(max_epochs=2, steps_per_epoch="$len(@absent)"), "train#scheduler"))
    inner = {"_target_": "torch.optim.lr_scheduler.ConstantLR", "optimizer": "@train::optimizer"}
    several = {"_target_": "torch.optim.lr_scheduler.SequentialLR", "schedulers": [inner], "milestones": []}
    assert not list(schedule_faults(config(**{"train#scheduler": several}), "train#scheduler"))


def test_the_faults_of_all_stages_are_named_at_once():
    with pytest.raises(ValueError) as caught:
        check_values(config(max_epochs=0, batch_size="x"), config(), config(max_epochs=2))
    first, *faults = str(caught.value).split("\n- ")
    assert first == "These values cannot be trained with; correct or leave them out:"
    assert [fault.split(",")[0] for fault in faults] == [
        "segment: max_epochs: expected a whole number of at least 1",
        "segment: batch_size: expected a whole number of at least 1",
        "segment: train#scheduler",
    ]


@pytest.mark.parametrize("preset", [None, "demo", "demo3d", "paper"])
def test_the_configs_as_they_are_have_none(preset):
    for stage in STAGES:
        parser = ConfigParser()
        files = [f"{ROOT}/bundles/{stage}/configs/train.json"]
        files += [f"{ROOT}/bundles/{stage}/configs/presets/{preset}.json"] if preset else []
        parser.read_config(files)
        parser.update({"source_channels": 1, "target_channels": 1})
        check_values(parser)
