"""Every fault that files can have is found and named, with the file and what to do."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from crosswarp.data import DatalistError, check_datalist, load_datalist
from crosswarp.errors import Notice
from tests.cohorts import write_blob_cohort
from tests.data.dicom import write_dicom


@pytest.fixture
def cohort(tmp_path) -> Path:
    return write_blob_cohort(tmp_path, num_classes=3)


def rewrite(path: Path, change) -> None:
    """Replace a NIfTI file's array by what `change` makes of it."""
    image = nib.load(path)
    nib.save(nib.Nifti1Image(change(np.asarray(image.dataobj)), image.affine), path)


def edit(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def faults(path: Path) -> list[str]:
    with pytest.raises(DatalistError) as raised:
        check_datalist(load_datalist(path))
    return raised.value.faults


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("num_classes", [2, 6])
def test_sound_cohorts_pass_without_a_warning(tmp_path, spatial_dims, channels, num_classes):
    path = write_blob_cohort(tmp_path, spatial_dims, num_classes, channels, spatial_size=(24, 20, 16))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_datalist(load_datalist(path))


def with_nan(image):
    image[3, 4] = np.nan
    return image


FILE_FAULTS = {
    "missing image": ("images/coldval0.nii.gz", Path.unlink, "missing"),
    "missing label": ("labels/warmval1.nii.gz", Path.unlink, "missing"),
    "unreadable": ("images/coldtest1.nii.gz", lambda p: p.write_bytes(b"no image"), "unreadable as an image"),
    "cut short": (
        "images/warmtest1.nii.gz",
        lambda p: p.write_bytes(p.read_bytes()[:200]),
        "unreadable as an image",
    ),
    "NaN": ("images/warmtrainunlabelled3.nii.gz", lambda p: rewrite(p, with_nan), "NaN or infinite"),
    "infinite": ("images/coldval1.nii.gz", lambda p: rewrite(p, lambda a: a / 0), "NaN or infinite"),
    "constant": (
        "images/coldtrainunlabelled0.nii.gz",
        lambda p: rewrite(p, np.ones_like),
        "all voxels are equal",
    ),
    "dimensions": (
        "images/coldtrainunlabelled1.nii.gz",
        lambda p: rewrite(p, lambda a: np.stack([a, a], -1)),
        "is 3D (24, 20, 2), the networks are 2D",
    ),
    "channels": (
        "images/coldtrainunlabelled2.nii.gz",
        lambda p: rewrite(p, lambda a: np.stack([a, a], -1)[:, :, None]),
        "has 2 channels, its modality 1",
    ),
    "label values": (
        "labels/warmtest0.nii.gz",
        lambda p: rewrite(p, lambda a: a * 100),
        "has the values [100, 200], declared are 0 to 2",
    ),
    "negative label": (
        "labels/warmtest0.nii.gz",
        lambda p: rewrite(p, lambda a: a.astype(np.int16) - 1),
        "has the values [-1]",
    ),
    "fractional label": (
        "labels/coldtest0.nii.gz",
        lambda p: rewrite(p, lambda a: a.astype(np.float32) / 2),
        "no class numbers",
    ),
    "label channels": (
        "labels/coldtest1.nii.gz",
        lambda p: rewrite(p, lambda a: np.stack([a, a], -1)[:, :, None]),
        "has 2 channels; store one",
    ),
    "label shape": (
        "labels/warmtrainlabelled0.nii.gz",
        lambda p: rewrite(p, lambda a: a[:, :-1]),
        "has shape (24, 19), its image",
    ),
    "label elsewhere": (
        "labels/warmtrainlabelled0.nii.gz",
        lambda p: nib.save(nib.Nifti1Image(nib.load(p).get_fdata(), np.diag([-0.9, -0.9, 1, 1])), p),
        "lies elsewhere than its image",
    ),
}


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize("case", FILE_FAULTS)
def test_one_faulty_file_gives_one_fault(cohort, case):
    name, spoil, message = FILE_FAULTS[case]
    spoil(cohort.parent / name)
    found = faults(cohort)
    assert len(found) == 1
    assert name in found[0] and message in found[0]
    assert ";" in found[0]  # the remedy


DATALIST_FAULTS = {
    "two splits": (
        lambda c: c["source"]["test"][0].update(subject=c["source"]["train_unlabelled"][0]["subject"]),
        "warm: subject 'warmtrainunlabelled0' is in test and train",
    ),
    "listed twice": (
        lambda c: c["target"]["train_unlabelled"].append(c["target"]["train_unlabelled"][1]),
        "coldtrainunlabelled1.nii.gz: listed 2 times in cold",
    ),
    "no validation": (lambda c: c["source"].pop("val"), "source.val (warm) is empty"),
    "no training label": (
        lambda c: c["source"].pop("train_labelled"),
        "source.train_labelled (warm) is empty",
    ),
    "no target image": (
        lambda c: c["target"].pop("train_unlabelled"),
        "target.train_unlabelled (cold) is empty",
    ),
    "empty class": (
        lambda c: c["labels"].update({"3": "patella"}),
        "class 3 (patella) is in no training label",
    ),
    "landmarks": (lambda c: c["source"]["test"][1].update(landmarks="points.csv"), "points.csv: missing"),
}


@pytest.mark.parametrize("case", DATALIST_FAULTS)
def test_one_fault_of_the_datalist(cohort, case):
    change, message = DATALIST_FAULTS[case]
    edit(cohort, change)
    found = faults(cohort)
    assert len(found) == 1
    assert message in found[0] and ";" in found[0]


def test_one_subject_may_have_images_of_every_kind_in_one_split(cohort):
    def change(content):
        content["source"]["train_unlabelled"][0]["subject"] = "a"
        content["source"]["train_labelled"][0]["subject"] = "a"
        content["target"]["train_unlabelled"][0]["subject"] = "a"
        content["source"]["test"][0]["subject"] = content["target"]["test"][0]["subject"] = "b"

    edit(cohort, change)
    check_datalist(load_datalist(cohort))


def copy_image(cohort: Path, of: str, to: str) -> None:
    """The same picture, packed otherwise, so that the files differ."""
    image = nib.load(cohort.parent / of)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine), cohort.parent / to)


