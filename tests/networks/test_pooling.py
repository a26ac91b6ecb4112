"""Halving a grid, by hand and where an axis has only one sample."""

from __future__ import annotations

import pytest
import torch

from crosswarp.networks import DisplacementUNet, MultiStepRegistration
from crosswarp.networks.pooling import halve


def test_pairs_are_averaged_and_the_odd_one_stands_alone():
    x = torch.tensor([[1.0, 3.0, 5.0], [5.0, 7.0, 9.0]]).view(1, 1, 2, 3)
    assert halve(x).tolist() == [[[[4.0, 7.0]]]]
    assert halve(x[:, :, :1]).tolist() == [[[[2.0, 5.0]]]]
    assert halve(x[:, :, None]).tolist() == [[[[[4.0, 7.0]]]]]


@pytest.mark.parametrize("spatial_shape", [(1, 9), (1, 1), (1, 9, 6), (3, 1, 2)])
def test_networks_take_axes_of_any_length(spatial_shape):
    dims = len(spatial_shape)
    networks = [DisplacementUNet(dims, 2, (4, 8, 8), (4, 4, 4)) for _ in range(2)]
    phi = MultiStepRegistration(networks, [4, 1], 1)(torch.rand(2, 2, *spatial_shape))
    assert phi.shape == (2, dims, *spatial_shape)
