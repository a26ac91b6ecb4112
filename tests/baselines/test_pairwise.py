from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from crosswarp.baselines.ants_syn import ANTsSyN, has_ants
from crosswarp.baselines.elastix import Elastix
from crosswarp.baselines.identity import Identity
from crosswarp.baselines.itk_affine import ITKAffine
from crosswarp.baselines.pairwise import GreyImage, PairwiseMethod
from crosswarp.metrics import MeasuredImage
from crosswarp.spatial import identity_map, sample
from crosswarp.spatial.physical import fractions_affine

SHAPES = [(40, 32), (26, 20, 22)]
SPACING = (1.0, 1.5, 1.2)

needs_ants = pytest.mark.skipif(not has_ants, reason="antspyx is not installed")
needs_elastix = pytest.mark.skipif(
    Elastix(["affine"]).unavailable() is not None, reason="itk-elastix is not installed"
)
QUICK = {"NumberOfResolutions": 2, "MaximumNumberOfIterations": 150}


def known_pair(shape: Sequence[int]) -> tuple[GreyImage, GreyImage, torch.Tensor]:
    """A blurred random image, the same moved with its contrast turned round, and the map."""
    dims = len(shape)
    position = identity_map(shape)
    generator = torch.Generator().manual_seed(0)
    moving = torch.zeros(1, 1, *shape)
    centres = 0.25 + 0.5 * torch.rand(7, dims, generator=generator)
    for i, centre in enumerate(centres):
        distance = ((position - centre.view(1, dims, *[1] * dims)) ** 2).sum(1, keepdim=True)
        moving += (0.4 + 0.1 * i) * torch.exp(-distance / (2 * 0.07**2))
    matrix = torch.eye(dims)
    matrix[0, 1], matrix[1, 0], matrix[1, 1] = 0.12, -0.08, 0.92
    shift = torch.tensor([0.04, -0.03, 0.02])[:dims]
    centred = (position - 0.5).flatten(2)
    phi = (matrix @ centred).reshape(position.shape) + 0.5 + shift.view(1, dims, *[1] * dims)
    fixed = 1 - sample(moving, phi)
    spacing = list(SPACING[:dims])
    return (
        GreyImage(moving[0, 0].numpy(), spacing),
        GreyImage(fixed[0, 0].numpy().astype(np.float32), spacing),
        phi,
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("method", "tolerance"),
    [
        pytest.param(ITKAffine(), 0.1, id="itk_affine"),
        pytest.param(
            Elastix(["affine", "bspline"], {"affine": QUICK, "bspline": QUICK}),
            0.5,
            id="elastix",
            marks=needs_elastix,
        ),
        pytest.param(ANTsSyN(), 0.5, id="ants_syn", marks=needs_ants),
    ],
)
def test_finds_a_known_transform(method: PairwiseMethod, tolerance: float, shape: tuple[int, ...]) -> None:
    """Where there is something to see, to within a part of a voxel; the tools sample at random."""
    moving, fixed, truth = known_pair(shape)
    (found,), _ = method.register([moving], [fixed])
    voxels = torch.tensor(shape).view(-1, *[1] * len(shape)) - 1
    seen = torch.from_numpy(fixed.values) < 0.8
    assert seen.float().mean() > 0.05
    error = ((found - truth[0]) * voxels).norm(dim=0)[seen].mean()
    before = ((identity_map(shape)[0] - truth[0]) * voxels).norm(dim=0)[seen].mean()
    assert before > 1
    assert error < tolerance


def test_identity_and_failure(caplog: pytest.LogCaptureFixture) -> None:
    class Fails(PairwiseMethod):
        def displacements(self, *_: Any) -> np.ndarray:
            raise RuntimeError("ITK ERROR:\nall samples outside")

    affine = np.diag([-2.0, -3.0, 1.0])
    images = [
        MeasuredImage(name, name, "dxa", torch.rand(2, 5, 4), fractions_affine(affine, (5, 4)))
        for name in "ab"
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


def test_each_direction_is_in_the_frame_of_its_fixed_image() -> None:
    class Shift(PairwiseMethod):
        def displacements(self, moving: np.ndarray, fixed: np.ndarray, spacing: Sequence[float]) -> Any:
            """By 3 mm along the first axis, whatever the images."""
            return np.broadcast_to([3.0, 0.0], (*fixed.shape, 2))

    coarse, fine = (GreyImage(np.zeros((7, 4), np.float32), [step, 1.0]) for step in (3.0, 1.0))
    forward, backward = Shift().register([coarse], [fine])
    torch.testing.assert_close((forward - identity_map((7, 4)))[0, 0], torch.full((7, 4), 3 / 6))
    torch.testing.assert_close((backward - identity_map((7, 4)))[0, 0], torch.full((7, 4), 1 / 6))
