"""Poses are found with a network that knows one figure: three discs that no mirror shows alike."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import ScaleIntensityRangePercentilesd
from numpy.testing import assert_allclose
from torch import Tensor, nn

from crosswarp.data.frames import on_frame
from crosswarp.inference import PosedFramesd, PoseSearch, PredictedLabelsd
from crosswarp.inference.pose import Judged, View
from crosswarp.losses import PoseLoss
from crosswarp.metrics.typicality import learn_statistics, shape_features
from crosswarp.networks import PoseNetwork, Prediction
from crosswarp.spatial.frame import rearranged
from crosswarp.spatial.grid import Grid
from crosswarp.spatial.pose import Pose, all_turns, named_pose, turn_by
from crosswarp.training import PoseLearner, RandomSpatial
from crosswarp.training.pose import Modality, turned

SIZE = 48  # points of 1 mm
CENTRES, RADII = [(-5.0, -8.0), (3.0, 9.0), (11.0, 0.0)], [7.0, 4.0, 4.0]
NORMALISE = ScaleIntensityRangePercentilesd(
    ["moving_input"], 0.5, 99.5, 0.0, 1.0, clip=True, channel_wise=True
)


def figure(centre=(0.0, 0.0), degrees: float = 0.0, size: int = SIZE, spacing: float = 1.0) -> MetaTensor:
    """The two discs, about a centre in mm from the middle of the picture."""
    axis = (torch.arange(size) - (size - 1) / 2) * spacing
    places = torch.stack(torch.meshgrid(axis, axis, indexing="ij")).double()
    places = places - torch.tensor(centre).double().view(2, 1, 1)
    places = torch.from_numpy(turn_by(-degrees, 2)) @ places.flatten(1)
    image = torch.zeros(3, size * size)  # a channel for each disc
    for number, (middle, radius) in enumerate(zip(CENTRES, RADII, strict=True)):
        apart = (places - torch.tensor(middle).double().view(2, 1)).norm(dim=0)
        image[number] = (radius + 0.5 - apart).clamp(0, 1)
    affine = torch.diag(torch.tensor([-spacing, -spacing, 1.0], dtype=torch.float64))
    meta = {"spacing_known": True, "filename_or_obj": "figure"}
    return MetaTensor(image.view(3, size, size), affine=affine, meta=meta)


class Figure(nn.Module):
    """Is confident in so far as the discs lie as they should and have their size."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.calls = 0

    def segment(self, image: Tensor, modality: str) -> Tensor:
        self.calls += len(image)
        seen = nn.functional.pad(image, [0, 0, 0, 0, 1, 0], value=0.5).argmax(1)
        classes = nn.functional.one_hot(seen, 4).movedim(-1, 1).float()
        places = torch.stack(torch.meshgrid(*map(torch.arange, image.shape[2:]), indexing="ij")).float()
        mass = classes[:, 1:].flatten(2)
        areas = mass.sum(2, keepdim=True).clamp(min=1)
        centres = (mass @ places.flatten(1).T) / areas
        wanted = torch.tensor(CENTRES)
        apart = (centres - centres.mean(1, keepdim=True) - (wanted - wanted.mean(0))).norm(dim=2).mean(1)
        larger = (areas[..., 0] / (math.pi * torch.tensor(RADII) ** 2)).log().abs().mean(1)
        sure = 0.97 - 0.02 * apart.clamp(max=12) - 0.1 * larger.clamp(max=3)
        return torch.lerp(torch.full_like(classes, 1 / 4), classes, sure.view(-1, 1, 1, 1))


@functools.cache
def learnt() -> tuple[nn.Module, dict]:
    """A pose network that has seen the figure and what the other makes of it, and statistics of shapes."""
    network, chance = Figure(), np.random.default_rng(0)
    near = [figure(chance.normal(size=2).tolist(), chance.normal() * 3) for _ in range(8)]
    images = torch.stack([NORMALISE({"moving_input": each})["moving_input"].as_tensor() for each in near])
    probabilities = network.segment(images, "target")
    augmentation = RandomSpatial(["image"], ["linear"], rotation=20, scaling=0.1, shift=0.1)
    normalise = ScaleIntensityRangePercentilesd(["image"], 0.5, 99.5, 0.0, 1.0, clip=True, channel_wise=True)
    learner = PoseLearner(augmentation, normalise, PoseLoss(), examples=160, steps=120)
    target = Modality(images, lambda image: network.segment(image, "target"), torch.ones(2))
    pose = PoseNetwork([SIZE, SIZE], 4, channels=(8, 16, 16, 16), dropout=0.2)
    learner.learn(pose, {"target": target})
    return pose, {"target": {"shape": learn_statistics(shape_features(probabilities))}}


