"""What is done of many pairs: journals while they are computed, then parts of one table; nothing twice.

::

    out/job.json                     what decides the results: networks, options, files
    out/files/3fa/<id>_transform.h5  results; or names after BIDS, sub-01/xray/sub-01_from-xray_to-...
    out/journal/<shard>/*.jsonl      a line for each pair whose files are there, written last
    out/table/part-*.parquet         the lines of full journals, which are then removed (or .csv)
    out/table/errors-*.parquet       pairs that could not be registered, and why;
                                     out/errors.csv lists them
    out/partial/                     what is being written

A shard has one writer at a time, see ``crosswarp.lock``; a merge is the only one.

A pair is done when its line is in a journal or a part. A process that dies leaves at most files without a
line, which are written again, to the same bits and under the same names. What is done counts for a pair of
the same id, images and options; ids that were others' are refused. Images are the same where they have the
same path, or the same path relative to the output folder, so that a folder may be moved alone or with them;
what is in them is not compared. Pairs whose results would have the name of another id's are refused, too.
A folder that is copied from a part to another, or a journal that is not removed any more, doubles lines:
those are left out when next looked at.
"""

from __future__ import annotations

import csv
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.pair_table import (
    DIGEST,
    OPTIONS,
    digests,
    id_digest,
    pair_digest,
    require_pyarrow,
    result_names,
)
from ..files import replacing
from ..kept import read_json
from ..lock import one_writer
from ..runs.bundle import write_json
from .jobs import DONE, LISTS, Row, journal_rows

JOURNAL, TABLE = "journal", "table"
COLUMNS = (
    *("id", "moving", "fixed", *OPTIONS, "status", "verdict"),
    *("expected_overlap", "expected_low", "expected_high", "reasons", "files", "digests", "error"),
    *("place", "out"),
)
COMPARED = ("id", "moving", "fixed", *OPTIONS, "place", "out")  # out: the output folder when it was written
NUMBERS = ("expected_overlap", "expected_low", "expected_high")
PART_ROWS = 10_000  # of a part of the table, and what a driver holds in memory


class Known:
    """Ids that are done, 16 bytes each.

    Args:
        keys: digests of :func:`~..data.pair_table.digests`.
    """

    def __init__(self, keys: Sequence[NDArray[np.bytes_]] = ()) -> None:
        self.keys = np.unique(np.concatenate([np.empty(0, DIGEST), *keys]))

    def __len__(self) -> int:
        return len(self.keys)

    def has(self, identifiers: Sequence[str]) -> NDArray[np.bool_]:
        """Which ids are among them."""
        return self.holds(digests(identifiers))

    def holds(self, wanted: NDArray[np.bytes_]) -> NDArray[np.bool_]:
        """Which keys are among them."""
        if not len(self.keys):
            return np.zeros(len(wanted), bool)
        place = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return self.keys[place] == wanted


