"""Pixel types, channels and values come back from `warp` as they went in, in every format."""

from __future__ import annotations

import re

import itk
import nibabel as nib
import numpy as np
import pytest

from crosswarp.commands.warp import warp
from crosswarp.data.voxels import Voxels, image_suffix, read_voxels, writing_faults
from crosswarp.spatial.grid import Grid

sitk = pytest.importorskip("SimpleITK")

TYPES = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")
AFFINE = np.diag([-1.0, -1, 1, 1])
SHAPE = (6, 5, 4)


@pytest.fixture
def place(tmp_path):
    """A folder with a grid `b` of either dimension and a transform that moves by whole voxels."""
    for dims in (2, 3):
        transform = itk.TranslationTransform[itk.D, dims].New()
        transform.SetOffset([1.0, 2.0, -1.0][:dims])
        itk.transformwrite([transform], str(tmp_path / f"t{dims}.tfm"))
        nib.save(nib.Nifti1Image(np.zeros(SHAPE[:dims], np.uint8), AFFINE), tmp_path / f"b{dims}.nii")
    return tmp_path


def moved(array, dims):
    """What the transform makes of `[*spatial, ...]`, 0 where nothing is."""
    result = np.zeros_like(array)
    into = (slice(None, -1), slice(None, -2), slice(1, None))[:dims]
    result[into] = array[(slice(1, None), slice(2, None), slice(None, -1))[:dims]]
    return result


def random(dtype, shape):
    rng = np.random.default_rng(0)
    if np.dtype(dtype).kind == "f":
        return rng.normal(0, 1e6, shape).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)


def warped(place, source, suffix, dims=3, **options):
    out = place / f"out{suffix}"
    warp(str(place / source), str(place / f"t{dims}.tfm"), str(out), str(place / f"b{dims}.nii"), **options)
    return out


def by_sitk(path, dims):
    """`[*spatial]` or `[*spatial, C]` as SimpleITK reads a file, which has to lie where `b` does."""
    image, fixed = sitk.ReadImage(str(path)), sitk.ReadImage(str(path.parent / f"b{dims}.nii"))
    for geometry in ("GetSize", "GetOrigin", "GetSpacing", "GetDirection"):
        np.testing.assert_allclose(getattr(image, geometry)(), getattr(fixed, geometry)(), atol=1e-6)
    array = sitk.GetArrayFromImage(image)
    return array.T if image.GetNumberOfComponentsPerPixel() == 1 else np.moveaxis(array.T, 0, -1)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", [".nii.gz", ".mha", ".nrrd"])
def test_labels_of_every_type_are_exact(place, dims, channels, suffix):
    for dtype, order in zip(TYPES, "<>" * 5, strict=True):
        several = (*[1] * (4 - dims), channels) if channels > 1 else ()  # a fifth axis of NIfTI
        array = random(dtype, (*SHAPE[:dims], *several))
        stored = nib.Nifti1Image(
            array.astype(np.dtype(dtype).newbyteorder(order)),
            AFFINE,
            nib.Nifti1Header(endianness=order),
            dtype=np.dtype(dtype),
        )
        nib.save(stored, place / "a.nii")
        out = warped(place, "a.nii", suffix, dims, label=True)
        wanted = moved(array, dims)
        found = by_sitk(out, dims)
        assert found.dtype == wanted.dtype and wanted.any()
        np.testing.assert_array_equal(found, wanted.reshape(found.shape))
        if suffix == ".nii.gz":
            found = np.asarray(nib.load(out).dataobj)
            assert found.dtype == wanted.dtype and found.shape == wanted.shape


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_labels_of_other_formats_are_exact(place, suffix, channels):
    for dtype in TYPES:
        array = random(dtype, (*SHAPE, channels) if channels > 1 else SHAPE)
        stored = np.moveaxis(array, -1, 0).T if channels > 1 else array.T
        sitk.WriteImage(sitk.GetImageFromArray(stored, channels > 1), str(place / f"a{suffix}"))
        if np.dtype(dtype).itemsize == 8 and np.dtype(dtype).kind != "f" and channels > 1:
            with pytest.raises(ValueError, match=f"a{suffix} has {channels} channels of u?int64; store"):
                warped(place, f"a{suffix}", suffix, label=True)
            continue
        found = by_sitk(warped(place, f"a{suffix}", suffix, label=True), 3)
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, moved(array, 3))


@pytest.mark.parametrize("dtype", TYPES)
def test_images_are_interpolated_and_keep_their_type(place, dtype):
    array = random(dtype, SHAPE)
    nib.save(nib.Nifti1Image(array, AFFINE, dtype=np.dtype(dtype)), place / "a.nii")
    found = by_sitk(warped(place, "a.nii", ".mha"), 3)
    assert found.dtype == array.dtype
    # float64, in which it is interpolated, has 53 bits; the greatest of 64 must not turn into the least
    np.testing.assert_allclose(found.astype(float), moved(array, 3).astype(float), rtol=1e-15)


def test_the_ids_of_an_atlas_stay(place):
    array = np.zeros(SHAPE, np.uint32)
    array[1:, 2:, :3] = 614454277
    nib.save(nib.Nifti1Image(array, AFFINE), place / "a.nii")
    assert set(np.unique(by_sitk(warped(place, "a.nii", ".nrrd", label=True), 3))) == {0, 614454277}
    assert set(np.unique(by_sitk(warped(place, "a.nii", ".nrrd"), 3))) == {0, 614454277}


