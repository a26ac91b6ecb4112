"""Writing files so that nobody ever sees half of one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
