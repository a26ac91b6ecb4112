"""Measuring methods of registration on the test images of a run: overlap, surfaces, landmarks, maps, cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..disk import explained
from ..finite import NonFiniteError, is_finite
from ..metrics import MeasuredImage, Row, registration_rows, segmentation_rows
from ..terminal import track
from .images import ByModality, Pair
from .methods import RegistrationMethod, measured_cost

Prepared = Mapping[str, tuple[Any, float]]  # by image: what a method made of it, and the seconds that it took


class Measure:
    """Measures segmentations, and what methods of registration make of pairs, by the same code for each.

    Overlap is that of the *manual* labels, warped one-hot; lengths are in mm. See
    :func:`~crosswarp.metrics.rows.registration_rows`.

    Args:
        label_names: name of every class, background first.
        folder: where what methods prepare is kept for as long as it is needed.
        device: where to compute; a method may have its own.
        batch_size: pairs in a batch.
    """

    def __init__(
        self,
        label_names: Sequence[str],
        folder: str | Path,
        device: torch.device | str = "cpu",
        batch_size: int = 16,
    ) -> None:
        self.label_names, self.folder = list(label_names), Path(folder)
        self.device, self.batch_size = torch.device(device), batch_size

    @contextmanager
    def prepared(self, name: str, method: RegistrationMethod, images: ByModality) -> Iterator[Prepared]:
        """What a method needs of each image, within.

        Tensors, by themselves or in a mapping, are kept on disk and mapped into memory: class probabilities
        of many volumes are large. On Windows mapped files may outlive the folder.
        """
        found: dict[str, tuple[Any, float]] = {}
        every = [(key, image) for key, each in images.items() for image in each]
        with (
            TemporaryDirectory(dir=self.folder, prefix=".prepared-", ignore_cleanup_errors=True) as scratch,
            torch.inference_mode(),
        ):
            for key, image in track(every, f"{name}: images"):
                with measured_cost(getattr(method, "device", self.device)) as cost:
                    value = method.prepare(image, key)
                found[image.name] = _on_disk(value, Path(scratch)), cost.seconds
            yield found

    def segmentations(
        self, images: Sequence[MeasuredImage], classes: Mapping[str, Tensor], network: str
    ) -> list[Row]:
        """Measure segmentations of the images that have a label.

        Args:
            images: of a modality.
            classes: `[1, *spatial]` by image.
            network: as the rows name it.
        """
        return [
            row
            for image in images
            if image.label is not None
            for row in segmentation_rows(classes[image.name], image, network, self.label_names)
        ]

    def registrations(
        self, name: str, method: RegistrationMethod, prepared: Prepared, pairs: Sequence[Pair]
    ) -> tuple[list[Row], int]:
        """Register pairs both ways, and measure.

        Args:
            name: of the method in the rows.
            method: registers.
            prepared: what it made of the images, see :meth:`prepared`.
            pairs: the images.

        Returns:
            the measurements, and the number of maps that the method did not find.
        """
        rows: list[Row] = []
        if pairs:
            self.maps(method, prepared, pairs[:1])  # what only the first call takes is not timed
        before = getattr(method, "failures", 0)
        for start in track(range(0, len(pairs), self.batch_size), f"{name}: pairs"):
            batch = pairs[start : start + self.batch_size]
            with measured_cost(getattr(method, "device", self.device)) as cost:
                both_ways = self.maps(method, prepared, batch)
            for images, *maps in zip(batch, *(phi.split(1) for phi in both_ways), strict=True):
                seconds = sum(prepared[image.name][1] for image in images) + cost.seconds / (2 * len(batch))
                for m, f in ((0, 1), (1, 0)):
                    pair = images[m], images[f], maps[m], maps[f]
                    rows += registration_rows(*pair, self.label_names, name, seconds, cost.memory_mib)
        return rows, getattr(method, "failures", 0) - before

    def maps(
        self, method: RegistrationMethod, prepared: Prepared, pairs: Sequence[Pair]
    ) -> tuple[Tensor, Tensor]:
        """The maps first_to_second and second_to_first of pairs, each `[B, D, *spatial]`.

        Raises:
            NonFiniteError: naming the pairs, where a map holds NaN or infinity.
        """
        first, second = ([prepared[image.name][0] for image in each] for each in zip(*pairs, strict=True))
        maps = method.register(first, second)
        if not all(map(is_finite, maps)):
            names = ", ".join(" and ".join(image.name for image in pair) for pair in pairs)
            raise NonFiniteError(
                f"Expected maps of finite coordinates from {type(method).__name__}, got NaN or infinity for "
                f"some of {names}: its network has diverged."
            )
        return maps


def _on_disk(value: Any, folder: Path) -> Any:
    """Tensors as arrays of files in a folder; anything else as it is."""
    if isinstance(value, Mapping):
        return {key: _on_disk(item, folder) for key, item in value.items()}
    if not isinstance(value, Tensor):
        return value
    with explained(folder), NamedTemporaryFile(dir=folder, suffix=".npy", delete=False) as file:
        np.save(file, value.as_subclass(Tensor).numpy())
    return torch.from_numpy(np.load(file.name, mmap_mode="c"))
