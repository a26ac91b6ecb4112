"""Augmentation of batches: parameters are read back from the maps and the images that come out."""

from __future__ import annotations

import math

import pytest
import torch

from crosswarp.spatial import displacement, identity_map
from crosswarp.training import (
    RandomConvolution,
    RandomCurve,
    RandomField,
    RandomFieldOfView,
    RandomMask,
    RandomNoise,
    RandomOverlay,
    RandomSpatial,
    RandomSpectrum,
    augmentation,
)

SHAPES = [(12, 17), (9, 11, 7)]
STILL = {"rotation": 0.0, "scaling": 0.0, "shift": 0.0}
INTENSITY = [RandomConvolution, RandomCurve, RandomField, RandomMask, RandomNoise]


def make_batch(shape, size=3, channels=1):
    label = torch.randint(0, 2, (size, 1, *shape), dtype=torch.uint8)
    return {"image": torch.rand(size, channels, *shape), "label": label, "weight": torch.rand(size)}


def linear_part(phi):
    """The matrices ``[B, D, D]`` of maps that are affine in voxels, and their fixed part ``[B, D]``."""
    extent = torch.tensor(phi.shape[2:]) - 1.0
    points = identity_map(phi.shape[2:]).flatten(2)[0].T * extent - extent / 2
    images = phi.flatten(2).transpose(1, 2) * extent - extent / 2
    points = torch.cat([points, torch.ones(len(points), 1)], 1).expand(len(phi), -1, -1)
    solution = torch.linalg.lstsq(points, images).solution
    return solution[:, :-1].mT, solution[:, -1]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("still", [STILL, {"deformation": 0.1, "probability": 0.0}])
def test_spatial_without_change_is_the_identity(shape, still):
    batch = make_batch(shape)
    result = RandomSpatial(**still)(batch)
    torch.testing.assert_close(result["image"], batch["image"], atol=1e-5, rtol=0)  # of interpolation
    assert torch.equal(result["label"], batch["label"])
    assert result["weight"] is batch["weight"]


@pytest.mark.parametrize("shape", SHAPES)
def test_rotation_is_rigid_in_voxels(shape):
    phi = RandomSpatial(**STILL | {"rotation": 20.0}).draw_map(torch.empty(40, 1, *shape))
    matrix, offset = linear_part(phi)
    dims = len(shape)
    torch.testing.assert_close(matrix @ matrix.mT, torch.eye(dims).expand(40, -1, -1), atol=1e-5, rtol=0)
    torch.testing.assert_close(offset, torch.zeros(40, dims), atol=1e-4, rtol=0)  # about the centre
    torch.testing.assert_close(torch.linalg.det(matrix), torch.ones(40), atol=1e-5, rtol=0)
    angles = torch.atan2(matrix[:, 1, 0], matrix[:, 0, 0]).rad2deg()
    assert 15 < angles.max() <= 20.001 and -20.001 <= angles.min() < -15
    moved = (matrix - torch.eye(dims)).abs().amax(0)
    assert (moved[~torch.eye(dims, dtype=torch.bool)] > 0.1).all()  # in every coordinate plane


@pytest.fixture
def largest(monkeypatch):
    """Every draw is the largest that it can be."""
    monkeypatch.setattr(
        augmentation,
        "_uniform",
        lambda size, low, high, like, *shape: torch.full((size, *shape), float(high)),
    )


def test_quarter_turn_moves_a_point_where_it_belongs(largest):
    image = torch.zeros(1, 1, 5, 9)
    image[0, 0, 2, 6] = 1  # two voxels from the centre along the second axis
    turned = RandomSpatial(("image",), ("linear",), **STILL | {"rotation": 90.0}, probability=2.0)(
        {"image": image}
    )
    assert turned["image"][0, 0, 4, 4] == pytest.approx(1, abs=1e-5)  # now along the first
    assert turned["image"].sum() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_scaling_is_isotropic_and_shift_is_a_fraction_of_the_extent(shape):
    like = torch.empty(200, 1, *shape)
    matrix, _ = linear_part(RandomSpatial(**STILL | {"scaling": 0.3}).draw_map(like))
    factor = matrix[:, 0, 0]
    torch.testing.assert_close(matrix, factor[:, None, None] * torch.eye(len(shape)), atol=1e-5, rtol=0)
    assert 0.7 <= factor.min() < 0.75 and 1.25 < factor.max() <= 1.3
    shift = displacement(RandomSpatial(**STILL | {"shift": 0.2}).draw_map(like)).flatten(2)
    torch.testing.assert_close(shift, shift[:, :, :1].expand_as(shift), atol=1e-6, rtol=0)
    assert (shift.amax((0, 2)) > 0.18).all() and shift.abs().max() <= 0.2 + 1e-6
    assert (shift[:, 0] - shift[:, 1]).abs().max() > 0.1  # each axis by itself


