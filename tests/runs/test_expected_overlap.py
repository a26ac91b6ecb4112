"""What a run learns from pairs that it worsens, with networks that segment by intensity."""

from __future__ import annotations

import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from crosswarp.data import load_datalist, room
from crosswarp.data.room import Room
from crosswarp.inference.expectation import expected_pair, in_words
from crosswarp.metrics import dice_per_class, warp_labels
from crosswarp.metrics.typicality import appearance_features, learn_statistics
from crosswarp.networks import Prediction
from crosswarp.runs import Chain, expected_overlap
from crosswarp.runs.config import read_config
from crosswarp.spatial import identity_like
from crosswarp.spatial.grid import Grid
from crosswarp.training import worsened_pairs as pairs_module
from crosswarp.training.worsened import Recipe
from crosswarp.training.worsened_pairs import (
    Images,
    Networks,
    _choose_pairs,
    _groups,
    learn_expectation,
    usual_evidence,
    worsened_pairs,
)
from tests.cohorts import write_blob_cohort
from tests.metrics.test_pair_evidence import shapes
from tests.trained_run import ROOT, STAGES, write_trained_run

SIZE, SPACING = (40, 32), (2.0, 3.0)
GRID = Grid(SIZE, np.diag([2.0, 3.0, 1.0]))


class ByIntensity(nn.Module):
    """Classes of 0.2, 0.5 and 0.8."""

    def __init__(self) -> None:
        super().__init__()
        self.grey = nn.Conv2d(1, 1, 1, bias=False)
        nn.init.ones_(self.grey.weight)

    def forward(self, image):
        return torch.cat([-200 * (self.grey(image) - level).square() for level in (0.2, 0.5, 0.8)], 1)


class ByMoments(nn.Module):
    """Middles and widths of all that is labelled laid onto each other, along each axis."""

    def forward(self, labels):
        identity = identity_like(labels)
        masses = [1 - each[:, :1] + 1e-6 for each in labels.chunk(2, 1)]
        masses = [each / each.sum((2, 3), keepdim=True) for each in masses]
        middle = [(each * identity).sum((2, 3), keepdim=True) for each in masses]
        width = [
            (each * (identity - at).square()).sum((2, 3), keepdim=True).sqrt()
            for each, at in zip(masses, middle, strict=True)
        ]
        return middle[0] + (identity - middle[1]) * width[0] / width[1]


@pytest.fixture(scope="module")
def people():
    def images(*seeds, **how):
        image, label = (
            torch.cat(each)
            for each in zip(*(shapes(SIZE, SPACING, seed, **how) for seed in seeds), strict=True)
        )
        appearance = learn_statistics(appearance_features(image))
        return Images(image.float(), [GRID] * len(seeds), True, label, list(range(len(seeds))), appearance)

    return (
        Networks(ByIntensity(), ByIntensity(), ByMoments()),
        images(*range(8)),
        images(*range(50, 56)),
        images,
    )


@pytest.fixture(scope="module")
def fitted(people):
    networks, source, target, images = people
    return learn_expectation(networks, source, images(*range(70, 90)), target, 3, pairs=500)


def test_worsened_pairs_have_every_overlap_and_keep_people_apart(people, fitted, monkeypatch):
    networks, source, target, _ = people
    usual = fitted["usual"]
    features, overlap, groups = worsened_pairs(networks, source, target.image, usual, 3, pairs=300)
    assert overlap.shape == (300, 2) and set(groups) == {0, 1}
    assert all(values.shape == (300, 2) for values in features.values())
    known = overlap[~np.isnan(overlap)]
    assert (np.histogram(known, 4, (0, 1))[0] > 0.03 * len(known)).all()
    monkeypatch.setattr(Room, "limit", 0.0)
    mapped = []
    monkeypatch.setattr(room, "_mapped", lambda *asked: mapped.append(asked) or np.zeros(*asked[:2]))
    again = worsened_pairs(networks, source, target.image, usual, 3, pairs=300)
    np.testing.assert_array_equal(overlap, again[1])
    assert len(mapped) == 3, "images, labels and predictions: volumes are more than there is memory for"


def test_pairs_are_of_two_people_of_one_group():
    people = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    groups = _groups(people, seed=0)
    assert groups[::2] == groups[1::2] and min(Counter(groups[::2]).values()) >= 2
    recipes = [SimpleNamespace(good=number % 3 == 0) for number in range(12)]
    sides = SimpleNamespace(
        image_number=np.tile(np.arange(10), 12),
        recipe_number=np.repeat(np.arange(12), 10),
        recipes=recipes,
        people=people,
    )
    chosen = _choose_pairs(sides, groups, 400, np.random.default_rng(0))
    first, second = (sides.image_number[each] for each in chosen.T)
    assert {
        groups[a] == groups[b] and people[a] != people[b] for a, b in zip(first, second, strict=True)
    } == {True}
    assert set(first) == set(second) == set(range(10))


