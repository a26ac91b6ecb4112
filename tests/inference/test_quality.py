"""Quality of a pair of discs under known maps."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from crosswarp.finite import NonFiniteError
from crosswarp.inference.quality import image_atypicality, judge, pair_quality
from crosswarp.metrics.typicality import appearance_features, learn_statistics, shape_features
from crosswarp.networks import Prediction
from crosswarp.spatial import identity_map, sample

SIZES = [(24, 18), (14, 16, 12)]


def disc(size, centre):
    """Probabilities of background and a disc, sure inside and outside."""
    inside = ((identity_map(size) - centre).norm(dim=1, keepdim=True) < 0.3).float() * 0.9 + 0.05
    return torch.cat([1 - inside, inside], dim=1)


def image_of(size, spacing):
    dims = len(size)
    affine = torch.diag(torch.tensor([spacing] * dims + [1.0], dtype=torch.float64))
    return MetaTensor(torch.zeros(1, *size), affine=affine)


def shift(size, by):
    phi = identity_map(size).clone()
    phi[:, 0] += by
    return phi


@pytest.mark.parametrize("size", SIZES)
def test_a_registration_that_fits_is_ok(size):
    fixed, by = disc(size, 0.45), 2 / (size[0] - 1)
    moving = sample(fixed, shift(size, -by))
    images = [image_of(size, 2.0)] * 2
    quality = pair_quality(Prediction(shift(size, by), shift(size, -by), moving, fixed), *images)
    assert quality["extent_overlap"] == 1
    assert quality["confidence"]["fixed"] == pytest.approx(0.95, abs=1e-6)
    assert quality["overlap"] == {"1": pytest.approx(1.0)}
    assert quality["folds_percent"] == 0 and quality["jacobian"] == pytest.approx([1, 1], abs=1e-4)
    assert quality["inverse_error_mm"] < 1e-4
    assert judge(quality) == ("ok", [])


@pytest.mark.parametrize("size", SIZES)
def test_volume_change_is_that_of_the_map_to_the_fixed_image(size):
    grid, probabilities = identity_map(size), disc(size, 0.5)
    twice, half = 0.5 + 2 * (grid - 0.5), 0.5 + 0.5 * (grid - 0.5)
    quality = pair_quality(Prediction(half, twice, probabilities, probabilities), *[image_of(size, 2.0)] * 2)
    assert quality["jacobian"] == pytest.approx([0.5 ** len(size)] * 2, abs=1e-4)


def test_lengths_are_those_of_the_moving_image_in_mm():
    size = (11, 21)
    probabilities = disc(size, 0.5)
    # one way 0.1 of the first axis, no way back: 0.1 of 10 voxels of 3 mm in an image of 30 x 60 mm
    quality = pair_quality(
        Prediction(shift(size, 0.1), identity_map(size), probabilities, probabilities),
        *[image_of(size, 3.0)] * 2,
    )
    assert quality["inverse_error_mm"] == pytest.approx(3.0, abs=1e-4)
    assert quality["inverse_error_percent"] == pytest.approx(100 * 3 / (30**2 + 60**2) ** 0.5, abs=1e-3)
    assert judge(quality)[0] == "check" and "inverse" in " ".join(judge(quality)[1])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("moving", "fixed", "verdict", "reason"),
    [
        ("disc", "nothing", "failed", "confidence of the fixed segmentation: 0 < 0.75"),
        ("nothing", "disc", "failed", "overlap of class 1 after warping: 0 < 0.5"),
        ("nothing", "nothing", "failed", "no class was found in either image"),
        ("unsure", "disc", "check", "confidence of the moving segmentation: 0.855 < 0.9"),
    ],
)
def test_an_image_without_the_anatomy_is_flagged(size, moving, fixed, verdict, reason):
    found = disc(size, 0.5)
    nothing = torch.cat([torch.ones_like(found[:, :1]), torch.zeros_like(found[:, :1])], dim=1)
    cases = {"disc": found, "nothing": nothing, "unsure": 0.1 + 0.8 * found - 0.005}
    phi = identity_map(size)
    quality = pair_quality(Prediction(phi, phi, cases[moving], cases[fixed]), *[image_of(size, 1.0)] * 2)
    word, reasons = judge(quality)
    assert word == verdict and reason in reasons


def test_folds_are_flagged_and_limits_can_be_left_out():
    size = (16, 16)
    phi = identity_map(size).flip(2)  # every point folds
    quality = pair_quality(Prediction(phi, phi, disc(size, 0.5), disc(size, 0.5)), *[image_of(size, 1.0)] * 2)
    assert judge(quality)[0] == "failed" and any("folded" in reason for reason in judge(quality)[1])
    assert judge(quality, {"confidence": (0.9, 0.75)}) == ("ok", [])


def test_what_could_not_be_computed_has_failed():
    size, phi = (16, 16), identity_map((16, 16))
    images = [image_of(size, 1.0)] * 2
    with pytest.raises(NonFiniteError, match="Expected a map of finite coordinates"):
        pair_quality(
            Prediction(phi, torch.full_like(phi, torch.nan), disc(size, 0.5), disc(size, 0.5)), *images
        )
    quality = pair_quality(Prediction(phi, phi, disc(size, 0.5), disc(size, 0.5)), *images)
    quality["inverse_error_percent"] = float("nan")
    assert judge(quality) == ("failed", ["error of the inverse in percent of the diagonal: nan > 5"])


@pytest.mark.parametrize("size", SIZES)
def test_images_that_do_not_meet_in_space_are_flagged(size):
    dims, probabilities, phi = len(size), disc(size, 0.5), identity_map(size)
    moving, fixed = image_of(size, 1.0), image_of(size, 2.0)
    # half as long in each axis, from the same corner: of 9 places on an axis 5 are covered
    quality = pair_quality(Prediction(phi, phi, probabilities, probabilities), moving, fixed)
    assert quality["extent_overlap"] == pytest.approx((5 / 9) ** dims)
    assert judge(quality) == ("ok", [])
    fixed.affine[0, -1] = 500
    quality = pair_quality(Prediction(phi, phi, probabilities, probabilities), moving, fixed)
    word, reasons = judge(quality)
    assert word == "check" and reasons == ["part of the fixed image that the moving covers: 0 < 0.01"]


def test_only_what_stays_within_the_fixed_image_tells_of_the_inverse():
    size, probabilities = (11, 21), disc((11, 21), 0.5)
    # twice as long, and back; beyond the grid of the fixed image the way back is not known
    middle = identity_map(size) / 2 + 0.25
    back = 2 * identity_map(size) - 0.5
    quality = pair_quality(Prediction(middle, back, probabilities, probabilities), *[image_of(size, 3.0)] * 2)
    assert quality["inverse_error_mm"] < 1e-4


def test_atypical_images_are_flagged():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(20, 1, 16, 16, generator=generator)
    shapes = torch.cat([disc((16, 16), 0.45 + 0.005 * i) for i in range(20)])
    statistics = {
        "appearance": learn_statistics(appearance_features(images)),
        "shape": learn_statistics(shape_features(shapes)),
    }
    usual = image_atypicality(images[:1], shapes[:1], statistics)
    odd = image_atypicality(images[:1] ** 4, disc((16, 16), 0.2), statistics)
    assert all(value <= 1 for value in usual.values()) and all(value > 2 for value in odd.values())
    assert image_atypicality(images[:1], shapes[:1], None) == {"appearance": None, "shape": None}
    phi = identity_map((16, 16))
    quality = pair_quality(Prediction(phi, phi, shapes[:1], shapes[:1]), *[image_of((16, 16), 1.0)] * 2)
    assert judge(quality | {"atypicality": {"moving": usual, "fixed": usual}}) == ("ok", [])
    word, reasons = judge(quality | {"atypicality": {"moving": usual, "fixed": odd}})
    assert word == "failed" and len(reasons) == 2
    assert reasons[0].startswith(
        "unusual appearance of the fixed image, 1 being the most unusual in training: "
    )


def test_what_lies_otherwise_or_shows_several_is_to_be_checked():
    size, phi = (16, 16), identity_map((16, 16))
    good = pair_quality(Prediction(phi, phi, disc(size, 0.5), disc(size, 0.5)), *[image_of(size, 1.0)] * 2)
    found = good | {"pose_odds": {"moving": 2.0, "fixed": -1.0}, "pieces": {"moving": [1], "fixed": [2]}}
    usual = {"moving": {"pose": 0.5, "pieces": [1]}, "fixed": {"pose": -1.5, "pieces": [2]}}
    assert judge(found, statistics=usual) == ("ok", []) == judge(found)
    assert judge(found, statistics={"moving": None, "fixed": {"pose": None, "pieces": [0]}}) == ("ok", [])
    word, reasons = judge(found, statistics={"moving": usual["moving"], "fixed": usual["moving"]})
    assert word == "check" and len(reasons) == 2
    assert "the fixed image hardly lies" in reasons[0] and "odds 0.37 to 1" in reasons[0]
    assert reasons[1].startswith("the fixed image seems to show more than one of class 1")


def expected(mean, *classes):
    """An expectation by value, low and high."""
    numbers = {"mean": mean} | {str(k): each for k, each in enumerate(classes, 1)}
    return {
        key: each and dict(zip(("value", "low", "high"), each, strict=True)) | {"because": ["folds"]}
        for key, each in numbers.items()
    }


def test_with_an_expectation_its_interval_decides():
    size, phi = (16, 16), identity_map((16, 16))
    images = [image_of(size, 1.0)] * 2
    good = pair_quality(Prediction(phi, phi, disc(size, 0.5), disc(size, 0.5)), *images)
    sure = expected((0.92, 0.85, 0.96), (0.92, 0.8, 0.97))
    assert judge(good | {"expected_overlap": sure}) == ("ok", [])
    word, reasons = judge(good | {"expected_overlap": expected((0.82, 0.7, 0.9), (0.82, 0.6, 0.9))})
    assert word == "check"
    assert reasons == ["overlap of 0.82 to be expected, above all for folds; 0.70 at the least, below 0.8"]
    word, reasons = judge(good | {"expected_overlap": expected((0.92, 0.85, 0.96), (0.6, 0.4, 0.8))})
    assert word == "check" and reasons[0].startswith("overlap of class 1 of 0.60 to be expected")
    word, reasons = judge(good | {"expected_overlap": expected((0.2, 0.1, 0.45), (0.2, 0.1, 0.45))})
    assert word == "failed" and "0.45 at the most, below 0.5" in reasons[0]
    word, reasons = judge(good | {"expected_overlap": {"untrusted": ["target"], **sure}})
    assert word == "failed" and reasons[0].startswith("the networks give most target images of the training")
    assert judge(good | {"expected_overlap": {"untrusted": [], **sure}}) == ("ok", [])
    word, reasons = judge(good | {"expected_overlap": {"unseen": ["2"], **sure}})
    assert word == "check" and reasons == [
        "class 2 was found in neither image, and nearly all labelled people have it"
    ]
    nothing = expected((float("nan"),) * 3, None)
    assert judge(good | {"expected_overlap": nothing})[0] == "failed", "NaN does not pass for good"


def test_with_an_expectation_single_quantities_explain_and_decide_beyond_doubt():
    size, phi = (16, 16), identity_map((16, 16))
    quality = pair_quality(Prediction(phi, phi, disc(size, 0.5), disc(size, 0.5)), *[image_of(size, 1.0)] * 2)
    quality |= {"expected_overlap": expected((0.92, 0.85, 0.96), (0.92, 0.8, 0.97))}
    unsure = quality | {"confidence": {"moving": 0.85, "fixed": 0.95}}
    assert judge(unsure) == ("ok", []), "the expectation has counted it"
    assert judge(unsure | {"confidence": {"moving": 0.7, "fixed": 0.95}})[0] == "failed"
    odd = {"atypicality": {"moving": {"appearance": 9.0, "shape": 9.0}}}
    assert judge(quality | odd) == ("ok", [])
    assert judge(quality | {"extent_overlap": 0.0})[0] == "check"
    low = quality | {"expected_overlap": expected((0.7, 0.5, 0.9), (0.7, 0.5, 0.9))} | odd
    word, reasons = judge(low)
    assert word == "check" and len(reasons) == 3, "what is unusual, too"
    assert judge(low, {"atypical_shape": (1.0, 2.0)})[0] == "failed", "limits that name no expectation"
