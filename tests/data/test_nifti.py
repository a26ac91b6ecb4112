"""NIfTI as ITK reads it, and refused where a header or a body cannot be right."""

from __future__ import annotations

import itertools
import re
import warnings

import itk
import nibabel as nib
import numpy as np
import pytest

from crosswarp.data.readers import UnfitFileError, read_image

from .nifti import write_nifti

ARRAY = np.random.default_rng(0).integers(-99, 99, (5, 4, 3), dtype=np.int16)


def affine(axis, angle, origin, spacing=(0.8, 0.9, 1.5)):
    """Indices to mm of an image that is turned about an axis."""
    first, second = [each for each in range(3) if each != axis]
    result = np.eye(4)
    result[first, first] = result[second, second] = np.cos(angle)
    result[first, second], result[second, first] = -np.sin(angle), np.sin(angle)
    result[:3, :3] *= spacing
    result[:3, 3] = origin
    return result


FIRST, SECOND = affine(2, 0.3, [1, 2, 3]), affine(0, 0.2, [-9, 5, 7])
SHEAR = np.array([[1, 0.2, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def place_by_itk(path):
    image = itk.imread(str(path))
    matrix = np.eye(4)
    matrix[:3, :3] = itk.array_from_matrix(image.GetDirection()) * np.array(image.GetSpacing())
    matrix[:3, 3] = image.GetOrigin()
    return np.diag([-1, -1, 1, 1]) @ matrix


def place_by_simpleitk(path):
    image = pytest.importorskip("SimpleITK").ReadImage(str(path))
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.array(image.GetSpacing())
    matrix[:3, 3] = image.GetOrigin()
    return np.diag([-1, -1, 1, 1]) @ matrix


@pytest.mark.parametrize("codes", itertools.product(range(5), range(5)))
def test_the_place_is_that_of_itk_whatever_the_codes(tmp_path, codes):
    path = write_nifti(tmp_path / "a.nii", ARRAY, FIRST, SECOND, codes)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _, meta = read_image(path)
    np.testing.assert_allclose(meta["affine"], place_by_itk(path), atol=1e-5)
    np.testing.assert_allclose(meta["affine"], place_by_simpleitk(path), atol=1e-5)
    assert meta["place_known"] is (codes != (0, 0))
    disagree = [str(each.message) for each in caught if "disagree" in str(each.message)]
    assert len(disagree) == (min(codes) > 0)
    assert all("a.nii" in each and "as ITK takes" in each for each in disagree)


@pytest.mark.parametrize("codes", [(1, 0), (2, 0), (1, 1), (2, 1), (0, 1)])
@pytest.mark.parametrize("change", ["agreeing", "scaled", "shearing", "empty"])
def test_an_odd_sform_gives_what_itk_makes_of_it_or_an_error(tmp_path, codes, change):
    odd = {"agreeing": FIRST, "scaled": FIRST @ np.diag([2, 2, 2, 1]), "shearing": FIRST @ SHEAR}
    path = write_nifti(tmp_path / "a.nii", ARRAY, odd.get(change, np.zeros((4, 4))), FIRST, codes)
    try:
        expected = place_by_itk(path)
    except RuntimeError:  # ITK finds no orthonormal directions
        with pytest.raises(UnfitFileError, match="a.nii: by its header has (axes that are not at|no extent)"):
            read_image(path)
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        np.testing.assert_allclose(read_image(path)[1]["affine"], expected, atol=1e-5)
    assert any("disagree" in str(each.message) for each in caught) is (change != "agreeing" and codes[0] > 0)


@pytest.mark.parametrize("angle", [0.0, 0.7])
def test_shear_of_rounding_is_none(tmp_path, angle):
    rounded = np.round(affine(2, angle, [1, 2, 3]), 3)
    _, meta = read_image(write_nifti(tmp_path / "a.nii", ARRAY, rounded))
    np.testing.assert_allclose(meta["affine"], rounded, atol=1e-6)


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 3)])
def test_axes_that_are_not_at_right_angles_are_refused(tmp_path, shape):
    sheared = affine(2, 0.3, [1, 2, 3]) @ SHEAR
    path = write_nifti(tmp_path / "a.nii", np.zeros(shape, np.uint8), sheared)
    with pytest.raises(UnfitFileError, match=r"a.nii: by its header has axes .*\(shear\).*resample"):
        read_image(path)


FAULTS = {
    "voxels within the header": ({"vox_offset": 0}, "voxels that begin at byte 0, within the header"),
    "no whole byte": ({"vox_offset": 352.5}, "voxels that begin at byte 352.5"),
    "beyond the end": ({"vox_offset": 368}, "fewer than the 120 bytes"),
    "fewer columns": ({"dim": [3, 4, 4, 3, 1, 1, 1, 1]}, "more than the 96 bytes"),
    "more columns": ({"dim": [3, 6, 4, 3, 1, 1, 1, 1]}, "fewer than the 144 bytes"),
    "huge": ({"dim": [3, 32000, 32000, 32000, 1, 1, 1, 1]}, "states 61,035.2 GiB of voxels, at most 2 GiB"),
    "no axes": ({"dim": [0] * 8}, "the dimensions"),
    "negative size": ({"dim": [3, 5, -4, 3, 1, 1, 1, 1]}, "the dimensions"),
    "eight axes": ({"dim": [8, 5, 4, 3, 1, 1, 1, 1]}, "the dimensions"),
    "data type": ({"datatype": 77}, "an unknown data type, 77"),
    "bits": ({"bitpix": 8}, "8 bits in a voxel of 16"),
    "magic": ({"magic": b"ni1"}, r"the magic b'ni1'"),
    "negative lengths": ({"pixdim": [1, -0.8, 0.9, 1.5, 1, 1, 1, 1]}, r"voxels of \[-0.8"),
    "no number": ({"pixdim": [1, 1, np.nan, 1.5, 1, 1, 1, 1]}, r"voxels of \[1.0, nan"),
    "no length": ({"pixdim": [1, 0, 0.9, 1.5, 1, 1, 1, 1]}, "not how large its voxels are"),
}


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("case", FAULTS)
def test_headers_that_cannot_be_right_are_refused(tmp_path, case, suffix):
    fields, message = FAULTS[case]
    path = write_nifti(tmp_path / f"a{suffix}", ARRAY, FIRST, **fields)
    with pytest.raises(UnfitFileError, match=message) as caught:
        read_image(path)
    assert str(caught.value).startswith(str(path)) and len(str(caught.value)) < 400


