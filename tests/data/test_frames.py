from itertools import product

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, Pad, Resize
from numpy.testing import assert_allclose

from crosswarp.data import Framed
from crosswarp.spatial.grid import Grid


def image_of(shape, spacing=None, known=True) -> MetaTensor:
    dims = len(shape)
    affine = np.diag([*(np.asarray(spacing or [1.0] * dims) * [-1, -1, 1][:dims]), 1.0])
    places = torch.stack(torch.meshgrid(*[torch.arange(n) for n in shape], indexing="ij")).float()
    bump = torch.exp(-(places - torch.tensor(shape).view(-1, *[1] * dims) / 2.2).square().sum(0) / 30)
    return MetaTensor(bump[None], affine=torch.as_tensor(affine), meta={"spacing_known": known})


@pytest.mark.parametrize(("shape", "spacing"), [((30, 41), (0.9, 1.3)), ((14, 20, 17), (2.0, 1.0, 1.5))])
def test_an_image_and_its_label_share_a_frame_and_come_back(shape, spacing) -> None:
    image = image_of(shape, spacing)
    item = {"image": image, "label": MetaTensor((image > 0.5).float(), meta=image.meta)}
    dims = len(shape)
    transform = Compose([Framed(["image", "label"], [32] * dims, [1.2] * dims)])
    seen = transform(item)
    assert seen["image"].shape == (1, *[32] * dims)
    assert Grid.of(seen["image"]).same_place(Grid.of(seen["label"]))
    assert_allclose(Grid.of(seen["image"]).spacing, 1.2)
    seen["pred"] = seen["image"].clone()
    back = Invertd("pred", transform, "image")(seen)["pred"]
    assert Grid.of(back).same_place(Grid.of(image)) and back.shape == image.shape
    assert (back - image).abs().max() < 0.12
    assert not back.applied_operations


def test_without_a_spacing_it_is_what_monai_resizes() -> None:
    image = image_of((30, 41))
    seen = Framed("image", [15, 64])({"image": image})["image"]
    resized = Resize([15, 64], mode="bilinear", align_corners=True, anti_aliasing=True)(image)
    assert (seen - resized)[:, 3:-3].abs().max() < 2e-3  # it pads with zeros before it smooths


@pytest.mark.parametrize("spacing", [None, (0.5, 0.5)])
def test_what_states_no_spacing_is_seen_whole(spacing) -> None:
    image = image_of((30, 41), known=False)
    seen = Framed("image", [16, 16], spacing)({"image": image})["image"]
    assert_allclose(Grid.of(seen).corners, Grid.of(image).corners, atol=1e-9)


@pytest.mark.parametrize(("side", "mirrored_side"), product(("left", "right", None), ("left", None)))
def test_one_side_is_mirrored(side, mirrored_side) -> None:
    image = image_of((30, 41))
    framed = Framed("image", [30, 41], [1.0, 1.0], mirrored_side)
    seen = framed({"image": image, "side": side})["image"]
    mirrored = side is not None and side == mirrored_side
    torch.testing.assert_close(seen.as_tensor(), image.flip(1).as_tensor() if mirrored else image.as_tensor())
    determinants = [np.linalg.det(Grid.of(each).affine) for each in (seen, image)]
    assert (determinants[0] * determinants[1] < 0) == mirrored


def test_another_side_is_refused() -> None:
    with pytest.raises(ValueError, match="mirrored_side of"):
        Framed("image", [4, 4], None, "up")


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_what_a_scanner_pads_changes_nothing(value) -> None:
    image = image_of((30, 41), (0.9, 1.3))
    item = {"image": image, "label": MetaTensor((image > 0.5).float(), meta=image.meta)}
    padded = {
        key: Pad([(0, 0), (7, 2), (0, 11)], constant_values=value * (key == "image"))(each)
        for key, each in item.items()
    }
    framed = Framed(["image", "label"], [32, 32], [1.2, 1.2])
    for key, each in framed(padded).items():
        torch.testing.assert_close(each.as_tensor(), framed(item)[key].as_tensor())
        assert Grid.of(each).same_place(Grid.of(framed(item)[key]))
    seen = framed(padded)
    seen["pred"] = MetaTensor(torch.ones_like(seen["image"]), meta=seen["image"].meta)
    back = Invertd("pred", Compose([framed]), "image")(seen)["pred"]
    inside = (slice(None), slice(7, 37), slice(0, 41))  # nothing is found where nothing is shown
    assert (back[inside] > 0.99).all() and (back > 0).sum() == back[inside].numel()
