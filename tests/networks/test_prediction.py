"""The one tensor of a network, and its parts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor

from crosswarp.networks import Prediction
from crosswarp.networks.prediction import moving_to_fixed, pack
from crosswarp.spatial import identity_map


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 3), st.integers(1, 5), st.lists(st.integers(1, 5), min_size=2, max_size=3))
def test_parts_come_back_as_they_were_packed(batch: int, classes: int, shape: list[int]) -> None:
    dims = len(shape)
    parts = [torch.rand(batch, channels, *shape) for channels in (dims, dims, classes, classes)]
    packed = pack(*parts)
    found = Prediction.split(packed)
    assert packed.shape == (batch, 2 * dims + 2 * classes, *shape)
    assert all(map(torch.equal, found, parts)) and torch.equal(found.packed(), packed)
    assert found.fixed_probabilities.data_ptr() >= packed.data_ptr(), "views take no memory"


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3)])
def test_parts_of_one_pair_are_plain_and_float32(shape: tuple[int, ...]) -> None:
    dims = len(shape)
    pred = MetaTensor(torch.rand(2 * dims + 6, *shape).half())
    found = Prediction.of_item(pred)
    assert {type(part) for part in found} == {torch.Tensor} and {part.dtype for part in found} == {
        torch.float32
    }
    assert [len(part[0]) for part in found] == [dims, dims, 3, 3]
    for output in (pred, pred[:dims]):  # of the chain, and of a registration network
        assert torch.equal(moving_to_fixed(output), found.moving_to_fixed)


def test_an_image_alone_is_registered_to_itself_by_the_identity() -> None:
    probabilities = torch.rand(1, 3, 4, 5)
    found = Prediction.of_image(probabilities)
    assert torch.equal(found.moving_to_fixed, identity_map((4, 5))) and found[0] is found[1]
    assert found.moving_probabilities is found.fixed_probabilities is probabilities
