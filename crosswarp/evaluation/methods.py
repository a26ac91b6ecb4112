"""What the evaluation asks of a registration method, and the run that is evaluated as such a method."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..inference.registrar import Registrar, load
from ..inference.runner import MODALITIES, Runner, SegmentedOnce, turned
from ..metrics import MeasuredImage
from ..networks import Prediction
from ..runs.bundle import INFERENCE
from ..runs.config import check_ids, read_config

_PROBABILITIES = "probabilities"  # in what is prepared of an image


class RegistrationMethod(Protocol):
    """A way to register pairs of a source and a target image, to be measured.

    Images come on the networks' grid, the extents of a pair laid onto each other: the identity map is the
    pair as it is, unregistered. A method may have ``digest``, of what it has learnt, by which stored
    measurements are known to be of the same, ``failures``, the number of maps that it did not find, and
    ``device``, where it computes if not where the networks of the run do.
    """

    def unavailable(self) -> str | None:
        """Why the method cannot be used here, such as the name of a missing package; None where it can."""

    def load(self) -> None:
        """Make it ready, outside what is timed: read or train networks."""

    def prepare(self, image: MeasuredImage, modality: str) -> Any:
        """What the method needs of an image of the modality ``"source"`` or ``"target"``, once for each."""

    def register(self, moving: Sequence[Any], fixed: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """Register prepared images; the maps moving_to_fixed and fixed_to_moving, ``[B, D, *spatial]``."""


class TrainedRun:
    """The run that is evaluated, as its inference config says.

    Args:
        run_dir: the run's folder.
        device: where to compute.
        overrides: ids of the inference config and other values for them.
    """

    def __init__(
        self, run_dir: str, device: torch.device | str = "cpu", overrides: Mapping[str, Any] | None = None
    ) -> None:
        self.run_dir, self.device, self.overrides = Path(run_dir), torch.device(device), dict(overrides or {})

    def check(self) -> None:
        """Check the overrides.

        Raises:
            ValueError: naming every id that the inference config does not have.
        """
        check_ids(self.overrides, read_config(self.run_dir / INFERENCE), str(self.run_dir / INFERENCE))

    def registrar(self) -> Registrar:
        """The run just as a user gets it."""
        return load(self.run_dir, self.device, **self.overrides)


class LabelRegistration:
    """Registration through predicted labels, with the networks of a run and by its inference config.

    Args:
        trained: the run.
    """

    runner: Runner  # of moving source and fixed target images
    back: Runner  # the other way round

    def __init__(self, trained: TrainedRun) -> None:
        self.trained = trained

    def unavailable(self) -> str | None:
        """Nothing is missing."""
        return None

    def load(self) -> None:
        """Read the networks."""
        registrar = self.trained.registrar()
        self.runner, self.back = registrar.runner(*MODALITIES), registrar.runner(*MODALITIES[::-1])

    def probabilities(self, image: MeasuredImage, modality: str) -> Tensor:
        """Class probabilities ``[K, *spatial]``, on the CPU."""
        return self.runner.segment(image.image[None], modality)[0].cpu()

    def prepare(self, image: MeasuredImage, modality: str) -> dict[Any, Any]:
        """What the config's preprocessing made of the image, and its class probabilities."""
        return {**image.item, _PROBABILITIES: self.probabilities(image, modality)}

    def register(
        self, moving: Sequence[Mapping[Any, Any]], fixed: Sequence[Mapping[Any, Any]]
    ) -> tuple[Tensor, Tensor]:
        """Register source to target images, and target to source images.

        Where nothing is aligned first, the network finds both maps at once, whichever image is to move.
        """
        found = self._predict(self.runner, moving, fixed)
        if self.runner.network.initialisation is None:
            return found.moving_to_fixed, found.fixed_to_moving
        back = self._predict(self.back, list(map(turned, fixed)), list(map(turned, moving)))
        return found.moving_to_fixed, back.moving_to_fixed

    @staticmethod
    def _predict(
        runner: Runner, moving: Sequence[Mapping[Any, Any]], fixed: Sequence[Mapping[Any, Any]]
    ) -> Prediction:
        network, sides = SegmentedOnce(runner.network), []
        for modality, images in zip(runner.modalities, (moving, fixed), strict=True):
            known = [image[_PROBABILITIES] for image in images]
            network.keep([image["image"] for image in images], modality, known)
            sides.append([{k: v for k, v in image.items() if k != _PROBABILITIES} for image in images])
        pairs = [runner.pair(*pair) for pair in zip(*sides, strict=True)]
        return Prediction.split(runner.predict(pairs, network))

    def label(self, image: MeasuredImage, probabilities: Tensor) -> Tensor:
        """The predicted label ``[1, *spatial]``, uint8, by the config's postprocessing.

        Args:
            image: the image.
            probabilities: ``[K, *spatial]``.
        """
        result = self.runner.segmented(dict(image.item), image.item["image"], probabilities[None])
        return result["moving_label"].as_subclass(Tensor)


@dataclass
class Cost:
    """What a computation took.

    Attributes:
        seconds: wall-clock time.
        memory_mib: the most memory at any time: on a GPU that of its tensors, otherwise that of the whole
            process, libraries included; NaN where the system does not tell (it is Linux that does).
    """

    seconds: float = nan
    memory_mib: float = nan


@contextmanager
def measured_cost(device: torch.device) -> Iterator[Cost]:
    """Measure what is computed inside; the values are there afterwards."""
    on_gpu, process = device.type == "cuda", Path("/proc/self")
    if on_gpu:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):
            (process / "clear_refs").write_text("5")  # sets the peak back to what is in use now
    cost, start = Cost(), time.perf_counter()
    yield cost
    if on_gpu:
        torch.cuda.synchronize(device)
    cost.seconds = time.perf_counter() - start
    if on_gpu:
        cost.memory_mib = torch.cuda.max_memory_allocated(device) / 2**20
    else:
        with suppress(OSError):
            status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
            cost.memory_mib = int(status["VmHWM"].split()[0]) / 2**10
