"""How unusual an image is: features by hand, distances against scipy and plain loops."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis

from crosswarp.metrics.typicality import (
    LEAST_SPREAD,
    appearance_features,
    atypicality,
    learn_statistics,
    shape_features,
)
from crosswarp.spatial import identity_map


@pytest.mark.parametrize("size", [(11, 16), (6, 11, 8)])
def test_features_of_a_ramp_are_known(size):
    ramp = identity_map(size)[:, :1]
    features = appearance_features(torch.cat([ramp, 0.5 * ramp], 1))
    assert features.shape == (1, 2, 8)
    assert features[0, 0, :4].tolist() == pytest.approx([0.25, 0.5, 0.75, 0.9], abs=0.11)
    step = 1 / (size[0] - 1)
    assert features[0, 0, 4].item() == pytest.approx(np.log(step**2 / len(size) + 1e-6), abs=1e-3)
    assert features[0, 0, 5].item() == pytest.approx(np.log((2 * step) ** 2 / len(size) + 1e-6), abs=1e-3)


def test_a_volume_of_any_size_has_features():
    features = appearance_features(torch.linspace(0, 1, 2**24 + 2).view(1, 1, 2, -1))
    assert features[0, 0, :4].tolist() == pytest.approx([0.25, 0.5, 0.75, 0.9], abs=1e-6)


def test_features_of_a_box_are_its_volume_place_and_width():
    labels = torch.zeros(1, 3, 21, 11)
    labels[:, 0] = 1
    labels[:, :2, 4:9, 3:6] = torch.tensor([0.0, 1]).view(1, 2, 1, 1)
    box, nothing = shape_features(labels)[0]
    assert box[0].item() == pytest.approx(np.log(15 / 231 + 1e-4), abs=1e-5)
    assert box[1:3].tolist() == pytest.approx([0.3, 0.4], abs=1e-6)
    assert box[3:].tolist() == pytest.approx(np.log(np.array([2 / 400, 2 / 3 / 100]) + 1e-5), abs=1e-4)
    assert nothing.tolist() == pytest.approx([np.log(1e-4), 0.5, 0.5, *[np.log(1e-5)] * 2], abs=1e-4)


def test_distance_is_that_of_mahalanobis_and_one_is_the_most_unusual_among_the_others():
    features = torch.randn(12, 2, 3, generator=torch.Generator().manual_seed(0)).double()

    def distance(own, rest):
        squares = []
        for group in range(2):
            x = rest[:, group].numpy()
            spread = x.std(0, ddof=1) + LEAST_SPREAD
            z = (x - x.mean(0)) / spread
            correlation = 0.8 * z.T @ z / len(z) + 0.2 * np.eye(3)
            there = (own[group].numpy() - x.mean(0)) / spread
            squares.append(mahalanobis(there, np.zeros(3), np.linalg.inv(correlation)) ** 2 / 3)
        return np.sqrt(np.mean(squares))

    statistics = json.loads(json.dumps(learn_statistics(features)))
    largest = max(distance(own, np.delete(features, i, 0)) for i, own in enumerate(features))
    assert statistics["largest"] == pytest.approx(largest, rel=1e-3)
    new = 3 + torch.randn(1, 2, 3, generator=torch.Generator().manual_seed(1)).double()
    found = atypicality(new, statistics)
    assert found.item() == pytest.approx(distance(new[0], features) / largest, rel=1e-3)


def test_two_images_tell_nothing():
    statistics = learn_statistics(torch.rand(2, 1, 8))
    assert atypicality(torch.rand(1, 1, 8), statistics) is None
