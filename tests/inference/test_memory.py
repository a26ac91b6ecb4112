from __future__ import annotations

from pathlib import Path

import itk
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import LoadImage

from crosswarp.data.readers import AnyFormatReader
from crosswarp.inference.memory import InMemoryReader, alike

TURN = np.array([[np.cos(0.2), -np.sin(0.2), 0], [np.sin(0.2), np.cos(0.2), 0], [0, 0, 1]])
OBLIQUE = np.block([[TURN @ np.diag([-0.8, -0.9, 1.5]), np.array([[5], [-7], [3]])], [np.eye(4)[3:]]])


def load(source, reader) -> MetaTensor:
    return LoadImage(reader=AnyFormatReader, image_only=True, ensure_channel_first=True)(source, reader)


@pytest.fixture(params=[(7, 5), (7, 5, 4)], ids=["2D", "3D"])
def file(request, tmp_path: Path) -> tuple[Path, np.ndarray]:
    """An image with anisotropic voxels and an axis that runs to the right in the plane, as a file."""
    array = np.random.default_rng(0).normal(size=request.param).astype(np.float32)
    affine = OBLIQUE.copy()
    affine[:2, :2] = [[0.8, 0], [0, -0.9]] if array.ndim == 2 else affine[:2, :2]
    nib.save(nib.Nifti1Image(array, affine), tmp_path / "a.nii.gz")
    return tmp_path / "a.nii.gz", array


def test_memory_and_file_load_as_equals(file: tuple[Path, np.ndarray]) -> None:
    path, array = file
    expected = load(str(path), None)
    dims = array.ndim
    affine = nib.load(path).affine
    with_place = [itk.imread(str(path)), MetaTensor(torch.as_tensor(array), affine=affine), expected]
    if dims == 2:
        # ITK keeps no third coordinate of a 2D image
        with_place[1] = MetaTensor(torch.as_tensor(array), affine=expected.affine)
    for image in with_place:
        loaded = load("b", InMemoryReader(image, dims))
        torch.testing.assert_close(loaded.as_tensor(), expected.as_tensor())
        torch.testing.assert_close(loaded.affine, expected.affine, atol=1e-5, rtol=0)
        assert loaded.meta["filename_or_obj"] == "b"
        assert list(loaded.meta["spatial_shape"]) == list(array.shape)


def test_a_slice_with_the_affine_of_a_volume_keeps_its_place_in_the_plane() -> None:
    array = torch.rand(1, 7, 5)
    loaded = load("a", InMemoryReader(MetaTensor(array, affine=np.diag([-2.0, -3, 4, 1])), 2))
    assert loaded.shape == (1, 7, 5) and loaded.affine.tolist() == np.diag([-2.0, -3, 1]).tolist()


@pytest.mark.parametrize(("shape", "affine"), [((7, 5), [-1, -1, 1]), ((7, 5, 4), [1, 1, 1, 1])])
@pytest.mark.parametrize("channels", [None, 1, 3])
def test_an_array_lies_as_the_networks_see_images(shape, affine, channels) -> None:
    array = np.random.default_rng(0).integers(0, 9, shape if channels is None else (channels, *shape))
    for image in (array, torch.as_tensor(array)):
        loaded = load("a", InMemoryReader(image, len(shape)))
        assert loaded.dtype == torch.float32
        np.testing.assert_array_equal(loaded, array if channels else array[None])
        assert loaded.affine.tolist() == np.diag(affine).tolist()
        assert not loaded.meta["spacing_known"]


@pytest.mark.parametrize("image", [np.zeros(3), torch.zeros(1, 1, 4, 4), [[1, 2]], None])
def test_other_things_are_refused(image) -> None:
    with pytest.raises(ValueError, match="Expected a"):
        InMemoryReader(image, 2)


@pytest.mark.parametrize("size", [(7, 5), (7, 5, 1), (7, 5, 4)])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_itk_image_comes_back_as_one_in_its_place(size, channels) -> None:
    original = itk.image_from_array(np.zeros(size[::-1], np.float32))
    original.SetSpacing([0.5, 2.0, 3.0][: len(size)])
    original.SetOrigin([5.0, -7.0, 3.0][: len(size)])
    dims = len([n for n in size if n > 1])
    values = torch.arange(channels * np.prod(size), dtype=torch.float32).reshape(channels, *size[:dims])
    result = alike(MetaTensor(values), original)
    assert list(itk.size(result)) == list(size) and result.GetNumberOfComponentsPerPixel() == channels
    assert list(result.GetSpacing()) == list(original.GetSpacing())
    assert list(result.GetOrigin()) == list(original.GetOrigin())
    assert result.GetDirection() == original.GetDirection()
    index = [2, 3, 2][:dims] + [0] * (len(size) - dims)
    pixel = result.GetPixel(index)
    found = [pixel] if channels == 1 else [pixel.GetElement(c) for c in range(channels)]
    assert found == values[(slice(None), *index[:dims])].tolist()


def test_arrays_and_tensors_come_back_with_the_axes_and_the_type_they_came_with() -> None:
    one, many = MetaTensor(torch.rand(1, 7, 5)), MetaTensor(torch.rand(4, 7, 5))
    for original in (np.zeros((7, 5)), torch.zeros(7, 5), MetaTensor(torch.zeros(7, 5))):
        assert alike(one, original).shape == (7, 5) and alike(many, original).shape == (4, 7, 5)
        assert alike(one, original[None]).shape == (1, 7, 5)
        assert type(alike(one, original)) is type(original)
    placed = MetaTensor(torch.zeros(7, 5), affine=np.diag([2.0, 3, 1]))
    assert alike(one, placed).affine.tolist() == np.diag([2.0, 3, 1]).tolist()
    assert alike(one, "a.nii.gz") is one


