"""What a run says of how an image has to lie, with a network that takes an image's mean for the odds."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from monai.transforms import Compose, ScaleIntensityRangePercentilesd
from torch import nn

from crosswarp.losses import PoseLoss
from crosswarp.runs import pose
from crosswarp.training import AutocastInferer, PoseLearner, RandomSpatial
from crosswarp.training.pose import Modality


class Mean(nn.Linear):
    """Its odds are an image's mean."""

    def forward(self, image, probabilities):
        return image.flatten(1).mean(1)


class Learner:
    """Learns nothing, and counts how often it is asked to."""

    def __init__(self):
        self.asked = 0

    def settings(self):
        return "none"

    def learn(self, network, modalities):
        self.asked += 1
        return network


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Odds of the images of each section, and what the run makes of them."""
    bundles = {f"{key}_segmentation": tmp_path / key for key in ("source", "target")}
    for folder in bundles.values():
        for file in (pose.WEIGHTS, pose.INFERENCE):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).touch()

    def modality(folder, odds, *_):
        return Modality(torch.tensor(odds).reshape(-1, 1, 1, 1), lambda image: image, torch.ones(2))

    monkeypatch.setattr(pose, "_modality", modality)
    learner = Learner()

    def least(source, target):
        def records(sections):
            return SimpleNamespace(records=lambda *names: sum((sections.get(name, []) for name in names), []))

        data = SimpleNamespace(source=records(source), target=records(target))
        return pose.run_pose(tmp_path, bundles, data, "digest", Mean(1, 1), learner)[1]

    return SimpleNamespace(least=least, learner=learner, folder=tmp_path)


@pytest.mark.parametrize(
    ("spacing", "in_mm", "lengths"),
    [([2.0, 0.5], True, [14, 2]), (None, True, [1, 1]), ([2.0, 0.5], False, [1, 1])],
)
def test_views_are_turned_in_the_frame_of_the_run(tmp_path, monkeypatch, spacing, in_mm, lengths):
    """Its spacing may be another than the datalist's; images that do not state theirs are seen whole."""
    (tmp_path / pose.INFERENCE).parent.mkdir(parents=True)
    (tmp_path / pose.INFERENCE).write_text(json.dumps({"spacing": spacing}))
    images = SimpleNamespace(image=torch.zeros(2, 1, 8, 5), in_mm=in_mm)
    monkeypatch.setattr(pose, "read_images", lambda *_: images)
    monkeypatch.setattr(pose, "load_network", lambda *_: None)
    assert pose._modality(tmp_path, [], Learner(), "cpu").lengths.tolist() == lengths


def test_settings_are_what_decides_what_is_learnt():
    def settings(inferer=None, percentile=0.5, rotation=20.0):
        normalise = ScaleIntensityRangePercentilesd(["image"], percentile, 99.5, 0.0, 1.0)
        augmentation = Compose([RandomSpatial(["image"], ["linear"], rotation=rotation)])
        return PoseLearner(augmentation, normalise, PoseLoss(), examples=4, inferer=inferer).settings()

    assert settings() == settings(inferer=AutocastInferer("auto"))  # depends on the device alone
    assert len({settings(), settings(percentile=1.0), settings(rotation=10.0)}) == 3
    assert " at 0x" not in settings()


def test_an_image_lies_right_at_odds_that_hardly_any_that_does_is_below(run):
    source = {"train_labelled": [1.5], "train_unlabelled": [0.9, 1.2], "val": [1.0], "test": [-9.0]}
    target = {"train_unlabelled": [1.0 + 0.01 * number for number in range(50)] + [-4.0], "val": [-5.0]}
    # of 4 sorted odds .15 of the way from the first to the second, of 52 .55 from the third to the fourth
    expected = {"source": pytest.approx(0.915), "target": pytest.approx(1.0055, abs=1e-3)}
    assert run.least(source, target) == expected
    assert run.least({}, {}) == expected and run.learner.asked == 1, "it is known"


def test_odds_that_are_high_enough_are_so_whatever_the_others(run):
    high = {"train_labelled": [6.0], "train_unlabelled": [5.0]}
    assert run.least(high, {"train_unlabelled": [1.0]}) == {"source": pose.ENOUGH, "target": 1.0}