@pytest.mark.parametrize("shape", SHAPES)
def test_deformation_has_its_standard_deviation_at_control_points(shape):
    phi = RandomSpatial(**STILL, deformation=0.03, control_points=3).draw_map(torch.empty(1500, 1, *shape))
    corner = displacement(phi).flatten(2)[:, :, 0]
    assert corner.std(0).tolist() == pytest.approx([0.03] * len(shape), rel=0.08)  # 4 standard errors
    half = RandomSpatial(**STILL, deformation=0.03, probability=0.5).draw_map(torch.empty(400, 1, *shape))
    moved = displacement(half).flatten(1).abs().amax(1) > 1e-6
    assert 150 < moved.sum() < 250


@pytest.mark.parametrize("shape", SHAPES)
def test_labels_stay_integer_and_aligned_with_the_image(shape):
    batch = make_batch(shape)
    batch["image"] = batch["label"].float()
    result = RandomSpatial(rotation=15, deformation=0.03)(batch)
    assert result["label"].dtype == torch.uint8
    # the nearest voxel has a weight of at least 1 / 2^D in the linear mean
    sure = 1 - 0.5 ** len(shape)
    assert result["label"][result["image"] > sure + 1e-4].eq(1).all()
    assert result["label"][result["image"] < 1 - sure - 1e-4].eq(0).all()
    assert not torch.equal(result["label"], batch["label"])


@pytest.mark.parametrize(
    "transform", [RandomSpatial(("image",), ("linear",)), *(kind() for kind in INTENSITY)]
)
@pytest.mark.parametrize("shape", SHAPES)
def test_each_sample_draws_its_own_and_a_seed_repeats_it(transform, shape):
    transform.probability = 1.0
    image = torch.rand(1, 2, *shape).expand(4, -1, *(-1 for _ in shape))
    first, second = transform({"image": image})["image"], transform({"image": image})["image"]
    torch.manual_seed(0)
    torch.rand(1, 2, *shape)
    repeated = transform({"image": image})["image"]
    assert torch.equal(first, repeated) and not torch.equal(first, second)
    differences = (first[:, None] - first[None]).flatten(2).abs().amax(2)
    assert (differences[~torch.eye(4, dtype=torch.bool)] > 1e-3).all()


