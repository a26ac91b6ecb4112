"""Stops a training that diverges, before it takes what is good with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.engines.utils import IterationEvents
from torch import Tensor

from ..finite import NonFiniteError, is_finite, non_finite
from ..terminal import end_line

BACKWARD = ("loss", "discriminator")  # what is differentiated, of a step's losses


class TrainingError(NonFiniteError):
    """A training that diverged: says where, on which images, and what to do."""


class TrainingGuard:
    """Raises as soon as losses, weights or the state of an optimiser hold NaN or infinity.

    On the CPU a step's losses are read before its backward pass: there the derivative of sampling an image
    at NaN reads memory that is not its own. Elsewhere reading them would make the host wait in every step;
    they are read together once an epoch has run. The objects are checked then too, before validation.

    Args:
        objects: whatever has ``state_dict`` and must stay finite, by name: networks, optimisers, ....
        stage: what is trained, for the message.
        learning_rates: by name of a network among the objects, the config's id of its learning rate.
        resumable: what the user may go on from, for the message.
    """

    def __init__(
        self,
        objects: Mapping[str, Any],
        stage: str = "",
        learning_rates: Mapping[str, str] | None = None,
        resumable: str = "",
    ) -> None:
        self.objects, self.stage, self.resumable = dict(objects), stage, resumable
        self.learning_rates = dict(learning_rates or {})
        self._steps: dict[int, tuple[dict[str, Tensor], Any]] = {}
        self._checked = -1

    def attach(self, engine: Engine) -> None:
        """Register with a trainer; after what averages weights."""
        engine.register_events(IterationEvents.LOSS_COMPLETED)  # which MONAI's trainers have
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self.check_losses)
        last = Events.ITERATION_COMPLETED(event_filter=lambda e, step: step % e.state.epoch_length == 0)
        engine.add_event_handler(last, self.check_epoch)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self.explain)

    def check_losses(self, engine: Engine) -> None:
        """Check the losses of a step, or keep them for the end of the epoch.

        Raises:
            TrainingError: naming the step, its terms that are not finite, and its images.
        """
        output: Mapping[str, Any] = engine.state.output  # type: ignore[assignment] # MONAI's trainers give one
        losses = {key: value.detach() for key, value in output.items() if is_scalar(value)}
        losses |= getattr(getattr(engine, "loss_function", None), "terms", {})
        self._steps[engine.state.iteration] = losses, drawn_images(engine)
        if free_to_read(losses["loss"]):
            self._check_steps(engine)

    def check_epoch(self, engine: Engine) -> None:
        """Check what an epoch has made, once.

        Raises:
            TrainingError: naming the first step that was not finite, or what is not finite after the last.
        """
        if self._checked == engine.state.iteration:
            return
        self._check_steps(engine)
        if wrong := non_finite({name: item.state_dict() for name, item in self.objects.items()}):
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise self.error(engine, f"NaN or infinity in {', '.join(wrong[:3])}{more}")
        self._checked = engine.state.iteration

    def explain(self, engine: Engine, error: BaseException) -> NoReturn:
        """Say where in the training an error of this kind came up, such as one of a map."""
        end_line()
        if isinstance(error, NonFiniteError) and not isinstance(error, TrainingError):
            in_step = engine.state.iteration not in self._steps and self._checked != engine.state.iteration
            raise self.error(engine, str(error), drawn_images(engine) if in_step else None) from error
        raise error

    def _check_steps(self, engine: Engine) -> None:
        steps, self._steps = self._steps, {}
        totals = [losses[key] for losses, _ in steps.values() for key in BACKWARD if key in losses]
        if not totals or is_finite(torch.stack(totals)):
            return
        for step, (losses, drawn) in steps.items():
            wrong = {key: value for key, value in losses.items() if not is_finite(value)}
            if wrong:
                terms = {key: value for key, value in wrong.items() if key != "loss"} or wrong
                what = ", ".join(f"{key} is {value.item()}" for key, value in terms.items())
                raise self.error(engine, what, drawn, step)

    def error(self, engine: Engine, what: str, drawn: Any = None, step: int | None = None) -> TrainingError:
        """The error that says what is not finite, where, and what to do.

        Args:
            engine: the trainer.
            what: is not finite.
            drawn: the images of the step, see :func:`drawn_images`.
            step: since the start of the training; None for the latest.
        """
        length = engine.state.epoch_length or 1
        within = ((step or engine.state.iteration) - 1) % length + 1
        rates = self.suspects()
        in_chain = f" (in the chain --{' or --'.join(f'{self.stage}#{rate}' for rate in rates)})"
        lines = [
            f"Training{' of ' * bool(self.stage)}{self.stage} diverged in epoch {engine.state.epoch}, step "
            f"{within} of {length}: {what.rstrip('.')}.",
            f"Lower {' or '.join(rates)}{in_chain if self.stage else ''}. Nothing of it was saved.",
        ]
        if self.resumable and Path(self.resumable).is_file():
            lines.append(f"The epochs before are in {self.resumable}.")
        if files := files_of(engine, drawn):
            lines += ["The images of the step:", *(f"- {file}" for file in files)]
        return TrainingError("\n".join(lines))

    def suspects(self) -> list[str]:
        """The learning rates of the networks that are not finite; of the one with the largest weight."""
        known = [name for name in self.learning_rates if name in self.objects]
        weights = {name: [p.detach() for p in self.objects[name].parameters()] for name in known}
        broken = [name for name in known if non_finite(weights[name])]  # buffers take NaN from images
        sizes = {name: max(float(each.abs().max()) for each in weights[name]) for name in known}
        chosen = broken or sorted(known, key=sizes.__getitem__)[-1:]
        rates = list(dict.fromkeys(self.learning_rates[name] for name in chosen))
        return rates or ["the learning rate"]


def free_to_read(value: Tensor) -> bool:
    """Whether a value can be read without waiting for its device."""
    return value.device.type == "cpu"


def is_scalar(value: Any) -> bool:
    """Whether something is one number on a device."""
    return isinstance(value, Tensor) and value.ndim == 0


def drawn_images(engine: Engine) -> Any:
    """What the engine's batch consists of, without reading anything; :func:`files_of` names it."""
    loader: Any = engine.state.dataloader
    batch: Any = engine.state.batch
    if hasattr(loader, "drawn"):
        return loader.drawn
    values = list(batch.values()) if isinstance(batch, Mapping) else []
    return [value.meta.get("filename_or_obj") for value in values if isinstance(value, MetaTensor)]


def files_of(engine: Engine, drawn: Any) -> list[str]:
    """The files of :func:`drawn_images`, each once."""
    if drawn is None:
        return []
    loader: Any = engine.state.dataloader
    if hasattr(loader, "files"):
        return list(dict.fromkeys(loader.files(drawn)))
    names = [name if isinstance(name, list | tuple) else [name] for name in drawn]
    return list(dict.fromkeys(str(file) for each in names for file in each if file))
