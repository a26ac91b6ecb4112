"""Labels from a teacher: averaged over views, cleaned, ranked, renewed with each epoch."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from torch import nn

from crosswarp.data import RandomBatches
from crosswarp.training import PseudoLabels, RandomSpatial


class Threshold(nn.Module):
    """Class 1 where the image is above a level, surely."""

    def __init__(self, level=0.5):
        super().__init__()
        self.level = nn.Parameter(torch.tensor(level))

    def forward(self, image):
        assert not self.training and not torch.is_grad_enabled()
        return 200 * torch.cat([self.level - image, image - self.level], dim=1)


def blob(shape, centre, width=0.15):
    axes = torch.meshgrid(*[torch.linspace(0, 1, size) for size in shape], indexing="ij")
    squared = sum((axis - c) ** 2 for axis, c in zip(axes, centre, strict=True))
    return torch.exp(-squared / (2 * width**2))[None]


def unchanged(batch):
    return batch


def make_labels(images, teacher=None, **kwargs):
    reference = torch.zeros(1, 1, *images[0].shape[1:], dtype=torch.uint8)
    reference.flatten()[:3] = 1  # one piece
    arguments = {
        "spatial": RandomSpatial(rotation=15, scaling=0.2, shift=0.05),
        "intensity": unchanged,
        "reference_labels": reference,
    }
    dataset = [{"image": image} for image in images]
    return PseudoLabels(dataset, teacher or Threshold(), num_classes=2, **(arguments | kwargs))


@pytest.mark.parametrize("shape", [(40, 28), (20, 28, 16)])
def test_views_are_brought_back_to_the_grid_of_the_image(shape):
    image = blob(shape, [0.45, 0.55, 0.5][: len(shape)])
    labels = make_labels([image, image], num_views=8)
    labels.update()
    label = labels["label"][0].bool()
    assert label[image > 0.65].all() and not label[image < 0.35].any()  # only at the boundary may it differ
    assert labels["disagreement"].max() < 0.15


def test_pieces_apart_are_dropped_unless_the_reference_has_as_many():
    image = torch.maximum(blob((32, 32), [0.4, 0.4]), blob((32, 32), [0.9, 0.9], 0.05))
    plain = (image > 0.5).float()
    for reference, expected in ((..., False), (None, True)):
        chosen = {} if reference is ... else {"reference_labels": reference}
        labels = make_labels([image], num_views=0, **chosen)
        labels.update()
        assert bool(labels["label"][0, 0, 28, 28]) == expected
        assert labels["label"][0, 0, 12, 12] == 1 == plain[0, 12, 12]


def test_where_a_class_cannot_be_it_is_not():
    def left_half(probabilities):
        assert probabilities.sum(1).allclose(torch.ones(()))
        return torch.cat([probabilities[:, :1], probabilities[:, 1:] * (torch.arange(32) < 16)], 1)

    labels = make_labels([blob((32, 32), [0.5, 0.5])], num_views=1, prior=left_half)
    labels.update()
    assert labels["label"][..., :16].any() and not labels["label"][..., 16:].any()


def test_outlines_are_refined_by_the_image_as_it_is():
    seen = []

    def shift(probabilities, images):
        seen.append(images)
        return probabilities.roll(3, dims=-1)

    plain, refined = (make_labels([blob((32, 32), [0.5, 0.5])], refinement=each) for each in (None, shift))
    for labels in (plain, refined):
        torch.manual_seed(0)
        labels.update()
    assert torch.equal(refined["label"], plain["label"].roll(3, dims=-1)) and plain["label"].any()
    torch.testing.assert_close(seen[0], blob((32, 32), [0.5, 0.5])[None])


def test_an_image_that_fails_with_other_intensities_is_doubted():
    bright, faint = blob((32, 32), [0.5, 0.5]), 0.6 * blob((32, 32), [0.5, 0.5])
    labels = make_labels([bright, faint], intensity=lambda batch: {"image": 0.7 * batch["image"]})
    labels.update()
    sure, unsure = labels["disagreement"].tolist()
    assert sure < 0.5 < unsure <= 1


def test_the_class_that_differs_most_counts():
    class Two(Threshold):
        """Class 1 above half, class 2 a small piece that is nearly white."""

        def forward(self, image):
            small = super().forward(image - 0.45)[:, 1:]
            return torch.cat([super().forward(image), small + (small > 0) * 400], 1)

    image = torch.maximum(0.8 * blob((32, 32), [0.3, 0.3], 0.2), blob((32, 32), [0.8, 0.8], 0.05))
    dim = {
        "reference_labels": None,
        "num_views": 0,
        "intensity": lambda b: {"image": b["image"].clamp(max=0.9)},
    }
    labels = PseudoLabels([{"image": image}], Two(), num_classes=3, spatial=RandomSpatial(), **dim)
    labels.update()
    assert set(labels["label"].unique().tolist()) == {0, 1, 2}
    assert labels["disagreement"].item() > 0.9


def test_labels_follow_the_teacher_from_the_start_epoch_on_and_reach_the_batches():
    teacher = Threshold()
    labels = make_labels([blob((16, 16), [0.5, 0.5])] * 3, teacher, start=1, num_views=0)
    batches = RandomBatches(labels, ["image", "label", "disagreement"], batch_size=3, num_batches=1)
    sums = []

    def step(engine, batch):
        assert batch["image"].shape == batch["label"].shape and batch["disagreement"].shape == (3,)
        sums.append(int(batch["label"].sum()))
        if engine.state.epoch == 2:
            with torch.no_grad():
                teacher.level.fill_(0.8)  # from now on it sees less

    trainer = Engine(step)
    labels.attach(trainer)
    trainer.run(batches, max_epochs=3)
    assert sums[0] == 0 < sums[2] < sums[1]


def test_of_many_images_each_epoch_takes_others():
    images = [torch.full((1, 8, 8), number / 10) for number in range(10)]
    labels = make_labels(images, max_images=4)
    seen = []
    trainer = Engine(lambda engine, batch: seen.append(set(batch["image"][:, 0, 0, 0].tolist())))
    labels.attach(trainer)
    trainer.run(RandomBatches(labels, ["image"], batch_size=4, num_batches=1), max_epochs=12)
    assert all(len(numbers) == 4 for numbers in seen) and len(set().union(*seen)) == 10


def test_an_image_is_seen_once_as_it_is_once_in_each_view_and_once_with_other_intensities():
    teacher, images = Threshold(), []
    teacher.register_forward_pre_hook(lambda _, arguments: images.append(len(arguments[0])))
    labels = make_labels([blob((16, 12), [0.5, 0.5])] * 5, teacher, num_views=3, batch_size=3)
    labels.update()
    assert images == [3] * 5 + [2] * 5


@pytest.mark.parametrize(("batch_size", "passes"), [(1, 5), (2, 3)])
def test_the_teacher_sees_no_more_than_a_batch_of_images_at_a_time(batch_size, passes):
    seen = []
    teacher = Threshold()
    teacher.register_forward_pre_hook(lambda _, arguments: seen.append(len(arguments[0])))
    make_labels(torch.rand(5, 1, 8, 8), teacher, batch_size=batch_size, num_views=2).update()
    assert max(seen) == batch_size and len(seen) == 4 * passes  # as it is, two views, other intensities


def test_the_files_of_the_images_of_the_epoch_are_known():
    images = [
        MetaTensor(torch.full((1, 8, 8), i / 10), meta={"filename_or_obj": f"{i}.nii"}) for i in range(9)
    ]
    labels = make_labels(images, max_images=4)
    assert labels.files == ["0.nii", "1.nii", "2.nii", "3.nii"]
    torch.manual_seed(1)
    labels._start_epoch(SimpleNamespace(state=SimpleNamespace(epoch=0)))
    assert labels.files == [f"{round(10 * image.max().item())}.nii" for image in labels["image"]]
    assert labels.files != ["0.nii", "1.nii", "2.nii", "3.nii"]
