"""Faults of the input, told apart from those of the program: who raises them, and how a command line ends."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from .disk import FULL, DiskError, disk_error
from .wording import printable

STOPPED = "\nstopped"
# what of the running config decides how much memory it takes, by id
SIZES: dict[str, Any] = {}
LAUNCHED = "TORCHELASTIC_RUN_ID"  # torchrun tells so that it has started a process
ANOTHER_ENDED = (
    "another of the processes that train together has ended without a word, as one that is killed or finds "
    "no memory. The same command goes on where it was."
)


class Notice(UserWarning):
    """A warning that is for the user: of the data, or of what was found in a file."""


def input_error(error: BaseException) -> ValueError | OSError | None:
    """The fault of the input that an exception stands for; None where it is a fault of the program.

    MONAI wraps what is raised within a config or a transform into a ``RuntimeError``, once for every level.
    """
    while type(error) is RuntimeError and error.__cause__ is not None:
        error = error.__cause__
    return error if isinstance(error, (ValueError, OSError)) else None


def reason(error: BaseException) -> str:
    """The first line of an error's message, fit to be printed; its kind where there is none."""
    return printable(next(iter(str(error).splitlines()), ""), 500) or type(error).__name__


@contextmanager
def plain_input_errors() -> Iterator[None]:
    """Raise faults of the input as they are, however deep in a config or a transform they were found.

    Raises:
        ValueError: what MONAI has wrapped.
        OSError: the same for files.
    """
    try:
        yield
    except RuntimeError as error:
        if (cause := input_error(error)) is None:
            raise
        raise cause from None


def described(error: BaseException) -> str:
    """A fault that is nobody's yet, in one line: the part of a config that failed, if one did, and why."""
    part = ""
    while type(error) is RuntimeError and error.__cause__ is not None:
        if found := re.match(r"Failed to instantiate component '([^']+)'", str(error)):
            part = f"{found[1]}: "
        error = error.__cause__
    remedy = "Correct what was given for it, or report it with"
    if is_out_of_memory(error):
        remedy = f"{less_memory()}; the rest is in"
    elif "deterministic" in str(error):
        remedy = (
            "The GPU has no algorithm for it that always gives the same bits: swap what calls it, train on "
            "a CPU, or set deterministic to false; the rest is in"
        )
    return f"{part}{type(error).__name__}: {reason(error).rstrip('.')}. {remedy}"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or what caused it, says that there is no memory left on the device or the host."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, MemoryError) or re.search("out of memory|can't allocate memory", str(found)):
            return True
        found = found.__cause__
    return False


def less_memory() -> str:
    """What takes less memory: the ids of what runs, with their present values."""
    if not SIZES:
        return "Leave the device to this alone, or take another, such as --device cpu"
    *others, last = (f"{name} (now {value})" for name, value in SIZES.items())
    named = f"{', '.join(others)} or {last}" if others else last
    return f"Lower {named}, or leave the device to this alone"


def last_words(error: BaseException) -> str | None:
    """What a command ends with instead of a traceback; None where that has to be seen.

    Faults of the input say what is wrong. Of other faults of a run that writes a log, the log has the
    traceback. Of several processes that train together, the first that fails says it for all; the others, and
    one that another one's end has ended, have an empty text.
    """
    from . import terminal  # which loads rich: only where something has gone wrong

    log = terminal.end(error)
    if LAUNCHED in os.environ:
        from . import processes  # which loads torch

        if not processes.speaks():
            return ""
        if processes.is_loss(error):
            return f"\nerror: {ANOTHER_ENDED}"
    if (cause := input_error(error)) is not None:
        return f"\nerror: {message(cause)}"
    if is_out_of_memory(error) and log is None:
        return f"\nerror: {described(error).removesuffix('; the rest is in')}."
    if log is None or terminal.State.verbose:
        return None
    if isinstance(error, KeyboardInterrupt):
        return "\nstopped; the same command goes on where it was"
    return f"\nerror: {described(error)} {log}"


def end_with_message(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print the last words of a command, or the traceback where there are none: a ``sys.excepthook``."""
    if (words := last_words(error)) is None and isinstance(error, KeyboardInterrupt):
        words = STOPPED
    if words is None:
        sys.__excepthook__(kind, error, trace)
    elif words:
        print(words, file=sys.stderr)


def message(error: BaseException) -> str:
    """What an error says, fit to be printed: names of files may hold anything."""
    if isinstance(error, OSError) and not isinstance(error, DiskError) and error.errno in FULL:
        error = disk_error(Path(error.filename or "its files"), error.errno)
    return "\n".join(printable(line, 2000) for line in str(error).splitlines())


def is_monais_command_line() -> bool:
    """Whether this process is ``python -m monai.bundle``, which knows nothing of this library."""
    specification = getattr(sys.modules["__main__"], "__spec__", None)
    return specification is not None and specification.name == "monai.bundle.__main__"