@pytest.mark.parametrize("to", ["images/warmtest0.nii.gz", "images/coldval1.nii.gz"])
def test_one_picture_under_two_subjects(cohort, to):
    first, other = "images/warmtrainlabelled1.nii.gz", cohort.parent / to
    copy_image(cohort, first, to)
    (found,) = faults(cohort)
    assert found.startswith(f"{other}: subject {other.name.split('.')[0]!r} in ")
    assert f"has the same picture as {cohort.parent / first}, subject 'warmtrainlabelled1' in train" in found


def test_one_picture_of_one_subject_in_one_split_is_no_fault(cohort):
    copy_image(cohort, "images/warmtrainlabelled1.nii.gz", "images/warmtrainunlabelled0.nii.gz")
    edit(cohort, lambda c: c["source"]["train_unlabelled"][0].update(subject="warmtrainlabelled1"))
    check_datalist(load_datalist(cohort))
    # where names count per modality, one name in both is two people
    edit(cohort, lambda c: c.update(subjects="per_modality"))
    copy_image(cohort, "images/warmtrainlabelled1.nii.gz", "images/coldtrainunlabelled0.nii.gz")
    edit(cohort, lambda c: c["target"]["train_unlabelled"][0].update(subject="warmtrainlabelled1"))
    (found,) = faults(cohort)
    assert "in train of cold has the same picture" in found


def test_one_picture_in_both_modalities_is_a_fault_even_of_one_subject(cohort):
    copy_image(cohort, "images/warmtrainunlabelled0.nii.gz", "images/coldtrainunlabelled0.nii.gz")
    edit(cohort, lambda c: c["target"]["train_unlabelled"][0].update(subject="warmtrainunlabelled0"))
    (found,) = faults(cohort)
    assert "in train of cold has the same picture" in found


@pytest.mark.parametrize("flip", [None, 0, 1])
def test_a_picture_is_known_again_in_another_type_and_order_of_axes(cohort, flip):
    first, other = (cohort.parent / f"images/{name}.nii.gz" for name in ("warmtrainunlabelled1", "coldval0"))
    image = nib.load(first)
    array, affine = (100 * image.get_fdata()).round(), image.affine.copy()
    nib.save(nib.Nifti1Image(array.astype(np.int16), affine), first)
    if flip is not None:
        affine[:3, 3] += affine[:3, flip] * (array.shape[flip] - 1)
        affine[:3, flip] *= -1
        array = np.flip(array, flip)
    nib.save(nib.Nifti1Image(array.astype(np.float32), affine), other)
    (found,) = faults(cohort)
    assert found.startswith(f"{other}: ") and f"has the same picture as {first}" in found