def search(**arguments) -> tuple[PoseSearch, Figure]:
    network = Figure()
    network.pose, statistics = learnt()
    return PoseSearch(
        network, lambda x, run, *more: run(x, *more), NORMALISE, statistics, **arguments
    ), network


def changed(pose: Pose, image: MetaTensor) -> MetaTensor:
    """A picture that shows what lies in an image in such a pose, with the header of any other picture."""
    view = View(image, [SIZE, SIZE], [1.0, 1.0])
    seen = on_frame(image, view.frame(Pose(pose.turn.T)))
    return MetaTensor(1 - seen if pose.inverted else seen, meta=dict(image.meta))


@pytest.mark.parametrize(
    "names",
    [
        "+".join(parts)
        for parts in product(
            ("as_is", "turned_90", "turned_180", "turned_270"), ("", "mirrored"), ("", "inverted")
        )
    ],
)
def test_every_pose_is_found(names: str) -> None:
    pose = named_pose("+".join(part for part in names.split("+") if part not in ("", "as_is")) or "as_is", 2)
    finder, _ = search()
    view = View(changed(pose, figure()), [SIZE, SIZE], [1.0, 1.0])
    found, rivals = finder.find(view, "target")
    assert alike(found, pose) and not rivals
    seen = NORMALISE({"moving_input": view.seen(found, view.frame(found))})["moving_input"]
    assert (seen - NORMALISE({"moving_input": figure()})["moving_input"]).abs().mean() < 0.06


def alike(found: Pose, pose: Pose) -> bool:
    """Whether one is the other but for a tilt and a shift."""
    same = (found.mirrored, found.inverted) == (pose.mirrored, pose.inverted)
    return same and np.trace(found.turn.T @ pose.turn) / 2 > math.cos(math.radians(46))


def test_without_tilts_none_are_tried() -> None:
    found, _ = search(tilts=())[0].find(View(figure(degrees=30), [SIZE, SIZE], [1.0, 1.0]), "target")
    assert found.angle() == 0


@pytest.mark.parametrize("degrees", [-30, 30])
def test_large_tilts_are_taken_back(degrees: float) -> None:
    found, _ = search()[0].find(View(figure(degrees=degrees), [SIZE, SIZE], [1.0, 1.0]), "target")
    assert alike(found, Pose(np.eye(2))) and abs(found.angle() - abs(degrees)) < 3


def test_in_a_large_image_the_anatomy_is_found_first() -> None:
    large = figure((40.0, -30.0), size=130)
    large[:, [0, -1], [0, -1]] = 0.2  # no margins of one value
    finder, network = search()
    posed = PosedFramesd(["moving_input"], ["target"], ["as_is"], finder, [SIZE, SIZE], [1.0, 1.0])
    network.calls = 0
    seen = posed({"moving_input": large})["moving_input"]
    assert network.calls == 1
    assert (seen - figure()).abs().mean() < 0.06  # within two points
    posed({"moving_input": figure()})
    assert network.calls == 1  # what fits is not searched


@pytest.mark.parametrize("wanted", ["as_is", "auto"])
def test_a_picture_of_two_is_said_to_show_several(wanted: str) -> None:
    both = figure((30.0, 0.0), size=130) + figure((-30.0, 0.0), size=130)
    both[:, [0, -1], [0, -1]] = 0.2
    finder, _ = search()
    finder.statistics["target"]["pieces"] = [1, 1, 1]
    posed = PosedFramesd(["moving_input"], ["target"], [wanted], finder, [SIZE, SIZE], [1.0, 1.0])
    assert "more than once" in posed({"moving_input": both})["moving_input_doubt"]
    assert "more than once" not in posed({"moving_input": figure(size=130)})["moving_input_doubt"]


def test_a_long_image_is_searched_in_a_long_frame() -> None:
    view = View(figure(size=130)[:, :64], [SIZE, SIZE], [1.0, 1.0])
    upright, lying = Pose(np.eye(2)), named_pose("turned_90", 2)
    short, long = 64, 144  # of 63 and 129 mm
    assert view.search_size([upright]) == [short, long]
    assert view.search_size([lying]) == [long, short]
    assert view.search_size([upright, lying]) == [long, long]


