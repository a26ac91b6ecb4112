"""Values of a training config that cannot be, found before anything is trained."""

from __future__ import annotations

import re
from collections.abc import Iterator
from numbers import Integral, Real
from pydoc import locate
from typing import Any

import torch
from monai.bundle import ConfigComponent, ConfigParser

from ..wording import shown

KINDS: dict[type, str] = {Integral: "a whole number", Real: "a number"}
# what an id of a training config may be: kind, smallest and largest value
LIMITS: dict[str, tuple[type, float, float]] = {
    **dict.fromkeys(("max_epochs", "steps_per_epoch", "val_interval", "batch_size"), (Integral, 1, 10**9)),
    **dict.fromkeys(("label_batch_size", "max_val_pairs", "translation_interval"), (Integral, 1, 10**9)),
    **dict.fromkeys(("max_augmented_pairs",), (Integral, 1, 10**9)),
    **dict.fromkeys(("seed", "num_workers", "pool_size", "self_training_start"), (Integral, 0, 2**63)),
    **dict.fromkeys(("ema_decay", "reliable_share", "augmented_keep"), (Real, 0, 1)),
    **dict.fromkeys(("regularity_weight", "learning_rate", "memory_gib"), (Real, 0, 1e30)),
    **dict.fromkeys(("segmentation_learning_rate", "discriminator_learning_rate"), (Real, 0, 1e30)),
}
NONE_ALLOWED = ("max_augmented_pairs",)  # for no limit
MADE_IN_TRAINING = re.compile("@train(#|::)")  # MONAI takes either, and writes the second
SCHEDULERS = ("train#scheduler", "train#discriminator_scheduler")


def check_values(*parsers: ConfigParser) -> None:
    """Check the numbers of training configs, and that their learning rates can follow their schedules.

    Expressions are left to the training, where they refer to what it makes.

    Raises:
        ValueError: naming all that cannot be, each with its stage.
    """
    faults = []
    for parser in parsers:
        name = parser.get("stage", {}).get("name", "this config")
        found = [*number_faults(parser)]
        found += [fault for each in SCHEDULERS if not found for fault in schedule_faults(parser, each)]
        faults += [f"{name}: {fault}" for fault in found]
    if faults:
        raise ValueError(
            "\n- ".join(["These values cannot be trained with; correct or leave them out:", *faults])
        )


def number_faults(parser: ConfigParser) -> Iterator[str]:
    """What is no number, or too small or large; one line each."""
    for identifier, (kind, low, high) in LIMITS.items():
        value: Any = parser.get(identifier)
        absent = value is None and (identifier not in parser or identifier in NONE_ALLOWED)
        if absent or is_expression(value):
            continue
        is_kind = isinstance(value, kind) and not isinstance(value, bool)
        if not is_kind or not low <= value <= high:
            limit = f"from {low:g} to {high:g}" if high == 1 else f"of at least {low:g}"
            yield f"{identifier}: expected {KINDS[kind]} {limit}, got {shown(value)}"


def schedule_faults(parser: ConfigParser, identifier: str) -> Iterator[str]:
    """Why a schedule of learning rates cannot be made: one line or none."""
    config = parser.get(identifier)
    if not isinstance(config, dict) or "_target_" not in config:
        return
    keys = [key for key in config if not key.startswith("_") and key != "optimizer"]
    if any(MADE_IN_TRAINING.search(str(config[key])) for key in keys):  # as schedules within it
        return
    try:
        values = {key: parser.get_parsed_content(f"{identifier}#{key}") for key in keys}
    except Exception:  # an expression of what only the training makes
        return
    rates = values.get("max_lr")
    groups: list[Any] = [{"params": [torch.zeros(1)]} for _ in (rates if isinstance(rates, list) else [0])]
    target: Any = locate(str(ConfigComponent(config).resolve_module_name()))
    try:
        target(torch.optim.SGD(groups, lr=1.0), **values)
    except (ArithmeticError, TypeError, ValueError) as error:
        given = ", ".join(f"{key} {shown(value)}" for key, value in values.items())
        remedy = "train more epochs or steps" if isinstance(error, ArithmeticError) else "correct it"
        yield f"{identifier}, a {target.__name__} of {given}: {error}; {remedy}"


def is_expression(value: Any) -> bool:
    """Whether MONAI evaluates a value, or puts another in its place."""
    return isinstance(value, str) and value.startswith(("$", "@", "%"))
