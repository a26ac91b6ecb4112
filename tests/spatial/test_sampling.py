"""Sampling: analytic shifts and slopes, then scipy's interpolation as the independent implementation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage

from crosswarp.finite import NonFiniteError
from crosswarp.spatial import as_float32, identity_map, sample

SHAPES = [(7, 12), (5, 8, 6)]


def points_around(spatial_shape, spread=0.3, batch=2, seed=0):
    """Random points of a grid, some of them up to ``spread`` outside of it."""
    generator = torch.Generator().manual_seed(seed)
    return (1 + 2 * spread) * torch.rand(
        batch, len(spatial_shape), *spatial_shape, generator=generator
    ) - spread


def scipy_sample(image, phi, **kwargs):
    voxels = phi.double().numpy() * (np.array(image.shape[2:]) - 1).reshape(1, -1, *[1] * (phi.ndim - 2))
    warped = [
        [ndimage.map_coordinates(c.double().numpy(), v, **kwargs) for c in x]
        for x, v in zip(image, voxels, strict=True)
    ]
    return torch.tensor(np.array(warped), dtype=torch.float32)


@pytest.mark.parametrize("spatial_shape", SHAPES)
@pytest.mark.parametrize("axis", [0, 1])
def test_shift_by_one_voxel_reads_the_next_sample(spatial_shape, axis):
    image = torch.rand(2, 3, *spatial_shape)
    phi = identity_map(spatial_shape)
    phi[:, axis] += 1 / (spatial_shape[axis] - 1)
    size = spatial_shape[axis]
    border, zeros = sample(image, phi), sample(image, phi, padding="zeros")
    for warped in (border, zeros):
        expected = image.narrow(axis + 2, 1, size - 1)
        torch.testing.assert_close(warped.narrow(axis + 2, 0, size - 1), expected, atol=1e-5, rtol=0)
    last = image.narrow(axis + 2, size - 1, 1)
    torch.testing.assert_close(border.narrow(axis + 2, size - 1, 1), last, atol=1e-5, rtol=0)
    torch.testing.assert_close(zeros.narrow(axis + 2, size - 1, 1), torch.zeros_like(last), atol=1e-5, rtol=0)


@pytest.mark.parametrize("spatial_shape", SHAPES)
@pytest.mark.parametrize(("mode", "order"), [("linear", 1), ("nearest", 0)])
@pytest.mark.parametrize(("padding", "scipy_mode"), [("border", "nearest"), ("zeros", "grid-constant")])
def test_agrees_with_scipy_inside_and_outside(spatial_shape, mode, order, padding, scipy_mode):
    image, phi = torch.rand(2, 3, *spatial_shape), points_around(spatial_shape)
    expected = scipy_sample(image, phi, order=order, mode=scipy_mode, cval=0.0)
    torch.testing.assert_close(sample(image, phi, mode, padding), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("spatial_shape", SHAPES)
def test_zero_padding_is_scipys_constant_inside_and_fades_over_one_voxel(spatial_shape):
    image, phi = torch.rand(2, 1, *spatial_shape), points_around(spatial_shape)
    inside = ((phi >= 0) & (phi <= 1)).all(1, keepdim=True)
    expected = scipy_sample(image, phi, order=1, mode="constant", cval=0.0)
    torch.testing.assert_close(
        sample(image, phi, padding="zeros")[inside], expected[inside], atol=1e-5, rtol=0
    )

    voxels_outside = torch.tensor([0.0, 0.25, 0.75, 1.0, 2.0])
    phi = torch.full((1, len(spatial_shape), 5, *[1] * (len(spatial_shape) - 1)), 0.5)
    phi[:, 0] = (-voxels_outside / (spatial_shape[0] - 1)).view(phi[:, 0].shape)
    faded = sample(torch.ones(1, 1, *spatial_shape), phi, padding="zeros").flatten()
    torch.testing.assert_close(faded, torch.tensor([1.0, 0.75, 0.25, 0.0, 0.0]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("spatial_shape", SHAPES)
def test_gradient_is_the_slope_of_the_image(spatial_shape):
    phi = (0.1 + 0.8 * identity_map(spatial_shape)).requires_grad_()
    slopes = torch.arange(1.0, len(spatial_shape) + 1).view(1, -1, *[1] * len(spatial_shape))
    image = (identity_map(spatial_shape) * slopes).sum(1, keepdim=True)
    sample(image, phi).sum().backward()
    torch.testing.assert_close(phi.grad, slopes.expand_as(phi), atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64, torch.bool])
def test_nearest_keeps_the_dtype_of_labels_and_makes_no_new_ones(dtype):
    labels = torch.randint(0, 2, (2, 1, 9, 6)).to(dtype)
    warped = sample(labels, points_around((9, 6)), mode="nearest")
    assert warped.dtype == dtype
    assert set(warped.unique().tolist()) <= set(labels.unique().tolist())
    assert sample(labels, identity_map((9, 6))).dtype == torch.float32
    assert torch.equal(sample(labels, identity_map((9, 6)), mode="nearest"), labels)


@pytest.mark.parametrize("image_dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_is_float32_also_under_autocast(image_dtype):
    image, phi = torch.rand(2, 1, 8, 8).to(image_dtype), points_around((8, 8))
    expected = sample(image.float(), phi)
    with torch.autocast("cpu", torch.bfloat16):
        warped = sample(image, phi)
    assert warped.dtype == torch.float32
    torch.testing.assert_close(warped, expected)


def test_batch_of_one_broadcasts_either_way():
    images, maps = torch.rand(3, 2, 6, 5), points_around((4, 7), batch=3)
    one_image = sample(images[:1], maps)
    one_map = sample(images, maps[:1])
    assert one_image.shape == one_map.shape == (3, 2, 4, 7)
    for index in range(3):
        torch.testing.assert_close(one_image[index], sample(images[:1], maps[index : index + 1])[0])
        torch.testing.assert_close(one_map[index], sample(images[index : index + 1], maps[:1])[0])


def test_axis_of_length_one_has_one_sample_wherever_read():
    image = torch.rand(1, 1, 1, 6)
    phi = identity_map((4, 6))  # four rows of points over the only row of the image
    for padding in ("border", "zeros"):
        torch.testing.assert_close(sample(image, phi, padding=padding), image.expand(1, 1, 4, 6))


def test_metatensor_becomes_a_plain_tensor_on_the_graph():
    image = torch.rand(1, 1, 5, 5, requires_grad=True)
    assert type(as_float32(MetaTensor(image.detach()))) is torch.Tensor
    warped = sample(MetaTensor(image), MetaTensor(identity_map((5, 5))))
    assert type(warped) is torch.Tensor
    warped.sum().backward()
    torch.testing.assert_close(image.grad, torch.ones_like(image))


def test_faulty_input_is_named():
    image, phi = torch.rand(2, 1, 4, 4), identity_map((4, 4))
    with pytest.raises(ValueError, match="mode='cubic'"):
        sample(image, phi, mode="cubic")
    with pytest.raises(ValueError, match="padding='reflection'"):
        sample(image, phi, padding="reflection")
    with pytest.raises(ValueError, match=r"\(1, 4, 4\).*add the missing"):
        sample(image[0], phi)
    with pytest.raises(ValueError, match=r"\(1, 3, 4, 4\)"):
        sample(image, torch.rand(1, 3, 4, 4))
    with pytest.raises(ValueError, match="2 images and 3 maps"):
        sample(image, phi.expand(3, -1, -1, -1))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("padding", ["border", "zeros"])
@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize("spatial_shape", SHAPES)
def test_maps_that_name_no_place_are_refused_with_the_number_of_points(spatial_shape, mode, padding, bad):
    phi = identity_map(spatial_shape).repeat(2, *[1] * (len(spatial_shape) + 1))
    phi[0, 1, 2, 3] = bad
    phi[0, 0, 2, 3] = bad
    wrong, points = (1, 168) if len(spatial_shape) == 2 else (6, 480)
    with pytest.raises(NonFiniteError, match=rf"NaN or infinity at {wrong} of {points} points"):
        sample(torch.rand(2, 1, *spatial_shape), phi.requires_grad_(), mode, padding)


@pytest.mark.parametrize("spatial_shape", SHAPES)
def test_an_image_may_hold_nan_and_a_map_may_lead_far_away(spatial_shape):
    image = torch.rand(1, 1, *spatial_shape)
    image[0, 0, 0] = torch.nan
    phi = (1e30 * torch.ones(1, len(spatial_shape), *spatial_shape)).requires_grad_()
    warped = sample(image, phi)
    assert torch.equal(warped, image[..., -1:].flatten()[-1].expand_as(warped))
    warped.sum().backward()
    assert phi.grad.eq(0).all()
