"""Ignite handlers: seeding, checkpoints, history, schedule; a run can be repeated and resumed to the bit."""

from __future__ import annotations

import json
import logging
import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.engines import Evaluator
from monai.handlers import CheckpointLoader
from torch import Tensor, nn

from .. import processes
from ..disk import require_space
from ..finite import non_finite
from ..kept import DAMAGED, check, copy_to_twin, keeping, restore, set_aside, whole
from ..networks import MultiStepRegistration
from ..terminal import PLAIN_LINES, LiveLine, end_line, say
from .guard import TrainingError, TrainingGuard

logger = logging.getLogger(__name__)

LAST_EPOCH = "last epoch"  # what chooses the weights where nothing is validated


def save_atomically(content: Any, path: str | Path, previous: str | Path | None = None) -> None:
    """``torch.save``, but a reader of ``path`` never sees half a file, and knows a damaged one.

    Args:
        content: what to save.
        path: the file.
        previous: where the file before goes; None where it is not needed any more.
    """
    with keeping(path, previous, num_bytes(content)) as partial:
        torch.save(content, partial)


def num_bytes(content: Any) -> int:
    """Bytes of all tensors in nested mappings and lists; those that share memory count each."""
    if isinstance(content, Tensor):
        return content.nbytes
    if isinstance(content, Mapping):
        content = list(content.values())
    return sum(map(num_bytes, content)) if isinstance(content, (list, tuple)) else 0


class LoadWhole(CheckpointLoader):
    """MONAI's ``CheckpointLoader``, for weights that are what was written there.

    Raises:
        DamagedError: for a file that is not; what has no digest beside it is taken as it is.
    """

    def __call__(self, engine: Engine) -> None:
        """Check the file, and load it."""
        check(self.load_path)
        super().__call__(engine)


class SeedEpochs:
    """Seed Python, numpy and torch at the start of each epoch from (seed, epoch).

    What an epoch draws then depends on nothing that came before, so that a resumed run needs no generator
    states.

    Args:
        seed: the run's seed.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Seed for the epoch that the engine is about to run."""
        seed = int(np.random.SeedSequence([self.seed, engine.state.epoch]).generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)


