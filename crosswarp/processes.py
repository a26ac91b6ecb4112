"""Several processes that train one network together, as ``torchrun`` starts them, and each one's share.

A batch is that of all processes: each takes as many of its items as the others, in their order. All have
generators of one seed and draw the random numbers of the whole batch, of which each keeps those of its items.
What is trained therefore does not depend on how many there are, but for rounding. The first process writes.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_reduce

from . import terminal
from .errors import input_error

Result = TypeVar("Result")
Draw = Callable[[int], Tensor]

PATIENCE = timedelta(days=7)  # one process may compute for hours while others wait; a death ends all at once


class State:
    """What the processes share beside their group."""

    store: Any = None  # where one process notes what all have to know, as long as any of them lives
    alone = False
    failed = False
    pick: Callable[[Draw, int], Tensor] | None = None


def join(backend: str = "nccl") -> None:
    """Join the other processes that ``torchrun`` has started; once.

    Args:
        backend: ``"nccl"`` for GPUs, one for each process, ``"gloo"`` for CPUs.

    Raises:
        ValueError: for a process that ``torchrun`` has not started, or a machine with fewer GPUs.
    """
    if dist.is_initialized():
        return
    if not dist.is_torchelastic_launched():
        raise ValueError(
            "Expected several processes, as torchrun starts them, but this is one by itself: run `torchrun "
            "--nproc_per_node 2 -m monai.bundle run ...`, or leave multi_gpu_train.json out."
        )
    device = own_device(backend)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    State.store, number, size = next(dist.rendezvous("env://", timeout=PATIENCE))
    dist.init_process_group(backend, store=State.store, rank=number, world_size=size, timeout=PATIENCE)
    atexit.register(leave)
    terminal.State.silent = number > 0


def leave() -> None:
    """Leave the others, unless something has gone wrong: then nobody waits for anybody."""
    if dist.is_initialized() and not State.failed:
        dist.destroy_process_group()


def own_device(backend: str = "nccl") -> torch.device:
    """The device of this process: with ``"gloo"`` the CPU, else the GPU of its number on its machine.

    Raises:
        ValueError: where the machine has fewer GPUs than processes.
    """
    if backend == "gloo":
        return torch.device("cpu")
    number, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= there:
        raise ValueError(
            f"Expected a GPU for each process, but this machine has {there}: start as many processes "
            "(--nproc_per_node), or none of this for CPUs (--backend gloo)."
        )
    return torch.device("cuda", number)


def count() -> int:
    """How many processes train together; 1 where there is nobody else."""
    return dist.get_world_size() if dist.is_initialized() and not State.alone else 1


def number() -> int:
    """The number of this process among them, from 0."""
    return dist.get_rank() if dist.is_initialized() and not State.alone else 0


def is_first() -> bool:
    """Whether this is the process that writes and speaks."""
    return number() == 0


@contextmanager
def alone() -> Iterator[None]:
    """Within, this process is by itself: nothing is shared with others, who do not take part."""
    before, State.alone = State.alone, True
    try:
        yield
    finally:
        State.alone = before


def agreed(function: Callable[[], Result]) -> Result:
    """What a function returns that the first process alone calls; all get it, and none goes on before.

    Args:
        function: what it returns or raises can be pickled.

    Raises:
        Exception: what it raises, in all processes.
    """
    if count() == 1:
        return function()
    held: list[Any] = [None, None]
    error: Exception | None = None
    if is_first():
        try:
            with alone():
                held[0] = function()
        except Exception as caught:  # which all raise: what one can heal, all go on from
            error = caught
            cause = input_error(error) or error
            system = ("errno", "strerror", "filename") if isinstance(cause, OSError) else ()
            held[1] = type(cause), cause.args, vars(cause) | {name: getattr(cause, name) for name in system}
    dist.broadcast_object_list(held, src=0)
    if error is not None:
        raise error
    if held[1] is not None:
        kind, arguments, attributes = held[1]
        copy = kind.__new__(kind)
        copy.args = arguments
        for name, value in attributes.items():
            setattr(copy, name, value)
        raise copy
    return held[0]


def check_batch_size(size: int, what: str = "batch_size") -> None:
    """Check that a batch can be shared out.

    Raises:
        ValueError: unless each process gets as many items as the others.
    """
    if size % count():
        raise ValueError(
            f"Expected a {what} that {count()} processes can share out, got {size}: it is that of all of "
            f"them together. Choose {max(1, size // count()) * count()}, or another number of processes."
        )


def share(values: Tensor) -> Tensor:
    """This process's part of what belongs to a whole batch, along its first axis."""
    return values if count() == 1 else values.chunk(count())[number()]