@pytest.mark.parametrize("size", [(9, 8), (9, 8, 7), (9, 8, 1)])
def test_a_cropped_itk_image_lies_where_its_region_starts_and_so_does_the_result(size) -> None:
    whole = itk.image_from_array(np.random.default_rng(0).random(size[::-1]).astype(np.float32))
    dims = len(size)
    whole.SetSpacing([0.5, 2.0, 3.0][:dims])
    whole.SetOrigin([5.0, -7.0, 3.0][:dims])
    whole.SetDirection(itk.matrix_from_array(np.ascontiguousarray(TURN[:dims, :dims])))
    crop = itk.ExtractImageFilter[type(whole), type(whole)].New(whole)
    region = itk.ImageRegion[dims]()
    region.SetIndex([4, 3, 2 if size[-1] > 1 else 0][:dims])
    region.SetSize([3, 4, min(5, size[-1])][:dims])
    crop.SetExtractionRegion(region)
    crop.SetDirectionCollapseToSubmatrix()
    image = crop.GetOutput()  # that nobody has computed yet
    flat = 2 if size[-1] == 1 else dims
    loaded = load("a", InMemoryReader(image, flat))
    index = [2, 1, 0][:flat]
    there = [4 + 2, 3 + 1, 2 if size[-1] > 1 else 0][:dims]
    assert loaded[0][tuple(index)] == whole.GetPixel(there)
    place = np.array(whole.TransformIndexToPhysicalPoint(there))[:flat]
    np.testing.assert_allclose(
        (loaded.affine.numpy() @ [*index, 1])[:flat], place * [-1, -1, 1][:flat], atol=1e-6
    )
    result = alike(loaded, image)
    assert result.GetLargestPossibleRegion().GetIndex() == region.GetIndex()
    difference = itk.subtract_image_filter(result, image)  # ITK asks for one place and one region
    assert not itk.array_from_image(difference).any()


BASE = np.random.default_rng(0).integers(0, 99, (8, 8)).astype(np.float32)
ARRAYS = {
    "mirrored": BASE[::-1],
    "turned": np.rot90(BASE),
    "every other": np.repeat(BASE, 2, 1)[:, ::2],
    "by columns": np.asfortranarray(BASE),
    "big-endian": BASE.astype(">f4"),
    "big-endian integers": BASE.astype(">i2"),
    "longdouble": BASE.astype(np.longdouble),
    "half": BASE.astype(np.float16),
    "read-only": np.frombuffer(BASE.tobytes(), np.float32).reshape(8, 8),
    "unsigned": BASE.astype(np.uint64),
    "bool": BASE > 50,
    "gradient": torch.tensor(BASE, requires_grad=True),
    "bfloat16": torch.tensor(BASE, dtype=torch.bfloat16),
    "transposed tensor": torch.tensor(BASE).T,
    "tensor of bool": torch.tensor(BASE > 50),
    "MetaTensor with gradient": MetaTensor(torch.tensor(BASE, requires_grad=True)),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_numbers_of_any_type_byte_order_and_layout_are_taken(case) -> None:
    array = ARRAYS[case]
    loaded = load("a", InMemoryReader(array, 2))
    expected = array.detach().float().numpy() if isinstance(array, torch.Tensor) else array
    np.testing.assert_array_equal(loaded[0], expected.astype(np.float32))
    assert loaded.dtype == torch.float32 and not loaded.requires_grad


@pytest.mark.parametrize(
    "image",
    [
        np.array(3.0),
        np.array([[None, 1], [2, 3]]),
        np.array([["a", "b"]]),
        BASE.astype(np.complex64),
        np.zeros((2, 2), [("r", "u1"), ("g", "u1")]),
        np.ma.masked_greater(BASE, 50),
        torch.zeros(4, 4, dtype=torch.complex64),
        torch.zeros(4, 4).to_sparse(),
        torch.zeros(4, 4, device="meta"),
        torch.tensor(3.0),
    ],
)
def test_what_holds_no_real_numbers_is_refused(image) -> None:
    with pytest.raises(ValueError, match="Expected (real numbers|an array)"):
        InMemoryReader(image, 2)


@pytest.mark.parametrize(
    ("affine", "message"),
    [
        (np.array([[1, 0.3, 0], [0, 1, 0], [0, 0, 1]]), "shear"),
        (np.diag([1, 0, 1.0]), "no extent in space"),
        (np.diag([1, np.nan, 1.0]), "no extent in space"),
    ],
)
def test_affines_that_no_image_can_have_are_refused(affine, message) -> None:
    with pytest.raises(ValueError, match=f"a: by its header has .*{message}"):
        load("a", InMemoryReader(MetaTensor(torch.rand(7, 5), affine=affine), 2))


def test_an_affine_to_lps_is_one() -> None:
    image = MetaTensor(torch.rand(7, 5, 4), affine=OBLIQUE, meta={"space": "LPS"})
    np.testing.assert_allclose(
        load("a", InMemoryReader(image, 3)).affine, np.diag([-1, -1, 1, 1]) @ OBLIQUE, atol=1e-6
    )


def test_an_itk_image_of_complex_numbers_is_refused() -> None:
    image = itk.Image[itk.complex[itk.F], 2].New()
    image.SetRegions([7, 5])
    image.Allocate()
    with pytest.raises(ValueError, match="Expected real numbers"):
        InMemoryReader(image, 2)
