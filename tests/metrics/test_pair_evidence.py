"""Evidence of pairs of drawn shapes, whose sizes, places and edges are known."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from crosswarp.metrics.pair_evidence import (
    UNITS,
    image_evidence,
    label_facts,
    learn_references,
    measuring_lengths,
    pair_evidence,
    pair_features,
    reduced,
)
from crosswarp.networks import Prediction
from crosswarp.spatial import identity_map
from crosswarp.spatial.grid import Grid

UNKNOWN = torch.tensor([torch.nan])
SIZES = [((48, 40), (2.0, 3.0)), ((30, 26, 28), (2.0, 3.0, 2.5))]


def shapes(size, spacing, seed=0, scale=1.0, flip=False):
    """Two balls, one right of the other, a little different in each person; image and label."""
    rng = np.random.default_rng(seed)
    axes = [(torch.arange(n) - (n - 1) / 2) * s for n, s in zip(size, spacing, strict=True)]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    label = torch.zeros(1, 1, *size, dtype=torch.long)
    for value, (place, radius) in enumerate([(-15.0, 13.0), (15.0, 8.0)], 1):
        centre = torch.tensor([place, *[0.0] * (len(size) - 1)]) + torch.tensor(rng.normal(0, 1.0, len(size)))
        inside = (points - centre).norm(dim=-1) < radius * rng.normal(1, 0.05) * scale
        label[0, 0][inside] = value
    label = label.flip(2) if flip else label
    image = 0.2 + 0.3 * label.float() + 0.02 * torch.tensor(rng.standard_normal(label.shape)).float()
    return image, label


def sure(label, classes=3):
    return 0.02 + 0.94 * F.one_hot(label[:, 0], classes).movedim(-1, 1).float()


def lengths(spacing, count=1):
    return torch.tensor([spacing] * count, dtype=torch.float64)


@pytest.fixture(params=SIZES, ids=["2D", "3D"])
def people(request):
    size, spacing = request.param
    drawn = [shapes(size, spacing, seed) for seed in range(8)]
    image, label = (torch.cat(each) for each in zip(*drawn, strict=True))
    references = learn_references(label_facts(image, label, lengths(spacing, 8), 3))
    return size, spacing, json.loads(json.dumps(references, allow_nan=False))


def test_facts_are_in_the_unit_of_the_spacing():
    label = torch.zeros(1, 1, 20, 30, dtype=torch.long)
    label[..., 4:8, 10:20] = 1
    facts = label_facts(label.float(), label, lengths([2.0, 3.0]), 3)
    assert facts["volume"][0, 0].exp() == pytest.approx(4 * 10 * 6)
    assert facts["thickness"][0, 0].exp() == pytest.approx(2 * 8 * 30 / (2 * (8 + 30)))
    np.testing.assert_allclose(facts["centre"][0, 0], [5.5 * 2, 14.5 * 3])
    assert facts["edge_rank"][0, 0] == 1.0
    assert all(values[0, 1].isnan().all() for values in facts.values())


def test_what_is_as_in_people_is_not_held_against_it(people):
    size, spacing, references = people
    image, label = shapes(size, spacing, 20)
    found = image_evidence(image, sure(label), lengths(spacing), references, UNKNOWN)
    assert references["present"] == [1.0, 1.0]
    np.testing.assert_allclose(found["doubt"], 0.04, atol=1e-5)
    assert (found["off_edges"] < 0.1).all() and found["appearance"].isnan().all()
    assert all((found[key] < 3).all() for key in ("volume", "thickness", "place"))


def test_other_sizes_and_places_show_however_sure_the_networks_are(people):
    size, spacing, references = people

    def evidence(**how):
        image, label = shapes(size, spacing, 20, **how)
        return image_evidence(image, sure(label), lengths(spacing), references, UNKNOWN)

    assert (evidence(scale=1.35)["volume"] > 3).all() and (evidence(scale=1.35)["thickness"] > 3).all()
    assert (evidence(flip=True)["place"] > 8).all(), "the small one on the other side"
    image, label = shapes(size, spacing, 20)
    unknown = image_evidence(image, sure(label), lengths([torch.nan] * len(size)), references, UNKNOWN)
    assert all(unknown[key].isnan().all() for key in ("volume", "thickness", "place"))
    beside = image_evidence(image, sure(label.roll(4, 2)), lengths(spacing), references, UNKNOWN)
    assert (beside["off_edges"] > 0.3).all()
    gone = image_evidence(
        image, sure(torch.where(label == 2, 0, label)), lengths(spacing), references, UNKNOWN
    )
    assert gone["doubt"][0, 1] == 1.0 and gone["doubt"][0, 0] == pytest.approx(0.04, abs=1e-5)


def test_a_single_class_has_a_size_and_no_place():
    image, label = shapes((48, 40), (2.0, 3.0), 3)
    label = (label == 1).long()
    facts = label_facts(image, label, lengths((2.0, 3.0)), 2)
    references = learn_references({key: torch.cat([value] * 5) for key, value in facts.items()})
    found = image_evidence(image, sure(label, 2), lengths((2.0, 3.0)), references, UNKNOWN)
    assert found["volume"][0, 0] == pytest.approx(0, abs=1e-2) and found["place"].isnan().all()


def test_pairs_that_fit_and_pairs_that_do_not(people):
    size, spacing, _ = people
    image, label = shapes(size, spacing, 20)
    identity = identity_map(size)
    away = identity.clone()
    away[:, 0] += 4 / (size[0] - 1)
    back = 2 * identity - away
    fits = pair_evidence(
        Prediction(identity, identity, sure(label), sure(label)), image, image, lengths(spacing)
    )
    assert (fits["disagreement"] == 0).all() and (fits["folds"] == 0).all() and (fits["strain"] < 1e-4).all()
    assert (fits["structure"] < 0.05).all()
    off = pair_evidence(Prediction(away, back, sure(label), sure(label)), image, image, lengths(spacing))
    assert (off["disagreement"] > 0.2).all() and (off["structure"] > 0.8).all()
    assert (off["inverse_error"] < 0.01).all()
    one_way = Prediction(away, identity, sure(label), sure(label))
    found = pair_evidence(one_way, image, image, lengths(spacing))["inverse_error"]
    diagonal = np.linalg.norm(np.multiply(spacing, np.array(size) - 1))
    np.testing.assert_allclose(found, 100 * 4 * spacing[0] / diagonal, rtol=1e-4)
    folded = identity.flip(2)
    found = pair_evidence(
        Prediction(folded, folded, sure(label), sure(label)), image, image, lengths(spacing)
    )
    assert (found["folds"] == 100).all()


def test_features_are_the_worse_of_both_images_and_leave_out_what_neither_shows(people):
    size, spacing, references = people
    image, label = shapes(size, spacing, 20)
    without = torch.where(label == 2, 0, label)
    good, large = (
        image_evidence(image, sure(each), lengths(spacing), references, UNKNOWN)
        for each in (without, torch.where(shapes(size, spacing, 20, scale=1.4)[1] == 1, 1, 0))
    )
    identity = identity_map(size)
    pair = pair_evidence(
        Prediction(identity, identity, sure(without), sure(without)), image, image, lengths(spacing)
    )
    features = pair_features(good, large, pair)
    assert list(features) == list(UNITS)
    assert features["volume"][0, 0] == large["volume"][0, 0] > good["volume"][0, 0]
    assert features["size_of_all"][0, 0] == torch.fmax(large["volume"], large["thickness"])[0, 0]
    assert all(np.isnan(values[0, 1]) for values in features.values())


def test_lengths_of_large_grids_are_those_of_the_grid_that_is_measured_on():
    grid = Grid((481, 96), np.diag([0.5, -2.0, 1.0]))
    np.testing.assert_allclose(measuring_lengths(grid, True), [480 * 0.5 / 95, 2.0])
    fractions = measuring_lengths(grid, False).numpy() * 95
    np.testing.assert_allclose(np.prod(fractions), 1.0)
    np.testing.assert_allclose(fractions[0] / fractions[1], 240 / 190)
    phi = identity_map((481, 96))
    probabilities = torch.rand(1, 3, 481, 96)
    found, (image,) = reduced(Prediction(phi, phi, probabilities, probabilities), torch.rand(1, 1, 481, 96))
    assert image.shape == (1, 1, 96, 96) and found.fixed_probabilities.shape == (1, 3, 96, 96)
    torch.testing.assert_close(found.moving_to_fixed, identity_map((96, 96)))
