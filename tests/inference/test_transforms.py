"""Warping on the images' own grids, with maps and probabilities given by hand."""

from __future__ import annotations

import monai.transforms
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImaged, Orientationd

from crosswarp.data import AnyFormatReader
from crosswarp.data.frames import cut
from crosswarp.inference import ExtentOfd, PredictedLabelsd, SaveImaged, SaveTransformsd, WarpMovingd
from crosswarp.inference.transforms import in_file_axes
from crosswarp.spatial import identity_map
from crosswarp.spatial.frame import slabs
from crosswarp.spatial.itk import read_transforms, transform_points

sitk = pytest.importorskip("SimpleITK")
ants = pytest.importorskip("ants")

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
        "pred": MetaTensor(torch.cat([phi, torch.rand(len(grid) + 2 * 3, *grid)])),
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


@pytest.mark.parametrize("grids", GRIDS)
def test_a_slice_at_a_time_gives_what_the_whole_image_gives(grids, monkeypatch):
    pair = make_pair(grids, shift=0.1)
    warp = WarpMovingd(["moving", "moving_label"], ["linear", "nearest"])
    predict = PredictedLabelsd(["moving", "fixed"])

    def results():
        own = {key: value for key, value in pair.items() if key != "moving_label"}
        return warp(pair) | {key: predict(own)[key] for key in ("moving_label", "fixed_label")}

    whole = results()
    monkeypatch.setattr("crosswarp.inference.transforms.slabs", lambda grid: slabs(grid, 1))
    for key, value in results().items():
        if key.startswith("warped") or key.endswith("label"):
            torch.testing.assert_close(value, whole[key], atol=1e-5, rtol=0)


@pytest.mark.parametrize("grids", GRIDS)
def test_what_lies_on_another_grid_is_read_at_the_same_places(grids):
    """Parts of the moving image, whose fractions are others: by their shape, their affine, or both."""
    pair = make_pair(grids, shift=0.1)
    last = grids[1][0] - 1
    boxes = {"low": (0, last), "high": (1, last + 1), "middle": (2, last)}
    parts = {
        name: cut(pair["moving"], (slice(*ends), *(slice(0, size) for size in grids[1][1:])))
        for name, ends in boxes.items()
    }
    assert parts["low"].shape == parts["high"].shape
    item = pair | parts | {"moving_frame": pair["moving"], "fixed_frame": pair["fixed"]}
    for keys in (["moving", *boxes], [*boxes, "moving"]):
        found = WarpMovingd(keys, frames=("moving_frame", "fixed_frame"))(item)
        whole = found["warped_moving"].as_tensor()
        places = whole[0] * last  # where the ramp was read, in voxels
        for name, (start, stop) in boxes.items():
            inside = (places >= start) & (places <= stop - 1)
            assert inside.float().mean() > 0.5
            part = found[f"warped_{name}"].as_tensor()
            torch.testing.assert_close(part[:, inside], whole[:, inside], atol=1e-5, rtol=0)


def test_results_are_named_after_both_files_and_originals_stay():
    item = make_pair(GRIDS[0], shift=0.1)
    result = WarpMovingd(["moving", "moving_label"])(item)
    assert result["warped_moving"].meta["filename_or_obj"] == "a.b_to_xray.nii.gz"
    assert result["warped_moving_label"].meta["filename_or_obj"] == "outline_to_xray.nii.gz"
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
    result = PredictedLabelsd(["moving", "fixed"])(item)
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
        assert label.meta["filename_or_obj"] == {"moving": "a.nii.gz", "fixed": "b.nii.gz"}[key]


@pytest.mark.parametrize("grids", GRIDS)
def test_extents_reach_from_the_first_to_the_last_voxel(grids):
    item = ExtentOfd(["moving", "fixed"], ["moving_extent", "fixed_extent"])(make_pair(grids, shift=0))
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
    result = PredictedLabelsd(["moving", "fixed"])(item)
    assert result["moving_label"] is given and result["fixed_label"].shape == (1, 4, 4)