def test_a_label_of_somebody_else_and_an_image_in_place_of_a_label(cohort):
    def of_another(content):
        content["source"]["val"][0]["label"] = content["source"]["train_labelled"][0]["label"]

    edit(cohort, of_another)
    (found,) = faults(cohort)
    assert (
        "label of subject 'warmval0' is that of " in found and "subject 'warmtrainlabelled0'; corr" in found
    )
    edit(cohort, lambda c: c["source"]["val"].pop(0))
    copy_image(cohort, "labels/warmtrainlabelled1.nii.gz", "images/warmtrainlabelled1.nii.gz")
    (found,) = faults(cohort)
    assert "labels/warmtrainlabelled1.nii.gz: is its image " in found and "; correct the path" in found


def test_classes_that_validation_lacks_and_labels_without_any_are_said(cohort):
    for name in ("warmval0", "warmval1"):
        rewrite(cohort.parent / f"labels/{name}.nii.gz", lambda a: np.where(a == 2, 0, a))
    rewrite(cohort.parent / "labels/warmtrainlabelled1.nii.gz", np.zeros_like)
    rewrite(cohort.parent / "labels/warmtest1.nii.gz", np.zeros_like)  # of which nothing is learnt
    with pytest.warns(Notice) as caught:
        check_datalist(load_datalist(cohort))
    unseen, empty = (str(each.message) for each in caught)
    assert "No validation label of warm has blob 2:" in unseen
    assert "1 of 5 labels of warm hold the background alone" in empty and "warmtrainlabelled1" in empty


@pytest.mark.parametrize(
    ("patients", "said"),
    [(("p", "p", "q"), True), (("p", "q", "p"), False), (("p", "p", "p"), False), (("", "", "q"), False)],
)
def test_a_patient_in_two_splits_by_dicom_headers_is_said(cohort, patients, said):
    """Two images to train on and one to validate on; one name for all is that of nobody."""
    sections = [("train_unlabelled", 0), ("val", 0), ("train_unlabelled", 1)]
    rng = np.random.default_rng(0)

    def change(content):
        for (section, number), patient in zip(sections, patients, strict=True):
            record = content["target"][section][number]
            record["image"] = f"images/{section}{number}.dcm"
            path, array = cohort.parent / record["image"], rng.integers(0, 4000, (20, 24))
            write_dicom(path, array, (0.8, 0.9), PatientID=patient)

    edit(cohort, change)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_datalist(load_datalist(cohort))
    notes = [str(each.message) for each in caught if issubclass(each.category, Notice)]
    assert len(notes) == said
    assert not said or "1 of 2 patients, by the PatientID" in notes[0] and "val of cold)" in notes[0]


def test_landmarks_are_read_before_they_are_needed(cohort):
    points = cohort.parent / "points.csv"
    edit(cohort, lambda c: c["source"]["test"][1].update(landmarks="points.csv"))
    points.write_text("name,x,y\na,1,2\nb,one,2\n")
    (found,) = faults(cohort)
    assert found.startswith(f"{points}: ") and "\n" not in found
    points.write_text("name,x,y\na,1,2\n")
    check_datalist(load_datalist(cohort))


def test_a_pipe_is_no_image(cohort):
    path = cohort.parent / "images/coldval0.nii.gz"
    path.unlink()
    os.mkfifo(path)
    assert faults(cohort) == [f"{path}: is a device or a pipe; name an image"]


def test_many_faults_of_one_kind_are_folded_in_the_message_and_whole_in_the_list(cohort):
    edit(cohort, lambda c: c.update(spatial_dims=3, spatial_size=[32, 32, 32]))
    with pytest.raises(DatalistError) as raised:
        check_datalist(load_datalist(cohort))
    assert len(raised.value.faults) == 19
    lines = str(raised.value).splitlines()
    assert lines[0] == f"{cohort}: 19 faults found:"
    assert lines[1:4] == [f"- {fault}" for fault in raised.value.faults[:3]]
    assert len(lines) == 5
    others = [fault.split(": ")[0].split("/")[-1] for fault in raised.value.faults[3:]]
    assert len(others) == 16
    assert lines[4].startswith(f"- and 16 more of the same kind: {', '.join(others[:10])}, ")


