"""One picture in every format loads as the same array in the same place."""

from __future__ import annotations

import warnings

import itk
import nibabel as nib
import numpy as np
import pytest
from monai.transforms import LoadImage, LoadImaged, Orientation
from PIL import Image

from crosswarp.data.readers import UnfitFileError, read_image

PICTURE = np.random.default_rng(0).integers(0, 256, (6, 9), dtype=np.uint8)  # height 6, width 9
SAGITTAL = np.array([[0, 0, 4, -38], [0, -2, 0, 112], [-3, 0, 0, 112], [0, 0, 0, 1.0]])


def load(path):
    return LoadImage(
        reader="crosswarp.data.readers.AnyFormatReader", ensure_channel_first=True, image_only=True
    )(path)


def write_with_itk(path, spacing=(0.5, 0.7)):
    image = itk.image_from_array(PICTURE.astype(np.int16) if path.suffix == ".dcm" else PICTURE)
    image.SetSpacing(spacing)
    itk.imwrite(image, str(path))
    return path


@pytest.mark.parametrize("suffix", [".png", ".tif", ".nii", ".nii.gz", ".mha", ".nrrd", ".dcm"])
def test_a_picture_is_the_same_in_every_format(tmp_path, suffix):
    image = load(write_with_itk(tmp_path / f"picture{suffix}"))
    assert image.shape == (1, 9, 6)
    np.testing.assert_array_equal(image[0], PICTURE.T)
    np.testing.assert_allclose(image.affine, np.diag([-0.5, -0.7, 1]), atol=1e-6)  # ITK's identity in RAS
    np.testing.assert_allclose(image.pixdim, [0.5, 0.7], atol=1e-6)
    np.testing.assert_allclose(image.meta["spacing"], [0.5, 0.7], atol=1e-6)
    assert image.meta["spacing_known"]
    np.testing.assert_allclose(image.meta["file_affine"], np.diag([-0.5, -0.7, 1, 1]), atol=1e-6)


def test_a_picture_written_by_pil_equals_its_nifti_file(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "picture.png")
    nib.save(nib.Nifti1Image(PICTURE.T, np.diag([-1, -1, 1, 1])), tmp_path / "picture.nii.gz")
    data = {"png": tmp_path / "picture.png", "nifti": tmp_path / "picture.nii.gz"}
    loader = LoadImaged(
        list(data), reader="crosswarp.data.readers.AnyFormatReader", ensure_channel_first=True
    )
    images = loader(data)
    np.testing.assert_array_equal(images["png"], images["nifti"])
    np.testing.assert_array_equal(images["png"].affine, images["nifti"].affine)
    assert not images["png"].meta["spacing_known"]
    assert images["nifti"].meta["spacing_known"]


@pytest.mark.parametrize(
    ("suffix", "known"), [(".png", False), (".mha", True), (".nrrd", True), (".nii", True)]
)
def test_whether_a_spacing_of_one_is_stated(tmp_path, suffix, known):
    image = load(write_with_itk(tmp_path / f"picture{suffix}", spacing=(1, 1)))
    assert image.meta["spacing_known"] is known
    np.testing.assert_array_equal(image.pixdim, [1, 1])


def test_nifti_without_orientation_codes_does_not_state_its_spacing(tmp_path):
    nib.save(nib.Nifti1Image(PICTURE, None), tmp_path / "picture.nii")
    assert not load(tmp_path / "picture.nii").meta["spacing_known"]


@pytest.mark.parametrize(("unit", "millimetres"), [("micron", 0.001), ("meter", 1000), ("unknown", 1)])
def test_nifti_lengths_are_in_mm_whatever_the_unit(tmp_path, unit, millimetres):
    image = nib.Nifti1Image(np.zeros((4, 3, 2), np.uint8), SAGITTAL)
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "image.nii.gz")
    loaded, found = load(tmp_path / "image.nii.gz"), itk.imread(str(tmp_path / "image.nii.gz"))
    np.testing.assert_allclose(loaded.affine[:3], millimetres * SAGITTAL[:3], rtol=1e-6)
    np.testing.assert_allclose(loaded.meta["file_affine"], loaded.affine)
    np.testing.assert_allclose(loaded.meta["spacing"], list(found.GetSpacing()), rtol=1e-6)
    place = np.diag([-1, -1, 1, 1]) @ loaded.affine.numpy() @ [3, 2, 1, 1]
    np.testing.assert_allclose(place[:3], list(found.TransformIndexToPhysicalPoint([3, 2, 1])), rtol=1e-5)


def test_colours_are_channels(tmp_path):
    colours = np.random.default_rng(1).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    Image.fromarray(colours).save(tmp_path / "colours.png")
    np.testing.assert_array_equal(load(tmp_path / "colours.png"), colours.transpose(2, 1, 0))
    volume = np.moveaxis(colours, 0, 1)[:, :, None].astype(np.float32)  # x, y, one slice, channel
    nib.save(nib.Nifti1Image(volume, np.eye(4)), tmp_path / "colours.nii.gz")
    np.testing.assert_array_equal(load(tmp_path / "colours.nii.gz"), colours.transpose(2, 1, 0))


@pytest.mark.parametrize("shape", [(9, 6), (9, 6, 1)])
def test_a_slice_out_of_plane_keeps_its_spacing(tmp_path, shape):
    nib.save(nib.Nifti1Image(PICTURE.T.reshape(shape), SAGITTAL), tmp_path / "slice.nii.gz")
    image = load(tmp_path / "slice.nii.gz")
    np.testing.assert_array_equal(image[0], PICTURE.T)
    # as stored, x to the left and y to the back; the origin is that of the plane
    np.testing.assert_array_equal(image.affine, [[-3, 0, 112], [0, -2, 112], [0, 0, 1]])
    np.testing.assert_array_equal(image.pixdim, [3, 2])