def stored(folder, dims, order, flips, turn):
    """A fixed image whose file has its axes in another order, flipped or oblique; loaded as register does."""
    shape, spacing = (14, 11, 9)[:dims], np.array([0.7, 1.3, 2.1])[:dims]
    linear = np.eye(dims)
    linear[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    affine = np.eye(4)
    affine[:dims, :dims] = (linear @ np.diag(spacing * flips[:dims]))[:, order]
    affine[:dims, 3] = [12, -7, 30][:dims]
    array = np.random.default_rng(0).normal(size=[shape[axis] for axis in order]).astype(np.float32)
    nib.save(nib.Nifti1Image(array, affine), folder / "b.nii.gz")
    steps = [
        LoadImaged("fixed", reader=AnyFormatReader, ensure_channel_first=True, image_only=True),
        Orientationd("fixed", "LP" if dims == 2 else "RAS", labels=None),
    ]
    return Compose(steps)({"fixed": str(folder / "b.nii.gz")})["fixed"]


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha", ".nrrd"])
@pytest.mark.parametrize(
    ("dims", "order", "flips", "turn"),
    [
        (2, (0, 1), (-1, -1), 0),
        (2, (1, 0), (1, -1), 0.3),
        (3, (0, 1, 2), (-1, -1, 1), 0),
        (3, (2, 0, 1), (1, -1, -1), 0.2),
        (3, (1, 2, 0), (-1, 1, -1), -0.3),
    ],
)
def test_the_displacement_lies_on_the_grid_of_the_fixed_file(tmp_path, suffix, dims, order, flips, turn):
    fixed = stored(tmp_path, dims, order, flips, turn)
    coarse = 0.03 * torch.randn(1, dims, *[4] * dims, generator=torch.Generator().manual_seed(1))
    mode = "bilinear" if dims == 2 else "trilinear"
    shift = torch.nn.functional.interpolate(coarse, (8, 7, 6)[:dims], mode=mode, align_corners=True)
    item = {
        "pred": MetaTensor((identity_map((8, 7, 6)[:dims]) + shift)[0]),
        "moving": image_on(torch.rand(1, *(10, 12, 8)[:dims]), "a.png", 0.5),
        "fixed": fixed,
    }
    SaveTransformsd(["moving", "fixed"], tmp_path, displacement_suffix=suffix)(item)
    path = tmp_path / f"a_to_b_displacement{suffix}"
    field = sitk.ReadImage(str(path), sitk.sitkVectorFloat64)
    reference = sitk.ReadImage(str(tmp_path / "b.nii.gz"))
    assert field.GetSize() == reference.GetSize()
    for geometry in ("GetOrigin", "GetSpacing", "GetDirection"):
        np.testing.assert_allclose(getattr(field, geometry)(), getattr(reference, geometry)(), atol=1e-5)
    if suffix == ".nii.gz":
        theirs, ours = nib.load(tmp_path / "b.nii.gz"), nib.load(path)
        assert ours.shape[:dims] == theirs.shape
        for part in np.s_[:dims, :dims], np.s_[:dims, 3]:  # of a 2D file the third axis is filled in
            np.testing.assert_allclose(ours.affine[part], theirs.affine[part], atol=1e-5)
        found = ants.image_read(str(path))
        assert found.shape == theirs.shape and found.components == dims
    composite = sitk.ReadTransform(str(tmp_path / "a_to_b_transform.h5"))
    displaced = sitk.GetArrayFromImage(field)
    for index in np.random.default_rng(2).integers(0, field.GetSize(), (30, dims)).tolist():
        point = np.array(field.TransformIndexToPhysicalPoint(index))
        wanted = np.array(composite.TransformPoint(point.tolist())) - point
        np.testing.assert_allclose(displaced[tuple(index[::-1])], wanted, atol=1e-4)
    ours = transform_points(read_transforms([path]), np.array([point]))
    np.testing.assert_allclose(ours[0], point + wanted, atol=1e-4)


@pytest.mark.parametrize("axes", ["LPS", "SAR", "PIL"])
@pytest.mark.parametrize(("kind", "mode"), [("float32", "bilinear"), ("uint8", "nearest")])
def test_images_are_saved_in_the_axes_of_their_file_as_monai_saves_them(tmp_path, axes, kind, mode):
    values = np.random.default_rng(0).integers(0, 200, (5, 6, 7)).astype(kind)
    stored = nib.Nifti1Image(values, np.diag([0.5, 0.7, 1.1, 1]))
    order = nib.orientations.ornt_transform(
        nib.io_orientation(stored.affine), nib.orientations.axcodes2ornt(axes)
    )
    nib.save(stored.as_reoriented(order), tmp_path / "a.nii.gz")
    read = Compose(
        [LoadImaged("image", ensure_channel_first=True), Orientationd("image", "RAS", labels=None)]
    )
    item = read({"image": tmp_path / "a.nii.gz"})
    assert in_file_axes(item["image"]).shape[1:] == nib.load(tmp_path / "a.nii.gz").shape
    files = []
    options = {"mode": mode, "separate_folder": False, "output_dtype": kind, "resample": True}
    for number, transform in enumerate((SaveImaged, monai.transforms.SaveImaged)):
        saved = transform("image", output_dir=tmp_path / str(number), **options)(item)
        assert saved["image"].shape == item["image"].shape
        files.append(nib.load(tmp_path / str(number) / "a_trans.nii.gz"))
    assert "".join(nib.aff2axcodes(files[0].affine)) == axes
    np.testing.assert_array_equal(files[0].affine, files[1].affine)
    np.testing.assert_array_equal(files[0].get_fdata(), nib.load(tmp_path / "a.nii.gz").get_fdata())
    np.testing.assert_allclose(files[0].get_fdata(), files[1].get_fdata(), atol=1e-4)
