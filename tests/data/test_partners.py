"""An image and its label lie on one array, whatever their files say or leave out."""

from __future__ import annotations

from pathlib import Path

import itk
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image

from crosswarp.data import LabelOnImaged
from crosswarp.data.readers import read_image
from crosswarp.runs.config import read_config
from tests.data.nifti import write_nifti

ROOT = Path(__file__).parents[2]
LABEL = np.zeros((12, 9), np.uint8)
LABEL[1:5, 2:4] = 1  # in no symmetry of the grid
LABEL[8:, 5:] = 2
IMAGE = LABEL * 100 + np.arange(12, dtype=np.uint8)[:, None]
PLACES = {
    "right": np.diag([0.5, 0.7, 1, 1]),
    "left": np.diag([-0.5, -0.7, 1, 1]),
    "turned": np.array([[0, 0.7, 0, 5], [-0.5, 0, 0, 7], [0, 0, 1, 9], [0, 0, 0, 1.0]]),
    "sagittal": np.array([[0, 0, 4, -38], [0, -0.7, 0, 112], [-0.5, 0, 0, 112], [0, 0, 0, 1.0]]),
}


def write(path, array, place):
    """Write a picture as PNG, or as NIfTI with or without a place."""
    if place == "png":
        Image.fromarray(array.T).save(path.with_suffix(".png"))
        return path.with_suffix(".png")
    codes = (0, 0) if place == "none" else None
    return write_nifti(path.with_suffix(".nii"), array, PLACES.get(place, np.eye(4)), codes=codes)


def configured(config):
    """A config that reads small 2D images with 2 classes."""
    parser = read_config(ROOT / config)
    values = {"bundle_root": str((ROOT / config).parents[1]), "spatial_size": [24, 18], "num_classes": 3}
    values |= {"spacing": None, "mirrored_side": None}
    for name, value in {**values, "spatial_dims": 2}.items():
        parser[name] = value
    return parser


def load(image, label, config="bundles/source_segmentation/configs/train.json"):
    """What a config makes of an image and its label."""
    return configured(config).get_parsed_content("preprocessing")({"image": str(image), "label": str(label)})


def overlap(item):
    """Whether the labelled places are those that are bright in the image."""
    image, label = item["image"].as_tensor(), item["label"].as_tensor()
    image = (image - image.min()) / (image.max() - image.min())  # evaluation reads labels, and lets images be
    return [float(image[label == k].median()) for k in (0, 1, 2)]


@pytest.mark.parametrize("image", ["png", "none", *PLACES])
@pytest.mark.parametrize("label", ["png", "none", "eye", "same"])
def test_a_label_whose_place_or_whose_images_place_is_unknown_lies_on_its_image(tmp_path, image, label):
    label = image if label == "same" else label
    files = write(tmp_path / "image", IMAGE, image), write(tmp_path / "label", LABEL, label)
    if label == "eye" and image in PLACES:
        with pytest.raises((ValueError, RuntimeError)) as caught:
            load(*files)
        assert "lies elsewhere: resample" in str(caught.value.__cause__ or caught.value)
        return
    item = load(*files)
    low, middle, high = overlap(item)
    assert low < 0.1 and middle == pytest.approx(0.5, abs=0.08) and high > 0.9
    np.testing.assert_allclose(item["label"].affine, item["image"].affine)
    # and the image itself lies as if it had come alone
    alone = load(files[0], write(tmp_path / "own", LABEL, image))["image"]
    np.testing.assert_array_equal(item["image"], alone)


@pytest.mark.parametrize(
    "config",
    [
        *(
            f"bundles/{name}/configs/train.json"
            for name in ("registration_augmentation", "domain_adaptation")
        ),
        "bundles/multimodal_registration/configs/train.json",
        "crosswarp/shared/monai_label.json",
        "configs/evaluate.json",
    ],
)
def test_every_config_that_reads_labels_lays_them_on_their_images(tmp_path, config):
    files = write(tmp_path / "image", IMAGE, "png"), write(tmp_path / "label", LABEL, "eye")
    low, middle, high = overlap(load(*files, config))
    assert low < 0.1 and middle == pytest.approx(0.5, abs=0.08) and high > 0.9