@pytest.mark.parametrize(("side", "wanted"), product(("left", "right", None), ("as_is", "auto")))
def test_a_known_side_is_seen_as_the_other_and_is_nothing_unusual(side: str | None, wanted: str) -> None:
    left = changed(named_pose("mirrored", 2), figure())
    item = {"moving_input": left if side == "left" else figure(), "moving_input_side": side}
    posed = PosedFramesd(
        ["moving_input"], ["target"], [wanted], search()[0], [SIZE, SIZE], [1.0, 1.0], "left"
    )
    seen = posed(item)
    assert seen["moving_input_pose"] == "" == seen["moving_input_doubt"]
    if side is not None:  # as DICOM states it
        stated = MetaTensor(item["moving_input"], meta={"side": side})
        assert torch.equal(posed({"moving_input": stated})["moving_input"], seen["moving_input"])
    assert (seen["moving_input"] - posed({"moving_input": figure()})["moving_input"]).abs().mean() < 0.02


@pytest.mark.parametrize("pose", ["as_is", "mirrored"])
def test_a_side_that_networks_know_nothing_of_is_a_doubt_and_not_passed_over(pose: str) -> None:
    posed = PosedFramesd(["moving_input"], ["target"], [pose], search()[0], [SIZE, SIZE], [1.0, 1.0])
    said, unsaid = (posed({"moving_input": figure()} | side) for side in ({"moving_input_side": "left"}, {}))
    assert torch.equal(said["moving_input"], unsaid["moving_input"])
    assert "is of the left side, which these networks do not heed" in said["moving_input_doubt"]
    assert unsaid["moving_input_doubt"] == ""


def test_what_stands_in_for_a_missing_image_is_not_searched() -> None:
    finder, network = search()
    posed = PosedFramesd(
        ["moving_input", "fixed_input"], ["target"] * 2, ["auto"] * 2, finder, [SIZE, SIZE], [1.0, 1.0]
    )
    calls = []
    for alone in ({"alone": "moving"}, {}):
        network.calls = 0
        posed({"moving_input": figure(), "fixed_input": figure()} | alone)
        calls.append(network.calls)
    assert 2 * calls[0] == calls[1]


def test_nothing_is_found_where_nothing_is_shown() -> None:
    padded = nn.functional.pad(figure().as_tensor() + 0.1, [9, 4, 0, 6])  # dark, beyond a figure on grey
    image = MetaTensor(padded, affine=figure().affine, meta=figure().meta)
    posed = PosedFramesd(["moving_input"], ["target"], ["as_is"], search()[0], [SIZE, SIZE], [1.0, 1.0])
    everywhere = Prediction.of_image(torch.tensor([0.0, 1.0]).view(1, 2, 1, 1).expand(1, 2, SIZE, SIZE))
    item = posed({"moving_input": image}) | {"moving": image, "fixed": image, "pred": everywhere.packed()[0]}
    found = PredictedLabelsd(["moving", "fixed"])(item)
    assert found["moving_label"][0, :SIZE, 9 : 9 + SIZE].all() and found["moving_label"].sum() == SIZE**2
    assert found["fixed_label"].all()  # of an image without a frame


def test_where_lengths_are_unknown_sizes_are_tried() -> None:
    small = figure(size=70)  # shows more
    small.meta["spacing_known"] = False
    found, _ = search(scales=(0.7, 1.4))[0].find(View(small, [SIZE, SIZE], None), "target")
    assert found.scale == 0.7 and "0.7 times" in found.words()


def test_a_figure_that_fits_as_well_the_other_way_is_said() -> None:
    image = figure()
    finder, network = search()
    network.segment = lambda batch, modality: torch.full((len(batch), 4, SIZE, SIZE), 1 / 4)  # sees nothing
    posed = PosedFramesd(["moving_input"], ["target"], ["auto"], finder, [SIZE, SIZE], [1.0, 1.0])
    assert "may as well lie" in posed({"moving_input": image})["moving_input_doubt"]


@pytest.mark.parametrize(("dims", "count"), [(2, 8), (3, 48)])
def test_all_turns_are_each_other_ones(dims: int, count: int) -> None:
    turns = all_turns(dims)
    assert len({turn.tobytes() for turn in turns}) == count and np.array_equal(turns[0], np.eye(dims))
    for turn in turns:
        assert_allclose(turn @ turn.T, np.eye(dims))


def test_poses_have_words() -> None:
    assert named_pose("as_is", 2).words() == ""
    assert named_pose("mirrored", 3).words() == "mirrored"
    assert named_pose("turned_180+inverted", 2).words() == "turned by 180 degrees, with inverted grey values"
    assert Pose(turn_by(15, 2)).words() == "turned by 15 degrees"


