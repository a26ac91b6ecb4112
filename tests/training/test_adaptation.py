"""The adaptation step: what it trains, what it leaves alone, and how often it runs each network."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from itertools import pairwise

import pytest
import torch
from ignite.engine import Events
from monai.losses import DiceCELoss
from monai.networks.nets import PatchDiscriminator, UNet

from crosswarp.losses import PatchAdversarialLoss, SoftAgreementLoss
from crosswarp.networks import TranslationGenerator
from crosswarp.training import AdaptationTrainer, ImagePool, ZipBatches, together
from crosswarp.training.adaptation import TERMS

CLASSES, BATCH = 3, 2
# the terms whose gradients reach a generator, and those that train the target segmentation network
GENERATOR_TERMS = {*TERMS} - {"agreement", "mixed_segmentation", "self_training"}
TARGET_TERMS = {
    "translated_segmentation",
    "mixed_segmentation",
    "agreement",
    "cycle_agreement",
    "self_training",
}


def make_networks(dims):
    def segmentation():
        return UNet(dims, 1, CLASSES, (4, 8), (2,), num_res_units=1, norm="BATCH")

    def generator():
        return TranslationGenerator(dims, 1, 1, channels=4, num_downsamples=1, num_blocks=1)

    def discriminator():
        return PatchDiscriminator(dims, 4, 1, num_layers_d=1, norm="INSTANCE")

    names = ("source_to_target", "target_to_source")
    networks = {name: generator() for name in names}
    for modality in ("source", "target"):
        networks |= {f"{modality}_segmentation": segmentation(), f"{modality}_discriminator": discriminator()}
    return networks


def make_batch(shape):
    return {
        "source_image": torch.rand(BATCH, 1, *shape).half(),
        "source_label": torch.randint(0, CLASSES, (BATCH, 1, *shape), dtype=torch.uint8),
        "target_image": torch.rand(BATCH, 1, *shape).half(),
        "target_label": torch.randint(0, CLASSES, (BATCH, 1, *shape), dtype=torch.uint8),
        "target_disagreement": torch.rand(BATCH),
    }


def make_trainer(networks, batches, weights=None, max_epochs=1, **kwargs):
    trained = [p for name, n in networks.items() if "to" in name.split("_") for p in n.parameters()]
    trained += networks["target_segmentation"].parameters()
    critics = [
        p for name, network in networks.items() if "discriminator" in name for p in network.parameters()
    ]
    return AdaptationTrainer(
        device="cpu",
        max_epochs=max_epochs,
        train_data_loader=batches,
        networks=networks,
        optimizer=torch.optim.Adam(trained, lr=1e-3, fused=True),
        discriminator_optimizer=torch.optim.Adam(critics, lr=1e-3, fused=True),
        adversarial_loss=PatchAdversarialLoss(criterion="least_squares"),
        segmentation_loss=DiceCELoss(to_onehot_y=True, softmax=True),
        self_training_loss=DiceCELoss(to_onehot_y=True, softmax=True, lambda_dice=0.0),
        agreement_loss=SoftAgreementLoss(),
        weights=dict.fromkeys(TERMS, 2.0) if weights is None else weights,
        pools={"source": ImagePool(4), "target": ImagePool(4)},
        **kwargs,
    )


def states(networks):
    return {name: deepcopy(network.state_dict()) for name, network in networks.items()}


def changed(before, after):
    """Names of the networks of which a parameter or a buffer has changed."""
    return {
        name
        for name, state in after.items()
        if any(not torch.equal(value, before[name][key]) for key, value in state.items())
    }


@pytest.mark.parametrize("shape", [(16, 12), (16, 12, 8)])
def test_a_step_trains_all_but_the_source_network(shape):
    networks = make_networks(len(shape))
    before = states(networks)
    trainer = make_trainer(networks, [make_batch(shape)])
    trainer.run()
    assert changed(before, states(networks)) == set(networks) - {"source_segmentation"}
    frozen = networks["source_segmentation"]
    assert all(p.grad is None and not p.requires_grad for p in frozen.parameters())
    assert not frozen.training
    output = trainer.state.output
    assert set(output) == {"loss", "discriminator", *TERMS}
    assert output["loss"] == pytest.approx(2 * sum(output[term].item() for term in TERMS), rel=1e-5)
    assert all(value.isfinite() and not value.requires_grad for value in output.values())


@pytest.mark.parametrize(("source", "target"), [(1, 3), (3, 1), (3, 2)])
def test_modalities_may_have_different_numbers_of_channels(source, target):
    channels = {"source": source, "target": target}
    networks = {}
    for own, other in (("source", "target"), ("target", "source")):
        networks[f"{own}_segmentation"] = UNet(2, channels[own], CLASSES, (4, 8), (2,))
        networks[f"{own}_discriminator"] = PatchDiscriminator(2, 4, channels[own], num_layers_d=1)
        networks[f"{own}_to_{other}"] = UNet(2, channels[own], channels[other], (4, 8), (2,))
    batch = make_batch((16, 12))
    for key, count in channels.items():
        batch[f"{key}_image"] = torch.rand(BATCH, count, 16, 12)
    weights = {term: float(term != "identity") for term in TERMS}
    trainer = make_trainer(networks, [batch], weights)
    trainer.run()
    assert set(trainer.state.output) == {"loss", "discriminator", *TERMS} - {"identity"}
    assert all(value.isfinite() for value in trainer.state.output.values())


@pytest.mark.parametrize("term", TERMS)
def test_each_term_can_be_left_out_or_stand_alone(term):
    batch = make_batch((16, 12))
    networks = make_networks(2)
    others = {name: 0.0 if name == term else 1.0 for name in TERMS}
    trainer = make_trainer(networks, [batch], others)
    trainer.run()
    critic = {"discriminator"} if term != "adversarial" else set()
    assert set(trainer.state.output) == {"loss", *TERMS} - {term} | critic

    networks = make_networks(2)
    before = states(networks)
    trainer = make_trainer(networks, [batch], {term: 3.0})
    trainer.run()
    assert set(trainer.state.output) - {"discriminator"} == {"loss", term}
    assert trainer.state.output["loss"] == pytest.approx(3 * trainer.state.output[term].item())
    trained = changed(before, states(networks))
    assert (
        ("target_discriminator" in trained) == ("source_discriminator" in trained) == (term == "adversarial")
    )
    assert bool(trained & {"source_to_target", "target_to_source"}) == (term in GENERATOR_TERMS)
    assert ("target_segmentation" in trained) == (term in TARGET_TERMS)


def count_calls(networks):
    """How often each network is called, and on how many images in all, as two counters that fill."""
    calls, images = Counter(), Counter()

    def count(name):
        def hook(_, arguments):
            calls[name] += 1
            images[name] += len(arguments[0])

        return hook

    for name, network in networks.items():
        network.register_forward_pre_hook(count(name))
    return calls, images


def test_networks_are_run_no_more_often_than_needed():
    networks = make_networks(2)
    calls, images = count_calls(networks)
    make_trainer(networks, [make_batch((16, 12))]).run()
    assert calls == {
        "source_to_target": 2,  # x_s with x_t for the identity, F(x_t)
        "target_to_source": 2,
        "target_segmentation": 1,  # all that it is trained on at once
        "source_segmentation": 2,  # F(G(x_s)) with gradients, F(x_t) without
        "source_discriminator": 2,  # for the generator, then on real and translated images
        "target_discriminator": 2,
    }
    assert images["target_segmentation"] == 4 * BATCH + 1  # of the target images the more reliable one
    assert images["source_to_target"] == 3 * BATCH


def test_between_translations_only_the_target_network_is_trained():
    networks = make_networks(2)
    calls, images = count_calls(networks)
    batches = [make_batch((16, 12)) for _ in range(5)]
    trainer = make_trainer(networks, batches, translation_interval=3)
    keys, kept = [], [states(networks)]

    def remember(engine):
        keys.append(set(engine.state.output))
        kept.append(states(networks))

    trainer.add_event_handler(Events.ITERATION_COMPLETED, remember)
    trainer.run()
    translating = {"loss", "discriminator", *TERMS}
    between = {"loss", "mixed_segmentation", "self_training"}
    assert keys == [translating, between, between, translating, between]
    all_but_source = set(networks) - {"source_segmentation"}
    trained = [
        all_but_source,
        {"target_segmentation"},
        {"target_segmentation"},
        all_but_source,
        {"target_segmentation"},
    ]
    assert [changed(*pair) for pair in pairwise(kept)] == trained
    assert calls["source_to_target"] == 2 * 2 and calls["target_segmentation"] == 5
    assert images["target_segmentation"] == 2 * (4 * BATCH + 1) + 3 * (BATCH + 1)


def test_the_metrics_of_an_epoch_are_its_own_when_it_begins_between_translations():
    trainer = make_trainer(
        make_networks(2), [make_batch((16, 12))] * 2, {"cycle": 1.0}, max_epochs=2, translation_interval=3
    )
    trainer.run()  # translates in the first step of the first epoch and in the second of the second
    assert trainer.state.metrics["cycle"].item() == trainer.state.output["cycle"].item()


def test_what_the_target_network_sees_is_mixed_and_augmented():
    networks = make_networks(2)
    batch = make_batch((16, 12))
    seen = []
    networks["target_segmentation"].register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    make_trainer(
        networks,
        [batch],
        {"mixed_segmentation": 1.0, "agreement": 1.0},
        style_mixing=lambda data: {"image": data["image"] + 10 * data["style"] + 1e3 * data["label"]},
        segmentation_augmentation=lambda data: {"image": data["image"] + 100},
    ).run()
    source, target = batch["source_image"].float(), batch["target_image"].float()
    mixed = source + 10 * target + 1e3 * batch["source_label"]
    torch.testing.assert_close(seen[0], torch.cat([mixed, target]) + 100)


def test_the_target_network_learns_the_labels_that_are_least_in_doubt():
    networks = make_networks(2)
    batch = {key: torch.cat([value, value.flip(0)]) for key, value in make_batch((16, 12)).items()}
    batch["target_disagreement"] = torch.tensor([0.7, 0.1, 0.3, 0.2])
    seen, labels = [], []
    networks["target_segmentation"].register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    trainer = make_trainer(
        networks,
        [batch],
        {"self_training": 1.0, "mixed_segmentation": 1.0},
        max_epochs=2,
        reliable_share=0.5,
        self_training_start=1,
        self_training_augmentation=lambda data: {"image": data["image"] + 7},
    )
    loss = trainer.self_training_loss
    trainer.self_training_loss = lambda logits, label: labels.append(label) or loss(logits, label)
    trainer.run()
    assert [len(images) for images in seen] == [4, 6]  # from the second epoch on
    torch.testing.assert_close(seen[1][4:], batch["target_image"][[1, 3]].float() + 7)
    assert torch.equal(labels[0], batch["target_label"][[1, 3]])


def test_unknown_terms_and_missing_networks_are_named():
    networks = make_networks(2)
    with pytest.raises(ValueError, match=r"weights of the terms.*'cycle'.*got also \['cycles'\]"):
        make_trainer(networks, [], {"cycles": 1.0})
    del networks["target_discriminator"], networks["source_to_target"]
    with pytest.raises(ValueError, match=r"\['source_to_target', 'target_discriminator'\] are missing"):
        make_trainer(networks, [])


def test_batches_of_both_modalities_come_side_by_side():
    source = [{"image": 1, "label": 2}, {"image": 3, "label": 4}]
    batches = ZipBatches(source, [{"image": 5}, {"image": 6}])
    assert len(batches) == 2
    assert list(batches) == [
        {"source_image": 1, "source_label": 2, "target_image": 5},
        {"source_image": 3, "source_label": 4, "target_image": 6},
    ]
    named = ZipBatches(source[:1], [{"image": 5}], ["moving", "fixed"])
    assert list(named) == [{"moving_image": 1, "moving_label": 2, "fixed_image": 5}]
    with pytest.raises(ValueError, match="as many source as target batches, got 2 and 1"):
        ZipBatches(source, [{"image": 5}])


def numbered(*numbers):
    return torch.tensor(numbers, dtype=torch.float32).reshape(-1, 1, 1, 1)


def test_a_pool_fills_then_swaps_half_of_the_images():
    assert not ImagePool(4)(numbered(0).requires_grad_()).requires_grad
    pool = ImagePool(4)
    for numbers in ((0, 1, 2), (3, 4)):
        assert pool(numbered(*numbers)).flatten().tolist() == list(numbers)
    assert pool.images.flatten().tolist() == [0, 1, 2, 3]
    old = 0
    for start in range(10, 2010, 2):
        before = pool.images.flatten().tolist()
        given = [start, start + 1]
        got = pool(numbered(*given)).flatten().tolist()
        kept = pool.images.flatten().tolist()
        assert sorted(before + given) == sorted(kept + got)  # swapped, never lost or doubled
        assert all(new == number or new in before for new, number in zip(got, given, strict=True))
        old += sum(number in before for number in got)
    assert old / 2000 == pytest.approx(0.5, abs=0.045)  # 4 standard errors


def test_a_pool_smaller_than_a_batch_and_an_empty_one():
    pool = ImagePool(1)
    pool(numbered(0))
    got = pool(numbered(*range(1, 9))).flatten().tolist()
    assert sorted([*got, pool.images.item()]) == list(range(9)) and got.count(0) <= 1
    image = numbered(5).requires_grad_()
    assert not ImagePool(0)(image).requires_grad and ImagePool(0)(image).item() == 5


def test_a_pool_goes_on_from_its_state():
    pool = ImagePool(3)
    pool(numbered(0, 1))
    restored = ImagePool(3)
    restored(numbered(7, 8, 9))
    restored.load_state_dict(pool.state_dict())
    results = []
    for each in (pool, restored):
        torch.manual_seed(1)
        results.append(torch.cat([each(numbered(number)) for number in range(2, 9)]))
    assert torch.equal(*results) and torch.equal(pool.images, restored.images)


def test_networks_that_are_saved_as_one_keep_their_names_and_weights():
    first, second = torch.nn.Conv2d(2, 3, 3), torch.nn.Conv2d(3, 2, 3)
    weights = first.weight.detach().clone()
    module = together("cpu", torch.channels_last, first=first, second=second)
    assert module["first"] is first and module["second"] is second
    assert [name for name, _ in module.named_parameters()] == [
        f"{name}.{part}" for name in ("first", "second") for part in ("weight", "bias")
    ]
    assert torch.equal(first.weight, weights)
    assert first.weight.is_contiguous(memory_format=torch.channels_last)
