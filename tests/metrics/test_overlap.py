from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from monai.metrics import DiceMetric
from monai.networks import one_hot

from crosswarp.metrics import dice_per_class, warp_labels
from crosswarp.spatial import from_voxel_displacement, identity_map


def test_dice_worked_out_by_hand() -> None:
    predicted = torch.tensor([[[[1, 1, 2], [0, 2, 2]]]])
    reference = torch.tensor([[[[1, 2, 2], [1, 1, 2]]]])
    # class 1: 1 common of 2 and 3; class 2: 2 common of 3 and 3
    expected = torch.tensor([[2 * 1 / 5, 2 * 2 / 6]])
    torch.testing.assert_close(dice_per_class(predicted, reference, 3), expected)


def test_dice_of_each_batch_item_is_its_own_in_3d() -> None:
    reference = torch.zeros(2, 1, 2, 2, 2, dtype=torch.int64)
    reference[:, :, 0] = 1
    predicted = reference.clone()
    predicted[1, :, 0, 0] = 0  # half of the four voxels is missed
    torch.testing.assert_close(dice_per_class(predicted, reference, 2), torch.tensor([[1.0], [2 * 2 / 6]]))


def test_dice_is_nan_where_the_reference_lacks_the_class_and_zero_where_the_prediction_does() -> None:
    reference = torch.tensor([[[[0, 1, 1, 2]]]])
    predicted = torch.tensor([[[[0, 1, 3, 1]]]])
    dice = dice_per_class(predicted, reference, 5)[0]
    torch.testing.assert_close(
        dice, torch.tensor([0.5, 0.0, torch.nan, torch.nan]), equal_nan=True
    )  # class 1: 1 common of 2 and 2; 2 is missed; 3 is predicted but absent; 4 is nowhere


def test_dice_agrees_with_monai_on_one_hot_maps() -> None:
    torch.manual_seed(0)
    predicted, reference = torch.randint(0, 4, (2, 3, 1, 9, 8))
    metric = DiceMetric(include_background=False, reduction="none")
    expected = metric(one_hot(predicted, 4), one_hot(reference, 4))
    torch.testing.assert_close(dice_per_class(predicted, reference, 4), expected)


@pytest.mark.parametrize("shape", [(1, 1, 4, 5), (1, 3, 4, 4)])
def test_dice_names_shapes_that_do_not_fit(shape: tuple[int, ...]) -> None:
    labels = torch.zeros(shape)
    other = torch.zeros(1, shape[1], 4, 4)
    with pytest.raises(ValueError, match=r"one shape \[B, 1, \*spatial\]"):
        dice_per_class(labels, other, 2)


@pytest.mark.parametrize("mode", ["linear_argmax", "nearest"])
@pytest.mark.parametrize("spatial", [(7, 9), (6, 5, 7)])
def test_warp_by_a_known_shift(mode: str, spatial: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    labels = torch.randint(0, 4, (2, 1, *spatial))
    shift = torch.zeros(2, len(spatial), *spatial)
    shift[:, 1] = 2  # reads two voxels further along the second axis
    warped = warp_labels(labels, from_voxel_displacement(shift), mode=mode)
    assert torch.equal(warped[:, :, :, :-2], labels[:, :, :, 2:])
    assert torch.equal(warped[:, :, :, -1], labels[:, :, :, -1]), "the border is repeated"


def test_warp_between_the_points_takes_the_larger_share() -> None:
    labels = torch.tensor([[[[0], [2], [2], [1]]]])
    points = torch.tensor([0.4, 0.6, 2.4, 2.6]) / 3
    phi = torch.stack([points[:, None], torch.zeros(4, 1)])[None]
    assert warp_labels(labels, phi).flatten().tolist() == [0, 2, 2, 1]


def test_linear_argmax_keeps_a_thin_ring_that_nearest_breaks() -> None:
    centred = identity_map((48, 48)) - 0.5
    radius = centred.norm(dim=1, keepdim=True)
    ring = ((0.2 <= radius) & (radius < 0.25)).long()  # two pixels wide; turning it changes nothing
    dice = []
    for angle in torch.linspace(0.1, 1.5, 8):
        turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).view(2, 2)
        turned = torch.einsum("ij,bjxy->bixy", turn, centred) + 0.5
        modes = ("linear_argmax", "nearest")
        dice.append([dice_per_class(warp_labels(ring, turned, mode=mode), ring, 2).item() for mode in modes])
    linear, nearest = torch.tensor(dice).mean(0)
    assert linear > nearest + 0.02
    assert linear > 0.9


@pytest.mark.parametrize("mode", ["linear_argmax", "nearest"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32])
def test_warp_keeps_the_dtype_and_drops_the_metadata(mode: str, dtype: torch.dtype) -> None:
    labels = MetaTensor(torch.arange(4).view(1, 1, 2, 2).to(dtype))
    warped = warp_labels(labels, identity_map((2, 2)), mode=mode)
    assert type(warped) is torch.Tensor and warped.dtype == dtype
    assert torch.equal(warped, labels.as_tensor())


def test_warp_names_labels_outside_the_classes_and_unknown_modes() -> None:
    identity = identity_map((2, 2))
    with pytest.raises(ValueError, match="labels 0 to 2, got 0 to 3"):
        warp_labels(torch.tensor([[[[0, 1], [2, 3]]]]), identity, num_classes=3)
    with pytest.raises(ValueError, match="got -1 to 1"):
        warp_labels(torch.tensor([[[[0, 1], [-1, 0]]]]), identity)
    with pytest.raises(ValueError, match="got 'cubic'"):
        warp_labels(torch.zeros(1, 1, 2, 2), identity, mode="cubic")