@pytest.mark.parametrize("turn", all_turns(2))
def test_what_a_turned_frame_sees_is_what_the_other_saw_in_another_order(turn: np.ndarray) -> None:
    image = MetaTensor(torch.rand(1, 20, 14), affine=figure(spacing=2.0).affine, meta=dict(figure().meta))
    for size, spacing in (([16, 16], [2.5, 2.5]), ([12, 18], [3.0, 3.0]), ([16, 12], [2.0, 3.0])):
        view = View(image, size, spacing)
        grid, frame = view.frame(Pose(np.eye(2))), view.frame(Pose(turn))
        upright = view.seen(Pose(np.eye(2)), grid).as_tensor()
        found = rearranged(upright, grid, frame)
        swapped = turn[0, 0] == 0
        assert (found is None) == (swapped and size != [16, 16])
        if found is not None:
            assert_allclose(found, view.seen(Pose(turn), frame).as_tensor(), atol=1e-5)
            lengths = torch.tensor(spacing) * (torch.tensor(size) - 1)
            assert_allclose(turned(upright[None], turn, lengths)[0], found, atol=1e-5)
    shifted = Grid(grid.shape, grid.affine + np.array([[0, 0, 1], [0, 0, 0], [0, 0, 0]]))
    assert rearranged(upright, grid, shifted) is None


def test_without_a_pose_network_auto_is_refused_and_a_named_pose_is_taken() -> None:
    finder, network = search()
    network.pose = None
    with pytest.raises(ValueError, match="pose_recognition null.*name the pose"):
        finder.find(View(figure(), [SIZE, SIZE], [1.0, 1.0]), "target")
    posed = PosedFramesd(["moving_input"], ["target"], ["mirrored"], finder, [SIZE, SIZE], [1.0, 1.0])
    assert "mirrored" in posed({"moving_input": figure()})["moving_input_pose"]


class Falling(nn.Module):
    """Odds of poses, the first one's the best."""

    def forward(self, images: Tensor, probabilities: Tensor) -> Tensor:
        return torch.arange(len(images), 0, -1) / 10


def in_order(images: Tensor, run: Callable[..., Tensor], *more: str) -> Tensor:
    """An inferer."""
    return run(images, *more)


@pytest.mark.parametrize("weight", [0.0, 4.0])
def test_confidence_counts_by_its_weight_beside_the_odds(weight: float) -> None:
    """Of two poses, one with better odds and one that is segmented with more confidence."""
    network = Figure()
    network.pose = Falling()
    finder = PoseSearch(network, in_order, NORMALISE, confidence_weight=weight, inverted=False, tilts=())
    sure = torch.tensor([0.6] * 7 + [0.9])

    def segment(images: Tensor, modality: str) -> Tensor:
        one = torch.tensor([0.0, 1.0, 0.0, 0.0]).view(1, 4, 1, 1)
        mixed = torch.lerp(torch.full_like(one, 1 / 4), one, (sure.view(-1, 1, 1, 1) - 0.25) / 0.75)
        return mixed.expand(-1, -1, SIZE, SIZE)[: len(images)]

    network.segment = segment  # type: ignore[method-assign]
    view = View(figure(), [SIZE, SIZE], [1.0, 1.0])
    poses = finder.poses(2)
    judged = finder.judged(view, poses, "target")
    found = [
        (each.score - each.odds, weight * math.log(each.confidence / (1 - each.confidence)))
        for each in judged
    ]
    assert_allclose(*zip(*found, strict=True), atol=1e-4)
    winner, _ = finder.find(view, "target")
    assert np.array_equal(winner.turn, judged[0 if weight == 0 else 7].pose.turn)


@pytest.mark.parametrize(("gain", "ahead"), [(0.05, False), (0.01, True)])
def test_a_tilt_is_taken_where_it_is_ahead_by_the_gain(gain: float, ahead: bool) -> None:
    network = Figure()
    network.pose = Falling()
    finder = PoseSearch(network, in_order, NORMALISE, gain=gain, inverted=False)
    view = View(figure(), [SIZE, SIZE], [1.0, 1.0])
    upright, judged = finder.poses(2), finder.judged

    def by_hand(view: View, poses: list[Pose], modality: str, size: list[int] | None = None) -> list[Judged]:
        sure = 0.70 if len(poses) == len(upright) else 0.73
        return [each._replace(confidence=sure) for each in judged(view, poses, modality, size)]

    finder.judged = by_hand  # type: ignore[method-assign]
    assert (finder.find(view, "target")[0].angle() > 1) == ahead


def test_unknown_poses_are_refused() -> None:
    finder, _ = search()
    with pytest.raises(ValueError, match="Expected a pose of as_is, auto.*got upside_down"):
        PosedFramesd(["moving_input"], ["target"], ["upside_down"], finder, [8, 8])
    with pytest.raises(ValueError, match="Expected turns"):
        search(turns="all")
