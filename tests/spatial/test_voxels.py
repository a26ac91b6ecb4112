"""Conversion to MONAI's voxel displacements, against MONAI's own warp."""

from __future__ import annotations

import pytest
import torch
from monai.networks.blocks import Warp

from crosswarp.spatial import from_voxel_displacement, identity_map, sample, to_voxel_displacement

SHAPES = [(7, 13), (16, 5), (4, 9, 6)]


def random_map(spatial_shape):
    generator = torch.Generator().manual_seed(0)
    return identity_map(spatial_shape) + 0.15 * torch.randn(
        2, len(spatial_shape), *spatial_shape, generator=generator
    )


@pytest.mark.parametrize("spatial_shape", SHAPES)
@pytest.mark.parametrize(("mode", "monai_mode"), [("linear", "bilinear"), ("nearest", "nearest")])
@pytest.mark.parametrize("padding", ["border", "zeros"])
def test_monai_warps_alike(spatial_shape, mode, monai_mode, padding):
    image, phi = torch.rand(2, 3, *spatial_shape), random_map(spatial_shape)
    expected = Warp(mode=monai_mode, padding_mode=padding)(image, to_voxel_displacement(phi))
    torch.testing.assert_close(sample(image, phi, mode, padding), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("spatial_shape", SHAPES)
def test_displacement_by_a_voxel_is_one(spatial_shape):
    for axis, size in enumerate(spatial_shape):
        phi = identity_map(spatial_shape)
        phi[:, axis] += 1 / (size - 1)
        expected = torch.eye(len(spatial_shape))[axis].view(1, -1, *[1] * len(spatial_shape)).expand_as(phi)
        torch.testing.assert_close(to_voxel_displacement(phi), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("spatial_shape", [*SHAPES, (1, 6), (5, 1, 4)])
def test_round_trip(spatial_shape):
    phi = random_map(spatial_shape)
    torch.testing.assert_close(from_voxel_displacement(to_voxel_displacement(phi)), phi, atol=1e-6, rtol=0)
    ddf = 3 * torch.randn(2, len(spatial_shape), *spatial_shape)
    torch.testing.assert_close(to_voxel_displacement(from_voxel_displacement(ddf)), ddf, atol=1e-5, rtol=0)


def test_half_precision_field_becomes_a_float32_map():
    assert from_voxel_displacement(torch.zeros(1, 2, 4, 4, dtype=torch.float16)).dtype == torch.float32
