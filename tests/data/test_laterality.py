"""Sides and directions as DICOM headers state them, in the reader's metadata and affine."""

from __future__ import annotations

import itertools
import warnings

import nibabel as nib
import numpy as np
import pydicom
import pytest
from monai.data import list_data_collate
from monai.transforms import LoadImage, LoadImaged, Orientation, Orientationd

from crosswarp.data import LabelOnImaged
from crosswarp.data.laterality import stated_directions, stated_side
from crosswarp.data.readers import AnyFormatReader
from crosswarp.errors import Notice

from .dicom import write_dicom, write_series

STORED = np.random.default_rng(0).integers(0, 4096, (6, 9))
SPACING = (0.5, 0.7)  # of columns (x) and rows (y) as they are stored


def load(path):
    return LoadImage(reader=AnyFormatReader(), ensure_channel_first=True, image_only=True)(path)


def header(**tags):
    dataset = pydicom.Dataset()
    for name, value in tags.items():
        setattr(dataset, name, value)
    return dataset


@pytest.mark.parametrize(
    ("tags", "side"),
    [
        ({"ImageLaterality": "L"}, "left"),
        ({"ImageLaterality": "R"}, "right"),
        ({"Laterality": "R"}, "right"),
        ({"Laterality": "L", "ImageLaterality": "L"}, "left"),
        ({"Laterality": "", "ImageLaterality": "R"}, "right"),
        ({"ImageLaterality": "B"}, None),
        ({"ImageLaterality": "U"}, None),
        ({"ImageLaterality": None}, None),
        ({}, None),
    ],
)
def test_side_of_the_body(tmp_path, tags, side):
    assert stated_side(header(**tags)) == (side, "")
    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)
        image = load(write_dicom(tmp_path / "a.dcm", STORED, **tags))
    assert image.meta.get("side") == side


@pytest.mark.parametrize("image_side", ["R", "B", "U"])
def test_sides_that_contradict_each_other_are_a_note_and_no_guess(tmp_path, image_side):
    path = write_dicom(tmp_path / "a.dcm", STORED, Laterality="L", ImageLaterality=image_side)
    message = (
        f"a.dcm: its header states ImageLaterality {image_side} and Laterality L, so its side is not known"
    )
    with pytest.warns(Notice, match=message):
        assert "side" not in load(path).meta


def test_the_side_of_a_series_is_that_of_all_its_slices(tmp_path):
    volume = np.random.default_rng(1).integers(0, 4096, (9, 6, 3))
    folder = write_series(tmp_path / "series", volume, (1, 1, 2), np.diag([1, 1, 2, 1.0]), Laterality="R")
    assert load(folder).meta["side"] == "right"
    path = next(folder.iterdir())
    changed = pydicom.dcmread(path)
    changed.Laterality = "L"
    changed.save_as(path)
    with pytest.warns(Notice, match="series: its slices state several sides, so its side is not known"):
        assert "side" not in load(folder).meta


def test_images_with_and_without_a_side_go_into_one_batch(tmp_path):
    sided = load(write_dicom(tmp_path / "a.dcm", STORED, Laterality="L"))
    silent = load(write_dicom(tmp_path / "b.dcm", STORED))
    assert list_data_collate([sided, silent]).shape == (2, 1, 9, 6)
    assert list_data_collate([sided, sided]).meta["side"] == ["left"] * 2


# By plane: what runs to the left and what to the back of the canonical picture, and their opposites.
PLANES = {"coronal": ("LR", "FH"), "sagittal": ("PA", "FH"), "axial": ("LR", "PA")}


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("mirrored", [False, True])
def test_pictures_of_any_pose_are_one_by_their_patient_orientation(tmp_path, plane, turns, mirrored):
    """The eight poses of a picture, their tags worked out by turning the letters with the array."""
    across, down = PLANES[plane]
    canonical = STORED  # [rows, columns]: columns run to across[0], rows to down[0]
    letters = {(0, 1): across[0], (0, -1): across[1], (1, 1): down[0], (1, -1): down[1]}
    axes = [(0, 1), (1, 1)]  # of the columns' and the rows' index
    array, spacing = canonical, SPACING
    if mirrored:
        array, axes[0] = array[:, ::-1], (axes[0][0], -axes[0][1])
    for _ in range(turns):  # a transposed array, its rows then reversed: a turn by 90 degrees
        array, spacing = array.T[::-1], spacing[::-1]
        axes = [axes[1], (axes[0][0], -axes[0][1])]
    orientation = [letters[axis] for axis in axes]
    path = write_dicom(tmp_path / "a.dcm", array, spacing, PatientOrientation=orientation)
    image = load(path)
    np.testing.assert_array_equal(image[0], array.T)
    np.testing.assert_allclose(image.meta["spacing"], spacing)
    assert np.linalg.det(image.affine) * (-1) ** mirrored > 0
    turned = Orientation("LP")(image)
    np.testing.assert_array_equal(turned[0], canonical.T)
    np.testing.assert_allclose(turned.pixdim, SPACING)
    np.testing.assert_allclose(turned.affine, np.diag([-SPACING[0], -SPACING[1], 1]), atol=1e-9)


