"""Pairs of files to register."""

from __future__ import annotations

from collections.abc import Sequence
from math import lcm
from pathlib import Path

from ..transforms.registration import file_stem

Paths = str | Sequence[str] | None


def pair_records(folder: str = ".", **files: Paths) -> list[dict[str, str]]:
    """Line files up as pairs, the first moving with the first fixed and so on; one file serves all pairs.

    Args:
        folder: what relative paths are relative to.
        files: ``moving``, ``fixed`` and whatever belongs to them (``moving_label``), each a path, a list or
            None.

    Returns:
        one record ``{"moving": path, "fixed": path, ...}`` for each pair.

    Raises:
        ValueError: when moving or fixed are not given, their numbers do not fit, or two files in different
            folders have one name, after which results are named.
        FileNotFoundError: naming every missing file.
    """
    lists = {key: [value] if isinstance(value, str) else list(value) for key, value in files.items() if value}
    absent = [key for key in ("moving", "fixed") if key not in lists]
    if absent:
        raise ValueError(
            f"Expected a path or a list of paths for {' and '.join(absent)}: give --moving A --fixed B."
        )
    count = max(map(len, lists.values()))
    wrong = {key: len(value) for key, value in lists.items() if len(value) not in (1, count)}
    if wrong:
        raise ValueError(f"Expected one file or {count} files of each kind, got {wrong}.")
    paths = {key: [str(Path(folder) / path) for path in value] for key, value in lists.items()}
    missing = sorted({path for value in paths.values() for path in value if not Path(path).exists()})
    if missing:
        raise FileNotFoundError("Expected files that are not there: " + ", ".join(missing))
    for key in ("moving", "fixed"):
        names: dict[str, set[str]] = {}
        for path in paths[key]:
            names.setdefault(file_stem(path), set()).add(path)
        alike = [sorted(found) for found in names.values() if len(found) > 1]
        if alike:
            raise ValueError(
                f"Expected {key} files of different names, since results are named after them and would "
                f"overwrite each other, got {alike}: rename them, or give each run its own output folder."
            )
    return [{key: value[i % len(value)] for key, value in paths.items()} for i in range(count)]


def spread_pairs(first: int, second: int, max_pairs: int | None = None) -> list[tuple[int, int]]:
    """Choose pairs of the members of two groups so that all are used, each about as often as the others.

    Args:
        first: members of the first group.
        second: members of the second group.
        max_pairs: most pairs; None for all of them.

    Returns:
        distinct pairs of numbers. The two groups are run through side by side, shifted by one whenever the
        same pairs would come again; so from `max(first, second)` pairs on, every member is used.

    Raises:
        ValueError: for a `max_pairs` below 1.
    """
    if max_pairs is not None and max_pairs < 1:
        raise ValueError(f"Expected at least one pair or null for all pairs, got max_pairs {max_pairs}.")
    total = first * second
    count = total if max_pairs is None else min(max_pairs, total)
    return [(i % first, (i + i // lcm(first, second)) % second) for i in range(count)]
