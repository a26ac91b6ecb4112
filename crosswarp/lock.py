"""One process at a time writes to a folder; who it is, others are told."""

from __future__ import annotations

import getpass
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from .disk import explained
from .wording import printable

LOCK = ".writer.lock"
WRITER = ".writer.json"  # who has the lock


class BusyError(OSError):
    """A folder that another process writes to."""


class Writer:
    """The right to write to a folder, until it is released, forgotten, or the process ends in any way.

    A process may take it several times.

    Args:
        folder: made if absent.
        wait: seconds to wait for another process.

    Raises:
        BusyError: naming the process that writes there.
        DiskError: where the folder cannot be written to.
    """

    def __init__(self, folder: str | Path, wait: float = 0) -> None:
        self.folder = Path(folder)
        with explained(self.folder / LOCK):
            self.folder.mkdir(parents=True, exist_ok=True)
            self.lock = FileLock(self.folder.absolute() / LOCK, thread_local=False, is_singleton=True)
            with suppress(Timeout):
                self.lock.acquire(timeout=wait)
        if not self.lock.is_locked:
            raise BusyError(busy(self.folder))
        self.held = True
        if self.lock.lock_counter == 1:
            with suppress(OSError):  # it only says who
                (self.folder / WRITER).write_text(json.dumps(this_process()), encoding="utf-8")

    def release(self) -> None:
        """Let others write."""
        if self.held:
            self.held = False
            if self.lock.lock_counter == 1:
                for name in (
                    WRITER,
                    LOCK,
                ):  # who has opened the latter meanwhile sees that it is gone, and tries again
                    with suppress(OSError):
                        (self.folder / name).unlink()
            self.lock.release()

    def __del__(self) -> None:
        if getattr(self, "held", False):
            self.release()


@contextmanager
def one_writer(folder: str | Path, wait: float = 0) -> Iterator[None]:
    """Be the only process that writes to a folder; see :class:`Writer`."""
    writer = Writer(folder, wait)
    try:
        yield
    finally:
        writer.release()


def this_process() -> dict[str, str]:
    """What others are told of this process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in containers
        user = str(os.getuid())
    return {
        "process": str(os.getpid()),
        "user": user,
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:200],
    }


def busy(folder: Path) -> str:
    """Who writes to a folder, and what to do."""
    try:
        who = {
            key: printable(str(value), 200)
            for key, value in json.loads((folder / WRITER).read_text()).items()
        }
        said = "process {process} of {user} on {host} since {since} ({command})".format(**who)
    except (OSError, ValueError, KeyError, AttributeError):
        said = "another process"
    return f"{folder} is being written to by {said}: wait for it, end it, or choose another folder."
