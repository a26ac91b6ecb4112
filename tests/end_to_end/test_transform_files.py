"""The transforms that `register` writes, applied to files by SimpleITK, give what `register` wrote."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from crosswarp.commands.register import register

from ..cohorts import write_blob_cohort
from ..trained_run import write_trained_run

sitk = pytest.importorskip("SimpleITK")


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_quality_of_a_pair_is_judged_and_pictured(tmp_path: Path, spatial_dims: int) -> None:
    datalist = write_blob_cohort(tmp_path / "data", spatial_dims, num_classes=3, spatial_size=(16, 12))
    run = write_trained_run(tmp_path / "run", datalist, deformation=0.02)
    images = tmp_path / "data" / "images"
    moving, fixed = str(images / "warmtest0.nii.gz"), str(images / "coldtest1.nii.gz")
    register(moving, fixed, str(run), str(tmp_path / "out"))
    (file,) = (tmp_path / "out").glob("*_quality.json")
    quality = json.loads(file.read_text())
    # the networks are not trained: they find nothing that fits
    assert quality["verdict"] == "failed" and quality["reasons"]
    assert (quality["moving"], quality["fixed"]) == ("warmtest0", "coldtest1")
    assert set(quality["overlap"]) == {"1", "2"} and 0 <= quality["inverse_error_percent"] < 100
    # the run knows what its training images are like, and these are much the same
    assert all(0 < quality["atypicality"][key]["appearance"] < 2 for key in ("moving", "fixed"))
    assert quality["extent_overlap"] == 1 and quality["notes"] == []
    assert file.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_pictures_far_apart_get_a_spacing_and_an_initialisation(tmp_path: Path) -> None:
    datalist = write_blob_cohort(tmp_path / "data", 2, num_classes=3, spatial_size=(16, 12))
    run = write_trained_run(tmp_path / "run", datalist)
    array = np.asarray(nib.load(tmp_path / "data" / "images" / "warmtest0.nii.gz").dataobj)
    scaled = (255 * (array - array.min()) / np.ptp(array)).astype(np.uint8)
    Image.fromarray(scaled.T).save(tmp_path / "a.png")
    Image.fromarray(scaled.T).save(tmp_path / "b.png")
    files = str(tmp_path / "a.png"), str(tmp_path / "b.png"), str(run), str(tmp_path / "out")
    modalities = {"moving_modality": "source", "fixed_modality": "source"}
    chosen = {"moving_spacing": 0.5, "initialisation": "moments", "transform_suffix": ".tfm"}
    with pytest.warns(UserWarning, match="1 of 2 files do not state their pixel spacing .*b.png"):
        register(*files, **modalities, **chosen)
    quality = json.loads((tmp_path / "out" / "a_to_b_quality.json").read_text())
    assert quality["notes"] == [
        "the fixed image does not state its spacing: 1 mm stands in (give fixed_spacing)"
    ]
    # centre of mass onto centre of mass, and no scale: one picture has half the pixels' size of the other
    transform = sitk.ReadTransform(str(tmp_path / "out" / "a_to_b_transform.tfm"))
    here, there = (np.array(transform.TransformPoint(place)) for place in ((2.0, 3.0), (6.0, 4.0)))
    np.testing.assert_allclose(there - here, [4, 1], atol=1e-4)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_simpleitk_resamples_to_the_warped_image(tmp_path: Path, spatial_dims: int) -> None:
    datalist = write_blob_cohort(tmp_path / "data", spatial_dims, num_classes=3, spatial_size=(16, 12))
    run = write_trained_run(tmp_path / "run", datalist, deformation=0.02)
    images = tmp_path / "data" / "images"
    moving, fixed = images / "coldtest0.nii.gz", images / "warmtest1.nii.gz"
    turn(fixed, spatial_dims)
    out = tmp_path / "out"
    register(str(moving), str(fixed), str(run), str(out), "target", "source")
    files = {path.name.removeprefix("coldtest0_to_warmtest1_"): path for path in out.iterdir()}
    warped = sitk.ReadImage(str(files["warped.nii.gz"]), sitk.sitkFloat32)
    moving_image = sitk.ReadImage(str(moving), sitk.sitkFloat32)
    for transform in (
        sitk.ReadTransform(str(files["transform.h5"])),
        sitk.DisplacementFieldTransform(
            sitk.ReadImage(str(files["displacement.nii.gz"]), sitk.sitkVectorFloat64)
        ),
    ):
        resampled = sitk.Resample(moving_image, warped, transform, sitk.sitkLinear)
        ours, theirs = (sitk.GetArrayFromImage(each) for each in (warped, resampled))
        inner = tuple(slice(3, -3) for _ in range(spatial_dims))
        np.testing.assert_allclose(ours[inner], theirs[inner], atol=0.02 * np.ptp(ours))
    displaced = sitk.GetArrayFromImage(sitk.ReadImage(str(files["displacement.nii.gz"])))
    assert np.ptp(displaced, axis=tuple(range(spatial_dims))).max() > 0.2, "the map is not the identity"


def turn(path: Path, spatial_dims: int) -> None:
    """Store the image with other axes in space: flipped, and in 3D oblique and anisotropic."""
    image = nib.load(path)
    affine = image.affine.copy()
    angle = 0.2 if spatial_dims == 3 else 0
    rotation = np.eye(4)
    rotation[:3, :3] = [
        [np.cos(angle), -np.sin(angle), 0],
        [np.sin(angle), np.cos(angle), 0],
        [0, 0, 1],
    ]
    affine = rotation @ affine @ np.diag([1, 1.5, 1, 1])
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), path)
