"""Segmentation and registration as one network: layout, directions, modalities."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from torch import nn

from crosswarp.networks import DisplacementUNet, MultiStepRegistration, Prediction, SegmentAndRegister
from crosswarp.spatial import compose, identity_map, sample

CLASSES, SOURCE_CHANNELS, TARGET_CHANNELS = 3, 1, 2


class Recorder(nn.Module):
    """Calls a network and remembers what it was given."""

    def __init__(self, network):
        super().__init__()
        self.network, self.seen = network, []

    def forward(self, x):
        self.seen.append(x)
        return self.network(x)


def model(dims, **kwargs):
    torch.manual_seed(0)
    conv = nn.Conv2d if dims == 2 else nn.Conv3d
    network = DisplacementUNet(dims, 2 * CLASSES, (4, 8), (4, 4))
    nn.init.normal_(network.head.weight, 0, 0.1)
    return SegmentAndRegister(
        conv(SOURCE_CHANNELS, CLASSES, 3, padding=1),
        conv(TARGET_CHANNELS, CLASSES, 3, padding=1),
        Recorder(MultiStepRegistration([network], [1], CLASSES)),
        SOURCE_CHANNELS,
        **kwargs,
    ).eval()


@pytest.mark.parametrize("spatial_shape", [(9, 14), (6, 8, 7)])
@pytest.mark.parametrize("moving", ["source", "target"])
@pytest.mark.parametrize("fixed", ["source", "target"])
def test_parts_are_each_modalitys_segmentation_and_both_directions(spatial_shape, moving, fixed):
    channels = {"source": SOURCE_CHANNELS, "target": TARGET_CHANNELS}
    dims = len(spatial_shape)
    network = model(dims, moving=moving, fixed=fixed)
    image = torch.randn(2, channels[moving] + channels[fixed], *spatial_shape)
    pred = network(image)
    assert pred.shape == (2, 2 * dims + 2 * CLASSES, *spatial_shape)
    assert len(network.registration.seen) == 1, "both directions go through the network in one batch"

    parts = Prediction.split(pred)
    moving_image, fixed_image = image[:, : channels[moving]], image[:, channels[moving] :]
    moving_label = network.segmentation[moving](moving_image).softmax(1)
    fixed_label = network.segmentation[fixed](fixed_image).softmax(1)
    torch.testing.assert_close(parts.moving_probabilities, moving_label)
    torch.testing.assert_close(parts.fixed_probabilities, fixed_label)
    forward = network.registration.network(torch.cat([moving_label, fixed_label], 1))
    backward = network.registration.network(torch.cat([fixed_label, moving_label], 1))
    assert (forward - backward).abs().max() > 1e-3 and (
        forward - identity_map(spatial_shape)
    ).abs().max() > 1e-3
    torch.testing.assert_close(parts.moving_to_fixed, forward, atol=1e-5, rtol=0)
    torch.testing.assert_close(parts.fixed_to_moving, backward, atol=1e-5, rtol=0)


def test_probabilities_sum_to_one_for_each_modality():
    network = model(2)
    source = network.segment(torch.randn(2, SOURCE_CHANNELS, 6, 6), "source")
    target = network.segment(torch.randn(2, TARGET_CHANNELS, 6, 6), "target")
    for probabilities in (source, target):
        torch.testing.assert_close(probabilities.sum(1), torch.ones(2, 6, 6))


def test_hard_labels_are_one_hot_soft_labels_are_passed_on():
    moving, fixed = torch.randn(2, 2, CLASSES, 5, 7).softmax(2)
    soft, hard = model(2), model(2, soft_labels=False)
    soft.register(moving, fixed), hard.register(moving, fixed)
    torch.testing.assert_close(soft.registration.seen[0][:2], torch.cat([moving, fixed], 1))
    torch.testing.assert_close(soft.registration.seen[0][2:], torch.cat([fixed, moving], 1))
    seen = hard.registration.seen[0].unflatten(1, (2, CLASSES))
    assert seen.dtype == torch.float32 and set(seen.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(seen.sum(2), torch.ones(4, 2, 5, 7))
    assert torch.equal(seen[:2, 0].argmax(1), moving.argmax(1))
    assert torch.equal(seen[:2, 1].argmax(1), fixed.argmax(1))


def test_output_is_float32_under_autocast_and_a_plain_tensor():
    network, image = model(2), MetaTensor(torch.randn(1, SOURCE_CHANNELS + TARGET_CHANNELS, 8, 8))
    with torch.autocast("cpu", torch.bfloat16):
        pred = network(image)
    assert pred.dtype == torch.float32 and type(pred) is torch.Tensor


def test_faulty_input_is_named():
    for wrong in ({"moving": "xray"}, {"fixed": "dxa"}):
        with pytest.raises(ValueError, match="Expected moving and fixed in"):
            model(2, **wrong)
    with pytest.raises(ValueError, match="got 'mr'"):
        model(2).segment(torch.rand(1, 1, 4, 4), "mr")
    for modalities, channels in [
        (("source", "source"), 3),
        (("target", "target"), 3),
        (("source", "target"), 1),
    ]:
        with pytest.raises(ValueError, match=rf"moving {modalities[0]}.*got shape \[1, {channels}, 8, 8\]"):
            model(2, moving=modalities[0], fixed=modalities[1])(torch.rand(1, channels, 8, 8))


class Blob(nn.Module):
    """A segmentation that knows its image: where it is bright is class 1."""

    def forward(self, x):
        return torch.cat([-8 * (x - 0.5), 8 * (x - 0.5), torch.full_like(x, -9.0)], dim=1)


class Still(nn.Module):
    """A registration that finds nothing to do."""

    def forward(self, x):
        return identity_map(x.shape[2:]).expand(len(x), -1, *[-1] * (x.ndim - 2))


@pytest.mark.parametrize("spatial_shape", [(30, 40), (20, 16, 18)])
@pytest.mark.parametrize("initialisation", [None, "moments", "affine"])
def test_an_initialisation_brings_a_shifted_pair_together_and_is_part_of_both_maps(
    spatial_shape, initialisation
):
    dims = len(spatial_shape)
    place = identity_map(spatial_shape)
    by = torch.tensor([0.25, -0.15, 0.1])[:dims].view(1, dims, *[1] * dims)
    fixed = ((place - 0.4).norm(dim=1, keepdim=True) < 0.2).float()
    moving = ((place - by - 0.4).norm(dim=1, keepdim=True) < 0.2).float()
    network = SegmentAndRegister(Blob(), Blob(), Still(), 1, initialisation=initialisation)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        parts = Prediction.split(network(torch.cat([moving, fixed], 1)))
    near = ((place - 0.4).norm(dim=1) < 0.3)[0]
    shift = (parts.moving_to_fixed - place)[0][:, near].mean(1)
    wanted = torch.zeros(dims) if initialisation is None else by.flatten()
    torch.testing.assert_close(shift, wanted, atol=0.5 / min(spatial_shape), rtol=0)  # half a voxel
    overlap = (sample(moving, parts.moving_to_fixed) * fixed).sum() / fixed.sum()
    # the edge of a ball of three voxels is read between voxels
    assert overlap > 0.8 if initialisation else overlap < 0.5, overlap
    there_and_back = compose(parts.moving_to_fixed, parts.fixed_to_moving)
    # beyond the grid a displacement is that of the border, which is not quite the affine
    within = ((parts.fixed_to_moving >= 0) & (parts.fixed_to_moving <= 1)).all(1)[0]
    torch.testing.assert_close(there_and_back[0][:, within], place[0][:, within], atol=1e-5, rtol=0)
    assert within.float().mean() > 0.5


def test_extents_count_in_the_initialisation():
    """The moving image shows twice the height around the same object: its heights halve."""
    place = identity_map((33, 33))
    fixed = ((place - 0.5).norm(dim=1, keepdim=True) < 0.3).float()
    stretch = torch.tensor([1.0, 2]).view(1, 2, 1, 1)
    moving = (((place - 0.5) * stretch).norm(dim=1, keepdim=True) < 0.3).float()
    extents = torch.diag(torch.tensor([100.0, 200, 1]))[None], torch.diag(torch.tensor([100.0, 100, 1]))[None]
    network = SegmentAndRegister(Blob(), Blob(), Still(), 1, initialisation="moments")
    phi = Prediction.split(network(torch.cat([moving, fixed], 1), *extents)).moving_to_fixed
    torch.testing.assert_close(phi, (place - 0.5) / stretch + 0.5, atol=1e-4, rtol=0)


def test_an_unknown_initialisation_is_refused():
    with pytest.raises(ValueError, match=r"Expected an initialisation in .*'moments'.* got 'rigid'"):
        SegmentAndRegister(Blob(), Blob(), Still(), 1, initialisation="rigid")
