"""Lining files up as pairs."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from crosswarp.inference import pair_records


@pytest.fixture
def folder(tmp_path):
    for name in ("a", "b", "c", "d"):
        (tmp_path / name).touch()
    return tmp_path


def names(records):
    return [{key: path.rpartition("/")[2] for key, path in record.items()} for record in records]


def test_files_pair_up_in_order_and_one_file_serves_all(folder):
    records = pair_records(str(folder), moving=["a", "b"], fixed="c", moving_label=["c", "d"], other=None)
    assert names(records) == [
        {"moving": "a", "fixed": "c", "moving_label": "c"},
        {"moving": "b", "fixed": "c", "moving_label": "d"},
    ]
    assert records[0]["moving"] == str(folder / "a")
    assert pair_records("elsewhere", moving=str(folder / "a"), fixed=[str(folder / "b")]) == [
        {"moving": str(folder / "a"), "fixed": str(folder / "b")}
    ]


@pytest.mark.parametrize(
    ("files", "error", "message"),
    [
        ({"moving": "a"}, ValueError, "for fixed: give --moving A --fixed B"),
        ({"moving": None, "fixed": []}, ValueError, "for moving and fixed"),
        ({"moving": ["a", "b", "c"], "fixed": ["a", "b"]}, ValueError, "one file or 3 files.*'fixed': 2"),
        ({"moving": ["a", "x"], "fixed": ["b", "y"]}, FileNotFoundError, "/x, .*/y"),
    ],
)
def test_what_cannot_be_paired_is_said(folder, files, error, message):
    with pytest.raises(error, match=message):
        pair_records(str(folder), **files)


@pytest.mark.parametrize("key", ["moving", "fixed"])
def test_files_whose_results_would_overwrite_each_other_are_refused(tmp_path, key):
    for file in ("first/t1.nii.gz", "second/t1.nii.gz", "first/t2.nii.gz"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    other = "fixed" if key == "moving" else "moving"
    alone = pair_records(str(tmp_path), **{key: ["first/t1.nii.gz"] * 2, other: "second/t1.nii.gz"})
    assert len(alone) == 2
    with pytest.raises(
        ValueError, match=f"files of different names.* as t1_{key}_seg, got .*first/t1.*second/t1"
    ):
        pair_records(
            str(tmp_path), **{key: ["first/t1.nii.gz", "second/t1.nii.gz"], other: "first/t2.nii.gz"}
        )


@pytest.fixture
def images(tmp_path):
    """Images fit to be registered in 2D, one channel each, and many that are not."""
    rng = np.random.default_rng(0)
    good, affine = rng.random((8, 9)).astype(np.float32), np.diag([-0.5, -0.5, 1, 1])
    spoilt = good.copy()
    spoilt[3, 3] = np.nan
    arrays = {
        "a": good,
        "b": good * 2,
        "volume": rng.random((8, 9, 4)).astype(np.float32),
        "colour": rng.random((8, 9, 1, 3)).astype(np.float32),
        "nan": spoilt,
        "constant": np.ones((8, 9), np.float32),
        "label": rng.integers(0, 3, (8, 9)).astype(np.uint8),
        "classes": rng.integers(0, 9, (8, 9)).astype(np.uint8),
        "larger": rng.integers(0, 3, (9, 9)).astype(np.uint8),
    }
    for name, array in arrays.items():
        nib.save(nib.Nifti1Image(array, affine), tmp_path / f"{name}.nii")
    nib.save(nib.Nifti1Image(good, None), tmp_path / "silent.nii")
    (tmp_path / "broken.nii").write_text("no image")
    return tmp_path


CHECKS = {"spatial_dims": 2, "channels": {"moving": 1, "fixed": 1}}


def test_all_faults_of_all_pairs_are_said_at_once(images):
    names = ["volume", "colour", "nan", "constant", "broken", "a"]
    moving = [f"{name}.nii" for name in names]
    with pytest.raises(ValueError) as caught:
        pair_records(str(images), moving=moving, fixed="constant.nii", **CHECKS)
    lines = str(caught.value).splitlines()
    assert lines[0] == "Expected images to register, but some do not serve:"
    wanted = {
        "volume": r"is 3D (8, 9, 4), the networks are 2D",
        "colour": "has 3 channels, its modality 1",
        "nan": "has NaN or infinite voxels",
        "constant": "all voxels are equal",
        "broken": "unreadable as an image",
    }
    for name, fault in wanted.items():
        assert sum(f"{name}.nii: {fault}" in line for line in lines) == 1, name
    assert len(lines) == 6
    with pytest.raises(FileNotFoundError, match=r"(?s)not there: \S*lost.nii\n- \S*nan.nii: has NaN"):
        pair_records(str(images), moving="lost.nii", fixed="nan.nii", **CHECKS)


def test_labels_are_checked_with_their_image(images):
    checks = CHECKS | {"labels": {"moving_label": "moving"}, "num_classes": 3}
    files = {"moving": "a.nii", "fixed": "b.nii"}
    assert len(pair_records(str(images), **files, moving_label="label.nii", **checks)) == 1
    assert len(pair_records(str(images), **files, moving_label=None, **checks)) == 1
    for label, fault in (
        ("classes", r"has the values \[3, 4, 5, 6, 7, 8\]"),
        ("larger", r"has shape \(9, 9\)"),
    ):
        with pytest.raises(ValueError, match=f"{label}.nii: {fault}"):
            pair_records(str(images), **files, moving_label=f"{label}.nii", **checks)
    maps = CHECKS | {"labels": {"moving": "moving", "fixed": "fixed"}, "num_classes": 3}
    with pytest.raises(ValueError, match="a.nii: has values that are no class numbers"):
        pair_records(str(images), moving="a.nii", fixed="label.nii", **maps)


def test_a_spacing_that_is_not_stated_is_said_or_given(images):
    files = {"moving": "silent.nii", "fixed": "a.nii"}
    with pytest.warns(UserWarning, match=r"1 of 2 files do not state their pixel spacing .*silent.nii"):
        pair_records(str(images), **files, **CHECKS)
    given = {"moving": 0.5, "fixed": None}
    assert len(pair_records(str(images), **files, **CHECKS, spacing=given)) == 1  # and no warning is an error
    with pytest.raises(ValueError, match=r"a.nii: states its spacing, 0.5 × 0.5 mm, and 2 × 2 mm was given"):
        pair_records(str(images), **files, **CHECKS, spacing={"moving": 0.5, "fixed": 2})
    with pytest.raises(ValueError, match="Expected a spacing in mm, positive"):
        pair_records(str(images), **files, **CHECKS, spacing={"moving": -1})
