"""A training step of each stage, as its config makes it: network passes, and no waiting for the device.

The steps run on the device "meta", whose tensors have a shape but no values: what would make the host wait
for a value of the device raises an error there. What would make it wait for a copy to the device is noted.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager, nullcontext

import pytest
import torch
from ignite.engine import Events
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from crosswarp.runs.config import read_config
from tests.cohorts import write_blob_cohort
from tests.trained_run import ROOT, STAGES, write_trained_run

BATCH = 2
SAMPLES = """$dict(image=torch.rand(6, 1, *@spatial_size),
    label=torch.zeros(6, 1, *@spatial_size, dtype=torch.uint8))"""
# what is made before the first step, of the values of tensors, is given
GIVEN = {
    "registration_augmentation": {},
    "source_segmentation": {"train#dataset": SAMPLES, "train#loader#weights": None},
    "domain_adaptation": {
        "train#source_dataset": SAMPLES,
        "train#source_loader#weights": None,
        "train#pseudo_labels#reference_labels": None,
        "train#discriminator_optimizer#fused": False,
        "network": "$@network_def.to(@device, memory_format=@memory_format)",
        "pool_size": BATCH,  # full after a step
    },
    "multimodal_registration": {"train#dataset": SAMPLES, "validate#dataset": SAMPLES},
}


def is_on_device(value):
    return isinstance(value, torch.Tensor) and value.device.type == "meta"


class CopiesOfNumbers(TorchFunctionMode):
    """Notes tensors on the device that are made of Python's numbers."""

    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        makers = (torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor)
        if function in makers and is_on_device(result) and not isinstance(args[-1], torch.Tensor):
            self.found[function.__name__] += 1
        return result


class CopiesAndMasks(TorchDispatchMode):
    """Notes operations in which tensors of host and device meet, and those that select by a mask."""

    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        tensors = [value for value in tree_leaves((args, kwargs, result)) if isinstance(value, torch.Tensor)]
        meet = len({is_on_device(tensor) for tensor in tensors}) > 1 and not kwargs.get("non_blocking")
        masked = function.overloadpacket in (torch.ops.aten.index, torch.ops.aten.index_put_) and any(
            value.dtype in (torch.bool, torch.uint8) for value in args[1] if value is not None
        )
        if meet or masked:
            self.found[str(function)] += 1
        return result


@contextmanager
def noted_waits():
    found = Counter()
    with CopiesOfNumbers(found), CopiesAndMasks(found):
        yield found


@pytest.mark.parametrize(
    "wait",
    [
        lambda image: image.sum().item(),
        lambda image: bool(image.sum() > 0),
        lambda image: image.tolist(),
        lambda image: image.cpu(),
        lambda image: image[image > 0],
        lambda image: image.nonzero(),
        lambda image: torch.equal(image, image),
    ],
)
def test_reading_a_value_is_an_error(wait):
    with pytest.raises((RuntimeError, NotImplementedError), match="(?i)meta"):
        wait(torch.rand(3, 2, device="meta"))


@pytest.mark.parametrize(
    ("wait", "waits"),
    [
        (lambda image: torch.tensor([1.0, 2.0], device=image.device), 1),
        (lambda image: image.new_tensor([1.0, 2.0]), 1),
        (lambda image: torch.ones(2).to(image.device), 1),
        (lambda image: torch.ones(2).to(image.device, non_blocking=True), 0),
        (lambda image: image[torch.arange(2)], 1),
        (lambda image: image[torch.arange(2, device=image.device)], 0),
        (lambda image: image.masked_fill(image > 0, 0.5), 0),
        (lambda image: image.__setitem__(image > 0, image.sum()), 1),
        (lambda image: torch.full((2,), 0.5, device=image.device) * 2.0, 0),
    ],
)
def test_copies_to_the_device_and_masks_are_noted(wait, waits):
    image = torch.rand(3, 2, device="meta")
    with noted_waits() as found:
        wait(image)
    assert found.total() == waits


def counted_networks(stage, parser):
    network = parser.get_parsed_content("network")
    if "registration" in stage:
        return dict(enumerate(network.networks))
    if stage == "source_segmentation":
        return {"network": network}
    return parser.get_parsed_content("train#trainer").networks


def expected_passes(stage, parser):
    """Passes and images of each network, in a step or from one translating step to the next."""
    if "registration" in stage:  # both directions at once
        return dict.fromkeys(range(parser.get_parsed_content("network").active), (1, 2 * BATCH))
    if stage == "source_segmentation":
        return {"network": (1, BATCH)}
    terms = {term for term, weight in parser.get_parsed_content("weights").items() if weight}
    every = BATCH * ("mixed_segmentation" in terms) + (BATCH // 2) * ("self_training" in terms)
    translating = BATCH * len(terms & {"translated_segmentation", "agreement", "cycle_agreement"})
    interval = parser["translation_interval"]
    passes = {"target_segmentation": (interval, interval * every + translating)}
    if not translating:
        return passes
    passes |= dict.fromkeys(("source_to_target", "target_to_source"), (2, 3 * BATCH))  # x and identity, cycle
    passes["source_segmentation"] = (2, 2 * BATCH)  # with gradients for the generators, and as a teacher
    # translated images for the generator, then real and translated ones at once
    return passes | dict.fromkeys(("source_discriminator", "target_discriminator"), (2, 3 * BATCH))


class Done(Exception):
    """Enough steps were run."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    found = {}
    for dims in (2, 3):
        data = write_blob_cohort(folder / f"data{dims}", dims, spatial_size=(32, 32))
        found[dims] = write_trained_run(folder / f"run{dims}", data), data
    return found


@pytest.mark.parametrize(("preset", "dims"), [("demo", 2), ("demo3d", 3), ("paper", 2)])
@pytest.mark.parametrize("stage", STAGES)
def test_a_step_runs_each_network_as_often_as_needed_and_waits_for_nothing(
    runs, stage, preset, dims, monkeypatch
):
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())  # "meta" has none
    run, data = runs[dims]
    configs = ROOT / "bundles" / stage / "configs"
    parser = read_config(configs / "train.json", configs / "presets" / f"{preset}.json")
    parser.update(
        {
            "bundle_root": str(ROOT / "bundles" / stage),
            "run_dir": str(run),
            "datalist": str(data),
            "device": "$torch.device('meta')",
            "batch_size": BATCH,
            "max_epochs": 2,
            "steps_per_epoch": 20,
            "train#optimizer#fused": False,  # there is none for "meta"
        }
        | GIVEN[stage]
    )
    interval = parser.get("translation_interval", 1)
    if stage == "domain_adaptation" and preset != "paper":
        parser["self_training_start"] = 0
    trainer = parser.get_parsed_content("train#trainer")
    if stage == "domain_adaptation":
        parser.get_parsed_content("train#pseudo_labels").update = lambda: None  # once per epoch, by values
    passes, images = Counter(), Counter()

    def after_a_step(engine):
        if engine.state.iteration == 2 * interval:
            raise Done
        if engine.state.iteration == interval:  # optimisers have their states, pools are full
            found.clear(), passes.clear(), images.clear()

    def count(name):
        def hook(_, arguments):
            passes[name] += 1
            images[name] += len(arguments[0])

        return hook

    for name, network in counted_networks(stage, parser).items():
        network.register_forward_pre_hook(count(name))
    trainer.add_event_handler(Events.ITERATION_COMPLETED, after_a_step)
    with noted_waits() as found, pytest.raises(Done):
        trainer.run()
    assert not found
    assert {name: (passes[name], images[name]) for name in passes} == expected_passes(stage, parser)