def test_an_axial_slice_keeps_its_place(tmp_path):
    affine = np.array([[0, 2, 0, 5], [-3, 0, 0, 7], [0, 0, 4, 9], [0, 0, 0, 1.0]])
    nib.save(nib.Nifti1Image(PICTURE.T[..., None], affine), tmp_path / "slice.nii.gz")
    image = load(tmp_path / "slice.nii.gz")
    np.testing.assert_array_equal(image.affine, [[0, 2, 5], [-3, 0, 7], [0, 0, 1]])
    np.testing.assert_array_equal(image.pixdim, [3, 2])


def test_volumes_have_the_place_that_itk_gives_them(tmp_path):
    """Oblique, anisotropic volumes: ITK's own physical points (LPS) are those of the affine (RAS)."""
    angle = 0.3
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    volume = itk.image_from_array(np.random.default_rng(2).random((3, 4, 5)).astype(np.float32))
    volume.SetSpacing([0.5, 0.7, 2])
    volume.SetOrigin([1, 2, 3])
    volume.SetDirection(itk.matrix_from_array(turn))
    point = np.array(volume.TransformIndexToPhysicalPoint([4, 1, 2]))
    for suffix in (".nii.gz", ".mha", ".nrrd"):
        itk.imwrite(volume, str(tmp_path / f"volume{suffix}"))
        image = load(tmp_path / f"volume{suffix}")
        assert image.shape == (1, 5, 4, 3)
        assert image[0, 4, 1, 2] == volume.GetPixel([4, 1, 2])
        np.testing.assert_allclose(image.affine.numpy() @ [4, 1, 2, 1], [*point * [-1, -1, 1], 1], atol=1e-5)


def test_nothing_else_of_a_dicom_header_is_kept(tmp_path):
    image = load(write_with_itk(tmp_path / "picture.dcm"))
    assert set(image.meta) <= {
        *("affine", "original_affine", "space", "spatial_shape", "original_channel_dim"),
        *("spacing", "spacing_known", "place_known", "file_affine", "filename_or_obj"),
    }


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".bmp"])
@pytest.mark.parametrize("dots", [72, 96, 300])
def test_the_resolution_of_a_screen_is_no_spacing(tmp_path, suffix, dots):
    path = tmp_path / f"picture{suffix}"
    Image.fromarray(PICTURE).save(path, dpi=(dots, dots))
    image = load(path)
    assert image.meta["spacing_known"] is False and list(image.meta["spacing"]) == [1, 1]
    np.testing.assert_array_equal(image.affine, np.diag([-1, -1, 1]))
    Image.fromarray(PICTURE).save(tmp_path / "picture.tif", dpi=(50.8, 50.8))
    assert load(tmp_path / "picture.tif").meta["spacing_known"] is True


def test_a_given_spacing_replaces_that_of_a_picture(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "picture.tif", dpi=(50.8, 50.8))
    assert load(tmp_path / "picture.tif").meta["spacing"] == pytest.approx([0.5] * 2, abs=1e-3)
    loader = LoadImage(
        reader="crosswarp.data.readers.AnyFormatReader", spacing=[0.3, 0.4], ensure_channel_first=True
    )
    image = loader(tmp_path / "picture.tif")
    np.testing.assert_allclose(image.affine, np.diag([-0.3, -0.4, 1]), rtol=1e-4)
    np.testing.assert_allclose(image.meta["file_affine"], np.diag([-0.3, -0.4, 1, 1]), rtol=1e-4)


@pytest.mark.parametrize("stored", [(1, 1), (-1, 1), (-1, -1)])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_slice_that_is_tilted_is_read_as_upright_as_one_that_is_not(tmp_path, stored, axis):
    orient = Orientation("LP", labels=None)
    affine = np.diag([*stored, 1, 1.0])
    affine[:3, 3] = 5, 7, 9
    arrays = []
    for degrees in (0, 1, 2.5, 2.6, 30, 45, -2.6, -45):
        turn = np.eye(4)
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        turn[1 - axis, 1 - axis], turn[1 - axis, 2], turn[2, 1 - axis], turn[2, 2] = c, -s, s, c
        nib.save(nib.Nifti1Image(PICTURE.T, turn @ affine), tmp_path / "slice.nii")
        arrays.append(orient(load(tmp_path / "slice.nii")))
    for array in arrays:
        np.testing.assert_array_equal(array, arrays[0])
        np.testing.assert_allclose(array.pixdim, [1, 1], atol=1e-6)


def test_a_slice_near_the_border_of_what_is_turned_is_named(tmp_path):
    for degrees, warned in ((45, False), (58, True), (62, True), (75, False)):
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        affine = np.array([[1, 0, 0, 0], [0, c, -s, 0], [0, s, c, 0], [0, 0, 0, 1]])
        nib.save(nib.Nifti1Image(PICTURE.T, affine), tmp_path / "slice.nii")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            read_image(tmp_path / "slice.nii")
        messages = [str(each.message) for each in caught]
        assert any(f"slice.nii: its slice is tilted by {degrees} degrees" in m for m in messages) is warned


def test_what_this_reader_refuses_goes_to_no_other(tmp_path):
    """MONAI would try its own readers in turn, of which one takes complex numbers."""
    nib.save(nib.Nifti1Image(PICTURE.T.astype(np.complex64), np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(UnfitFileError, match="a.nii.gz: holds complex numbers"):
        load(tmp_path / "a.nii.gz")