def drawn(draw: Draw, size: int) -> Tensor:
    """Random values for the items at hand: those of the whole batch are drawn, and theirs are kept.

    Args:
        draw: called with a number of items, returns as many random values along the first axis.
        size: items at hand.
    """
    if State.pick is not None and not State.alone:
        return State.pick(draw, size)
    return draw(size) if count() == 1 else _of_groups(draw, size, 1)


def _of_groups(draw: Draw, size: int, groups: int) -> Tensor:
    whole = draw(size * count())
    return whole.unflatten(0, (groups, count(), size // groups))[:, number()].flatten(0, 1)


@contextmanager
def in_groups(groups: int) -> Iterator[None]:
    """Within, the items at hand are shares of several whole batches, one after the other.

    Args:
        groups: how many, such as 2 for moving and fixed images.
    """
    with _picking(lambda draw, size: _of_groups(draw, size, groups)):
        yield


@contextmanager
def at_rows(rows: Tensor, total: int) -> Iterator[None]:
    """Within, the items at hand are those of some rows of a whole batch.

    Args:
        rows: their numbers, on the device where values are drawn.
        total: rows of the whole batch.
    """
    with _picking(lambda draw, _: draw(total)[rows]):
        yield


@contextmanager
def _picking(pick: Callable[[Draw, int], Tensor]) -> Iterator[None]:
    before, State.pick = State.pick, pick if count() > 1 else None
    try:
        yield
    finally:
        State.pick = before


def summed(values: Tensor) -> Tensor:
    """The sum over all processes, with gradients."""
    return values if count() == 1 else all_reduce(values.contiguous())


def averaged(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """The mean over all processes of numbers that each has by the same names, without gradients."""
    if count() == 1 or not values:
        return values
    stacked = torch.stack([value.detach().float() for value in values.values()])
    dist.all_reduce(stacked)
    return dict(zip(values, stacked / count(), strict=True))


def gathered(values: Tensor) -> Tensor:
    """The shares ``[b, ...]`` of all processes as the whole batch ``[B, ...]``, without gradients."""
    if count() == 1:
        return values
    whole = [torch.empty_like(values, memory_format=torch.contiguous_format) for _ in range(count())]
    dist.all_gather(whole, values.detach().contiguous())
    return torch.cat(whole)


def is_own(part: int) -> bool:
    """Whether a part of some work is this process's; they take turns."""
    return part % count() == number()


def exchange(values: Tensor, parts: Sequence[Tensor], device: torch.device | str) -> None:
    """Put into values what other processes have computed, in place.

    Args:
        values: ``[N, ...]``, filled where a part :func:`is_own`.
        parts: numbers ``[P]`` of the rows of each part.
        device: that the processes can exchange values of.
    """
    if count() == 1:
        return
    for part, rows in enumerate(parts):
        held = values[rows].to(device)
        dist.broadcast(held, src=part % count())
        values[rows] = held.to(values.device)


def speaks() -> bool:
    """Whether this process is the one that says why all of them end: the first that finds out.

    Of processes that fail alike one says it; those that only miss another say nothing after that one.
    """
    State.failed = True
    try:
        if State.store is None:
            State.store = next(dist.rendezvous("env://"))[0]
        return State.store.add("crosswarp/failed", 1) == 1
    except (RuntimeError, ValueError):  # whoever kept it is gone
        return True


def is_loss(error: BaseException) -> bool:
    """Whether an error says no more than that another process is gone."""
    return dist.is_initialized() and (
        isinstance(error, dist.DistError) or "closed by peer" in str(error) or "reset by peer" in str(error)
    )