def test_a_usual_picture_lies_as_without_the_tag(tmp_path):
    plain = load(write_dicom(tmp_path / "a.dcm", STORED, SPACING))
    for number, usual in enumerate((["L", "F"], ["P", "F"], ["L", "P"], ["LF", "FR"], ["l", "f"])):
        image = load(write_dicom(tmp_path / f"{number}.dcm", STORED, SPACING, PatientOrientation=usual))
        np.testing.assert_array_equal(image.affine, plain.affine)
        np.testing.assert_array_equal(image.meta["file_affine"], plain.meta["file_affine"])


def test_where_an_image_says_how_it_lies_in_space_its_letters_do_not_count(tmp_path):
    place = {"ImagePositionPatient": [1, 2, 3], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
    kind = "1.2.840.10008.5.1.4.1.1.4"  # MR
    plain = load(write_dicom(tmp_path / "a.dcm", STORED, kind=kind, **place))
    lettered = load(
        write_dicom(tmp_path / "b.dcm", STORED, kind=kind, PatientOrientation=["R", "F"], **place)
    )
    np.testing.assert_array_equal(lettered.affine, plain.affine)


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"PatientOrientation": ["L", "R"]}, r"PatientOrientation L\\R names no two axes of the body"),
        ({"PatientOrientation": ["L", "L"]}, r"PatientOrientation L\\L names no two axes of the body"),
        ({"PatientOrientation": "L"}, "PatientOrientation L names no two axes of the body"),
        ({"PatientOrientation": ["L", "X"]}, r"PatientOrientation L\\X names no two axes of the body"),
        (
            {"PatientOrientation": ["L", "F", "P"]},
            r"PatientOrientation L\\F\\P names no two axes of the body",
        ),
        (
            {"PatientOrientation": ["A", "F"], "ViewPosition": "PA"},
            r"states PatientOrientation A\\F and ViewPosition PA",
        ),
        (
            {"PatientOrientation": ["R", "F"], "ViewPosition": "LL"},
            r"states PatientOrientation R\\F and ViewPosition LL",
        ),
    ],
)
def test_directions_that_contradict_each_other_are_a_note_and_no_guess(tmp_path, tags, reason):
    with pytest.warns(Notice, match=f"a.dcm: its .*{reason}, so it is taken as it is stored"):
        image = load(write_dicom(tmp_path / "a.dcm", STORED, SPACING, **tags))
    np.testing.assert_allclose(image.affine, np.diag([-0.5, -0.7, 1]))


@pytest.mark.parametrize(
    "tags",
    [
        {},
        {"PatientOrientation": None},
        {"PatientOrientation": ["", ""]},
        {"ViewPosition": "PA"},  # how it was taken, not how it is shown
        {"PatientOrientation": ["R", "V"], "AnatomicalOrientationType": "QUADRUPED"},
    ],
)
def test_what_says_nothing_of_directions(tags):
    assert stated_directions(header(**tags)) == (None, "")


@pytest.mark.parametrize("view", ["AP", "PA", "LLO", "", None])
def test_a_view_that_fits_changes_nothing(view):
    directions, note = stated_directions(header(PatientOrientation=["R", "F"], ViewPosition=view))
    np.testing.assert_array_equal(directions, [[1, 0], [0, -1]])
    assert not note


def test_all_pairs_of_directions_are_read_or_noted():
    for pair in itertools.product("LRAPHF", repeat=2):
        directions, note = stated_directions(header(PatientOrientation=list(pair)))
        one_axis = any(set(pair) <= set(axis) for axis in ("LR", "AP", "HF"))
        assert bool(note) == (directions is None) == one_axis
        if directions is not None:
            np.testing.assert_array_equal(directions.T @ directions, np.eye(2))


def test_a_label_without_place_goes_with_its_mirrored_image(tmp_path):
    write_dicom(tmp_path / "image.dcm", STORED, SPACING, PatientOrientation=["R", "F"])
    nib.save(nib.Nifti1Image(STORED.T.astype(np.int16), None), tmp_path / "label.nii.gz")
    item = {"image": tmp_path / "image.dcm", "label": tmp_path / "label.nii.gz"}
    item = LoadImaged(list(item), reader=AnyFormatReader(), ensure_channel_first=True)(item)
    item = Orientationd(["image", "label"], "LP")(LabelOnImaged("label", "image")(item))
    np.testing.assert_array_equal(item["image"][0], STORED.T[::-1])
    np.testing.assert_array_equal(item["label"], item["image"])