@pytest.mark.parametrize("label", [False, True])
def test_every_frame_of_a_time_series_is_moved(place, label):
    array = random("i2", (*SHAPE, 7))
    series = nib.Nifti1Image(array, AFFINE)
    series.header.set_zooms((1, 1, 1, 2.5))
    series.header.set_xyzt_units("mm", "sec")
    nib.save(series, place / "a.nii.gz")
    found = nib.load(warped(place, "a.nii.gz", ".nii.gz", label=label))
    assert found.shape == (*SHAPE, 7) and found.header.get_zooms() == (1, 1, 1, 2.5)
    assert found.header.get_xyzt_units() == ("mm", "sec") and found.get_data_dtype() == np.int16
    np.testing.assert_array_equal(np.asarray(found.dataobj), moved(array, 3))


@pytest.mark.parametrize("label", [False, True])
def test_scaled_numbers_of_nifti_are_stored_as_they_were(place, label):
    stored = random("i2", SHAPE)
    image = nib.Nifti1Image(stored, AFFINE)
    image.header.set_slope_inter(0.25, -7)
    nib.save(image, place / "a.nii")
    assert nib.load(place / "a.nii").get_fdata()[0, 0, 0] == stored[0, 0, 0] * 0.25 - 7
    out = nib.load(warped(place, "a.nii", ".nii", label=label))
    assert out.get_data_dtype() == np.int16 and (out.dataobj.slope, out.dataobj.inter) == (0.25, -7)
    # 0, where nothing is, is 28 there
    np.testing.assert_array_equal(out.get_fdata(), moved(stored * 0.25 - 7, 3))
    found = by_sitk(warped(place, "a.nii", ".mha", label=label), 3)  # which has no such scale
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, moved(stored * 0.25 - 7, 3))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pictures_hold_8_and_16_bits_in_grey_and_colour(place, suffix, dtype, channels):
    array = random(dtype, (*SHAPE[:2], 1, 1, channels) if channels > 1 else SHAPE[:2])
    nib.save(nib.Nifti1Image(array, AFFINE), place / "a.nii")
    image = sitk.ReadImage(str(warped(place, "a.nii", suffix, 2)))
    found, wanted = sitk.GetArrayFromImage(image), moved(array, 2)
    assert found.dtype == wanted.dtype and image.GetNumberOfComponentsPerPixel() == channels
    np.testing.assert_array_equal(np.swapaxes(found, 0, 1).reshape(wanted.shape), wanted)


@pytest.mark.parametrize(
    ("suffix", "dtype", "channels", "shape", "fault"),
    [
        (
            ".png",
            "i2",
            1,
            (4, 4),
            "cannot hold the values of the moving image .int16.; write out.png as",
        ),
        (".png", "u1", 1, (4, 4, 4), "A PNG cannot hold an image of 3 dimensions"),
        (".png", "u1", 2, (4, 4), "A PNG holds 1, 3 or 4 channels, not 2"),
        (".tif", "f8", 1, (4, 4, 4), "A TIF cannot hold the values of the moving image .float64."),
        (".nrrd", "f2", 1, (4, 4), "A .nrrd file cannot hold values of type float16"),
        (".nii", "u1", 1, (40000, 4), "A NIfTI file cannot hold an axis of more than 32767 voxels"),
        (".jpg", "u1", 1, (4, 4), "Expected a file name with one of .*.nrrd"),
    ],
)
def test_what_a_format_cannot_hold_is_known_beforehand(suffix, dtype, channels, shape, fault):
    values = np.zeros((*[1] * len(shape), channels), dtype)
    (found,) = writing_faults(
        Voxels(values, Grid(shape, np.eye(len(shape) + 1)), values.dtype), shape, f"out{suffix}"
    )
    assert re.search(fault, found), found


def test_every_other_type_can_be_held():
    for suffix in (".nii.gz", ".NII", ".mha", ".nrrd"):
        for dtype in TYPES:
            values = np.zeros((1, 1, 1, 5), dtype)
            assert not writing_faults(
                Voxels(values, Grid(SHAPE, np.eye(4)), values.dtype), SHAPE, f"a{suffix}"
            )
    assert image_suffix("a.NII.GZ") == ".nii.gz" and image_suffix("nii") is None


def test_a_fault_is_found_before_anything_is_computed(place):
    nib.save(nib.Nifti1Image(random("f4", SHAPE), AFFINE), place / "a.nii")
    with pytest.raises(
        ValueError, match=r"(?s)Nothing was computed:.*A PNG cannot hold the values.*3 dimensions"
    ):
        warped(place, "a.nii", ".png")
    assert not list(place.glob("out*"))
    assert read_voxels(place / "a.nii").grid.shape == SHAPE


@pytest.mark.parametrize("name", ["plain.nii.gz", "packed.nii"])
def test_a_file_is_read_by_what_it_is_and_not_by_its_name(place, name):
    array = random("u1", SHAPE)
    packed = name == "packed.nii"
    nib.save(nib.Nifti1Image(array, AFFINE), place / ("a.nii.gz" if packed else "a.nii"))
    (place / ("a.nii.gz" if packed else "a.nii")).rename(place / name)
    np.testing.assert_array_equal(by_sitk(warped(place, name, ".mha", label=True), 3), moved(array, 3))


def test_vectors_in_frames_are_refused_and_vectors_are_not(place):
    for frames in (2, 1):
        nib.save(nib.Nifti1Image(random("f4", (*SHAPE, frames, 3)), AFFINE), place / f"a{frames}.nii")
    with pytest.raises(ValueError, match="vectors in each of its frames"):
        warped(place, "a2.nii", ".nii")
    assert nib.load(warped(place, "a1.nii", ".nii")).shape == (*SHAPE, 1, 3)
