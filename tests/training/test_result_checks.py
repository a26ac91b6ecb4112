"""Checks of trained stages, on networks whose answers are known: good ones pass, each broken one is named."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from torch import nn

from crosswarp.finite import NonFiniteError
from crosswarp.metrics import dice_per_class
from crosswarp.spatial import identity_map
from crosswarp.training import AdaptationCheck, PreparePairs, RegistrationCheck, SegmentationCheck
from crosswarp.training.result_checks import best_guess

NAMES = ["background", "large", "small"]
SIZES = [(40, 36), (24, 22, 20)]


class Answers(nn.Module):
    """A network that answers with what a function makes of the image."""

    def __init__(self, answer):
        super().__init__()
        self.answer, self.weight = answer, nn.Parameter(torch.zeros(1))

    def forward(self, image):
        return self.answer(image)


def run(image, network):
    return network(image)


def logits(labels, classes=3):
    return 10 * F.one_hot(labels[:, 0].long(), classes).movedim(-1, 1).float()


def draw(size, seed, scale=1.0):
    """A large and a small ball side by side, somewhere in the middle ``[1, *size]``."""
    generator = torch.Generator().manual_seed(seed)
    places = identity_map(size)[0] * (torch.tensor(size) - 1).reshape(-1, *[1] * len(size))
    middle = torch.tensor(size) / 2 + 3 * (torch.rand(len(size), generator=generator) - 0.5)
    sizes = scale * min(size) * (torch.tensor([0.2, 0.12]) + 0.02 * torch.rand(2, generator=generator))
    label = torch.zeros(size, dtype=torch.uint8)
    for value, offset in ((1, -0.21), (2, 0.19)):
        centre = middle.clone()
        centre[0] += offset * size[0]
        distance = (places - centre.reshape(-1, *[1] * len(size))).norm(dim=0)
        label[distance < sizes[value - 1]] = value
    return label[None]


def samples(size, count, spacing=2.0, seed=0, known=True):
    """Images whose intensity is half of the class, with the labels."""
    affine = torch.diag(torch.tensor([spacing] * len(size) + [1.0], dtype=torch.float64))
    found = []
    for number in range(count):
        label = draw(size, seed + number)
        image = MetaTensor(label.float() / 2, affine=affine)
        image.meta["spacing_known"] = known
        found.append({"image": image, "label": label, "subject": f"{seed}-{number}"})
    return found


def pairs(size, count=4):
    labels = torch.stack([draw(size, number) for number in range(2 * count)])
    return [{"moving_label": labels[:count], "fixed_label": labels[count:]}]


def registration_check(size, **limits):
    prepare = PreparePairs("label", num_classes=3, both_directions=False)
    return RegistrationCheck(pairs(size), prepare, run, NAMES, **limits)


def registered(image):
    """Maps between the classes' centres, as far as a shift can do it."""
    size = image.shape[2:]
    places = identity_map(size).to(image)
    middles = [
        (each * places).flatten(2).sum(2) / each.flatten(2).sum(2)
        for each in (image[:, 1:3].sum(1, keepdim=True), image[:, 4:6].sum(1, keepdim=True))
    ]
    return places + (middles[0] - middles[1]).reshape(len(image), -1, *[1] * len(size))


@pytest.mark.parametrize("size", SIZES)
def test_a_registration_that_helps_passes(size):
    measured, warnings = registration_check(size)(Answers(registered))
    assert warnings == [] and measured["folds_percent"] == 0
    assert all(measured["dice"][name] > measured["unregistered_dice"][name] for name in NAMES[1:])


@pytest.mark.parametrize("size", SIZES)
def test_a_registration_that_does_nothing_is_named(size):
    measured, warnings = registration_check(size)(
        Answers(lambda x: identity_map(x.shape[2:]).expand(len(x), -1, *x.shape[2:]))
    )
    assert measured["dice"] == measured["unregistered_dice"]
    labels = pairs(size)[0]
    expected = dice_per_class(labels["moving_label"], labels["fixed_label"], 3).nanmean(0)
    assert list(measured["dice"].values()) == pytest.approx(expected.tolist(), abs=1e-4)
    (warning,) = warnings
    assert "0% of what was missing; expected at least 15%" in warning and "learning_rate" in warning


def test_a_class_that_loses_and_folds_are_named():
    size = SIZES[0]

    def mirrored(image):
        phi = identity_map(image.shape[2:]).expand(len(image), -1, *image.shape[2:]).clone()
        phi[:, 0] = 1 - phi[:, 0]
        return phi

    measured, warnings = registration_check(size)(Answers(mirrored))
    assert measured["folds_percent"] == 100
    assert [warning.split(":")[0] for warning in warnings] == [
        "registered validation pairs overlap hardly better than unregistered ones",
        "classes overlap less than without registration",
        "the maps fold at 1e+02 % of all points, expected at most 0.5 %",
    ]


