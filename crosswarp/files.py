"""Writing files so that nobody ever sees half of one, and reading them once."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .disk import explained, flush_to_disk, require_space
from .wording import printable

State = tuple[int, ...]
SETTLED = 10**8  # ns: a file written within this time may be written again without its state changing
_digests: dict[str, tuple[State, str]] = {}


@contextmanager
def replacing(
    path: str | Path, suffix: str = "", size: int = 0, ready: Callable[[Path], None] | None = None
) -> Iterator[Path]:
    """Give a neighbour of a file to write to; it takes the file's place once it is written, on the disk.

    The folder is made if absent. When writing fails, the file stays as it was.

    Args:
        path: the file to write or replace.
        suffix: what the neighbour's name must end with, where the writer chooses the format by it.
        size: bytes that there must be room for, where that is known before.
        ready: called with the neighbour once it is written, before it takes the file's place.

    Yields:
        where to write.

    Raises:
        DiskError: where the disk is full or may not be written to.
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}.partial{suffix}")
    with explained(path, partial):
        path.parent.mkdir(parents=True, exist_ok=True)
        if size:
            require_space(path, size)
        yield partial
        flush_to_disk(partial)
        if ready is not None:
            ready(partial)
        os.replace(partial, path)
        flush_to_disk(path.parent)


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


def file_state(path: str | Path) -> State:
    """Numbers that change when a file is written or replaced: device, inode, size, two times in ns.

    Raises:
        FileNotFoundError: when there is none.
    """
    found = os.stat(path)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file, read piece by piece, and once in a process as long as its state stays.

    Raises:
        FileNotFoundError: when there is no such file.
    """
    name, state = os.path.abspath(path), file_state(path)
    known = _digests.get(name)
    if known is not None and known[0] == state:
        return known[1]
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if time.time_ns() - max(state[3:]) > SETTLED:
        _digests[name] = state, digest
    return digest
