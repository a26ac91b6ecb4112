from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.bundle import ConfigParser

from crosswarp.evaluation.baselines import ants_syn, convex_adam, fireants, greedy
from crosswarp.evaluation.baselines.ants_syn import ANTsSyN, has_ants
from crosswarp.evaluation.baselines.convex_adam import ConvexAdam, has_convex_adam
from crosswarp.evaluation.baselines.elastix import Elastix
from crosswarp.evaluation.baselines.fireants import FireANTs
from crosswarp.evaluation.baselines.greedy import Greedy, has_greedy
from crosswarp.evaluation.baselines.identity import Identity
from crosswarp.evaluation.baselines.itk_affine import ITKAffine
from crosswarp.evaluation.baselines.pairwise import GreyImage, PairwiseMethod
from crosswarp.kept import read_json
from crosswarp.metrics import MeasuredImage
from crosswarp.spatial import identity_map, invert, sample
from crosswarp.spatial.grid import Grid
from tests.trained_run import ROOT

SHAPES = [(40, 32), (26, 20, 22)]
SPACING = (1.0, 1.5, 1.2)

needs_ants = pytest.mark.skipif(not has_ants, reason="antspyx is not installed")
needs_elastix = pytest.mark.skipif(
    Elastix(["affine"]).unavailable() is not None, reason="itk-elastix is not installed"
)
needs_convex_adam = pytest.mark.skipif(not has_convex_adam, reason="convexadam is not installed")
needs_greedy = pytest.mark.skipif(not has_greedy, reason="picsl_greedy is not installed")
needs_fireants = pytest.mark.skipif(
    FireANTs(None, {}).unavailable() is not None, reason="fireants is not installed"
)
QUICK = {"NumberOfResolutions": 2, "MaximumNumberOfIterations": 150}
AFFINE = {"scales": [2, 1], "iterations": [60, 30], "loss_type": "mi", "optimizer_lr": 0.01}
FREE = {"scales": [2, 1], "iterations": [30, 15], "loss_type": "cc", "optimizer_lr": 0.5}
GRID = {"NumberOfResolutions": 1, "GridSpacingSchedule": 1, "MaximumNumberOfIterations": 100}