def test_maps_that_are_not_numbers_do_not_pass():
    with pytest.raises(NonFiniteError, match="Expected a map of finite coordinates"):
        registration_check(SIZES[0])(Answers(lambda x: torch.full((len(x), 2, *x.shape[2:]), torch.nan)))


def test_the_best_guess_is_the_region_with_the_highest_mean_dice():
    labels = torch.zeros(3, 1, 1, 12, dtype=torch.uint8)
    labels[0, ..., :4] = labels[1, ..., :4] = labels[2, ..., 2:6] = 1
    (guess,) = best_guess(labels, 2)
    # of the regions seen in 1, 2 and 3 labels, 0-5: 8/10; 0-3: (1 + 1 + 4/8) / 3; 2-3: 4/6
    assert guess.flatten().nonzero().flatten().tolist() == [0, 1, 2, 3]


def segmentation_check(size):
    batches = [
        {
            "image": torch.stack([each["image"] for each in samples(size, 4, seed=10)]),
            "label": torch.stack([each["label"] for each in samples(size, 4, seed=10)]),
        }
    ]
    training = torch.stack([each["label"] for each in samples(size, 6)])
    return SegmentationCheck(batches, training, run, NAMES), training


@pytest.mark.parametrize("size", SIZES)
def test_a_segmentation_that_sees_the_image_passes(size):
    check, _ = segmentation_check(size)
    measured, warnings = check(Answers(lambda x: logits((2 * x).round())))
    assert warnings == [] and measured["dice"] == {"large": 1.0, "small": 1.0}


@pytest.mark.parametrize("size", SIZES)
def test_a_segmentation_that_only_guesses_is_named_by_class(size):
    check, training = segmentation_check(size)
    first, second = best_guess(training, 3)
    guess = torch.where(first, 1, torch.where(second, 2, 0))
    measured, (warning,) = check(Answers(lambda x: logits(guess.expand(len(x), *guess.shape[1:]))))
    assert measured["dice"] == pytest.approx(measured["guessed_dice"], abs=0.02)
    assert "large" in warning and "small" in warning
    _, (warning,) = check(Answers(lambda x: logits((2 * x).round() % 2)))
    assert "small 0.000" in warning and "large" not in warning


def adaptation_check(size, start=None, known=True, spacing=2.0, **kwargs):
    return AdaptationCheck(
        start, samples(size, 5, spacing, seed=20, known=known), samples(size, 6), run, NAMES, **kwargs
    )


def seen(image):
    return (2 * image).round()


def grown(image, steps=4):
    pool = F.max_pool2d if image.ndim == 4 else F.max_pool3d
    large = pool((seen(image) == 1).float(), 2 * steps + 1, 1, steps)
    return torch.where((large > 0) & (seen(image) == 0), 1, seen(image))


@pytest.mark.parametrize("size", SIZES)
def test_plausible_labels_pass(size):
    good = Answers(lambda x: logits(seen(x)))
    measured, warnings = adaptation_check(size, good)(good)
    assert warnings == []
    assert measured["in_mm"] and measured["images"] == 5
    assert measured["target"]["present"] == {"large": 1.0, "small": 1.0}
    assert min(measured["target"]["edge_rank"].values()) > 0.9
    assert measured["target"]["start_agreement"] == {"large": 1.0, "small": 1.0}
    assert measured["target"]["stray"] == {"large": 0.0, "small": 0.0}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("answer", "names"),
    [
        (grown, ["volume in mm", "large"]),
        (lambda x: seen(x) % 2, ["classes are missing", "small 0.00 (by hand 1.00)"]),
        (lambda x: 0 * x, ["classes are missing", "large", "small"]),
        (lambda x: seen(x).roll(6, 3), ["do not lie on edges", "chance 0.5"]),
        (lambda x: seen(x.flip(2)), ["not shaped as manual labels"]),
        (lambda x: torch.maximum(seen(x), seen(x).flip(3).roll(-12, 3)), ["in pieces", "large"]),
        (lambda x: torch.rand_like(x).mul(3).floor(), ["shaped", "change when the image is turned"]),
    ],
    ids=["overgrown", "lost class", "empty", "beside", "swapped sides", "in pieces", "noise"],
)
def test_each_kind_of_broken_labels_is_named(size, answer, names):
    torch.manual_seed(0)
    _, warnings = adaptation_check(size)(Answers(lambda x: logits(answer(x))))
    text = "\n".join(warnings)
    assert [name for name in names if name not in text] == []