def test_the_overlap_of_a_worsened_pair_is_the_least_of_three():
    """Both segmentations and the registration have to be right; of a class that is not there nothing is."""
    label = torch.zeros(4, 1, *SIZE, dtype=torch.uint8)
    label[:, :, 5:25, 4:20], label[:, :, 28:36, 10:30] = 1, 2
    label[2] = label[2].roll(4, 1)
    label[3][label[3] == 2] = 0
    one = torch.ones(2)
    segmented = torch.stack([torch.tensor([0.9, 0.2]), torch.tensor([0.4, 0.95]), one, one])
    segmented[3, 1] = torch.nan
    evidence = ("doubt", "off_edges", "volume", "thickness", "place", "appearance")
    phi = identity_like(torch.zeros(1, 1, *SIZE))
    sides = SimpleNamespace(
        networks=SimpleNamespace(register=lambda _, first, __: [phi.expand(len(first), *phi.shape[1:])] * 2),
        probabilities=nn.functional.one_hot(label[:, 0].long(), 3).movedim(-1, 1).float(),
        image=label.float() / 2,
        label=label,
        classes=3,
        segmented=segmented,
        spacing=torch.ones(4, 2),
        usual={"source_to_source": {}},
        _evidence=lambda numbers: {name: torch.zeros(len(numbers), 2) for name in evidence},
    )
    chosen = np.array([[0, 1], [1, 0], [0, 2], [2, 2], [2, 3], [3, 2]])
    features, least = pairs_module._Sides.pair(sides, chosen, 0)
    shifted = dice_per_class(label[:1], label[2:3], 3)[0].numpy()
    moved = dice_per_class(label[2:3], label[3:], 3)[0].numpy()
    expected = [[0.4, 0.2]] * 2 + [np.fmin(shifted, [0.9, 0.2]), [1, 1], [moved[0], np.nan], [moved[0], 0]]
    np.testing.assert_allclose(least, expected, rtol=1e-6)
    assert 0.2 < shifted.min() < 0.9 and all(values.shape == (6, 2) for values in features.values())


def test_worsened_images_are_held_against_references_of_other_people(people, monkeypatch):
    networks, _, target, _ = people
    persons, seen = [0, 0, 1, 2], []
    image = torch.tensor(persons).float().reshape(4, 1, 1, 1).expand(4, 1, *SIZE) / 4
    manual = Images(image, [GRID] * 4, True, torch.zeros(4, 1, *SIZE, dtype=torch.long), persons)
    monkeypatch.setattr(Images, "facts", lambda *_: {"of": torch.tensor(persons)})
    monkeypatch.setattr(pairs_module, "learn_references", lambda facts: set(facts["of"].tolist()))

    def image_evidence(images, probabilities, spacing, references, atypical):
        seen.extend((round(4 * float(each.mean())), references) for each in images)
        return {"doubt": images.mean((1, 2, 3))[:, None]}

    monkeypatch.setattr(pairs_module, "image_evidence", image_evidence)
    monkeypatch.setattr(pairs_module, "draw_recipes", lambda *_: [Recipe("as it is", 0, "nothing", 0)] * 2)
    sides = pairs_module._Sides(networks, manual, target.image, {"source": {}}, 3, 2, 0)
    assert sorted(person for person, _ in seen) == sorted(persons * 2)
    assert all(references == {0, 1, 2} - {person} for person, references in seen)
    np.testing.assert_allclose(4 * sides.evidence["doubt"][:, 0], persons * 2, atol=1e-6)


def test_what_is_usual_is_measured_a_few_pairs_at_a_time(people, fitted, monkeypatch):
    networks, source, target, _ = people
    at_once = usual_evidence(networks, source, target, fitted["references"], True)
    sizes = []
    monkeypatch.setattr(pairs_module, "BATCH", 5 * SIZE[0] * SIZE[1])
    register = Networks.register
    monkeypatch.setattr(
        Networks, "register", lambda self, n, *seen: sizes.append(len(seen[0])) or register(self, n, *seen)
    )
    usual = usual_evidence(networks, source, target, fitted["references"], True)
    assert max(sizes) == 5 and sum(sizes) == 4 * pairs_module.USUAL_PAIRS
    assert usual == at_once


def judged(people, fitted, moving, fixed):
    """What is expected of a pair of (image, label), and the registered overlap that is found."""
    networks = people[0]
    images = [image.float() for image, _ in (moving, fixed)]
    probabilities = [networks.segment(networks.target, each) for each in images]
    found = Prediction(*networks.register(0, *probabilities), *probabilities)
    warped = warp_labels(moving[1], found.moving_to_fixed, 3)
    overlap = dice_per_class(warped, fixed[1], 3)[0]
    return expected_pair(found, images, [GRID] * 2, fitted), overlap