def test_several_faults_of_a_header_are_named_together(tmp_path):
    path = write_nifti(tmp_path / "a.nii", ARRAY, FIRST, vox_offset=7, magic=b"x", bitpix=1)
    with pytest.raises(UnfitFileError, match="magic b'x' and 1 bits in a voxel of 16 and voxels that begin"):
        read_image(path)


def test_a_byte_that_was_flipped_anywhere_in_compressed_voxels_is_seen(tmp_path):
    path = write_nifti(tmp_path / "a.nii.gz", ARRAY, FIRST)
    sound = path.read_bytes()
    np.testing.assert_array_equal(read_image(path)[0], ARRAY)
    for place in range(11, len(sound), 7):  # after the flags, time and system, which say nothing of voxels
        spoilt = bytearray(sound)
        spoilt[place] ^= 4
        path.write_bytes(spoilt)
        with pytest.raises(UnfitFileError, match=r"a.nii.gz: (unreadable as an image|.*its header)"):
            read_image(path)


@pytest.mark.parametrize("length", [0, 100, 350, 400, -1])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_files_cut_short_are_refused(tmp_path, length, suffix):
    path = write_nifti(tmp_path / f"a{suffix}", np.tile(ARRAY, (9, 9, 9)), FIRST)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UnfitFileError, match=rf"a{suffix}: unreadable as an image"):
        read_image(path)


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_complex_numbers_are_refused(tmp_path, dtype):
    path = write_nifti(tmp_path / "a.nii.gz", ARRAY.astype(dtype), FIRST)
    with pytest.raises(UnfitFileError, match="a.nii.gz: holds complex numbers; store their magnitude"):
        read_image(path)


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 3)])
@pytest.mark.parametrize("names", ["RGB", "RGBA"])
def test_colours_are_channels(tmp_path, names, shape):
    colours = np.random.default_rng(0).integers(0, 256, (*shape, len(names)), dtype=np.uint8)
    array = colours.view([(name, "u1") for name in names])[..., 0]
    found, meta = read_image(write_nifti(tmp_path / "a.nii.gz", array, FIRST))
    np.testing.assert_array_equal(found, colours)
    assert meta["original_channel_dim"] == -1 and tuple(meta["spatial_shape"]) == shape


@pytest.mark.parametrize("shape", [(5, 4, 3, 2), (5, 4, 3, 1, 2), (5, 4, 1, 1, 2)])
def test_axes_beyond_the_third_are_channels(tmp_path, shape):
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found, meta = read_image(write_nifti(tmp_path / "a.nii.gz", array, FIRST, intent_code=1007))
    np.testing.assert_array_equal(found, array.reshape(5, 4, *shape[2:3][shape[2] == 1 :], 2))
    assert tuple(meta["spatial_shape"]) == shape[: 2 if shape[2] == 1 else 3]


@pytest.mark.parametrize("endianness", ["<", ">"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8", "i8"])
def test_values_of_every_type_and_byte_order(tmp_path, endianness, dtype):
    array = np.abs(ARRAY).astype(dtype)
    found, _ = read_image(write_nifti(tmp_path / "a.nii", array, FIRST, endianness=endianness))
    assert found.dtype == np.dtype(dtype)  # native
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize(
    ("slope", "intercept", "expected"),
    [(2, -5, ARRAY * 2.0 - 5), (0, 7, ARRAY), (np.nan, 3, ARRAY), (1, 0, ARRAY), (0.5, 0, ARRAY / 2)],
)
def test_values_are_scaled(tmp_path, slope, intercept, expected):
    path = write_nifti(tmp_path / "a.nii.gz", ARRAY, FIRST, scl_slope=slope, scl_inter=intercept)
    np.testing.assert_array_equal(read_image(path)[0], expected)


def test_nifti_2_and_content_that_belies_its_suffix(tmp_path):
    nib.save(nib.Nifti2Image(ARRAY, FIRST), tmp_path / "second.nii.gz")
    found, meta = read_image(tmp_path / "second.nii.gz")
    np.testing.assert_array_equal(found, ARRAY)
    np.testing.assert_allclose(meta["affine"], FIRST)
    (tmp_path / "second.nii").write_bytes((tmp_path / "second.nii.gz").read_bytes())
    np.testing.assert_array_equal(read_image(tmp_path / "second.nii")[0], ARRAY)


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape(f"{tmp_path / 'a.nii'}: missing")):
        read_image(tmp_path / "a.nii")