@pytest.mark.parametrize("kind", INTENSITY)
@pytest.mark.parametrize("shape", SHAPES)
def test_intensities_stay_in_range_and_other_keys_as_they_are(kind, shape):
    batch = make_batch(shape, size=20, channels=2)
    image = batch["image"].clone()
    result = kind(probability=1.0)(batch)
    assert result["image"].shape == image.shape and result["image"].dtype == torch.float32
    assert result["image"].min() >= 0 and result["image"].max() <= 1
    assert result["label"] is batch["label"]
    assert torch.equal(batch["image"], image)
    changed = (kind(probability=0.5)(batch)["image"] - image).flatten(1).abs().amax(1) > 1e-6
    assert 3 < changed.sum() < 17
    torch.testing.assert_close(kind(probability=0.0)(batch)["image"], image, atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dark", [0.0, 1.0])
def test_a_crop_leaves_its_box_as_it_is(shape, dark):
    places = torch.stack(torch.meshgrid(*[torch.arange(n) for n in shape], indexing="ij")) + 1
    batch = {"image": places[None].float().expand(200, -1, *[-1] * len(shape)), "label": places[:1][None]}
    batch["label"] = batch["label"].expand(200, -1, *[-1] * len(shape)).to(torch.uint8)
    result = RandomFieldOfView(smallest=0.4, dark=dark, probability=0.75)(batch)
    image, kept = result["image"], result["image"] == batch["image"]
    assert torch.equal(result["label"], image[:, :1].to(torch.uint8))  # by the same box
    inside = kept.all(1)
    shares = []
    for axis, count in enumerate(shape):
        others = [each + 1 for each in range(len(shape)) if each != axis]
        seen = inside.any(others[0]) if len(others) == 1 else inside.flatten(1).new_zeros(0)
        if len(others) == 2:
            seen = inside.any(others[1]).any(others[0])
        assert (seen.diff(dim=1).count_nonzero(1) <= 2).all()  # one piece
        shares.append(seen.float().mean(1))
        assert seen.sum(1).min() >= math.floor(0.4 * (count - 1))
    whole = inside.flatten(1).all(1).float().mean()
    assert 0.1 < whole < 0.4 and min(share.min() for share in shares) < 0.6
    if dark:
        assert (image.amax(1)[~inside] == 0).all()
    else:  # continued by the nearest point of the box, along each axis
        for axis in range(len(shape)):
            along = image[:, axis].movedim(axis + 1, 1).flatten(2)[:, :, 0]
            assert (along.diff(dim=1) >= 0).all() and (along >= 1).all()


def test_no_crop_is_no_change():
    batch = make_batch(SHAPES[0])
    for still in (RandomFieldOfView(probability=0.0), RandomFieldOfView(smallest=1.0, probability=1.0)):
        assert all(torch.equal(still(batch)[key], batch[key]) for key in batch)
    with pytest.raises(ValueError, match="above 0"):
        RandomFieldOfView(smallest=0.0)


def test_curve_is_one_piecewise_linear_function_per_sample_and_channel():
    image = torch.linspace(0, 1, 51).repeat(8, 2, 2).reshape(8, 2, 2, 51)  # each intensity twice
    result = RandomCurve(strength=1.0, control_points=6, probability=1.0)({"image": image})["image"]
    assert torch.equal(result[:, :, 0], result[:, :, 1])
    curve = result[:, :, 0]
    torch.testing.assert_close(curve[..., 5::10], (curve[..., :-1:10] + curve[..., 10::10]) / 2)
    assert not torch.allclose(curve[:, 0], curve[:, 1], atol=1e-2)
    assert (curve.diff() < -1e-3).any()  # inversions are among them


def test_strength_limits_the_curve_and_zero_leaves_the_image():
    image = torch.rand(50, 1, 20, 20)
    changes = {
        strength: (RandomCurve(strength=strength, probability=1.0)({"image": image})["image"] - image)
        .abs()
        .max()
        for strength in (0.0, 0.2)
    }
    assert changes[0.0] < 1e-6
    assert 0.05 < changes[0.2] <= 0.2


def test_field_is_a_smooth_gain_and_offset():
    image = torch.full((60, 2, 31, 31), 0.5)
    offset = (
        RandomField(gain=0, offset=0.2, control_points=4, probability=1.0)({"image": image})["image"] - 0.5
    )
    assert 0.15 < offset.abs().max() <= 0.2 + 1e-6
    bend = offset.diff(n=2, dim=2)
    between = torch.ones(29, dtype=torch.bool)
    between[[9, 19]] = False  # linear between control points, which are ten voxels apart
    assert bend[:, :, between].abs().max() < 1e-5 < bend.abs().max()
    assert not torch.allclose(offset[:, 0], offset[:, 1], atol=1e-2)
    gain = RandomField(gain=0.4, offset=0, probability=1.0)
    factor = gain({"image": image})["image"] / 0.5
    assert 0.6 - 1e-5 <= factor.min() < 0.7 and 1.3 < factor.max() <= 1.4 + 1e-5
    assert gain({"image": torch.zeros(2, 1, 8, 8)})["image"].abs().max() == 0
    still = RandomField(gain=0, offset=0, probability=1.0)
    assert torch.equal(still({"image": image})["image"], image)


@pytest.mark.parametrize("shape", SHAPES)
def test_blur_weakens_contrast_but_no_constant(shape):
    blur = RandomNoise(noise=0.0, blur=1.0, probability=1.0)
    constant = torch.full((2, 1, *shape), 0.7)
    torch.testing.assert_close(blur({"image": constant})["image"], constant)
    image = torch.rand(30, 1, *shape)
    spread = blur({"image": image})["image"].flatten(1).std(1) / image.flatten(1).std(1)
    twice_box = math.sqrt(19 / 81) ** len(shape)  # weights 1 2 3 2 1 over 9 along each axis
    assert spread.max() > 0.9
    assert spread.min() == pytest.approx(twice_box, abs=0.1)


def test_noise_is_white_and_no_stronger_than_asked():
    image = torch.full((200, 1, 40, 40), 0.5)
    noise = RandomNoise(noise=0.1, blur=1.0, probability=1.0)({"image": image})["image"] - 0.5
    deviation = noise.flatten(1).std(1)
    assert deviation.min() < 0.01 and 0.095 < deviation.max() < 0.105
    assert deviation.mean() == pytest.approx(0.05, abs=0.007)  # uniform, 3 standard errors
    neighbours = (noise[..., 1:] * noise[..., :-1]).mean() / noise.square().mean()
    assert abs(neighbours) < 0.01
    still = RandomNoise(noise=0, blur=0, probability=1.0)
    assert torch.equal(still({"image": image})["image"], image)


def test_a_mode_is_needed_for_each_key():
    with pytest.raises(ValueError, match="one mode for each key.*'image', 'label'.*'linear'"):
        RandomSpatial(("image", "label"), ("linear",))


def wave(shape, mean, amplitude, cycles, phase=0.0):
    """A cosine along the last axis, ``[1, 1, *shape]``."""
    position = torch.arange(shape[-1]) / shape[-1]
    return mean + amplitude * torch.cos(2 * math.pi * cycles * position + phase).expand(1, 1, *shape)


@pytest.mark.parametrize("shape", [(8, 24), (6, 8, 24)])
def test_low_frequencies_take_the_other_amplitude_and_keep_their_phase(largest, shape):
    transform = RandomSpectrum(radius=4.0, probability=2.0)
    image = wave(shape, 0.6, 0.1, cycles=3, phase=1.0) + wave(shape, 0, 0.1, cycles=5)
    style = wave(shape, 0.4, 0.2, cycles=3, phase=2.5) + wave(shape, 0, 0.05, cycles=5)
    expected = wave(shape, 0.4, 0.2, cycles=3, phase=1.0) + wave(shape, 0, 0.1, cycles=5)
    result = transform({"image": image, "style": style})
    torch.testing.assert_close(result["image"], expected)
    assert result["style"] is style
    half = RandomSpectrum(radius=4.0, strength=0.5, probability=2.0)({"image": image, "style": style})[
        "image"
    ]
    blend = wave(shape, 0.5, 0.15, cycles=3, phase=1.0) + wave(shape, 0, 0.1, cycles=5)
    torch.testing.assert_close(half, blend)


def test_the_style_of_other_channels_is_their_mean(largest):
    image, style = torch.rand(2, 3, 16, 12) / 2, torch.rand(2, 2, 16, 12) / 2
    transform = RandomSpectrum(radius=20.0, probability=2.0)
    result = transform({"image": image, "style": style})["image"]
    amplitudes = torch.fft.fft2(style).abs().mean(1, keepdim=True).expand(-1, 3, -1, -1)
    expected = torch.fft.ifft2(torch.polar(amplitudes, torch.fft.fft2(image).angle())).real.clamp(0, 1)
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_an_overlay_is_a_blurred_image_in_range(largest, shape):
    transform = RandomOverlay(coarseness=(1, 1), probability=2.0)
    image, style = torch.rand(3, 1, *shape), torch.rand(3, 2, *shape)
    result = transform({"image": image, "style": style})["image"]
    mean = style.flatten(1).mean(1).reshape(3, *[1] * (len(shape) + 1))  # of one node and of both channels
    mixed = 0.2 * image + mean
    expected = mixed / mixed.flatten(1).amax(1).reshape(mean.shape)
    torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("kind", [RandomSpectrum, RandomOverlay])
@pytest.mark.parametrize("shape", SHAPES)
def test_styles_are_mixed_per_sample_within_the_range(kind, shape):
    image, style = torch.rand(30, 1, *shape), torch.rand(30, 1, *shape) ** 2
    result = kind(probability=0.5)({"image": image, "style": style})["image"]
    assert result.min() >= 0 and result.max() <= 1 + 1e-6
    changed = (result - image).flatten(1).abs().amax(1) > 1e-4
    assert 4 < changed.sum() < 26
    still = kind(probability=0.0)({"image": image, "style": style})["image"]
    torch.testing.assert_close(still, image, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(6, 5), (4, 5, 3)])
