"""What is prepared lies in memory up to a limit, and beyond it in mapped files, the same values."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Transform

from crosswarp.data import SharedDataset, room
from crosswarp.data.batches import RandomBatches
from tests.cohorts import write_blob_cohort
from tests.runs.test_chain import TINY, differences, execute, one_thread
from tests.trained_run import ROOT, STAGES

__all__ = ["one_thread"]


class Draw(Transform):
    """An image of a size by its number, as a reader would give it."""

    def __init__(self, shape):
        self.shape = shape

    def __call__(self, record):
        image = MetaTensor(torch.full(self.shape, float(record["number"])), meta={"number": record["number"]})
        return record | {"image": image}


@pytest.fixture(autouse=True)
def restore(tmp_path):
    yield
    room.limit_memory(8)


def test_samples_beyond_the_limit_are_mapped_and_the_same(tmp_path):
    gc.collect()
    before = room.Room.used
    room.limit_memory((before + 3 * 4 * 64) / room.GIB, tmp_path)
    data = [{"number": number} for number in range(7)]
    found = SharedDataset(data, Compose([Draw((1, 8, 8))]))
    assert room.Room.used == before + 3 * 4 * 64, "three images of 64 values of four bytes"
    assert [float(sample["image"].mean()) for sample in found] == list(map(float, range(7)))
    assert [sample["image"].meta["number"] for sample in found] == list(range(7))
    assert not list(tmp_path.iterdir()), "files have no name, and so nothing is left behind"
    images = RandomBatches(found, ["image"], 7, 1).gather(torch.arange(7))["image"]
    assert torch.equal(images[:, 0, 0, 0], torch.arange(7.0))
    del found, images
    gc.collect()
    assert room.Room.used == before


@pytest.mark.parametrize("gib", [0, 8])
def test_room_for_predictions_is_zero_and_can_be_written(gib, tmp_path):
    room.limit_memory(gib, tmp_path)
    labels = room.roomy((3, 1, 5, 4), torch.uint8)
    assert labels.dtype == torch.uint8 and not labels.any()
    labels[1] = 7
    assert labels.sum() == 7 * 20
    assert room.roomy((0, 1, 5, 4), torch.uint8).shape == (0, 1, 5, 4)


def test_a_full_disk_is_an_error_at_once(monkeypatch, tmp_path):
    def full(*_):
        raise OSError(28, "No space left on device")

    room.limit_memory(0, tmp_path)
    monkeypatch.setattr(room.os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        room.roomy((3, 4), torch.float32)


MEASURE = """
import sys, torch
from monai.transforms import Compose
from crosswarp.data import SharedDataset, room
from crosswarp.training import PseudoLabels, RandomSpatial, label_pool
from tests.data.test_room import Draw

def anonymous():
    lines = dict(line.split(":") for line in open("/proc/self/status") if ":" in line)
    return int(lines["RssAnon"].split()[0]) / 1024

folder, count, side = sys.argv[1], 160, 64
room.limit_memory(16 / 1024, folder)  # 16 MiB; each image has 1 MiB
before = anonymous()
data = SharedDataset([{"number": n} for n in range(count)], Compose([Draw((1, side, side, side))]))
network = torch.nn.Conv3d(1, 3, 1)
pool = label_pool([], [{"network": network, "images": data}], batch_size=2)
pseudo = PseudoLabels(data, network, None, 3, RandomSpatial(), lambda batch: batch, num_views=0, batch_size=2)
pseudo.update()
print(anonymous() - before)
assert len(pool["label"]) == count and pool["label"][0].dtype == torch.uint8
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="Linux tells what is anonymous memory")
def test_memory_stays_within_the_limit_whatever_the_number_of_images(tmp_path):
    """160 MiB of images, 40 MiB of predicted and 40 MiB of pseudo-labels, 16 MiB allowed."""
    command = [sys.executable, "-c", MEASURE, str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr[-2000:]
    assert float(result.stdout.split()[-1]) < 16 + 84, "the limit, and what a batch takes on its way"


def test_a_chain_whose_images_are_all_mapped_gives_the_same_bits(tmp_path):
    data = str(write_blob_cohort(tmp_path / "data", spatial_size=(24, 20)))
    given = {f"{stage}#{key}": value for stage, values in TINY.items() for key, value in values.items()}
    for gib in (0, 8):
        run = {
            "run_dir": str(tmp_path / str(gib)),
            "memory_gib": gib,
            "worsened_pairs": 0,
            "pose_recognition#examples": 8,
            "pose_recognition#steps": 2,
        }
        execute(ROOT / "configs" / "train.json", datalist=data, **given, **run)
    for stage in STAGES:
        files = [tmp_path / gib / stage / "checkpoints" / "last.pt" for gib in ("0", "8")]
        states = [torch.load(file, weights_only=True) for file in files]
        assert not list(differences(*states, stage))