class Checkpoints:
    """Keep a run's state, its best network and its history; resume from them.

    In ``folder``: ``last.pt``, all that is needed to go on, and ``last.previous.pt``, the one before it;
    ``best.pt``, the weights of ``network`` at the best value of the evaluator's key metric (without an
    evaluator: the latest), and a copy of it; ``history.json``, the metrics of trainer and evaluator
    by epoch. What is damaged is set aside, and made again from what is not. Place it after the
    ``ValidationHandler`` in the trainer's handlers. Nothing with NaN or infinity is written: a
    ``TrainingGuard`` over the objects stops such a training.
    Of several processes the first writes; all go on from what it wrote, however many there are then.

    Args:
        folder: where the files are. A ``last.pt`` found there when training starts is resumed from.
        network: the network whose best weights are wanted.
        objects: whatever has ``state_dict`` and ``load_state_dict`` and is needed to go on: networks,
            optimisers, ....
        evaluator: the engine whose key metric is the criterion. The last epoch is validated in any case.
        interval: epochs between two writings of ``last.pt``.
        learning_rates: by name of a network among the objects, the config's id of its learning rate, to be
            named where it is too large; see :class:`~.guard.TrainingGuard`.
    """

    def __init__(
        self,
        folder: str,
        network: nn.Module,
        objects: Mapping[str, Any],
        evaluator: Evaluator | None = None,
        interval: int = 1,
        learning_rates: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.network = network
        self.objects = dict(objects)
        self.evaluator: Any = evaluator  # MONAI gives its state attributes that ignite does not declare
        self.interval = interval
        self.history: list[dict[str, float]] = []
        self.last, self.best = self.folder / "last.pt", self.folder / "best.pt"
        self.previous = self.folder / "last.previous.pt"
        last = str(self.last)
        self.guard = TrainingGuard(
            objects, self.folder.absolute().parent.name, learning_rates or {"network": "learning_rate"}, last
        )

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        self.guard.attach(engine)
        engine.add_event_handler(Events.STARTED, self.resume)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)

    def resume(self, engine: Engine) -> None:
        """Go on from ``last.pt``, if there is one, or the one before it.

        Raises:
            TrainingError: where it holds NaN or infinity.
            DiskError: where the disk has no room for what will be written.
        """
        states: dict[Path, dict[str, Any]] = {}

        def find() -> Path | None:
            self.check_space()
            restore(self.best)
            for path in (self.last, self.previous):
                if state := self.read(path):
                    states[path] = state
                    return path
            return None

        path = processes.agreed(find)
        if path is None:
            return
        state = states[path] if path in states else self.read(path)
        if wrong := non_finite(state):
            raise TrainingError(
                f"Cannot go on from {path}, which holds NaN or infinity in {len(wrong)} tensors, {wrong[0]} "
                f"first: remove {self.folder} to train anew."
            )
        for name, item in self.objects.items():
            item.load_state_dict(state[name])
        engine.state.epoch, engine.state.iteration = state["epoch"], state["iteration"]
        self.history = state["history"]
        if self.evaluator is not None:
            self.evaluator.state.best_metric = state["best_metric"]
            self.evaluator.state.best_metric_epoch = state["best_metric_epoch"]
        if processes.is_first() and (path == self.previous or not whole(self.folder / "history.json")):
            self.write_history()
        engine.logger.info(f"Resumed from {path}: {state['epoch']} epochs are done.")

    def read(self, path: Path) -> dict[str, Any]:
        """A state; empty where there is none, or it is damaged and set aside."""
        if not whole(path):
            return {}
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises of many kinds for what is broken
            set_aside(path)
            kind = type(error).__name__
            logger.warning(f"{path} cannot be read ({kind}), and set aside as {path.name}{DAMAGED}.")
            return {}
        if state.get("best_metric_epoch", 1) > 0 and not whole(self.best):
            logger.warning(f"{path} cannot be gone on from: {self.best}, which belongs to it, is lost.")
            return {}
        return state

    def check_space(self) -> None:
        """Check that there is room for all that a training leaves: states, weights, copies.

        Raises:
            DiskError: with the size needed and the size free.
        """
        modules = [item for item in self.objects.values() if isinstance(item, nn.Module)]
        weights = num_bytes(self.network.state_dict())
        state = 3 * sum(num_bytes(item.state_dict()) for item in modules)  # Adam has two moments
        known = sum(path.stat().st_size for path in self.folder.glob("*.pt*"))
        require_space(self.last, max(3 * state + 3 * weights - known, 0), state, "the stage's checkpoints")

    def write_history(self) -> None:
        """Write the metrics of all epochs."""
        with keeping(self.folder / "history.json") as partial:
            partial.write_text(json.dumps(self.history))

    def save(self, engine: Engine) -> None:
        """Write history, best weights and state after an epoch.

        Raises:
            TrainingError: for losses, weights or a key metric that are not finite; nothing is written.
        """
        self.guard.check_epoch(engine)
        epoch = engine.state.epoch
        last = epoch == engine.state.max_epochs
        metrics = dict(engine.state.metrics)
        validated = self.evaluator is not None and self.evaluator.state.epoch == epoch
        if last and self.evaluator is not None and not validated:
            self.evaluator.run(epoch)
            validated = True
        if validated:
            metrics |= self.evaluator.state.metrics
            key = self.evaluator.state.key_metric_name
            if not math.isfinite(metrics[key]):
                raise self.guard.error(engine, f"the validation's {key} is {float(metrics[key])}")
        if not processes.is_first():
            return
        self.history.append({"epoch": epoch} | {name: float(value) for name, value in metrics.items()})
        if self.evaluator is None or (validated and self.evaluator.state.best_metric_epoch == epoch):
            save_atomically(self.network.state_dict(), self.best)
            copy_to_twin(self.best)
        if last or epoch % self.interval == 0:
            state = {name: item.state_dict() for name, item in self.objects.items()}
            state |= {"epoch": epoch, "iteration": engine.state.iteration, "history": self.history}
            if self.evaluator is not None:
                state["best_metric"] = float(self.evaluator.state.best_metric)
                state["best_metric_epoch"] = self.evaluator.state.best_metric_epoch
            # the state comes last: what is cut short before it is written again by the run that goes on
            self.write_history()
            save_atomically(state, self.last, self.previous)

    @property
    def chosen(self) -> dict[str, Any]:
        """The checkpoint that was chosen: ``weights`` (its path), ``criterion``, ``value`` and ``epoch``."""
        restore(self.best)
        if self.evaluator is None:
            last = self.history[-1]
            return {
                "weights": self.best,
                "criterion": LAST_EPOCH,
                "value": last.get("loss", 0.0),
                "epoch": last["epoch"],
            }
        state = self.evaluator.state
        return {
            "weights": self.best,
            "criterion": state.key_metric_name,
            "value": float(state.best_metric),
            "epoch": state.best_metric_epoch,
        }