@pytest.mark.parametrize(
    "config", ["configs/inference.json", "bundles/registration_augmentation/configs/inference.json"]
)
@pytest.mark.parametrize("place", ["png", "right", "turned"])
def test_a_label_that_is_registered_with_its_image_lies_on_it(tmp_path, config, place):
    """In `register`, and in MONAI Label, whose fixed image is called `image`."""
    moving = write(tmp_path / "moving", IMAGE, place)
    label = write(tmp_path / "label", LABEL, "none" if place != "png" else "eye")
    parser = configured(config)
    item = {"moving": str(moving), "fixed": str(moving), "moving_label": str(label), "image": str(moving)}
    if "pre_transforms" in parser:
        item.pop("fixed")
        for transform in parser.get_parsed_content("pre_transforms"):
            item = transform(item)
    else:
        item = parser.get_parsed_content("preprocessing")(item)
    np.testing.assert_array_equal(
        item["moving_label"].as_tensor() * 100, item["moving"].as_tensor() // 100 * 100
    )
    np.testing.assert_allclose(item["moving_label"].affine, item["moving"].affine)


def test_an_image_turned_by_45_degrees_and_its_label_are_turned_alike(tmp_path):
    """Each of the two by itself would be turned as its rounding has it."""
    files = []
    for name, array, angle in (("image", IMAGE, 44.9999), ("label", LABEL, 45.0001)):
        c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        place = np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
        files.append(write_nifti(tmp_path / f"{name}.nii", array, place))
    low, middle, high = overlap(load(*files))
    assert low < 0.1 and middle == pytest.approx(0.5, abs=0.08) and high > 0.9


def pair(shape, label_shape, place, label_place):
    """An image and its label in memory."""

    def tensor(size, meta):
        meta = {"spatial_shape": np.array(size), **meta}
        return MetaTensor(torch.zeros(1, *size), affine=meta["original_affine"], meta=meta)

    return {"image": tensor(shape, place), "label": tensor(label_shape, label_place)}


@pytest.mark.parametrize("dims", [2, 3])
def test_shapes_and_places_that_differ_are_refused(dims):
    here, there = ({"original_affine": np.diag([k] * dims + [1.0]), "place_known": True} for k in (1.0, 2.0))
    unknown = {**there, "place_known": False}
    shape = (7, 5, 4)[:dims]
    transform = LabelOnImaged("label", "image")
    for place, label_place in ((here, unknown), (unknown, here), (here, here)):
        label = transform(pair(shape, shape, place, label_place))["label"]
        np.testing.assert_array_equal(label.affine, place["original_affine"])
        assert label.meta["place_known"] is place["place_known"]
        with pytest.raises(ValueError, match="expected a label on the grid of image, .*: resample the label"):
            transform(pair(shape, shape[::-1], place, label_place))
    with pytest.raises(ValueError, match="lies elsewhere"):
        transform(pair(shape, shape, here, there))
    with pytest.raises(KeyError, match="label"):
        transform({"image": pair(shape, shape, here, here)["image"]})
    assert set(LabelOnImaged("label", "image", True)({"image": label})) == {"image"}


@pytest.mark.parametrize(
    ("suffix", "known"), [(".mha", True), (".nrrd", True), (".nii", True), (".tif", False), (".png", False)]
)
def test_which_formats_state_a_place(tmp_path, suffix, known):
    itk.imwrite(itk.image_from_array(IMAGE), str(tmp_path / f"a{suffix}"))
    assert read_image(tmp_path / f"a{suffix}")[1]["place_known"] is known


def test_metaimages_and_nrrds_without_directions_state_no_place(tmp_path):
    body = IMAGE.tobytes("F")
    head = (
        b"ObjectType = Image\nNDims = 2\nDimSize = 12 9\nElementType = MET_UCHAR\nElementSpacing = 0.5 0.7\n"
    )
    (tmp_path / "a.mha").write_bytes(head + b"ElementDataFile = LOCAL\n" + body)
    head = b"NRRD0004\ntype: uint8\ndimension: 2\nsizes: 12 9\nspacings: 0.5 0.7\nencoding: raw\n\n"
    (tmp_path / "a.nrrd").write_bytes(head + body)
    for name in ("a.mha", "a.nrrd"):
        array, meta = read_image(tmp_path / name)
        np.testing.assert_array_equal(array, IMAGE)
        np.testing.assert_allclose(meta["spacing"], [0.5, 0.7])
        assert not meta["place_known"]


def test_nibabel_reads_what_the_helper_writes(tmp_path):
    image = nib.load(write_nifti(tmp_path / "a.nii", IMAGE, PLACES["turned"]))
    np.testing.assert_array_equal(image.dataobj, IMAGE)
    np.testing.assert_allclose(image.affine, PLACES["turned"])
