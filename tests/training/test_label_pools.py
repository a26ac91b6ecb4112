"""Pools of manual labels and of labels that networks predict."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from torch import nn

from crosswarp.training import label_pool


class Brighter(nn.Module):
    """Class 1 where the image is above a threshold; remembers how it was called."""

    def __init__(self, threshold):
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(threshold))
        self.batches = []

    def forward(self, image):
        self.batches.append(len(image))
        assert not self.training and not torch.is_grad_enabled()
        return torch.cat([self.threshold.expand_as(image[:, :1]), image[:, :1]], dim=1)


@pytest.mark.parametrize("shape", [(4, 5), (3, 4, 2)])
def test_manual_labels_come_first_then_those_of_each_network(shape):
    torch.manual_seed(0)
    manual = [{"label": torch.full((1, *shape), 2.0), "image": torch.zeros(1, *shape)}]
    source = [{"image": torch.rand(3, *shape)} for _ in range(5)]
    target = [{"image": torch.rand(1, *shape)} for _ in range(2)]
    networks = [Brighter(0.5).train(), Brighter(0.8)]
    predicted = [{"network": networks[0], "images": source}, {"network": networks[1], "images": target}]
    pool = label_pool(manual, [*predicted, {"network": None, "images": []}], batch_size=2)["label"][:]
    assert pool.shape == (8, 1, *shape) and pool.dtype == torch.uint8 and not pool.requires_grad
    assert pool[0].eq(2).all()
    for label, sample in zip(pool[1:6], source, strict=True):
        assert torch.equal(label.bool(), sample["image"][:1] > 0.5)
    for label, sample in zip(pool[6:], target, strict=True):
        assert torch.equal(label.bool(), sample["image"] > 0.8)
    assert networks[0].batches == [2, 2, 1]


def test_either_kind_alone_makes_a_pool():
    images = [{"image": torch.rand(1, 4, 4)}]
    assert len(label_pool([], [{"network": Brighter(0.5), "images": images}])["label"]) == 1
    assert len(label_pool([{"label": torch.zeros(1, 4, 4)}])["label"]) == 1


def test_the_files_of_manual_and_predicted_labels_are_known():
    def read(key, name):
        return {key: MetaTensor(torch.rand(1, 4, 4), meta={"filename_or_obj": name})}

    images = [read("image", "c.nii"), read("image", "d.nii")]
    manual = [read("label", "a.nii"), read("label", "b.nii")]
    pool = label_pool(manual, [{"network": Brighter(0.5), "images": images}])
    assert pool.files == ["a.nii", "b.nii", "c.nii", "d.nii"]
