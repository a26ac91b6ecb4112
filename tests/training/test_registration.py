"""What a registration network and its loss get from a batch of pairs."""

from __future__ import annotations

import pytest
import torch

from crosswarp.training import PreparePairs


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
