"""The synthetic knee cohort: reproducible, complete, one anatomy at every size, two different modalities."""

from __future__ import annotations

import itertools
import json

import nibabel as nib
import numpy as np
import pytest

from crosswarp.commands.cohort import cohort
from crosswarp.data import check_datalist, datalist_digest, load_datalist
from crosswarp.data.knee import MODALITIES, draw_knee

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
    assert datalist.spatial_size == [32, 32]
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
        assert small[2] == 2 * large[2]
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
