"""The test images of a run, what they are measured by, and which of them are registered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from math import lcm
from pathlib import Path
from typing import Any

import torch
from monai.data import DataLoader, MetaTensor, decollate_batch
from monai.networks.utils import one_hot
from torch import Tensor

from ..data import Datalist, Modality
from ..data.landmarks import read_landmarks
from ..data.room import placed
from ..inference.runner import Runner
from ..metrics import MeasuredImage
from ..spatial.frame import see
from ..spatial.grid import Grid

ByModality = Mapping[str, Sequence[MeasuredImage]]  # "source" and "target"
Pair = tuple[MeasuredImage, MeasuredImage]
ROUNDING = 1e-6  # voxels beyond the outermost centres that a landmark may lie


def evaluated_records(modality: Modality) -> list[dict[str, str]]:
    """The test records with a label or landmarks; all where none has any, to be looked at if not measured."""
    return [record for record in modality.test if {"label", "landmarks"} & record.keys()] or modality.test


class EvaluatedImages:
    """Images of both modalities on the networks' grid, and pairs of a source and a target image.

    Args:
        data: the datalist of the run.
        source: single images of the source modality on their own grids, where there are labels an integer
            `label` `[1, 1, *spatial]`, in the order of the records `dataset.data`.
        target: those of the target modality.
        max_pairs: most pairs to register, spread evenly over the images; None for all.
        pairs: the pairs to register instead, `[source image, target image]` each, named as in the datalist.
    """

    def __init__(
        self,
        data: Datalist,
        source: DataLoader,
        target: DataLoader,
        max_pairs: int | None = 200,
        pairs: Sequence[Sequence[str]] | None = None,
    ) -> None:
        self.data, self.max_pairs, self.named_pairs = data, max_pairs, pairs
        self.modalities = {"source": data.source, "target": data.target}
        self.loaders = {"source": source, "target": target}
        self.records: dict[str, list[dict[str, str]]] = {
            key: loader.dataset.data  # type: ignore[attr-defined]
            for key, loader in self.loaders.items()
        }
        self.names = {key: self._names(records) for key, records in self.records.items()}

    def _names(self, records: Sequence[Mapping[str, str]]) -> list[str]:
        """The images of records, named as in the datalist."""
        folder = self.data.path.parent
        paths = [Path(record["image"]) for record in records]
        return [
            (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix() for path in paths
        ]

    def check(self) -> None:
        """Check what can be checked without reading an image.

        Raises:
            ValueError: for pairs of images that are not there, no images, or landmark files that cannot be
                read.
        """
        if not any(self.names.values()):
            raise ValueError(f"Expected test records in {self.data.path}, but neither modality has any.")
        self.pairs()
        faults = []
        for record in (record for records in self.records.values() for record in records):
            try:
                self._landmarks(record)
            except ValueError as error:
                faults.append(str(error))
        if faults:
            raise ValueError("\n".join(faults))

    def pairs(self) -> list[tuple[int, int]]:
        """The pairs to register, as numbers of the source and of the target image.

        Raises:
            ValueError: when `pairs` names other images than those that are evaluated.
        """
        sources, targets = self.names["source"], self.names["target"]
        if self.named_pairs is None:
            return spread_pairs(len(sources), len(targets), self.max_pairs)
        known = set(product(sources, targets))
        wrong = [pair for pair in self.named_pairs if tuple(pair) not in known]
        if wrong:
            raise ValueError(
                f"Expected pairs [source image, target image] of test images, named as in {self.data.path} "
                f"(such as {sources[:1] + targets[:1]}), got {wrong}."
            )
        return [(sources.index(source), targets.index(target)) for source, target in self.named_pairs]

    def load(self, runner: Runner) -> tuple[dict[str, list[MeasuredImage]], list[Pair]]:
        """Read the images, prepared as the run's inference config does it.

        Args:
            runner: of moving source and fixed target images.

        Returns:
            the images by `"source"` and `"target"`, and the pairs of them.
        """
        images = {
            "source": self._images("source", partial(runner.prepare, key="moving")),
            "target": self._images("target", partial(runner.prepare, key="fixed")),
        }
        return images, [(images["source"][i], images["target"][j]) for i, j in self.pairs()]

    def _images(self, modality: str, prepare: Callable[..., dict[Any, Any]]) -> list[MeasuredImage]:
        images = []
        samples = (each for batch in self.loaders[modality] for each in decollate_batch(batch))
        for name, record, labelled in zip(self.names[modality], self.records[modality], samples, strict=True):
            item = placed(prepare(record["image"], side=record.get("side")))
            image, points = item["image"], self._landmarks(record)
            grid = Grid.of(image)
            label = labelled.get("label")
            images.append(
                MeasuredImage(
                    name,
                    record["subject"],
                    self.modalities[modality].name,
                    image.as_tensor(),
                    grid,
                    None if label is None else label_on_frame(label, grid, self.data.num_classes),
                    {key: point for key, point in points.items() if grid.contains(point, ROUNDING)},
                    item,
                )
            )
        return images

    def _landmarks(self, record: Mapping[str, str]) -> dict[str, Any]:
        """The landmarks of an image, mm in LPS, by name; none where there is no file."""
        path = record.get("landmarks")
        return {} if path is None else read_landmarks(path, self.data.spatial_dims)

    def notes(self, images: ByModality) -> list[str]:
        """What the numbers stand on, in sentences."""
        grid = " × ".join(map(str, self.data.spatial_size))
        tested = " and ".join(f"{len(self.names[key])} {each.name}" for key, each in self.modalities.items())
        total = len(self.names["source"]) * len(self.names["target"])
        notes = [
            f"Measured on the networks' grid of {grid} points, on {tested} test images; {len(self.pairs())} "
            f"of their {total} pairs were registered, each in both directions."
        ]
        for modality in self.modalities.values():
            missing = sum(not {"label", "landmarks"} & record.keys() for record in modality.test)
            if not any("label" in record for record in modality.test):
                notes.append(f"No {modality.name} test image has a label: no overlap can be measured there.")
            elif missing:
                notes.append(
                    f"{missing} {modality.name} test images without label and landmarks were left out."
                )
        for key, records in self.records.items():
            for image, record in zip(images[key], records, strict=True):
                if outside := self._landmarks(record).keys() - image.landmarks.keys():
                    notes.append(
                        f"Landmarks outside {image.name} were left out: {', '.join(sorted(outside))}."
                    )
        return notes


def label_on_frame(label: MetaTensor, frame: Grid, num_classes: int) -> Tensor:
    """Return a label as it lies on a frame, `[1, *spatial]`, uint8: of each point the class with most weight.

    Args:
        label: `[1, *spatial]`, class of every point.
        frame: on which to see it.
        num_classes: classes, background included.
    """
    classes = one_hot(label.as_subclass(Tensor)[None], num_classes)[0]
    return see(classes, Grid.of(label), frame).argmax(0, keepdim=True).to(torch.uint8)


def spread_pairs(first: int, second: int, max_pairs: int | None = None) -> list[tuple[int, int]]:
    """Choose pairs of the members of two groups so that all are used, each about as often as the others.

    Args:
        first: members of the first group.
        second: members of the second group.
        max_pairs: most pairs; None for all of them.

    Returns:
        distinct pairs of numbers. The two groups are run through side by side, shifted by one whenever the
        same pairs would come again; so from `max(first, second)` pairs on, every member is used.

    Raises:
        ValueError: for a `max_pairs` below 1.
    """
    if max_pairs is not None and max_pairs < 1:
        raise ValueError(f"Expected at least one pair or null for all pairs, got max_pairs {max_pairs}.")
    total = first * second
    count = total if max_pairs is None else min(max_pairs, total)
    return [(i % first, (i + i // lcm(first, second)) % second) for i in range(count)]
