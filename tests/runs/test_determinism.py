"""The same seed gives the same bits, whatever prepares the data; on a GPU too, where that is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.data import DataLoader
from monai.transforms import Compose, RandGaussianNoised

import scripts.spatial.deterministic
from crosswarp.data import SharedDataset
from crosswarp.losses import DiceCELoss
from crosswarp.networks.pooling import halve
from crosswarp.spatial import deterministic, identity_map, sample
from crosswarp.training import use_deterministic
from tests.cohorts import write_blob_cohort
from tests.runs.test_chain import TINY, differences, execute, one_thread, read
from tests.trained_run import ROOT, STAGES

__all__ = ["one_thread"]

CHAIN = {f"{stage}#{key}": value for stage, values in TINY.items() for key, value in values.items()}


@pytest.fixture
def asked_for():
    """Deterministic algorithms, for the time of a test."""
    use_deterministic(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def as_on_a_gpu(asked_for, monkeypatch):
    for module in (deterministic, scripts.spatial.deterministic):
        monkeypatch.setattr(module, "on_gpu", lambda tensor: True)


def test_the_number_of_data_workers_changes_no_bit_of_any_stage(tmp_path):
    data = str(write_blob_cohort(tmp_path / "data", spatial_size=(24, 20)))
    config = ROOT / "configs" / "train.json"
    for workers in (0, 2):
        run = tmp_path / str(workers)
        given = CHAIN | {"worsened_pairs": 0, "num_workers": workers}
        given |= {"pose_recognition#examples": 8, "pose_recognition#steps": 2}
        execute(config, datalist=data, run_dir=str(run), **given)
    for stage in STAGES:
        folders = [tmp_path / number / stage for number in "02"]
        states = [torch.load(each / "checkpoints" / "last.pt", weights_only=True) for each in folders]
        assert not list(differences(*states, stage))
        first, second = (read(each / "manifest.json") for each in folders)
        assert first["fingerprint"] == second["fingerprint"]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_random_transforms_draw_by_sample_not_by_worker(workers):
    transform = Compose([RandGaussianNoised(keys="scan", prob=1.0)])
    data = [{"scan": torch.zeros(1, 4, 4)} for _ in range(4)]
    found = SharedDataset(data, transform, seed=3)
    batches = DataLoader(found, batch_size=2, num_workers=workers)
    images = torch.cat([batch["scan"] for batch in batches])
    expected = torch.stack([SharedDataset(data, transform, seed=3)[number]["scan"] for number in range(4)])
    assert torch.equal(torch.as_tensor(images), torch.as_tensor(expected))
    assert len({float(image.sum()) for image in images}) == 4
    assert not torch.equal(images[0], SharedDataset(data, transform)[0]["scan"])


@pytest.mark.parametrize("padding", ["border", "zeros"])
@pytest.mark.parametrize("shape", [(7, 5), (1, 6), (5, 4, 6)])
def test_what_is_sampled_deterministically_is_what_torch_samples(shape, padding, monkeypatch, asked_for):
    image = torch.rand(2, 3, *shape)
    phi = identity_map(shape, "cpu").expand(2, -1, *[-1] * len(shape)) + 0.4 * torch.randn(
        2, len(shape), *shape
    )
    phi[:, :, 0] = identity_map(shape, "cpu")[:, :, 0]  # on the border itself
    found = []
    for wanted in (False, True):
        monkeypatch.setattr(deterministic, "on_gpu", lambda tensor, wanted=wanted: wanted)
        inputs = [value.clone().requires_grad_() for value in (image, phi)]
        result = sample(*inputs, padding=padding)
        (result * torch.linspace(0, 1, result.numel()).view_as(result)).sum().backward()
        found.append([result.detach(), *(value.grad for value in inputs)])
    for plain, other in zip(*found, strict=True):
        torch.testing.assert_close(plain, other, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", [(6, 5, 4), (1, 3, 2)])
def test_halving_deterministically_is_halving(shape, as_on_a_gpu):
    x = torch.rand(2, 3, *shape)
    torch.testing.assert_close(halve(x.clone().requires_grad_()), halve(x))


def test_cross_entropy_without_torchs_own_is_the_same(as_on_a_gpu):
    loss = DiceCELoss(to_onehot_y=True, softmax=True, batch=True)
    logits, label = torch.randn(2, 4, 6, 5), torch.randint(0, 4, (2, 1, 6, 5))
    torch.testing.assert_close(loss(logits.clone().requires_grad_(), label), loss(logits, label))


def test_a_stage_trains_alike_by_the_deterministic_ways(tmp_path, monkeypatch):
    stage = "registration_augmentation"
    data = write_blob_cohort(tmp_path / "data", 3, spatial_size=(12, 10))
    config = ROOT / "bundles" / stage / "configs" / "train.json"
    given = {key.replace(".", "#"): value for key, value in TINY[stage].items()} | {"datalist": str(data)}
    for name in ("plain", "asked_for"):
        wanted = name == "asked_for"
        monkeypatch.setattr(scripts.spatial.deterministic, "on_gpu", lambda tensor: True)
        execute(config, **given, run_dir=str(tmp_path / name), deterministic=wanted)
        torch.use_deterministic_algorithms(False)
    plain, found = (history(tmp_path / name / stage) for name in ("plain", "asked_for"))
    assert found == pytest.approx(plain, rel=1e-3)


def history(stage: Path) -> list[float]:
    return [each["loss"] for each in read(stage / "checkpoints" / "history.json")]
