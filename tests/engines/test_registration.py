"""What a registration network and its loss get from a batch of pairs."""

from __future__ import annotations

import pytest
import torch
from monai.losses import DiceLoss

from crosswarp.engines import AutocastInferer, PreparePairs
from crosswarp.losses import GradICONLoss, LNCCLoss, RegistrationLoss
from crosswarp.networks import DisplacementUNet, MultiStepRegistration


@pytest.fixture(params=[(3, 4), (3, 4, 2)])
def batch(request):
    def image(value):
        return torch.stack([torch.full((2, *request.param), value + 10.0 * sample) for sample in range(3)])

    labels = {
        f"{role}_label": torch.randint(0, 4, (3, 1, *request.param), dtype=torch.uint8)
        for role in ("moving", "fixed")
    }
    return {"moving_image": image(1), "fixed_image": image(2)} | labels


def values(images):
    return images.flatten(2)[..., 0].tolist()


def test_images_go_both_ways_in_one_batch(batch):
    inputs, targets = PreparePairs()(batch, "cpu")
    there = [[m, m, m + 1, m + 1] for m in (1, 11, 21)]
    assert values(inputs) == there + [pair[::-1] for pair in there]
    assert values(targets) == [[m, m] for m in (1, 11, 21, 2, 12, 22)]


def test_labels_become_one_hot_both_ways(batch):
    inputs, targets = PreparePairs("label", num_classes=4)(batch, "cpu")
    assert inputs.shape[:2] == (6, 8) and targets.shape[:2] == (6, 4)
    moving, fixed = batch["moving_label"], batch["fixed_label"]
    assert torch.equal(inputs[:, :4].argmax(1, keepdim=True), torch.cat([moving, fixed]))
    assert torch.equal(inputs[:, 4:].argmax(1, keepdim=True), torch.cat([fixed, moving]))
    assert torch.equal(inputs[:, :4].sum(1), torch.ones_like(inputs[:, 0]))
    assert torch.equal(targets, inputs[:, :4]) and inputs.dtype == torch.float32


@pytest.mark.parametrize("key", ["image", "label"])
def test_validation_goes_one_way_and_compares_labels(batch, key):
    prepare = PreparePairs(key, num_classes=4 if key == "label" else None, both_directions=False)
    inputs, targets = prepare(batch, "cpu", non_blocking=True)
    channels = 4 if key == "label" else 2
    both, _ = PreparePairs(key, num_classes=4 if key == "label" else None)(batch)
    assert inputs.shape[:2] == (3, 2 * channels)
    assert torch.equal(inputs, both[:3])
    assert torch.equal(targets, torch.cat([batch["moving_label"], batch["fixed_label"]], dim=1))


@pytest.mark.parametrize("similarity", [LNCCLoss(), DiceLoss(include_background=False)])
def test_a_step_runs_each_network_once_and_reads_nothing_back_from_the_device(host_reads, similarity):
    shape, calls = (24, 20), []
    networks = [DisplacementUNet(2, 4, (4, 8), (4, 8)) for _ in range(2)]
    for network in networks:
        network.register_forward_hook(lambda module, _, output: calls.append((module, len(output))))
    network = MultiStepRegistration(networks, [2, 1], image_channels=2)
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    loss = RegistrationLoss(similarity, GradICONLoss())
    batch = {f"{role}_image": torch.rand(3, 2, *shape) for role in ("moving", "fixed")}
    infer, prepare = AutocastInferer(), PreparePairs()
    for count in range(3):
        if count == 2:  # the optimiser has its states
            host_reads.__enter__()
        inputs, targets = prepare(batch, "cpu")
        optimizer.zero_grad()
        loss(infer(inputs, network), targets).backward()
        optimizer.step()
    host_reads.__exit__(None, None, None)
    assert not host_reads.found
    assert calls == [(each, 6) for each in networks] * 3  # both directions of three pairs at once