class AddSteps:
    """Train the coarse steps of a multi-step registration first, later all of them together.

    A step that does not take part has no gradients, so the optimiser has no state for it before it joins. It
    acts at the start of each epoch, by the epoch's number, and so in a resumed training too.

    Args:
        network: a ``networks.MultiStepRegistration``.
        first: how many steps train from the start, the coarsest first.
        epochs: epochs before the others join them.

    Raises:
        ValueError: unless ``first`` is between 1 and the number of steps, and several processes know that not
            all of the network trains.
    """

    def __init__(self, network: MultiStepRegistration, first: int, epochs: int) -> None:
        if not 1 <= first <= len(network.networks):
            raise ValueError(f"Expected `first` between 1 and {len(network.networks)} steps, got {first}.")
        self.network, self.first, self.epochs = network, first, epochs

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Choose the steps of the epoch that the engine is about to run."""
        if not getattr(getattr(engine, "network", None), "find_unused_parameters", True):
            raise ValueError(
                "Expected find_unused_parameters true, as several processes train, not all steps at once: "
                "add --find_unused_parameters true, or in the chain "
                "--registration_augmentation#find_unused_parameters true."
            )
        self.network.active = self.first if engine.state.epoch <= self.epochs else len(self.network.networks)


class EpochProgress:
    """The live line of a training: epoch, what chooses the weights, loss and time left.

    All metrics of each epoch go to the log. Where the output is no terminal, and with everything shown, there
    are plain lines instead, one in a tenth of the epochs.

    Args:
        evaluator: the engine whose key metric chooses; None where the last epoch counts.
    """

    def __init__(self, evaluator: Evaluator | None = None) -> None:
        self.evaluator: Any = evaluator
        self.line: LiveLine | None = None

    def attach(self, engine: Engine) -> None:
        """Register with a trainer; after the validation."""
        engine.add_event_handler(Events.EPOCH_STARTED, self.begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.epoch)
        engine.add_event_handler(Events.COMPLETED, self.end)

    def begin(self, engine: Engine) -> None:
        """Start the line, where the training starts or goes on."""
        if self.line is None:
            total = (engine.state.max_epochs or 1) * (engine.state.epoch_length or 1)
            self.line = LiveLine("", total).__enter__()
            self.line.resume(engine.state.iteration)

    def step(self, engine: Engine) -> None:
        """Draw the line."""
        assert self.line is not None
        self.line.advance(description=f"epoch {engine.state.epoch}/{engine.state.max_epochs}")

    def epoch(self, engine: Engine) -> None:
        """Say what an epoch has brought."""
        assert self.line is not None
        epoch, epochs = engine.state.epoch, engine.state.max_epochs or 1
        metrics = {name: float(value) for name, value in engine.state.metrics.items()}
        if self.evaluator is not None and self.evaluator.state.epoch == epoch:
            metrics |= {name: float(value) for name, value in self.evaluator.state.metrics.items()}
        every = ", ".join(f"{name} {value:.6g}" for name, value in metrics.items())
        engine.logger.info(f"Epoch {epoch} of {epochs}: {every}")
        loss = f"loss {metrics['loss']:.4g}" if "loss" in metrics else ""
        self.line.said = "  ".join(filter(None, (self.chosen_by(), loss)))
        if not self.line.live and (epoch % max(1, epochs // PLAIN_LINES) == 0 or epoch == epochs):
            say(f"  epoch {epoch}/{epochs}  {self.line.said}  {self.line.left()}".rstrip())

    def chosen_by(self) -> str:
        """What chooses the weights, and its best value so far."""
        if self.evaluator is None:
            return "the last epoch counts"
        state = self.evaluator.state
        if not getattr(state, "best_metric_epoch", -1) > 0:
            return ""
        return f"{state.key_metric_name} {float(state.best_metric):.4f} (epoch {state.best_metric_epoch})"

    def end(self, engine: Engine) -> None:
        """Take the line away."""
        end_line()
        self.line = None
