"""What recipes do to images, predictions and networks."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from crosswarp.metrics import dice_per_class
from crosswarp.training.worsened import (
    IMAGES,
    PREDICTIONS,
    Recipe,
    draw_recipes,
    spoilt,
    worsen_images,
    worsen_predictions,
)

SIZES = [(32, 24), (18, 16, 14)]


def sample(size, count=3):
    """Boxes of two classes, off the middle, and images of them."""
    torch.manual_seed(0)
    label = torch.zeros(count, 1, *size, dtype=torch.long)
    label[:, :, 4:12, 5:12] = 1
    label[:, :, 12:15, 7:13] = 2
    image = 0.3 * label.float() + 0.1 + 0.02 * torch.rand(count, 1, *size)
    return image, label, torch.rand(5, 2, *size)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", IMAGES)
def test_images_stay_images_and_labels_go_with_them(size, kind):
    image, label, style = sample(size)
    lengths = [2.0 * each for each in size]
    recipe = Recipe(kind, 0, "nothing", 7)
    state = torch.get_rng_state(), random.getstate()
    found, moved = worsen_images(recipe, image, label, style, lengths)
    assert found.shape == image.shape and moved.shape == label.shape and moved.dtype == label.dtype
    assert found.min() >= 0 and found.max() <= 1
    again = worsen_images(recipe, image, label, style, lengths)
    assert torch.equal(found, again[0]) and torch.equal(moved, again[1])
    assert torch.equal(state[0], torch.get_rng_state()) and state[1] == random.getstate()
    spatial = {"a little", "pose", "turned", "cropped", "stretched", "shifted", "scaled"}
    if kind == "as it is":
        assert torch.equal(found, image) and torch.equal(moved, label)
    elif kind == "another object":
        assert not moved.any()
    elif kind in spatial - {"a little"}:
        where = found.sub(0.3 * moved.float() + 0.11).abs() < 0.03  # edges are blurred, and zeros come in
        assert where[moved > 0].float().mean() > 0.5
    else:
        assert kind == "a little" or torch.equal(moved, label)
        assert not torch.equal(found, image)


def test_a_mirrored_image_is_the_image_mirrored():
    image, label, style = sample((32, 24))
    found = {}
    for seed in range(40):
        _, moved = worsen_images(Recipe("pose", 0, "nothing", seed), image, label, style, [32.0, 24.0])
        found[moved[0, 0].numpy().tobytes()] = moved[0, 0]
    flips = [label[0, 0].flip(0), label[0, 0].flip(1), label[0, 0].flip(0, 1)]
    assert all(any(torch.equal(each, flip) for each in found.values()) for flip in flips)
    assert not any(torch.equal(each, label[0, 0]) for each in found.values())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_predictions_stay_probabilities_and_get_worse(size, kind):
    _, label, _ = sample(size)
    sure = 0.05 + 0.85 * F.one_hot(label[:, 0], 3).movedim(-1, 1).float()
    before = sure.clone()
    found = [worsen_predictions(Recipe("as it is", 0, kind, seed), sure) for seed in range(8)]
    assert torch.equal(sure, before)
    for each in found:
        torch.testing.assert_close(each.sum(1), torch.ones(len(each), *size))
    overlap = [dice_per_class(each.argmax(1, keepdim=True), label, 3).mean().item() for each in found]
    assert overlap == [1.0] * 8 if kind == "nothing" else min(overlap) < 0.9


def test_networks_are_spoilt_in_a_copy():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.InstanceNorm2d(4, affine=True), nn.Conv2d(4, 2, 1))
    before = network[0].weight.clone()
    noisy = spoilt(network, 0.5, seed=1)
    assert torch.equal(network[0].weight, before)
    change = (noisy[0].weight - before).std() / before.std()
    assert 0.3 < change < 0.7
    assert torch.equal(noisy[0].weight, spoilt(network, 0.5, seed=1)[0].weight)
    assert torch.equal(noisy[1].weight, network[1].weight)


def test_recipes_hold_a_share_of_good_ones_and_all_kinds():
    recipes = draw_recipes(400, 7, seed=3)
    assert recipes == draw_recipes(400, 7, seed=3)
    assert sum(each.good for each in recipes) >= 120
    assert {each.image for each in recipes} == set(IMAGES)
    assert {each.prediction for each in recipes} == set(PREDICTIONS)
    assert {each.network for each in recipes} == set(range(7))
    assert {each.network for each in draw_recipes(50, 1, 1)} == {0}