def known_pair(shape: Sequence[int]) -> tuple[GreyImage, GreyImage, torch.Tensor]:
    """A smooth random image, the same moved by an affine map with its contrast turned round, and the map."""
    dims = len(shape)
    position = identity_map(shape)
    coarse = torch.rand(1, 1, *[size // 4 for size in shape], generator=torch.Generator().manual_seed(0))
    moving = F.interpolate(coarse, shape, mode=("bilinear", "trilinear")[dims - 2], align_corners=True)
    matrix = torch.eye(dims)
    matrix[0, 1], matrix[1, 0], matrix[1, 1] = 0.1, -0.06, 0.95
    shift = torch.tensor([0.04, -0.03, 0.02])[:dims]
    centred = (position - 0.5).flatten(2)
    phi = (matrix @ centred).reshape(position.shape) + 0.5 + shift.view(1, dims, *[1] * dims)
    fixed = 1 - sample(moving, phi)
    first, second = (GreyImage(each[0, 0].numpy(), list(SPACING[:dims])) for each in (moving, fixed))
    return first, second, phi


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("method", "tolerance"),
    [
        pytest.param(ITKAffine(), 0.1, id="itk_affine"),
        pytest.param(Elastix(["affine"], {"affine": QUICK}), 0.1, id="elastix", marks=needs_elastix),
        # with two threads even a seeded ANTs differs from call to call: 0.10 to 0.43 voxels in seven
        pytest.param(ANTsSyN(), 0.7, id="ants_syn", marks=needs_ants),
        pytest.param(ConvexAdam(), 0.4, id="convex_adam", marks=needs_convex_adam),
        pytest.param(
            Greedy("-m NMI -dof 6 -n 40x10 -seed 1", "-m NMI -n 0"), 0.6, id="greedy", marks=needs_greedy
        ),
    ],
)
def test_finds_a_known_transform(method: PairwiseMethod, tolerance: float, shape: tuple[int, ...]) -> None:
    """Away from the border to within a part of a voxel."""
    moving, fixed, truth = known_pair(shape)
    found = method.map(moving, fixed)[0]
    voxels = torch.tensor(shape).view(-1, *[1] * len(shape)) - 1
    inner = (..., *(slice(4, -4) for _ in shape))
    error = ((found - truth[0]) * voxels)[inner].norm(dim=0).mean()
    before = ((identity_map(shape)[0] - truth[0]) * voxels)[inner].norm(dim=0).mean()
    assert before > 1.2 and error < tolerance


def warped_pair(shape: Sequence[int]) -> tuple[GreyImage, GreyImage, torch.Tensor]:
    """A smooth random image, the same warped and dimmed, and the map, which rests at the border."""
    dims = len(shape)
    position = identity_map(shape)
    coarse = torch.rand(1, 1, *[size // 4 for size in shape], generator=torch.Generator().manual_seed(2))
    moving = F.interpolate(coarse, shape, mode=("bilinear", "trilinear")[dims - 2], align_corners=True)
    bump = (torch.pi * position).sin().prod(1, keepdim=True)
    phi = position + bump * torch.tensor([0.08, -0.06, 0.07])[:dims].view(1, dims, *[1] * dims)
    fixed = 0.1 + 0.8 * sample(moving, phi)
    first, second = (GreyImage(each[0, 0].numpy(), list(SPACING[:dims])) for each in (moving, fixed))
    return first, second, phi


@pytest.mark.parametrize(
    ("name", "shape", "quicker"),
    [
        pytest.param("convex_adam", (40, 32), {}, marks=needs_convex_adam),
        pytest.param("convex_adam", (26, 20, 22), {}, marks=needs_convex_adam),
        pytest.param("greedy", (64, 48), {}, marks=needs_greedy),
        pytest.param("greedy", (26, 20, 22), {}, marks=needs_greedy),
        pytest.param("fireants", (40, 32), {"affine": AFFINE}, marks=needs_fireants),
        pytest.param("fireants", (34, 32, 33), {"affine": None, "deformable": FREE}, marks=needs_fireants),
    ],
)
def test_finds_a_known_warp_by_its_config(name: str, shape: tuple[int, ...], quicker: dict[str, Any]) -> None:
    """Of each direction; as the evaluation calls it, where no gradient can be computed."""
    config = read_json(ROOT / "configs" / "baselines" / f"{name}.json")[f"baselines#{name}"] | quicker
    method = ConfigParser({"device": "cpu", "method": config}).get_parsed_content("method")
    moving, fixed, truth = warped_pair(shape)
    with torch.inference_mode():
        maps = method.register([moving], [fixed])
    voxels = torch.tensor(shape).view(-1, *[1] * len(shape)) - 1
    inner = (..., *(slice(4, -4) for _ in shape))
    for found, wanted in zip(maps, (truth, invert(truth)), strict=True):
        error = ((found - wanted)[0] * voxels)[inner].norm(dim=0).mean()
        before = ((identity_map(shape) - wanted)[0] * voxels)[inner].norm(dim=0).mean()
        assert before > 1.5 and error < 0.6


@needs_elastix
def test_elastix_goes_on_from_one_map_to_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    moving, fixed, truth = known_pair(SHAPES[0])
    affine = Elastix(["affine"], {"affine": QUICK}).map(moving, fixed)
    both = Elastix(["affine", "bspline"], {"affine": QUICK, "bspline": GRID}).map(moving, fixed)
    assert (both - truth).abs()[..., 4:-4, 4:-4].mean() < 0.01, "in fractions of 40 voxels"
    assert not torch.allclose(both, affine)
    assert not list(tmp_path.iterdir()), "it leaves nothing in the current folder"


def test_identity_and_failure(caplog: pytest.LogCaptureFixture) -> None:
    class Fails(PairwiseMethod):
        def displacements(self, *_: Any) -> np.ndarray:
            raise RuntimeError("ITK ERROR:\nall samples outside")

    affine = np.diag([-2.0, -3.0, 1.0])
    images = [
        MeasuredImage(name, name, "dxa", torch.rand(2, 5, 4), Grid.from_ras(affine, (5, 4))) for name in "ab"
    ]
    for method in (Identity(), Fails()):
        assert method.unavailable() is None
        first, second = (method.prepare(image, "source") for image in images)
        assert first.spacing == pytest.approx([2, 3])
        np.testing.assert_array_equal(first.values, images[0].image[0])
        with caplog.at_level(logging.WARNING):
            forward, backward = method.register([first, second], [second, first])
        torch.testing.assert_close(forward, identity_map((5, 4)).expand(2, -1, -1, -1))
        torch.testing.assert_close(backward, forward)
    assert caplog.messages == ["Fails failed, the pair stays unregistered: all samples outside"] * 4


@pytest.mark.parametrize("error", [ValueError("no overlap"), NotImplementedError(), KeyError("x")])
def test_whatever_a_package_raises_ends_one_pair_alone(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    class Raises(PairwiseMethod):
        def displacements(self, *_: Any) -> np.ndarray:
            raise error

    image, method = GreyImage(np.zeros((5, 4), np.float32), [1.0, 1.0]), Raises()
    torch.testing.assert_close(method.map(image, image), identity_map((5, 4)))
    assert method.failures == 1 and (str(error) or type(error).__name__) in caplog.text


def test_displacements_that_are_not_finite_are_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    class Diverges(PairwiseMethod):
        def displacements(self, moving: np.ndarray, fixed: np.ndarray, spacing: Sequence[float]) -> Any:
            return np.full((*fixed.shape, 2), np.nan)

    image, method = GreyImage(np.zeros((5, 4), np.float32), [1.0, 1.0]), Diverges()
    torch.testing.assert_close(method.map(image, image), identity_map((5, 4)))
    assert method.failures == 1 and "not finite" in caplog.text


def test_a_missing_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ants_syn, "has_ants", False)
    monkeypatch.setattr(convex_adam, "has_convex_adam", False)
    monkeypatch.setattr(greedy, "has_greedy", False)
    monkeypatch.setattr(fireants, "find_spec", lambda name: None if name == "fireants" else object())
    methods = {
        "antspyx": ANTsSyN(),
        "convexadam": ConvexAdam(),
        "picsl_greedy": Greedy(None, "-m NCC {radius}"),
        "fireants": FireANTs(None, {}),
    }
    for package, method in methods.items():
        reason = str(method.unavailable())
        assert reason.startswith(f"{package} is not installed (pip install ") and package in reason[20:]


@pytest.mark.parametrize(
    ("method", "shape", "least"),
    [
        pytest.param(ConvexAdam(), (10, 30), "at least 12 voxels", marks=needs_convex_adam),
        (FireANTs(None, {}), (31, 40), "at least 32 voxels"),
    ],
)
def test_an_image_too_small_for_a_package_is_a_failure(
    method: PairwiseMethod, shape: tuple[int, ...], least: str, caplog: pytest.LogCaptureFixture
) -> None:
    image = GreyImage(np.zeros(shape, np.float32), [1.0, 1.0])
    torch.testing.assert_close(method.map(image, image), identity_map(shape))
    assert method.failures == 1 and least in caplog.text


def test_each_direction_is_in_the_frame_of_its_fixed_image() -> None:
    class Shift(PairwiseMethod):
        def displacements(self, moving: np.ndarray, fixed: np.ndarray, spacing: Sequence[float]) -> Any:
            """By 3 mm along the first axis, whatever the images."""
            return np.broadcast_to([3.0, 0.0], (*fixed.shape, 2))

    coarse, fine = (GreyImage(np.zeros((7, 4), np.float32), [step, 1.0]) for step in (3.0, 1.0))
    forward, backward = Shift().register([coarse], [fine])
    torch.testing.assert_close((forward - identity_map((7, 4)))[0, 0], torch.full((7, 4), 3 / 6))
    torch.testing.assert_close((backward - identity_map((7, 4)))[0, 0], torch.full((7, 4), 1 / 6))