def test_a_class_that_got_less_plausible_than_at_the_start_is_named():
    size, lost = SIZES[0], {"shape_fit": 0.0, "size_mm": 100.0}
    start, end = Answers(lambda x: logits(seen(x))), Answers(lambda x: logits(grown(x, 3)))
    check = adaptation_check(size, start, limits=lost)
    measured, warnings = check(end)
    (warning,) = (each for each in warnings if "it started from" in each)
    fits = [measured[key]["shape_fit"]["large"] for key in ("target", "start")]
    assert f"large {fits[0]:.2f} (before {fits[1]:.2f})" in warning and "small" not in warning
    assert measured["worse_than_start"] and check.fallback is start
    better, warnings = adaptation_check(size, end, limits=lost)(start)
    assert not better["worse_than_start"] and not any("it started from" in each for each in warnings)
    assert adaptation_check(size, start, falls_back=False).fallback is None
    assert adaptation_check(size)(end)[0]["worse_than_start"] == "", "nothing to compare it with"


@pytest.mark.parametrize("known", [True, False])
def test_target_images_have_their_own_spacing_and_scale(known):
    """People of one size, on a grid of other steps: alike in mm, and without mm as far as shapes go."""
    size, good = SIZES[0], Answers(lambda x: logits(seen(x)))
    check = adaptation_check(size, known=known, spacing=1.5)
    larger = samples(size, 5, 1.5, seed=20, known=known)
    for number, each in enumerate(larger):
        each["label"] = draw(size, 20 + number, scale=2.0 / 1.5)
        each["image"] = each["image"] * 0 + each["label"].float() / 2
    check.target = larger
    measured, _ = check(good)
    for key in ("volume", "thickness"):
        ratio = [measured["target"][key][name] / measured["by_hand"][key][name] for name in NAMES[1:]]
        assert ratio == pytest.approx([1.0] * 2 if known else ratio, rel=0.2)
        assert known or min(ratio) > 1.25
    assert measured["target"]["shape_fit"]["large"] > 0.8, "of another size .7"


def test_labels_are_laid_over_those_of_other_people_alone():
    size, good = SIZES[0], Answers(lambda x: logits(seen(x)))
    measured = adaptation_check(size)(good)[0]
    assert max(measured["by_hand"]["shape_fit"].values()) < 1
    same = AdaptationCheck(None, samples(size, 6), samples(size, 6), run, NAMES)(good)[0]
    assert same["target"]["shape_fit"] == measured["by_hand"]["shape_fit"], "people of both modalities"
    strangers = [each | {"subject": "other"} for each in samples(size, 6)]
    other = AdaptationCheck(None, strangers, samples(size, 6), run, NAMES)(good)[0]
    assert other["target"]["shape_fit"] == {"large": 1.0, "small": 1.0}


def test_the_start_is_measured_as_the_trained_network_is():
    size, end = SIZES[0], Answers(lambda x: logits(seen(x)))
    torch.manual_seed(0)
    start = Answers(lambda x: logits(torch.where(torch.rand_like(x) < 0.2, 0, grown(x, 2))))
    measured, _ = adaptation_check(size, start)(end)
    assert measured["target"] == adaptation_check(size)(end)[0]["target"] | {
        "start_agreement": measured["target"]["start_agreement"]
    }
    assert max(measured["start"]["self_agreement"].values()) < min(
        measured["target"]["self_agreement"].values()
    )
    assert measured["start"]["volume"]["large"] > 1.1 * measured["target"]["volume"]["large"]
    assert 0 < measured["target"]["start_agreement"]["large"] < 0.95


def test_another_spacing_counts_only_where_it_is_stated():
    good = Answers(lambda x: logits(seen(x)))
    _, warnings = adaptation_check(SIZES[0], spacing=4.0)(good)
    assert any(each.startswith("volume in mm") and "large 2.0" in each for each in warnings)
    measured, warnings = adaptation_check(SIZES[0], spacing=4.0, known=False)(good)
    assert warnings == [] and not measured["in_mm"]


def test_agreement_with_itself_is_no_evidence():
    """A network that always takes the surroundings for the class is sure, and consistent, and wrong."""
    size = SIZES[0]
    measured, warnings = adaptation_check(size)(Answers(lambda x: logits(grown(x, 5))))
    assert min(measured["target"]["self_agreement"].values()) > 0.85 and warnings


def test_few_of_many_images_are_looked_at():
    good = Answers(lambda x: logits(seen(x)))
    assert adaptation_check(SIZES[0], max_images=2)(good)[0]["images"] == 2
