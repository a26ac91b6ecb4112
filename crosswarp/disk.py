"""Disks that are full, limited or read-only: seen before something is written, and said in one line."""

from __future__ import annotations

import errno
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

# what keeps a file from being written that no other content would change
REFUSALS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "your quota is used up",
    errno.EFBIG: "the file would be larger than this process may write (ulimit -f)",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "you may not write there",
    errno.EPERM: "you may not write there",
    errno.EIO: "the disk reports an error of its own",
    errno.ENAMETOOLONG: "its name is longer than the file system takes",
}
REMEDIES = {
    errno.ENOSPC: "Free some",
    errno.EDQUOT: "Free some of it, or have it raised",
    errno.EFBIG: "Raise the limit",
    errno.EIO: "Look after the disk",
    errno.ENAMETOOLONG: "Shorten the names that it is made of",
}
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}  # whoever raises them
_later: ContextVar[bool] = ContextVar("later", default=False)
PROBE = 2**20  # bytes: what a full disk has no room for


class DiskError(OSError):
    """A file that could not be written, for want of room or permission; says what to do."""


def in_bytes(size: int) -> str:
    """A size as people read it, such as ``3.2 MiB``."""
    amount, units = float(size), ["bytes", "KiB", "MiB", "GiB"]
    while amount >= 1024 and len(units) > 1:
        amount, units = amount / 1024, units[1:]
    return f"{amount:.4g} {units[0]}"


def nearest_folder(path: Path) -> Path:
    """A folder that is there: the path itself, or the nearest above it."""
    return next((each for each in (path, *path.absolute().parents) if each.is_dir()), Path("/"))


def disk_error(path: Path, code: int, needed: str = "") -> DiskError:
    """The error that says why a file could not be written, how much room there is, and what to do.

    Args:
        path: of the file.
        code: the system's ``errno``, one of `REFUSALS`.
        needed: how much it takes, in words, where that is known.
    """
    folder = nearest_folder(path.parent)
    said = [f"{needed} needed"] if needed else []
    if code in (errno.ENOSPC, errno.EDQUOT):
        with suppress(OSError):
            said.append(f"{in_bytes(shutil.disk_usage(folder).free)} free on the disk of {folder}")
    if code == errno.EFBIG:
        said.append(f"the limit is {in_bytes(resource.getrlimit(resource.RLIMIT_FSIZE)[0])}")
    remedy = REMEDIES.get(code, "Choose another folder, or change what may be written there")
    room = f" ({', '.join(said)})" if said else ""
    error = DiskError(
        f"Cannot write {path}: {REFUSALS[code]}{room}. {remedy}, then give the same command again: what was "
        "done is not lost."
    )
    error.errno = code
    return error


def refusal(error: BaseException, partial: Path) -> int | None:
    """The system's number for why a file could not be written; None where it is not the disk's fault.

    Libraries that write by themselves raise errors of their own kinds: then the unfinished file is written
    on, and the system asked again.

    Args:
        error: what was raised.
        partial: the unfinished file.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in REFUSALS else None
    if not isinstance(error, (OSError, RuntimeError)):
        return None
    try:
        with open(partial, "ab") as file:
            file.write(bytes(PROBE))
            file.flush()
            os.fsync(file.fileno())
    except OSError as found:
        return found.errno if found.errno in REFUSALS else None
    return None


def require_space(path: Path, size: int, largest: int = 0, what: str = "") -> None:
    """Check that what is about to be written has room.

    Args:
        path: a file, in the folder where it will be.
        size: bytes in all.
        largest: bytes of the largest file among it, if there are several.
        what: is to be written, for the message.

    Raises:
        DiskError: with the size needed and the size free.
    """
    needed = f"{in_bytes(size)}{what and f' for {what}'}"
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit != resource.RLIM_INFINITY and (largest or size) > limit:
        raise disk_error(path, errno.EFBIG, needed)
    found = os.statvfs(nearest_folder(path.parent))
    if found.f_blocks and size > found.f_bavail * found.f_frsize:
        raise disk_error(path, errno.ENOSPC, needed)


@contextmanager
def explained(path: str | Path, partial: Path | None = None) -> Iterator[None]:
    """Say in one line why a file could not be written, where the disk is the reason.

    Args:
        path: the file.
        partial: what is written in its stead, removed where it cannot be finished.

    Raises:
        DiskError: in place of what the writer raised.
    """
    path = Path(path)
    try:
        yield
    except DiskError:
        raise
    except (OSError, RuntimeError) as error:
        partial = partial or path
        size = f"more than {in_bytes(partial.stat().st_size)}" if os.path.isfile(partial) else ""
        code = refusal(error, partial)
        if partial != path:
            with suppress(OSError):
                partial.unlink()
        if code is None:
            raise
        raise disk_error(path, code, size) from error


def allocate(path: Path) -> None:
    """Fill the holes of a file on the disk, so that writing to its memory map cannot fail (``SIGBUS``).

    Raises:
        OSError: where there is no room for it.
    """
    with open(path, "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)


@contextmanager
def flushed_later() -> Iterator[None]:
    """Within, this thread leaves files to its caller, who brings many to the disk together."""
    token = _later.set(True)
    try:
        yield
    finally:
        _later.reset(token)


def flush_to_disk(path: Path) -> None:
    """Have the system write a file, or a folder's names, to the disk itself."""
    if _later.get():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that know no such thing
            raise
    finally:
        os.close(descriptor)
