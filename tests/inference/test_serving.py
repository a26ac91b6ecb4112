"""Labels for MONAI Label: on the grid of the image's own file, whatever was done to the image."""

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, LoadImaged, Orientationd, Resized

from crosswarp.inference import ServedLabeld

# x to the front, y up, z to the left; 5 mm thick slices; the slice lies at its place in a volume
SAGITTAL = np.array([[0, 0, -5, 38], [0.5, 0, 0, -11], [0, 0.7, 0, 112], [0, 0, 0, 1.0]])
AXIAL = np.array([[-0.5, 0, 0, 7], [0, -0.7, 0, -11], [0, 0, 5, 37.5], [0, 0, 0, 1]])


def serve(tmp_path, shape, affine, axcodes, **arguments):
    """A label served whose classes are halves of the image, and what the file holds."""
    values = np.zeros(shape, np.float32)
    values[shape[0] // 2 :] = 1
    nib.save(nib.Nifti1Image(values, affine), tmp_path / "image.nii.gz")
    size = [2 * n for n in shape if n > 1]
    preprocessing = Compose(
        [
            LoadImaged(
                "image",
                reader="crosswarp.data.readers.AnyFormatReader",
                image_only=True,
                ensure_channel_first=True,
            ),
            Orientationd("image", axcodes=axcodes, labels=None),
            Resized("image", spatial_size=size, mode="nearest"),
        ]
    )
    item = preprocessing({"image": str(tmp_path / "image.nii.gz")})
    image = item["image"].as_tensor()
    item["pred"] = MetaTensor(torch.cat([0.6 * torch.ones_like(image), image]))
    arguments |= {"transform": preprocessing, "nearest_interp": False}
    served = ServedLabeld("pred", "image", **arguments)(item)
    return served, values.reshape(*shape, 1)[..., :1] if len(shape) == 2 else values


@pytest.mark.parametrize(
    ("shape", "affine", "axcodes"),
    [
        ((6, 9), AXIAL, "LP"),
        ((6, 9, 1), AXIAL, "LP"),
        ((6, 9, 5), AXIAL, "RAS"),
        ((6, 9, 5), SAGITTAL, "RAS"),
    ],
)
def test_a_label_lies_where_its_file_says(tmp_path, shape, affine, axcodes):
    served, values = serve(tmp_path, shape, affine, axcodes, label_keys=("pred", "label"))
    for key in ("pred", "label", "image"):
        label = served[key]
        assert label.dtype == torch.uint8 and label.shape == values.shape
        np.testing.assert_array_equal(label, values)
        np.testing.assert_allclose(label.affine, affine, atol=1e-6)
        np.testing.assert_allclose(label.meta["original_affine"], affine, atol=1e-6)
        assert tuple(label.meta["spatial_shape"]) == values.shape


def test_monai_label_leaves_it_out_of_scores():
    """The scores of its app are computed from what `post_filter=[SaveImaged, Invertd]` leaves."""
    assert issubclass(ServedLabeld, Invertd)
