"""Warping on the images' own grids, with maps and probabilities given by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from crosswarp.spatial import identity_map
from crosswarp.spatial.itk_files import read_transforms, transform_points
from crosswarp.transforms import ExtentOfd, PredictedLabelsd, SaveTransformsd, WarpMovingd

# spatial sizes of the network's grid, the moving and the fixed image
GRIDS = [((8, 6), (17, 12), (24, 31)), ((6, 7, 5), (9, 12, 8), (11, 8, 13))]


def image_on(values, name, spacing):
    dims = values.ndim - 1
    affine = torch.diag(torch.tensor([-spacing] * dims + [1.0], dtype=torch.float64))
    return MetaTensor(values, affine=affine, meta={"filename_or_obj": f"/data/{name}"})


def ramp(shape, channels=2):
    """The coordinate along the first axis; linear, so that every interpolation of it is exact."""
    return identity_map(shape)[0, :1] * torch.arange(1, channels + 1).reshape(-1, *[1] * len(shape))


def make_pair(grids, shift):
    grid, moving, fixed = grids
    phi = identity_map(grid)[0]
    phi[0] += shift
    label = (ramp(moving, 1) > 0.5).to(torch.uint8)
    return {
        "pred": MetaTensor(torch.cat([phi, torch.rand(5, *grid)])),
        "moving": image_on(ramp(moving), "a.b.nii.gz", 0.5),
        "moving_label": image_on(label, "outline.png", 0.5),
        "fixed": image_on(torch.rand(1, *fixed), "xray.dcm", 0.7),
    }


@pytest.mark.parametrize("grids", GRIDS)
def test_moving_image_is_read_where_the_map_points_on_the_fixed_grid(grids):
    item = make_pair(grids, shift=0.25)
    result = WarpMovingd(["moving", "moving_label"], ["linear", "nearest"])(item)
    warped, label = result["warped_moving"], result["warped_moving_label"]
    fixed = grids[2]
    factor = torch.tensor([1.0, 2.0]).reshape(-1, *[1] * len(fixed))  # of the two channels
    expected = (ramp(fixed) / factor + 0.25).clamp(max=1) * factor
    torch.testing.assert_close(warped.as_tensor(), expected, atol=1e-5, rtol=0)
    assert label.dtype == torch.uint8 and label.shape == (1, *fixed)
    away = (expected[:1] - 0.5).abs() > 1 / grids[1][0]  # the edge lies somewhere between two voxels
    assert torch.equal(label[away].bool(), (expected[:1] > 0.5)[away])
    for image in (warped, label):
        assert torch.equal(image.affine, item["fixed"].affine)


def test_results_are_named_after_both_files_and_originals_stay():
    item = make_pair(GRIDS[0], shift=0.1)
    result = WarpMovingd(["moving", "moving_label"])(item)
    assert result["warped_moving"].meta["filename_or_obj"] == "a.b_to_xray"
    assert result["warped_moving_label"].meta["filename_or_obj"] == "outline_to_xray"
    assert item["fixed"].meta["filename_or_obj"] == "/data/xray.dcm"
    assert result["moving"] is item["moving"] and "warped_moving" not in item


def test_absent_keys_are_left_out_and_half_precision_maps_are_read():
    item = make_pair(GRIDS[0], shift=0.0)
    del item["moving_label"]
    item["pred"] = item["pred"].half()
    result = WarpMovingd(["moving", "moving_label"])(item)
    assert set(result) == {*item, "warped_moving"}
    assert result["warped_moving"].dtype == torch.float32


@pytest.mark.parametrize("grids", GRIDS)
def test_predicted_labels_lie_on_the_grid_of_their_own_image(grids):
    grid, moving, fixed = grids
    dims, num_classes = len(grid), 3
    thirds = (ramp(grid, 1)[0] * 2.999).long()
    classes = torch.nn.functional.one_hot(thirds, num_classes).movedim(-1, 0).float()
    mirrored = classes.flip(1)
    item = {
        "pred": MetaTensor(torch.cat([torch.rand(2 * dims, *grid), classes, mirrored])),
        "moving": image_on(torch.rand(2, *moving), "a.png", 0.5),
        "fixed": image_on(torch.rand(1, *fixed), "b.png", 0.7),
    }
    result = PredictedLabelsd(["moving", "fixed"], num_classes)(item)
    for key, shape, mirror in (("moving", moving, False), ("fixed", fixed, True)):
        label = result[f"{key}_label"]
        coordinate = ramp(shape, 1)
        coordinate = 1 - coordinate if mirror else coordinate
        # between two grid points of the network half way belongs to either class
        edges = torch.tensor([(thirds.flatten(1)[:, 0] < k).sum() - 0.5 for k in (1, 2)]) / (grid[0] - 1)
        expected = (coordinate > edges[0]).long() + (coordinate > edges[1]).long()
        away = ((coordinate - edges[0]).abs() > 1e-3) & ((coordinate - edges[1]).abs() > 1e-3)
        assert label.dtype == torch.uint8 and label.shape == (1, *shape)
        assert torch.equal(label[away].long(), expected[away])
        assert torch.equal(label.affine, item[key].affine)
        assert label.meta["filename_or_obj"] == item[key].meta["filename_or_obj"]


@pytest.mark.parametrize("grids", GRIDS)
def test_extents_reach_from_the_first_to_the_last_voxel(grids):
    item = ExtentOfd(["moving", "fixed"])(make_pair(grids, shift=0))
    for key, size, spacing in (("moving", grids[1], 0.5), ("fixed", grids[2], 0.7)):
        dims = len(size)
        corner = item[f"{key}_extent"] @ torch.ones(dims + 1)
        # LPS; the images run to the left, to the back and, in 3D, downwards
        signs = torch.tensor([1.0, 1, -1])[:dims]
        expected = signs * spacing * (torch.tensor(size) - 1)
        torch.testing.assert_close(corner[:-1], expected)
        assert item[f"{key}_extent"].dtype == torch.float32


@pytest.mark.parametrize("grids", GRIDS)
@pytest.mark.parametrize(
    ("suffix", "field"), [(".h5", ".nii.gz"), (".tfm", ".mha"), (".h5", ".nrrd"), (".tfm", None)]
)
def test_transforms_are_the_same_in_every_format(tmp_path, grids, suffix, field):
    item = make_pair(grids, shift=0.1)
    SaveTransformsd(["moving", "fixed"], tmp_path, transform_suffix=suffix, displacement_suffix=field)(item)
    names = {path.name.removeprefix("a.b_to_xray_") for path in tmp_path.iterdir()}
    assert names == {f"transform{suffix}", f"inverse{suffix}", *([f"displacement{field}"] if field else [])}
    dims = len(grids[0])
    signs = np.array([1, 1, -1])[:dims]
    points = signs * 0.7 * (np.array(grids[2]) - 1) * np.linspace(0.3, 0.6, 5)[:, None]
    fractions = np.linspace(0.3, 0.6, 5)[:, None] + np.array([0.1, 0, 0])[:dims]
    expected = signs * 0.5 * (np.array(grids[1]) - 1) * fractions
    for name in names - {f"inverse{suffix}"}:
        found = transform_points(read_transforms([tmp_path / f"a.b_to_xray_{name}"]), points)
        np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("arguments", [{"transform_suffix": ".mat"}, {"displacement_suffix": ".png"}])
def test_unknown_formats_are_refused(tmp_path, arguments):
    with pytest.raises(ValueError, match=r"Expected a suffix of .*got '.(mat|png)'"):
        SaveTransformsd(["moving", "fixed"], tmp_path, **arguments)


def test_a_label_that_is_there_is_kept():
    given = torch.ones(1, 4, 4)
    item = {
        "pred": MetaTensor(torch.rand(4 + 2 * 3, 4, 4)),
        "moving": image_on(torch.rand(1, 4, 4), "a.png", 1.0),
        "fixed": image_on(torch.rand(1, 4, 4), "b.png", 1.0),
        "moving_label": given,
    }
    result = PredictedLabelsd(["moving", "fixed"], 3)(item)
    assert result["moving_label"] is given and result["fixed_label"].shape == (1, 4, 4)
