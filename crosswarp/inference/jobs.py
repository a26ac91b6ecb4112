"""What a driver tells its workers of many pairs, and they tell it: loaded before anything heavy is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ..data.pair_table import PairRow
from .results import FILES

PARTIAL = "partial"
DONE, ERROR = "done", "error"  # the status of a pair: registered, whatever the verdict, or not
LISTS = ("reasons", "files", "digests")  # columns of a pair's row that hold several

Row = dict[str, Any]
Chunk = tuple[str, list[PairRow]]  # what its journals are called, and its pairs


class Finished(NamedTuple):
    """A chunk that is done.

    Attributes:
        name: of its journals.
        pairs: how many.
        seconds: that it took.
        counts: pairs by verdict, and those that are an `error`.
    """

    name: str
    pairs: int
    seconds: float
    counts: Mapping[str, int]


@dataclass(frozen=True)
class Job:
    """What all pairs of a table have in common.

    Attributes:
        models: a trained run, bundle or zip.
        out: the output folder, absolute.
        modalities: of moving and fixed images, where the table says nothing.
        files: what to write of :data:`~.results.FILES`.
        overrides: ids of the inference config.
        threads: with which to compute: the last bits depend on it.
        cache_mib: of memory for images that come again.
        decided_by: digests of what decides results.
        shard: that this process works for.
    """

    models: str
    out: str
    modalities: tuple[str, str] = ("source", "target")
    files: tuple[str, ...] = FILES
    overrides: dict[str, Any] = field(default_factory=dict)
    threads: int = 1
    cache_mib: int = 1024
    decided_by: dict[str, Any] = field(default_factory=dict)
    shard: str = ""

    @property
    def scratch(self) -> Path:
        """Where files are written that do not count yet."""
        return Path(self.out) / PARTIAL / self.shard


def journal_rows(path: Path) -> Iterator[Row]:
    """The rows of a journal; a line that was cut short counts as not written."""
    try:
        with open(path, encoding="utf-8") as file:
            for line in file:
                try:
                    row = json.loads(line)
                except ValueError:
                    continue
                if isinstance(row, dict) and "id" in row and "status" in row:
                    yield row
    except FileNotFoundError:  # it has become a part meanwhile
        return
