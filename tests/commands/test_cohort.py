"""The synthetic knee cohort: reproducible, complete, one anatomy in every view, two different modalities."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from crosswarp.commands.cohort import cohort
from crosswarp.data import check_datalist, datalist_digest, load_datalist
from crosswarp.data.knee import MODALITIES, _add_marker, draw_knee
from crosswarp.data.views import AS_THEY_COME, IN_TESTS_ALONE, PLAIN, View, choose_view

FEW = {
    "train_labelled": 2,
    "train_unlabelled": 2,
    "val": 1,
    "test": 1,
    "target_train": 2,
    "target_val": 1,
    "target_test": 1,
}
SUBJECTS = range(1, 13)
ORDER = ("train_labelled", "train_unlabelled", "val", "test")
PLAIN_AREAS = {  # points of every class, as the first version drew them
    ("dxa", 1): [2745, 667, 594, 90],
    ("dxa", 2): [3120, 467, 423, 86],
    ("xray", 1): [3087, 472, 442, 95],
    ("xray", 2): [2805, 625, 555, 111],
}


def dice(a, b):
    return [2 * np.sum((a == k) & (b == k)) / (np.sum(a == k) + np.sum(b == k)) for k in (1, 2, 3)]


@pytest.fixture(scope="module")
def knees():
    """Image, label and spacing by modality."""
    return {modality: [draw_knee(modality, index, 64) for index in SUBJECTS] for modality in MODALITIES}


def test_the_cohort_is_a_sound_datalist_with_spacing(tmp_path):
    path = cohort(tmp_path, size=32, **FEW)
    datalist = load_datalist(path)
    check_datalist(datalist)
    assert datalist.label_names == ["background", "femur", "tibia", "fibula"]
    assert datalist.spatial_size == [32, 32] and datalist.spacing == [180 / 32] * 2
    counts = {
        modality.name: [
            len(modality.records(s)) for s in ("train_labelled", "train_unlabelled", "val", "test")
        ]
        for modality in (datalist.source, datalist.target)
    }
    assert counts == {"dxa": [2, 2, 1, 1], "xray": [0, 2, 1, 1]}
    assert all("label" not in r for r in datalist.target.train_unlabelled + datalist.target.val)
    subjects = [r["subject"] for r in datalist.source.records() + datalist.target.records()]
    assert len(set(subjects)) == len(subjects) == 10
    image = nib.load(datalist.source.test[0]["image"])
    assert image.shape == (32, 32)
    assert 150 < 32 * image.header.get_zooms()[0] < 185  # the field of view in mm


def test_same_seed_same_bytes_other_seed_other_bytes(tmp_path):
    digests = [
        datalist_digest(load_datalist(cohort(tmp_path / name, size=32, seed=seed, **FEW)))
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert digests[0] == digests[1] != digests[2]
    one, other = (draw_knee("dxa", 1, 32, seed) for seed in (0, 1))
    assert not np.array_equal(one[1], other[1])


def test_an_image_does_not_depend_on_how_many_others_there_are(tmp_path):
    few = load_datalist(cohort(tmp_path / "few", size=32, **FEW))
    more = load_datalist(cohort(tmp_path / "more", size=32, **{**FEW, "val": 3, "target_train": 3}))
    for name in ("dxa_0001", "dxa_0005", "xray_0003"):
        a, b = (d.path.parent / "images" / f"{name}.nii.gz" for d in (few, more))
        assert a.read_bytes() == b.read_bytes()


def test_writing_again_changes_nothing_and_another_cohort_is_refused(tmp_path):
    path = cohort(tmp_path, size=32, **FEW)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    assert cohort(tmp_path, size=32, **FEW) == path
    with pytest.raises(FileExistsError, match="another cohort.*remove"):
        cohort(tmp_path, size=32, seed=1, **FEW)
    path.write_text(json.dumps({"name": "mine"}))
    with pytest.raises(FileExistsError, match="another cohort"):
        cohort(tmp_path, size=32, **FEW)
    assert before.keys() == set(tmp_path.rglob("*"))
    assert all(file.stat().st_mtime_ns == time for file, time in before.items() if file != path)


def test_the_networks_grid_may_be_coarser_than_the_images(tmp_path):
    few = {"train_labelled": 1, "train_unlabelled": 1, "val": 1, "test": 1}
    few |= {"target_train": 1, "target_val": 1, "target_test": 1}
    datalist = load_datalist(cohort(tmp_path, size=64, grid=32, **few))
    assert datalist.spatial_size == [32, 32] and datalist.spacing == [180 / 32] * 2
    assert nib.load(datalist.source.test[0]["image"]).shape[:2] == (64, 64)


def test_the_modality_with_labels_can_be_the_other(tmp_path):
    usual = load_datalist(cohort(tmp_path / "usual", size=32, **FEW))
    turned = load_datalist(
        cohort(tmp_path / "turned", size=32, source="xray", **FEW | {"train_unlabelled": 0})
    )
    check_datalist(turned)
    assert (turned.source.name, turned.target.name) == ("xray", "dxa")
    images = [record["image"] for record in turned.source.train_labelled]
    assert len(images) == 2 and all("label" in record for record in turned.source.train_labelled)
    for image, same in zip(images, usual.target.train_unlabelled, strict=True):
        np.testing.assert_array_equal(nib.load(image).get_fdata(), nib.load(same["image"]).get_fdata())
    with pytest.raises(ValueError, match="Expected source in"):
        cohort(tmp_path / "neither", source="ct")


def test_unknown_modality():
    with pytest.raises(ValueError, match="dxa"):
        draw_knee("ct", 1, 32)


def test_every_knee_has_all_bones_in_their_places(knees):
    for _, label, _ in itertools.chain(*knees.values()):
        assert label.dtype == np.uint8
        middles = [np.argwhere(label == k).mean(0) for k in (1, 2, 3)]
        areas = [np.mean(label == k) for k in (1, 2, 3)]
        assert min(areas[:2]) > 0.06 and areas[2] > 0.01
        assert middles[0][1] < middles[1][1]  # femur above tibia: y is the second axis
        assert middles[2][0] < middles[1][0]  # fibula on the left: x is the first axis


@pytest.mark.parametrize("modality", MODALITIES)
def test_the_same_subject_is_the_same_anatomy_at_every_size(modality):
    for index in (1, 2, 3):
        small, large = (draw_knee(modality, index, size) for size in (64, 128))
        assert small[2] == tuple(2 * spacing for spacing in large[2])
        # Centres of small and large pixels are a quarter of a small one apart: much for a fibula of 4.
        overlap = dice(np.repeat(np.repeat(small[1], 2, 0), 2, 1), large[1])
        assert min(overlap[:2]) > 0.95 and overlap[2] > 0.85
        averaged = large[0].reshape(64, 2, 64, 2).mean((1, 3))
        assert np.corrcoef(averaged.ravel(), small[0].ravel())[0, 1] > 0.995


def test_unregistered_overlap_leaves_work_for_registration(knees):
    """About .72 for femur and tibia, .30 for the fibula, measured on 30 x 30 pairs."""
    pairs = itertools.product(knees["dxa"], knees["xray"])
    femur, tibia, fibula = np.mean([dice(a[1], b[1]) for a, b in pairs], axis=0)
    assert 0.62 < femur < 0.8 and 0.62 < tibia < 0.8
    assert 0.15 < fibula < 0.45


def test_soft_tissue_is_as_bright_as_much_of_the_bone_in_xray_only(knees):
    """The 80th percentile outside bone over the median of bone: measured on 24 subjects, .03 and .64."""
    ratios = {
        modality: np.mean(
            [np.quantile(image[label == 0], 0.8) / np.median(image[label > 0]) for image, label, _ in some]
        )
        for modality, some in knees.items()
    }
    assert ratios["dxa"] < 0.1
    assert ratios["xray"] > 0.5


def test_plain_knees_are_those_of_every_version():
    areas = {
        (modality, index): np.bincount(draw_knee(modality, index, 64)[1].ravel()).tolist()
        for modality in MODALITIES
        for index in (1, 2)
    }
    assert areas == PLAIN_AREAS


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_left_knee_is_a_right_one_mirrored(modality):
    for index in (1, 2, 3):
        right, left = (draw_knee(modality, index, 64, view=view) for view in (PLAIN, View(left=True)))
        exposed = (right[1] > 0) & (left[1][::-1] > 0)  # collimation is not mirrored
        assert exposed.sum() > 0.8 * (right[1] > 0).sum() and left[2] == right[2]
        assert np.mean(right[1][exposed] == left[1][::-1][exposed]) > 0.99
        middles = [np.argwhere(left[1] == k).mean(0) for k in (2, 3)]
        assert middles[1][0] > middles[0][0]  # the fibula on the right


def test_the_marker_of_a_left_knee_is_an_l_on_the_right_to_be_read():
    axis = (np.arange(256) + 0.5) / 256 * 180 - 90
    picture = np.stack(np.meshgrid(axis, axis, indexing="ij"))
    letters = 0
    for seed in range(6):
        arguments = np.zeros((256, 256)), picture, np.array([180.0, 180.0])
        right, left = (
            np.argwhere(_add_marker(np.random.default_rng(seed), *arguments, each)) for each in (False, True)
        )
        assert bool(len(right)) == bool(len(left))
        if len(left):
            letters += 1
            assert right[:, 0].max() < 128 < left[:, 0].min() and left[:, 0].max() < 255
            relative = (left.mean(0) - left.min(0)) / np.ptp(left, axis=0)
            assert relative[0] < 0.45 and relative[1] > 0.55  # an L is heavy on its left and below
    assert letters > 2


def test_fields_of_view_show_more_or_less_of_one_picture():
    plain = draw_knee("dxa", 3, 64)
    narrow, wide = (draw_knee("dxa", 3, 64, view=View(field=field)) for field in ((0.75, 0.5), (1.25, 1.0)))
    assert narrow[0].shape == (48, 32) and wide[0].shape == wide[1].shape == (80, 64)
    assert narrow[2] == wide[2] == plain[2]
    assert np.mean(narrow[1] == plain[1][8:56, 16:48]) > 0.998  # up to rounding
    assert np.mean(wide[1][8:72] == plain[1]) > 0.998


@pytest.mark.parametrize("modality", MODALITIES)
def test_other_pixels_show_the_same(modality):
    plain, fine, oblong = (
        draw_knee(modality, 2, size, view=view)
        for size, view in ((128, PLAIN), (64, View(pixel=(0.5, 0.5))), (64, View(pixel=(0.5, 1.0))))
    )
    np.testing.assert_array_equal(fine[0], plain[0])
    np.testing.assert_array_equal(fine[1], plain[1])
    assert fine[2] == plain[2] and oblong[2] == (plain[2][0], 2 * plain[2][1])
    assert oblong[0].shape == (128, 64)
    assert min(dice(np.repeat(oblong[1], 2, 1), plain[1])) > 0.9


def test_turned_and_inverted_pictures_are_stored_so():
    pixel = (0.5, 1.0)
    plain = draw_knee("xray", 5, 32, view=View(pixel=pixel))
    turned = draw_knee("xray", 5, 32, view=View(pixel=pixel, quarter_turns=1))
    for array, upright in zip(turned[:2], plain[:2], strict=True):
        np.testing.assert_array_equal(np.rot90(array, 3), upright)
    assert turned[2] == plain[2][::-1]
    inverted = draw_knee("xray", 5, 32, view=View(pixel=pixel, inverted=True))
    assert np.ptp(inverted[0] + plain[0]) == 0 and inverted[0].min() == plain[0].min()
    np.testing.assert_array_equal(inverted[1], plain[1])


def test_tilted_and_larger_people():
    plain, tilted, large = (
        draw_knee("dxa", 4, 128, view=view)[1] for view in (PLAIN, View(tilt=20), View(scale=1.125))
    )
    upright = ndimage.rotate(tilted, 20, reshape=False, order=0)
    inner = (slice(32, 96), slice(32, 96))
    assert min(dice(upright[inner], plain[inner])) > 0.9 > max(dice(tilted[inner], plain[inner])[2:])
    widths = [np.sum(label[:, 100] == 2) for label in (plain, large)]  # of the tibia
    assert widths[1] > 1.05 * widths[0]


def test_shares_concern_whom_they_say_and_leave_the_others_alone():
    subjects = [(0, 1, index) for index in range(300)]
    everything = [choose_view(each, AS_THEY_COME, True) for each in subjects]
    for name in AS_THEY_COME:
        some, more = ([choose_view(each, {name: share}, True) for each in subjects] for share in (0.3, 0.6))
        for share, views in ((0.3, some), (0.6, more)):
            assert abs(np.mean([view != PLAIN for view in views]) - share) < 0.09  # three deviations
        assert all(view in (PLAIN, other) for view, other in zip(some, more, strict=True))
        trained = [choose_view(each, {name: 1.0}, False) for each in subjects]
        assert all((view == PLAIN) == (name in IN_TESTS_ALONE) for view in trained)
    both = sum(view.left and view.inverted for view in everything) / len(subjects)
    assert abs(both - 0.3 * 0.2) < 0.05  # independent of each other


def test_a_cohort_as_pictures_come(tmp_path):
    plain = load_datalist(cohort(tmp_path / "plain", size=32, **FEW))
    mixed = load_datalist(cohort(tmp_path / "mixed", size=32, as_they_come=True, turned=1.0, **FEW))
    check_datalist(mixed)
    sides, same = set(), 0
    for key, modality in (("source", mixed.source), ("target", mixed.target)):
        number = MODALITIES.index(modality.name)
        for index, record in enumerate(modality.records(*ORDER), 1):
            tested = record in modality.test
            view = choose_view((0, number, index), AS_THEY_COME | {"turned": 1.0}, tested)
            sides.add(record["side"])
            assert record["side"] == ("left" if view.left else "right")
            assert tested == (view.tilt != 0 or view.quarter_turns != 0)
            image, other = (
                nib.load(each["image"]) for each in (record, getattr(plain, key).records(*ORDER)[index - 1])
            )
            assert np.all(np.diag(image.affine)[:2] < 0) and np.count_nonzero(image.affine) == 4
            if view == PLAIN:
                same += 1
                assert Path(image.get_filename()).read_bytes() == Path(other.get_filename()).read_bytes()
            if "label" in record:
                assert nib.load(record["label"]).shape == image.shape
    assert sides == {"left", "right"} and same > 0
    assert all("side" not in record for record in plain.source.records())
    assert cohort(tmp_path / "mixed", size=32, **FEW, **AS_THEY_COME | {"turned": 1}) == mixed.path
    assert cohort(tmp_path / "plain", size=32, left=0, as_they_come=False, **FEW) == plain.path
    with pytest.raises(FileExistsError, match="another cohort"):
        cohort(tmp_path / "plain", size=32, cropped=0.1, **FEW)


def test_all_wrong_shares_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"0 to 1, got left 30, turned -0.1, inverted True\.$"):
        cohort(tmp_path, left=30, turned=-0.1, inverted=True, cropped=1)
    assert not list(tmp_path.iterdir())


def test_all_numbers_that_cannot_be_are_named_at_once(tmp_path):
    with pytest.raises(
        ValueError, match="size: .* got 0\n- grid: .* got 0\n- val: expected 0 or more, got -1"
    ):
        cohort(tmp_path / "new", size=0, grid=0, val=-1)
    assert not (tmp_path / "new").exists()
    (tmp_path / "datalist.json").write_text("[1")
    with pytest.raises(FileExistsError, match="another cohort"):
        cohort(tmp_path, size=16, **FEW)
    assert (tmp_path / "datalist.json").read_text() == "[1"