def test_what_is_expected_of_other_people_is_found(people, fitted):
    assert json.loads(json.dumps(fitted, allow_nan=False)) == fitted
    assert fitted["in_mm"] and fitted["fit"]["groups"] == 2
    expected, found, inside = [], [], []
    for seed in range(30, 42, 2):
        first, second = shapes(SIZE, SPACING, seed), shapes(SIZE, SPACING, seed + 1)
        mirrored = [each.flip(2) for each in first]
        large = shapes(SIZE, SPACING, seed, scale=1.3)
        for moving in (first, large, mirrored):
            value, overlap = judged(people, fitted, moving, second)
            expected.append(value["mean"]["value"])
            found.append(overlap.mean().item())
            inside.append(value["mean"]["low"] - 0.02 <= found[-1] <= value["mean"]["high"] + 0.02)
    assert np.corrcoef(expected, found)[0, 1] > 0.9
    assert np.abs(np.subtract(expected, found)).mean() < 0.12
    assert np.mean(inside) >= 0.7


def test_reasons_are_named_and_what_nobody_shows_is_not_expected(people, fitted):
    first, second = shapes(SIZE, SPACING, 30), shapes(SIZE, SPACING, 31)
    without = torch.where(second[0] > 0.7, 0.2, second[0]), second[1]
    one, _ = judged(people, fitted, first, without)
    assert one["2"]["high"] < 0.8 and one["2"]["value"] < one["1"]["value"] - 0.2
    assert "labels that differ after warping" in one["2"]["because"]
    text = in_words(one)
    assert text.startswith(f"expected overlap {one['mean']['value']:.2f}, ") and "; class 2 0." in text
    nothing = 0 * first[0] + 0.2, first[1]
    none, _ = judged(people, fitted, nothing, nothing)
    assert none == {"untrusted": [], "unseen": ["1", "2"], "mean": None, "1": None, "2": None}
    assert in_words(none) is None
    other = torch.where(first[0] > 0.7, 0.2, first[0]), first[1]
    assert judged(people, fitted, other, without)[0]["unseen"] == ["2"] and one["unseen"] == []
    rare = fitted | {"references": fitted["references"] | {"present": [1.0, 0.9]}}
    assert judged(people, rare, other, without)[0]["unseen"] == []
    wrong = fitted | {"usual": {key: fitted["usual"][key] for key in ("source", "source_to_source")}}
    assert judged(people, wrong, first, second)[0]["untrusted"] == ["target"]


def test_what_is_usual_for_the_target_is_learnt_unless_it_is_not_of_people(people, fitted):
    networks, source, target, images = people
    kinds = {"source", "target"} | {f"{a}_to_{b}" for a in ("source", "target") for b in ("source", "target")}
    assert set(fitted["usual"]) == kinds
    faint = images(*range(60, 66))
    faint.image = 0.5 + 0.65 * (faint.image - 0.5)  # of less contrast, where the network is less sure
    usual = usual_evidence(networks, source, faint, fitted["references"], True)
    assert usual["target"]["doubt"]["middle"][1] > 0.002 > usual["source"]["doubt"]["middle"][1]
    large = images(*range(60, 66), scale=1.5)
    usual = usual_evidence(networks, source, large, fitted["references"], True)
    assert set(usual) == {"source", "source_to_source"}, "all of them too large"


def test_a_run_keeps_what_it_learnt_until_something_changes(tmp_path, monkeypatch):
    data = write_blob_cohort(tmp_path / "data", spatial_size=(16, 16))
    run = write_trained_run(tmp_path / "run", data)
    learnt = read_config(run / "configs" / "inference.json")["expected_overlap"]
    assert learnt["in_mm"] is True and len(learnt["intercepts"]) == 3
    assert json.loads((run / "expected_overlap.json").read_text())["expected_overlap"] == learnt
    folders = (str(ROOT / "bundles"), str(ROOT), str(run))
    asked = []
    monkeypatch.setattr(expected_overlap, "fit_run", lambda *values: asked.append(values))
    for change in (lambda: None, (run / "expected_overlap.json").unlink):
        (run / "provenance.json").unlink()
        change()
        Chain(dict.fromkeys(STAGES, {}), {"device": "cpu"}, *folders, load_datalist(data), None, 48).publish()
    assert [values[-2:] for values in asked] == [("cpu", 48)], "once, when it was gone"
    Chain(dict.fromkeys(STAGES, {}), {"device": "cpu"}, *folders, load_datalist(data), None, 24).publish()
    assert [values[-1] for values in asked] == [48, 24], "of other pairs it is learnt anew"


def test_too_few_people_teach_nothing(tmp_path, caplog):
    data = write_blob_cohort(tmp_path / "data", spatial_size=(16, 16), train_labelled=1, val=2)
    caplog.set_level("INFO")
    run = write_trained_run(tmp_path / "run", data)
    assert read_config(run / "configs" / "inference.json")["expected_overlap"] is None
    assert "at least 4 people, got 3" in caplog.text
