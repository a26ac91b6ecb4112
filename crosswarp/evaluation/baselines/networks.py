"""Registration with networks: of the run in part, or trained otherwise."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.utils import one_hot
from torch import Tensor, nn

from ...data import Datalist, load_datalist
from ...data.people import name_key
from ...metrics import MeasuredImage
from ...runs.bundle import load_network
from ..methods import LabelRegistration, TrainedRun
from .training import Training


def unequal_channels(data: Datalist) -> str | None:
    """Why a network cannot be used that takes images of both modalities; None where it can."""
    channels = data.source.channels, data.target.channels
    return None if channels[0] == channels[1] else f"it needs images of equal channels, not {channels}"


class IntensityRegistration:
    """A registration network trained on pairs of images across the modalities, without any label.

    Args:
        training: of the network, from both images on channels to the map.
        data: the run's; the modalities need equal channels.
        device: where to compute.
    """

    network: nn.Module

    def __init__(self, training: Training, data: Datalist, device: torch.device | str = "cpu") -> None:
        self.training, self.data, self.device = training, data, torch.device(device)
        self.digest = ""

    def unavailable(self) -> str | None:
        """Says where the modalities have different channels."""
        return unequal_channels(self.data)

    def load(self) -> None:
        """Train the network, or read it where it is trained."""
        self.digest = self.training.run()
        self.network = load_network(self.training.folder, self.device)

    def prepare(self, image: MeasuredImage, modality: str) -> Tensor:
        """The image itself, ``[C, *spatial]``."""
        return image.image.float()

    def register(self, moving: Sequence[Tensor], fixed: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Register images, both directions in one batch."""
        images = torch.stack([*moving, *fixed]).to(self.device)
        swapped = images.roll(len(moving), 0)
        forward, backward = self.network(torch.cat([images, swapped], dim=1)).chunk(2)
        return forward, backward


class SourceAsIs(LabelRegistration):
    """The run without adaptation: its source network segments the target images, too.

    Args:
        trained: the run.
        data: the run's; the modalities need equal channels.
    """

    def __init__(self, trained: TrainedRun, data: Datalist) -> None:
        super().__init__(trained)
        self.data = data

    def unavailable(self) -> str | None:
        """Says where the modalities have different channels."""
        return unequal_channels(self.data)

    def probabilities(self, image: MeasuredImage, modality: str) -> Tensor:
        """Those of the source network."""
        return super().probabilities(image, "source")


class ManualLabels(LabelRegistration):
    """The run's registration network, given the manual labels: a bound for better segmentations.

    Args:
        trained: the run.
        num_classes: classes, background included.
    """

    def __init__(self, trained: TrainedRun, num_classes: int) -> None:
        super().__init__(trained)
        self.num_classes = num_classes

    def probabilities(self, image: MeasuredImage, modality: str) -> Tensor:
        """The label one-hot, ``[K, *spatial]``; where there is none, what the run predicts."""
        if image.label is None:
            return super().probabilities(image, modality)
        return one_hot(image.label[None], self.num_classes)[0].float()


class TargetLabels(LabelRegistration):
    """An upper bound: the run, but its target segmentation network was trained with labels of target images.

    Args:
        trained: the run.
        training: of a segmentation network of the target modality.
        data: the run's.
        labels: a datalist whose *source* is the run's target modality, with labels; None where there is none.
    """

    def __init__(self, trained: TrainedRun, training: Training, data: Datalist, labels: str | None) -> None:
        super().__init__(trained)
        self.training, self.data, self.labels = training, data, labels
        self.digest = ""

    def unavailable(self) -> str | None:
        """Says what to give where there are no labels.

        Raises:
            ValueError: where the datalist is of another modality or other classes, or trains on subjects of
                the test.
        """
        if self.labels is None:
            name = self.data.target.name
            return f"it needs labels of {name} images to train on: give --target_labels DATALIST"
        labelled = load_datalist(self.labels)
        if (labelled.source.name, labelled.label_names) != (self.data.target.name, self.data.label_names):
            raise ValueError(
                f"Expected the labelled modality {self.data.target.name} with {self.data.label_names} in "
                f"{self.labels}, got {labelled.source.name} with {labelled.label_names}."
            )
        tests = [self.data.target.test]
        if self.data.subjects == "shared":
            tests.append(self.data.source.test)
        tested = {name_key(record["subject"]) for records in tests for record in records}
        trained = {record["subject"] for record in labelled.source.records("train_labelled", "val")}
        if both := sorted(subject for subject in trained if name_key(subject) in tested):
            raise ValueError(f"{self.labels}: trains on subjects of the test: {', '.join(both)}.")
        return None

    def load(self) -> None:
        """Train the segmentation network, or read it where it is trained."""
        self.digest = self.training.run()
        super().load()
        target = load_network(self.training.folder, self.runner.device)
        self.runner.network.segmentation["target"] = target