class Ledger:
    """The table of an output folder, and the journals that become part of it.

    Args:
        out: the output folder.
        shard: `i`, `n`; each shard has journals of its own.
    """

    def __init__(self, out: Path, shard: tuple[int, int] = (1, 1)) -> None:
        self.run, self.error_parts = uuid.uuid4().hex[:8], 0
        self.out, self.name = out, "{:0{width}}-of-{}".format(*shard, width=len(str(shard[1])))
        self.journals = out / JOURNAL / self.name
        try:
            self.pyarrow: Any = require_pyarrow("")
        except ValueError:
            self.pyarrow = None

    def claim(self, job: Mapping[str, Any]) -> None:
        """Note in the folder what decides its results; one process at a time.

        What a process leaves that was killed while it did so does not count as other things.

        Raises:
            ValueError: where it has results that other things decided.
        """
        path = self.out / "job.json"
        wanted = json.loads(json.dumps(job))
        if path.is_file():
            found = read_json(path)
            if other := [key for key in {*wanted, *found} if wanted.get(key) != found.get(key)]:
                raise ValueError(
                    f"Expected the {', '.join(sorted(other))} with which {self.out} was begun (see {path}), "
                    "got other ones: give the same, or another output folder."
                )
            return
        begun = ("SHA256SUMS", ".writer.", "job.json.partial")
        if self.out.is_dir() and not all(each.name.startswith(begun) for each in self.out.iterdir()):
            raise ValueError(
                f"Expected a folder of many pairs, or none yet, at {self.out}: it holds other things. "
                "Give another output folder."
            )
        write_json(path, wanted)

    @contextmanager
    def alone(self, every: bool = False) -> Iterator[None]:
        """Be the only process that writes for this shard, or for any.

        Raises:
            BusyError: where there is another one.
        """
        folders = [each for each in (self.out / JOURNAL).glob("*") if each.is_dir()] if every else []
        with ExitStack() as stack:
            for folder in folders or [self.journals]:
                stack.enter_context(one_writer(folder))
            yield

    # -- what is there ------------------------------------------------------------------------------------
    def parts(self, kind: str = "part") -> list[Path]:
        """Files of the table, `part` or `errors`."""
        return sorted((self.out / TABLE).glob(f"{kind}-*"))

    def done(self) -> Iterator[Row]:
        """The rows of what is done, with the columns `COMPARED`: of the parts and of all shards' journals."""
        for path in self.parts():
            for rows in self.read(path, COMPARED):
                yield from rows
        for path in sorted((self.out / JOURNAL).glob("*/*.jsonl")):
            yield from (row for row in journal_rows(path) if row["status"] == DONE)

    def known(self, files: Sequence[str]) -> tuple[Known, Known, Known]:
        """What is done: ids, pairs, and names of results.

        Args:
            files: what is written of a pair.

        Returns:
            keys of :func:`~..data.pair_table.id_digest`, :func:`~..data.pair_table.pair_digest`, and of
            :func:`~..data.pair_table.result_names`.
        """
        ids, pairs, names = bytearray(), bytearray(), bytearray()
        out = os.path.abspath(self.out)
        for row in self.done():
            names += b"".join(map(id_digest, result_names(row.get("place") or "", files)))
            ids += id_digest(row["id"])
            images = [
                {path, _moved(path, row.get("out") or out, out)} for path in (row["moving"], row["fixed"])
            ]
            for moving, fixed in product(*images):
                pairs += pair_digest(row["id"], moving, fixed, row)
        first, second, third = (Known([np.frombuffer(keys, DIGEST)]) for keys in (ids, pairs, names))
        return first, second, third

    def ids(self, path: Path) -> NDArray[np.bytes_]:
        """Digests of the ids of a part."""
        return digests([row["id"] for rows in self.read(path, ["id"]) for row in rows])

    def read(self, path: Path, columns: Sequence[str] = COLUMNS) -> Iterator[list[Row]]:
        """Rows of a part, some at a time."""
        if path.suffix == ".parquet":
            parquet = (self.pyarrow or require_pyarrow(f"to read {path}")).parquet
            for batch in parquet.ParquetFile(path).iter_batches(8192, columns=list(columns)):
                yield batch.to_pylist()
            return
        with open(path, encoding="utf-8", newline="") as file:
            yield [_from_text(row) for row in csv.DictReader(file)]

    # -- what is written ----------------------------------------------------------------------------------
    def compact(self, journals: Iterable[Path], known: Known | None = None, errors: bool = True) -> int:
        """Put the pairs of journals that nobody writes any more into parts, and remove the journals.

        Args:
            journals: files.
            known: ids that the table has already.
            errors: keep those, too; those of a run that was interrupted are tried again.

        Returns:
            number of done pairs that came to the table.
        """
        count, rows, read = 0, dict[str, Row](), list[Path]()
        for path in journals:
            read.append(path)
            for row in journal_rows(path):
                if row["status"] == DONE or (errors and row["id"] not in rows):
                    rows[row["id"]] = row
            if len(rows) >= PART_ROWS:
                count += self._put(rows, read, known)
                rows, read = {}, []
        return count + self._put(rows, read, known)

    def _put(self, rows: dict[str, Row], read: Sequence[Path], known: Known | None) -> int:
        new = list(rows.values())
        if known is not None and new:
            there = known.has(list(rows))
            new = [row for row, is_there in zip(new, there, strict=True) if not is_there]
        done = [row for row in new if row["status"] == DONE]
        if done:
            self.write("part", done)
        if len(done) < len(new):
            self.error_parts += 1
            errors = [row for row in new if row["status"] != DONE]
            self.write("errors", errors, f"{self.name}-{self.run}-{self.error_parts:04}")
        for path in read:
            path.unlink(missing_ok=True)
        return len(done)

    def write(self, kind: str, rows: Sequence[Row], name: str | None = None) -> Path:
        """Write a part of the table; the same pairs make a part of the same name.

        Args:
            kind: `part` or `errors`.
            rows: of `COLUMNS`.
            name: of the part; by default from its ids.
        """
        rows = sorted(rows, key=lambda row: row["id"])
        name = name or sha256("\n".join(row["id"] for row in rows).encode()).hexdigest()[:16]
        suffix = ".csv" if self.pyarrow is None else ".parquet"
        path = self.out / TABLE / f"{kind}-{name}{suffix}"
        with replacing(path) as partial:
            if self.pyarrow is None:
                write_csv(partial, COLUMNS, map(_as_text, rows))
            else:
                texts, numbers = self.pyarrow.string(), self.pyarrow.float64()
                kinds = dict.fromkeys(NUMBERS, numbers) | dict.fromkeys(LISTS, self.pyarrow.list_(texts))
                schema = self.pyarrow.schema([(each, kinds.get(each, texts)) for each in COLUMNS])
                table = self.pyarrow.Table.from_pylist(
                    [{key: row.get(key) for key in COLUMNS} for row in rows], schema=schema
                )
                self.pyarrow.parquet.write_table(table, partial, compression="zstd")
        return path

    def list_errors(self) -> int:
        """End a run: failures of former ones are forgotten; the others are listed in ``errors.csv``.

        Returns:
            number of pairs that are errors.
        """
        for path in self.parts(f"errors-{self.name}"):
            if not path.name.startswith(f"errors-{self.name}-{self.run}-"):
                path.unlink()
        parts = self.parts(f"errors-{self.name}")
        name = "errors.csv" if self.name == "1-of-1" else f"errors-{self.name}.csv"
        return self.write_list(name, (row for path in parts for rows in self.read(path) for row in rows))

    def write_list(self, name: str, rows: Iterable[Row]) -> int:
        """Write pairs, and why they are listed, as a table of text; none if there are none.

        Returns:
            their number.
        """
        count = 0

        def counted() -> Iterator[Row]:
            nonlocal count
            for row in rows:
                count += 1
                yield row

        with replacing(self.out / name) as partial:
            write_csv(partial, ("id", "moving", "fixed", "error"), counted())
        if not count:
            (self.out / name).unlink()
        return count

    def without_doubles(self) -> tuple[Known, list[Row]]:
        """Take out of the table what stands there twice, and failures of what is done.

        Returns:
            ids of the done pairs, and the rows of errors.
        """
        ids = {path: self.ids(path) for path in self.parts()}
        known = Known(list(ids.values()))
        if sum(map(len, ids.values())) > len(known):
            self._drop_doubles(ids)
        errors = {row["id"]: row for path in self.parts("errors") for rows in self.read(path) for row in rows}
        done = known.has(list(errors))
        return known, [row for row, is_done in zip(errors.values(), done, strict=True) if not is_done]

    def _drop_doubles(self, ids: Mapping[Path, NDArray[np.bytes_]]) -> None:
        keys, counts = np.unique(np.concatenate(list(ids.values())), return_counts=True)
        doubled, seen = keys[counts > 1], set[str]()
        for path, own in ids.items():
            if not np.isin(own, doubled).any():
                continue
            rows = [row for some in self.read(path) for row in some]
            new = [row for row in rows if row["id"] not in seen]
            seen |= {row["id"] for row in new}
            if new and len(new) < len(rows):
                self.write("part", new, uuid.uuid4().hex[:16])
            if len(new) < len(rows):
                path.unlink()


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table of text in UTF-8."""
    with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def _moved(path: str, before: str, now: str) -> str:
    """Where an image is that moved with the output folder."""
    return path if before == now else os.path.normpath(os.path.join(now, os.path.relpath(path, before)))


def _as_text(row: Row) -> Row:
    return row | {key: json.dumps(row.get(key) or []) for key in LISTS}


def _from_text(row: Mapping[str, str]) -> Row:
    found: Row = {key: value or None for key, value in row.items()}
    found |= {key: json.loads(row[key] or "[]") for key in LISTS if key in row}
    return found | {key: float(row[key]) if row[key] else None for key in NUMBERS if key in row}
