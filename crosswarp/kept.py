"""Files that later steps read: each has its SHA-256 in a table beside it, which is checked when it is read.

The table ``SHA256SUMS`` of a folder is one that ``sha256sum -c`` takes. It is written before a file takes its
place, and holds what the file was before, too: whenever a writer is killed, the file is one of the two. What
has no entry, as in runs of earlier versions, is taken as it is.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from .files import file_digest, replacing

logger = logging.getLogger(__name__)

TABLE = "SHA256SUMS"
HEAD, BEFORE = "# of the lines below: ", "# before: "
DAMAGED = ".damaged"  # what is set aside is called so
TWIN = ".copy"
AGAIN = "restore it, or give the command that made it again, which makes it anew"

Table = dict[str, list[str]]  # by name, the digest of a file and what it was before


class DamagedError(ValueError):
    """A file that is not what was written there.

    Attributes:
        path: of the file.
    """

    def __init__(self, path: Path, fault: str, remedy: str = AGAIN) -> None:
        super().__init__(f"{path} {fault}: {remedy}.")
        self.path = path


class GoneError(DamagedError, FileNotFoundError):
    """A file that was written and is not there any more."""


def table(folder: Path) -> Table | None:
    """The digests of a folder's files; None where the table itself is damaged."""
    try:
        head, _, lines = (folder / TABLE).read_bytes().partition(b"\n")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    if head != (HEAD + sha256(lines).hexdigest()).encode():
        return None
    found: Table = {}
    for line in lines.decode().splitlines():
        digest, _, name = line.removeprefix(BEFORE).partition("  ")
        found.setdefault(name, []).append(digest)
    return found


def record(folder: Path, digests: dict[str, str]) -> None:
    """Note what files of a folder are about to be, beside what they are.

    Args:
        folder: of the files.
        digests: by name.
    """
    if (known := table(folder)) is None:
        logger.warning(f"{folder / TABLE} is damaged: it is written anew, for the files that are.")
        set_aside(folder / TABLE)
        known = {}
    wanted = dict(known)
    for name, digest in digests.items():
        before = known.get(name, [])
        if len(before) > 1 and (folder / name).is_file():  # one of both, if the last writer was killed
            before = [each for each in before if each == file_digest(folder / name)] or before
        wanted[name] = list(dict.fromkeys([digest, *before[:1]]))
    if wanted == known:
        return
    lines = [
        f"{BEFORE * bool(place)}{digest}  {name}\n"
        for name, each in sorted(wanted.items())
        for place, digest in enumerate(each)
    ]
    text = "".join(lines).encode()
    with replacing(folder / TABLE) as partial:
        partial.write_bytes((HEAD + sha256(text).hexdigest()).encode() + b"\n" + text)


@contextmanager
def keeping(path: str | Path, previous: str | Path | None = None, size: int = 0) -> Iterator[Path]:
    """Replace a file that is read again later: :func:`~.files.replacing`, with its digest in the table.

    Args:
        path: the file.
        previous: where the one before goes, in the same folder; None where it is not needed any more.
        size: see :func:`~.files.replacing`.

    Yields:
        where to write.
    """
    path = Path(path)

    def ready(partial: Path) -> None:
        digests = {path.name: file_digest(partial)}
        known = table(path.parent) or {}
        if previous is not None and path.is_file():
            before = known[path.name][0] if path.name in known else file_digest(path)
            record(path.parent, digests | {Path(previous).name: before})
            os.replace(path, previous)
        else:
            record(path.parent, digests)

    with replacing(path, size=size, ready=ready) as partial:
        yield partial


@cache
def warn_of_damaged_table(file: Path) -> None:
    """Say, once, that what a folder holds cannot be checked."""
    logger.warning(
        f"{file} is damaged: the files beside it are read without being checked. Restore it, or copy the "
        "folder anew from where it came."
    )


def fault(path: str | Path) -> str:
    """What is wrong with a file that was written to be kept; empty where nothing is, or none was.

    Where the table is damaged nothing can be said, which is warned of once.
    """
    path = Path(path)
    if (digests := table(path.parent)) is None:
        warn_of_damaged_table(path.parent / TABLE)
    known = (digests or {}).get(path.name)
    if known is None:
        return ""
    if not path.is_file():
        return "is missing"
    return "" if file_digest(path) in known else "is damaged, or was changed"


def check(path: str | Path, remedy: str = AGAIN) -> Path:
    """Check that a file is what was written there; returns its path.

    Args:
        path: the file.
        remedy: what the user can do.

    Raises:
        DamagedError: where it is not.
        GoneError: where it is not there any more.
    """
    if found := fault(path):
        raise (DamagedError if Path(path).is_file() else GoneError)(Path(path), found, remedy)
    return Path(path)


def set_aside(path: Path) -> None:
    """Put a damaged file aside, as ``<name>.damaged``: nothing that a user may want is deleted."""
    if path.exists():
        os.replace(path, path.with_name(path.name + DAMAGED))


def whole(path: str | Path) -> bool:
    """Whether a file is there as it was written; one that is not is set aside, with a warning."""
    path = Path(path)
    if found := fault(path):
        there = path.exists()
        set_aside(path)
        aside = f", and set aside as {path.name}{DAMAGED}" if there else ""
        logger.warning(f"{path} {found}{aside}.")
    return path.is_file()


def is_kept(path: Path) -> bool:
    """Whether a file that has a twin is there, in either form."""
    return path.is_file() or path.with_name(path.name + TWIN).is_file()


def read_json(path: str | Path, remedy: str = AGAIN) -> Any:
    """The content of a JSON file, or of its twin where it has one and is damaged.

    Args:
        path: the file.
        remedy: what the user can do where it is damaged.

    Raises:
        DamagedError: for what is not what was written there, or no JSON.
        FileNotFoundError: where there is none.
    """
    path = Path(path)
    twin = path.with_name(path.name + TWIN)
    if twin.is_file() and (found := fault(path) or ("" if path.is_file() else "is missing")):
        logger.warning(f"{path} {found}: what its copy {twin.name} says is used.")
        path = twin
    try:
        return json.loads(check(path, remedy).read_text(encoding="utf-8"))
    except DamagedError:
        raise
    except ValueError as error:
        raise DamagedError(path, f"is no JSON ({error})", remedy) from error


def known_json(path: str | Path) -> dict[str, Any]:
    """What a JSON file that can be made again remembers; empty where there is none, or it is damaged.

    A damaged one is set aside.
    """
    path = Path(path)
    if not whole(path):
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if isinstance(found, dict):
        return found
    logger.warning(f"{path} is no JSON object any more, and set aside as {path.name}{DAMAGED}.")
    set_aside(path)
    return {}


def copy_to_twin(path: Path) -> None:
    """Write a copy of a file that cannot be made again; :func:`restore` puts it back."""
    with keeping(path.with_name(path.name + TWIN), size=path.stat().st_size) as partial:
        shutil.copyfile(path, partial)


def restore(path: Path) -> None:
    """Put a damaged or missing file back from its twin, if it has one."""
    twin = path.with_name(path.name + TWIN)
    if twin.is_file() and not fault(twin) and (fault(path) or not path.is_file()):
        whole(path)
        logger.warning(f"{path} is put back from its copy {twin.name}.")
        with keeping(path, size=twin.stat().st_size) as partial:
            shutil.copyfile(twin, partial)