def test_curves_leave_nan_where_it_is(shape):
    image = torch.rand(2, 1, *shape)
    image[0, 0, 1] = torch.nan
    curved = RandomCurve(probability=1.0)({"image": image})["image"]
    assert torch.equal(curved.isnan(), image.isnan())


@pytest.mark.parametrize("shape", SHAPES)
def test_each_class_has_a_curve_of_its_own(shape):
    label = torch.arange(3).repeat(math.prod(shape))[: math.prod(shape)].reshape(1, 1, *shape)
    batch = {"image": torch.rand(4, 2, *shape), "label": label.expand(4, -1, *[-1] * len(shape))}
    curve = RandomCurve(strength=1.0, probability=1.0, label_key="label", num_classes=3)
    changed = curve(batch)["image"]
    for number in range(3):  # what one class becomes does not depend on the others' voxels
        torch.manual_seed(5)
        alone = curve(batch)["image"]
        torch.manual_seed(5)
        other = torch.where(batch["label"] == number, batch["image"], 1 - batch["image"])
        again = curve(batch | {"image": other})["image"]
        inside = (batch["label"] == number).expand_as(alone)
        assert torch.equal(alone[inside], again[inside]) and not torch.equal(alone, again)
    flat = RandomCurve(strength=1.0, probability=1.0, label_key="label", num_classes=3)(
        batch | {"image": torch.full_like(batch["image"], 0.3)}
    )["image"]
    levels = [len(each.unique()) for sample in flat for each in sample]
    assert levels == [3] * 8  # one level a class, in each sample and channel
    assert not torch.equal(changed, batch["image"])