def test_all_faults_are_in_one_message(cohort):
    spoilt = ["missing image", "unreadable", "NaN", "constant", "dimensions", "label values", "label shape"]
    listed = ["two splits", "no validation", "empty class"]
    for name, spoil, _ in map(FILE_FAULTS.get, spoilt):
        spoil(cohort.parent / name)
    for change, _ in map(DATALIST_FAULTS.get, listed):
        edit(cohort, change)
    with pytest.raises(ValueError) as raised:
        check_datalist(load_datalist(cohort))
    lines = str(raised.value).splitlines()
    assert lines[0] == f"{cohort}: {len(spoilt) + len(listed)} faults found:"
    assert len(lines) == 1 + len(spoilt) + len(listed)
    for name, _, message in map(FILE_FAULTS.get, spoilt):
        # With four classes declared, "label values" names the range 0 to 3.
        assert any(name in line and message.split(", declared")[0] in line for line in lines)
    for _, message in map(DATALIST_FAULTS.get, listed):
        assert any(message in line for line in lines)


def test_labels_of_the_target_that_nothing_reads_are_not_read(cohort):
    edit(cohort, lambda c: c["target"]["val"][0].update(label="labels/none.nii.gz"))
    check_datalist(load_datalist(cohort))


def scale(path: Path, factor: float) -> None:
    """Multiply the spacing of a NIfTI file; the affine's translation stays."""
    image = nib.load(path)
    affine = image.affine @ np.diag([factor, factor, factor, 1])
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), path)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("name", ["coldtrainunlabelled1", "coldval0", "warmtrainunlabelled2"])
@pytest.mark.parametrize("factor", [1e-3, 1e3, 5.5, 0.15])
def test_a_spacing_in_other_units_than_the_others(tmp_path, spatial_dims, name, factor):
    modality = name[:4]
    cohort = write_blob_cohort(tmp_path, spatial_dims, 3, spatial_size=(24, 20, 10))
    scale(tmp_path / f"images/{name}.nii.gz", factor)
    usual = [19.2, 18, 11][:spatial_dims]
    sizes = [" x ".join(f"{by * length:.4g}" for length in usual) for by in (factor, 1)]
    assert faults(cohort) == [
        f"{tmp_path / 'images' / name}.nii.gz: by its spacing is {sizes[0]} mm large, the median of the "
        f"training images of {modality} {sizes[1]} mm; correct its spacing, which has to be in mm, or "
        "remove it"
    ]


@pytest.mark.parametrize("factor", [0.3, 3])
def test_images_may_be_cropped_or_wide(cohort, factor):
    for name in ("coldtrainunlabelled1", "coldval0", "warmtrainunlabelled2"):
        scale(cohort.parent / f"images/{name}.nii.gz", factor)
    check_datalist(load_datalist(cohort))


def test_one_spacing_for_modalities_in_different_units(cohort):
    for path in (cohort.parent / "images").glob("cold*"):
        scale(path, 1e-3)
        if (label := cohort.parent / "labels" / path.name).exists():
            scale(label, 1e-3)
    check_datalist(load_datalist(cohort))  # without a spacing, sizes in mm do not matter
    edit(cohort, lambda c: c.update(spacing=[0.6, 0.6]))
    (fault,) = faults(cohort)
    assert fault.startswith(
        "spacing: the training images of warm are 19.2 x 18 mm large in the median, those of cold 0.0192 x "
        "0.018 mm, so one spacing cannot serve both; correct"
    )


def test_images_without_spacing_contradict_none(cohort):
    for name in ("coldtrainunlabelled1", "coldval0"):
        scale(cohort.parent / f"images/{name}.nii.gz", 100)
        path = cohort.parent / f"images/{name}.nii.gz"
        nib.save(nib.Nifti1Image(np.asarray(nib.load(path).dataobj), None), path)
    with pytest.warns(UserWarning, match="2 of 28 files do not state their pixel spacing"):
        check_datalist(load_datalist(cohort))


def test_missing_spacing_is_said_once(cohort):
    def to_png(content):
        for record in content["target"]["train_unlabelled"]:
            array = nib.load(cohort.parent / record["image"]).get_fdata()
            record["image"] = record["image"].replace(".nii.gz", ".png")
            Image.fromarray((255 * np.clip(array.T, 0, 1)).astype(np.uint8)).save(
                cohort.parent / record["image"]
            )

    edit(cohort, to_png)
    with pytest.warns(UserWarning, match="4 of 28 files do not state their pixel spacing") as caught:
        check_datalist(load_datalist(cohort))
    assert sum("pixel spacing" in str(warning.message) for warning in caught) == 1
