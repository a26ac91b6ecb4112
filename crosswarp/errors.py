"""Faults of the input, told apart from those of the program: who raises them, and how a command line ends."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from .wording import printable


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


def end_with_message(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print the message of an input error alone: a ``sys.excepthook`` for command lines."""
    if (cause := input_error(error)) is None:
        sys.__excepthook__(kind, error, trace)
    else:
        print(f"\nerror: {message(cause)}", file=sys.stderr)


def message(error: BaseException) -> str:
    """What an error says, fit to be printed: names of files may hold anything."""
    return "\n".join(printable(line, 2000) for line in str(error).splitlines())


def is_monais_command_line() -> bool:
    """Whether this process is ``python -m monai.bundle``, which knows nothing of this library."""
    specification = getattr(sys.modules["__main__"], "__spec__", None)
    return specification is not None and specification.name == "monai.bundle.__main__"