@pytest.mark.parametrize("shape", SHAPES)
def test_random_convolutions_leave_what_is_uniform_and_place_no_edge_elsewhere(shape):
    image = torch.zeros(6, 2, *shape)
    image[:, :, : shape[0] // 2] = 1  # two halves
    for points in (0, 3):
        changed = RandomConvolution(probability=1.0, control_points=points)({"image": image})["image"]
        assert (changed.flatten(1).amax(1) > 0.99).all() and changed.min() >= 0
        if not points:  # four kernels of 3 reach four voxels; beyond, each half is one value
            for part in (changed[:, :, : shape[0] // 2 - 4], changed[:, :, shape[0] // 2 + 4 :]):
                if part.shape[2]:
                    level = part.flatten(2)
                    torch.testing.assert_close(level, level[:, :, :1].expand_as(level), atol=1e-4, rtol=0)
    uniform = torch.full((3, 1, *shape), 0.4)
    result = RandomConvolution(probability=1.0)({"image": uniform})["image"]
    assert result.isfinite().all()


@pytest.mark.parametrize("shape", SHAPES)
def test_pointwise_convolutions_are_curves_of_intensity(shape):
    image = torch.randint(0, 5, (3, 1, *shape)) / 4
    for pointwise in (1.0, 0.0):
        changed = RandomConvolution(probability=1.0, pointwise=pointwise)({"image": image})["image"]
        spreads = [changed[0][image[0] == level].std() for level in image.unique()]
        assert (max(spreads) < 1e-5) == bool(pointwise)


def test_a_random_convolution_is_the_network_it_says(monkeypatch):
    """Against layers of torch with the very same weights, image by image."""
    drawn = []

    def normal(size, like, *shape):
        drawn.append(torch.randn(size, *shape))
        return drawn[-1]

    monkeypatch.setattr(augmentation, "_normal", normal)
    monkeypatch.setattr(
        augmentation, "_uniform", lambda size, low, high, like, *shape: torch.ones(size, *shape)
    )
    image = torch.rand(3, 1, 9, 7)
    result = RandomConvolution(probability=2.0, layers=3)({"image": image})["image"]
    for number, one in enumerate(image):
        x = (one - one.mean()) / one.std()
        for layer in range(3):
            weight, shift = drawn[2 * layer][number], drawn[2 * layer + 1][number]
            convolution = torch.nn.Conv2d(
                weight.shape[1], weight.shape[0], 3, padding=1, padding_mode="replicate"
            )
            convolution.load_state_dict({"weight": weight.unflatten(-1, (3, 3)), "bias": shift})
            x = convolution(x[None])[0]
            x = torch.nn.functional.leaky_relu(x) if layer < 2 else x
        expected = (x - x.min()) / (x.max() - x.min())
        torch.testing.assert_close(result[number], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", [(24, 12), (12, 24, 8)])
def test_a_mask_hides_cubes_at_the_mean(shape):
    image = torch.rand(300, 1, *shape)
    result = RandomMask(blocks=6, share=0.6, probability=0.5)({"image": image})["image"]
    hidden = result != image
    first = torch.nn.functional.interpolate(hidden.float(), scale_factor=0.25, mode="nearest")
    assert torch.equal(torch.nn.functional.interpolate(first, scale_factor=4, mode="nearest") > 0, hidden)
    share = hidden.flatten(1).float().mean(1)
    assert 0.4 < (share == 0).float().mean() < 0.65  # blocks are few: a share may hide none
    assert share.mean() == pytest.approx(0.15, abs=0.04) and share.max() > 0.4
    means = image.flatten(1).mean(1).reshape(-1, *[1] * (len(shape) + 1)).expand_as(image)
    torch.testing.assert_close(result[hidden], means[hidden])
