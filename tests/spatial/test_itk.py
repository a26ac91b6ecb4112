"""Images and transforms in files, of every type that others write."""

from __future__ import annotations

import gzip

import itk
import numpy as np
import pytest

from crosswarp.spatial.itk import read_any_type, read_transforms, transform_points

sitk = pytest.importorskip("SimpleITK")


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("dims", [2, 3])
def test_every_type_of_voxel_is_read_to_the_bit(tmp_path, suffix, channels, dims):
    rng, path = np.random.default_rng(0), str(tmp_path / f"a{suffix}")
    for dtype in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"):
        array = rng.integers(0, 256, ((6, 5, 4)[:dims] + (channels,)) + (np.dtype(dtype).itemsize,), np.uint8)
        array = np.nan_to_num(array.view(dtype)[..., 0])
        sitk.WriteImage(sitk.GetImageFromArray(array[..., 0] if channels == 1 else array, channels > 1), path)
        if dtype in ("i8", "u8") and channels > 1:
            with pytest.raises(
                ValueError, match=f"a{suffix} has {channels} channels of u?int64; store int32"
            ):
                read_any_type(path)
            continue
        image, found = read_any_type(path)
        assert found == np.dtype(dtype)
        values = itk.array_from_image(image).astype(found)
        np.testing.assert_array_equal(values.reshape(array.shape), array)


def test_complex_numbers_are_refused(tmp_path):
    image = sitk.GetImageFromArray(np.ones((4, 5), np.complex64))
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    with pytest.raises(ValueError, match="a.nrrd holds complex numbers"):
        read_any_type(str(tmp_path / "a.nrrd"))


@pytest.mark.parametrize("pixel", [sitk.sitkVectorFloat32, sitk.sitkVectorFloat64])
@pytest.mark.parametrize("suffix", [".mha", ".nrrd", ".nii.gz"])
def test_fields_of_simpleitk_move_as_they_do_there(tmp_path, suffix, pixel):
    path = str(tmp_path / f"field{suffix}")
    rng = np.random.default_rng(0)
    field = sitk.Cast(sitk.GetImageFromArray(rng.normal(size=(4, 5, 6, 3)), True), pixel)
    field.SetDirection([0, 1, 0, -1, 0, 0, 0, 0, 1])
    sitk.WriteImage(field, path)
    theirs = sitk.DisplacementFieldTransform(sitk.ReadImage(path, sitk.sitkVectorFloat64))
    points = rng.uniform([0.5, -4.5, 0.5], [3.5, -0.5, 2.5], (20, 3))
    wanted = [theirs.TransformPoint(point) for point in points.tolist()]
    np.testing.assert_allclose(transform_points(read_transforms([path]), points), wanted, atol=1e-6)
    assert np.abs(wanted - points).max() > 0.5


def test_a_damaged_byte_of_a_compressed_field_is_found(tmp_path):
    path = tmp_path / "field.nii.gz"
    itk.imwrite(
        itk.image_from_array(np.random.default_rng(0).normal(size=(6, 5, 2)), is_vector=True), str(path)
    )
    content = bytearray(gzip.decompress(path.read_bytes()))
    stored = bytearray(gzip.compress(bytes(content), 0))  # as it is, so that any byte still inflates
    stored[-40] ^= 1
    path.write_bytes(stored)
    with pytest.raises(
        ValueError, match="field.nii.gz holds no transform that ITK can read .*CRC check failed"
    ):
        read_transforms([path])
