"""The benchmark of robustness: each change against what it should do in space; the whole on a tiny run."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import robustness
from changes import CHANGES, SAME_PLACE, Picture, read_pictures

from crosswarp import load
from crosswarp.data import load_datalist
from crosswarp.spatial.grid import Grid
from tests.cohorts import write_blob_cohort
from tests.spatial.places import oblique
from tests.trained_run import write_trained_run

PLAIN_HEADERS = (
    *("mirrored", "upside down", "turned 90", "turned 180", "turned 270", "turned 15", "turned 30"),
    "shifted",
)
GREY = ("inverted", "noise")
RNG = np.random.default_rng(0)


def picture(shape=(40, 31), spacing=(0.8, 1.3), seed=3):
    """Boxes that lie obliquely in space, on pixels that are not square; the channels are the classes."""
    label = np.zeros(shape, np.uint8)
    middle = tuple(slice(size // 4, size // 2) for size in shape)
    label[middle], label[..., -9:-6] = 1, 2
    image = np.stack([label == k for k in range(3)]).astype(np.float32)
    return Picture(image, label, Grid.from_ras(oblique(spacing, seed), shape))


SHAPES = [((40, 31), (0.8, 1.3)), ((18, 13, 16), (0.8, 1.3, 2.0))]


@pytest.mark.parametrize(("shape", "spacing"), SHAPES)
@pytest.mark.parametrize("name", [name for name in CHANGES if name not in GREY])
def test_the_label_moves_with_the_image(name, shape, spacing):
    changed = CHANGES[name](picture(shape, spacing), RNG)
    assert changed.image.shape[1:] == changed.label.shape == changed.grid.shape
    assert changed.image.dtype == np.float32 and changed.label.dtype == np.uint8
    agreement = np.mean(changed.image.argmax(0) == changed.label)
    if name == "pixels 1.5":  # the image is smoothed
        assert agreement > 0.9
    else:  # the same interpolation, in another precision
        assert agreement > (0.995 if name.startswith(("pixels", "oblique", "turned")) else 0.99999)
    assert changed.label.max() == 2 and (changed.label == 1).any()


@pytest.mark.parametrize(("shape", "spacing"), SHAPES)
@pytest.mark.parametrize("name", [name for name in CHANGES if name not in (*PLAIN_HEADERS, *GREY)])
def test_headers_that_are_right_say_where_every_point_lies(name, shape, spacing):
    plain = picture(shape, spacing)
    places = plain.grid.to_mm(np.moveaxis(np.indices(shape), 0, -1))
    image = np.moveaxis(places, -1, 0).astype(np.float32)  # its channels are the points in mm
    changed = CHANGES[name](replace(plain, image=image), RNG)
    found = np.moveaxis(changed.image, 0, -1)
    points = changed.grid.to_mm(np.moveaxis(np.indices(changed.grid.shape), 0, -1))
    inside = plain.grid.contains(points, -1.5 if name == "pixels 1.5" else 0.0)  # smoothed at the border
    assert inside.sum() > 0.08 * np.prod(changed.grid.shape)
    np.testing.assert_allclose(found[inside], points[inside], atol=1e-3)
    corners = plain.grid.to_mm(np.array(list(np.ndindex(*[2] * len(shape)))) * (np.array(shape) - 1))
    if name in ("as it is", "padded", *SAME_PLACE):
        assert changed.grid.contains(corners, 0.5 * 1.5).all()  # nothing is cut off


@pytest.mark.parametrize("name", PLAIN_HEADERS)
def test_headers_of_turned_pictures_say_that_they_are_upright(name):
    plain = picture()
    changed = CHANGES[name](plain, RNG)
    np.testing.assert_allclose(changed.grid.direction, plain.grid.direction)
    turned = name in ("turned 90", "turned 270")
    spacing = plain.grid.spacing[::-1] if turned else plain.grid.spacing
    np.testing.assert_allclose(changed.grid.spacing, spacing)


@pytest.mark.parametrize(("shape", "spacing"), SHAPES)
@pytest.mark.parametrize(
    ("name", "times"), [("mirrored", 2), ("upside down", 2), ("turned 180", 2), ("turned 90", 4)]
)
def test_what_is_turned_back_is_the_same(name, times, shape, spacing):
    plain = changed = picture(shape, spacing)
    for count in range(times):
        changed = CHANGES[name](changed, RNG)
        assert count == times - 1 or not np.array_equal(changed.label, plain.label)
    np.testing.assert_array_equal(changed.image, plain.image)
    np.testing.assert_array_equal(changed.label, plain.label)
    np.testing.assert_allclose(changed.grid.affine, plain.grid.affine, atol=1e-12)


def test_sizes_of_what_is_cut_and_added():
    shapes = {name: CHANGES[name](picture((40, 30)), RNG).grid.shape for name in CHANGES}
    assert shapes["cropped .55"] == (22, 16) and shapes["cropped .85"] == (34, 26)
    assert shapes["wide"] == (40, 18) and shapes["tall"] == (24, 30)
    assert shapes["padded"] == (80, 60)
    assert shapes["pixels .75"] == (53, 40) and shapes["pixels 1.5"] == (27, 20)
    assert shapes["turned 90"] == (30, 40)


def test_a_tilted_picture_is_turned_in_mm_and_a_shifted_one_moved_by_a_fifth():
    plain = picture()
    middle = (np.array(plain.grid.shape) - 1) / 2
    label = np.zeros(plain.grid.shape, np.uint8)
    label[18:21, 4:8] = 1  # above the middle
    plain = replace(plain, label=label, image=label[None].astype(np.float32))
    first, second = (
        (np.argwhere(each.label).mean(0) - middle) * plain.grid.spacing
        for each in (plain, CHANGES["turned 30"](plain, RNG))
    )
    cosine = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
    assert np.rad2deg(np.arccos(cosine)) == pytest.approx(30, abs=3)
    assert np.linalg.norm(second) == pytest.approx(np.linalg.norm(first), abs=0.5)
    moved = np.argwhere(CHANGES["shifted"](plain, RNG).label).mean(0) - np.argwhere(label).mean(0)
    np.testing.assert_allclose(moved, [-8, 0])
    shown = CHANGES["shifted"](plain, RNG).shown
    assert shown[:32].all() and not shown[32:].any()
    area = CHANGES["oblique 30"](plain, RNG).shown.sum()
    assert area == pytest.approx(plain.label.size, rel=0.02) and CHANGES["mirrored"](plain, RNG).shown is None


def test_grey_values_are_inverted_and_noise_added():
    plain = picture()
    twice = CHANGES["inverted"](CHANGES["inverted"](plain, RNG), RNG)
    assert all(CHANGES[name](plain, RNG).grid is plain.grid for name in GREY)
    np.testing.assert_allclose(twice.image, plain.image)
    assert np.argmax(CHANGES["inverted"](plain, RNG).image) == np.argmin(plain.image)
    ramp = np.linspace(0, 100, 200 * 200, dtype=np.float32).reshape(1, 200, 200)
    big = Picture(ramp, np.zeros((200, 200), np.uint8), Grid((200, 200), np.eye(3)))
    noise = CHANGES["noise"](big, np.random.default_rng(1)).image - big.image
    assert noise.std() == pytest.approx(9.9, rel=0.03) and abs(noise.mean()) < 0.3


def test_what_is_but_continued_is_not_compared(tiny):
    run, data = tiny
    (original,) = read_pictures(data.source.labelled("test")[:1], data.spatial_dims)
    pair = load(run, "cpu").register(original.given(), original.given(), "source", "source")
    everything = robustness.measured(pair, original, original, data.num_classes)
    covered = np.ones(original.label.shape, bool)
    covered[: covered.shape[0] // 2] = False
    wrong = np.where(covered, original.label, 1)
    for label in (wrong, original.label * covered):
        changed = replace(original, label=label, shown=covered)
        row = robustness.measured(pair, original, changed, data.num_classes)
        assert min(value for value in row["registered"] if value is not None) > 0.99
        assert row["verdict"] == everything["verdict"]


@pytest.fixture(scope="module", params=[2, 3])
def tiny(request, tmp_path_factory):
    """A run whose registration leaves fractions where they are."""
    folder = tmp_path_factory.mktemp("robust")
    size = (24, 20) if request.param == 2 else (12, 10)
    datalist = write_blob_cohort(folder / "data", request.param, spatial_size=size, test=3)
    return write_trained_run(folder / "run", datalist), load_datalist(datalist)


def test_an_image_on_itself_is_registered_wherever_it_lies(tiny):
    run, data = tiny
    trained = load(run, "cpu")
    (original,) = read_pictures(data.source.labelled("test")[:1], data.spatial_dims)
    modalities = ("source", "source")
    for name in ("as it is", "cropped .7", "mirrored", "turned 90", "pixels .75"):
        changed = CHANGES[name](original, RNG)
        for each in (changed, replace(changed, placed=False)):
            pair = trained.register(each.given(), each.given(), *modalities)
            row = robustness.measured(pair, each, each, data.num_classes)
            assert min(value for value in row["registered"] if value is not None) > 0.99
            predicted = np.asarray(trained.segment(each.given(), "source").label)[0]
            assert row["segmented"] == robustness.dice(predicted, each.label, data.num_classes)


def test_robustness_of_a_run(tiny, tmp_path, capsys):
    run, data = tiny
    out = tmp_path / "robustness.json"
    changes = "mirrored,pixels .75,oblique 10,cropped .55"
    figures = robustness.main(
        str(run), images=2, pairings=2, changes=changes, pose="as_is", device="cpu", out=str(out),
        mixed_precision=False,
    )  # fmt: skip
    assert json.loads(out.read_text()) == json.loads(json.dumps(figures))
    assert len(figures["rows"]) == 2 * 5 and len(figures["pairs"]) == 2 * 5 * 2 * 2
    first = figures["rows"][0]
    assert first["change"] == "as it is" and first["r/as it is"] == 1 and first["apart px"] == 0
    for row in figures["rows"]:
        assert sum(map(int, row["ok/check/failed"].split("/"))) == 4
        assert 0 <= row["segmented"] <= 1 and 0 <= row["registered"] <= 1
        assert (row["apart px"] is None) == (row["change"] in ("mirrored", "cropped .55"))
        if row["change"] == "pixels .75":
            assert row["apart px"] < 1.5
    assert {row["pairs"] for row in figures["verdicts"]} == {20, 40}
    printed = capsys.readouterr().out
    assert "blob 1" in printed and "AUROC" in printed


def test_images_without_spacing_go_in_as_arrays(tiny, monkeypatch):
    run, _ = tiny
    read = robustness.read_pictures
    monkeypatch.setattr(
        robustness, "read_pictures", lambda *args: [replace(each, placed=False) for each in read(*args)]
    )
    figures = robustness.main(str(run), images=1, changes="cropped .85,oblique 10", device="cpu")
    assert {row["change"] for row in figures["rows"]} == {"as it is", "cropped .85"}
    assert all(row["apart px"] is None for row in figures["rows"])


def test_ids_that_a_run_does_not_have_are_left_out_and_named(tiny, capsys):
    run, _ = tiny
    assert robustness.known(str(run), {"posture": "auto", "spatial_dims": 2}) == {"spatial_dims": 2}
    assert "has no posture: left out" in capsys.readouterr().out


def test_what_cannot_be_measured_is_said(tiny, tmp_path):
    run, data = tiny
    with pytest.raises(SystemExit, match="got \\['mirored'\\]"):
        robustness.main(str(run), changes="mirored")
    with pytest.raises(SystemExit, match="moving_spacing"):
        robustness.main(str(run), moving_spacing=2.0)
    content = json.loads(data.path.read_text())
    for record in content["target"]["test"]:
        record.pop("label", None)
    other = data.path.parent / "unlabelled.json"
    other.write_text(json.dumps(content))
    with pytest.raises(SystemExit, match="got none of the \\['target'\\]"):
        robustness.main(str(run), datalist=str(other))


def test_verdicts_are_counted():
    def pair(change, dice, verdict, expected, direction="source to target"):
        said = expected and (expected, expected - 0.05, expected + 0.05)
        common = {"direction": direction, "change": change, "verdict": verdict, "expected": said}
        return common | {"segmented": [dice, None], "registered": [dice, None]}

    rows = [
        pair("as it is", 0.9, "ok", 0.9),
        pair("as it is", 0.8, "check", 0.7),
        pair("mirrored", 0.3, "ok", 0.75),
        pair("mirrored", 0.2, "failed", 0.1),
    ]
    table = robustness.summarise(rows)
    json.dumps([table, robustness.verdict_rows(rows)])  # nothing of numpy
    assert [row["ok < 0.8"] for row in table] == [0, 1]
    assert [row["ok/check/failed"] for row in table] == ["1/1/0", "1/0/1"]
    assert table[1]["r/as it is"] == pytest.approx(0.25 / 0.85)
    assert table[0]["s, each class"] == "0.850 -"
    line, both = robustness.verdict_rows(rows)
    assert line | {"direction": "both"} == both
    assert (both["ok"], both["ok < 0.8"], both["ok < 0.8, of ok"]) == (2, 1, 0.5)
    assert both["ok, of those as they are >= 0.8"] == 0.5
    assert both["AUROC of the expected overlap"] == 0.75  # .9 above both, .7 above one of two
    assert both["in its interval"] == 0.25
    nothing = pair("mirrored", None, "ok", None)
    assert robustness.wrongly_ok([nothing]) == 1  # nothing is left to be right about
    assert robustness.verdict_rows([nothing])[0]["AUROC of the expected overlap"] is None


def test_the_expected_overlap_is_read_from_the_quality():
    mean = {"value": 0.9, "low": 0.8, "high": 0.95, "because": "folds"}
    assert robustness.expected_overlap({"expected_overlap": {"mean": mean}}) == (0.9, 0.8, 0.95)
    for quality in ({}, {"expected_overlap": None}, {"expected_overlap": {"mean": None}}):
        assert robustness.expected_overlap(quality) is None


def test_auroc():
    assert robustness.auroc([3, 2, 1], [True, False, False]) == 1
    assert robustness.auroc([1, 1], [True, False]) == 0.5
    assert robustness.auroc([1, 2], [True, True]) is None


def test_partners_are_spread():
    assert robustness.partners(2, 4, 0) == [(0, 0), (1, 1), (0, 2), (1, 3)]
    again, other = (robustness.partners(6, 6, seed) for seed in (1, 2))
    assert again == robustness.partners(6, 6, 1) != other
    assert sorted(m for m, _ in again) == [f for _, f in again] == list(range(6))
