"""Writing files so that nobody ever sees half of one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .wording import printable


@contextmanager
def replacing(path: str | Path, suffix: str = "") -> Iterator[Path]:
    """Give a neighbour of a file to write to; it takes the file's place once it is written.

    The folder is made if absent. When writing fails, the file stays as it was.

    Args:
        path: the file to write or replace.
        suffix: what the neighbour's name must end with, where the writer chooses the format by it.

    Yields:
        where to write.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial{suffix}")
    yield partial
    os.replace(partial, path)


def read_bounded(path: str | Path, limit: int, what: str) -> bytes:
    """The bytes of a file, once it is certain that it is one and not too big to be what it should be.

    Args:
        path: the file.
        limit: most bytes; no more are ever read.
        what: names in the message what is expected, such as "a datalist".

    Raises:
        FileNotFoundError: when there is nothing of that name.
        ValueError: for a folder, a device, a pipe, and for more bytes than `limit`.
    """
    name = printable(str(path), 500)
    if not os.path.exists(path):
        raise FileNotFoundError(f"Expected {what} at {name}: no such file.")
    if not os.path.isfile(path):
        raise ValueError(f"{name}: expected {what}, got a folder or a device; name a file.")
    with open(path, "rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"{name}: has more than {limit:,} bytes, too many for {what}; correct the path.")
    return content
