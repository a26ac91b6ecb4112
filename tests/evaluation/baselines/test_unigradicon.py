"""uniGradICON as a baseline: what is missing is named, and the package's transform is read as it is meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crosswarp.evaluation.baselines import unigradicon as baseline
from crosswarp.evaluation.baselines.pairwise import GreyImage
from crosswarp.evaluation.baselines.unigradicon import UniGradICON
from crosswarp.files import file_digest


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dimension first: no package or file would help there."""
    reason = UniGradICON(None, 2).unavailable()
    assert reason == "it registers volumes, not images of 2 dimensions"
    monkeypatch.setattr(baseline, "find_spec", lambda name: None)
    assert "pip install --no-deps unigradicon" in str(UniGradICON(None, 3).unavailable())
    monkeypatch.setattr(baseline, "find_spec", lambda name: object())
    assert "give --unigradicon_weights FILE" in str(UniGradICON(None, 3).unavailable())
    with pytest.raises(FileNotFoundError, match="absent.trch"):
        UniGradICON(str(tmp_path / "absent.trch"), 3).unavailable()
    weights = tmp_path / "there.trch"
    weights.touch()
    assert UniGradICON(str(weights), 3).unavailable() is None


@pytest.mark.parametrize("steps", [0, 1])
def test_the_transform_of_a_known_network(
    steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its axes are the array's from last to first, and its grid spans the image from edge to edge of voxels.

    A step of tuning moves the map by little (its learning rate is 2e-5), and is forgotten.
    """
    package = pytest.importorskip("unigradicon")
    icon = pytest.importorskip("icon_registration")

    class Known(icon.network_wrappers.RegistrationModule):
        def __init__(self) -> None:
            super().__init__()
            self.shift = torch.nn.Parameter(torch.zeros(1, 3, 1, 1, 1))

        def forward(self, image_A: torch.Tensor, image_B: torch.Tensor) -> Any:
            shift = self.shift.clone()
            return lambda coordinates: coordinates + shift

    def network(shape: list[int], include_last_step: bool, loss_fn: Any) -> Any:
        found = package.GradientICONSparse(Known(), loss_fn, lmbda=1.5)
        found.assign_identity_map(shape)
        return found

    monkeypatch.setattr(package, "make_network", network)
    shift, size = torch.tensor([0.05, -0.03, 0.02]), 12
    weights = tmp_path / "weights.trch"
    torch.save({"shift": shift.view(1, 3, 1, 1, 1)}, weights)
    method = UniGradICON(str(weights), 3, size=size, steps=steps)
    method.load()
    assert method.digest == file_digest(weights)
    shape, spacing = (10, 8, 14), [1.0, 1.5, 1.2]
    draw = np.random.default_rng(0)
    moving, fixed = (GreyImage(draw.random(shape, np.float32), spacing) for _ in range(2))
    with torch.inference_mode():
        found = method.map(moving, fixed)[0].numpy()
    assert method.failures == 0
    voxels = shift.numpy()[::-1] * (size - 1) / size * np.array(shape)
    still = np.stack(np.meshgrid(*(np.linspace(0, 1, each) for each in shape), indexing="ij"))
    measured = (found - still) * (np.array(shape) - 1)[:, None, None, None]
    # at the border the field of the package ends, half a voxel before the image does
    inner = measured[:, 2:-2, 2:-2, 2:-2].reshape(3, -1).T
    np.testing.assert_allclose(inner, np.broadcast_to(voxels, inner.shape), atol=1e-2 if steps else 1e-4)
    torch.testing.assert_close(method.network.regis_net.shift.detach().flatten(), shift)
