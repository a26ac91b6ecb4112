"""Tables of pairs, registered by one process, by shards or by an engine; interrupted at will, and merged."""

from __future__ import annotations

import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np

from .. import __version__
from ..data.bids import dataset_description
from ..data.pair_table import (
    DIGEST,
    MODALITIES,
    OPTIONS,
    PairRow,
    digests,
    id_digest,
    pair_digest,
    pair_rows,
    remedy,
    result_names,
    survey,
)
from ..errors import plain_input_errors
from ..files import file_digest, replacing
from ..lock import one_writer
from ..runs.bundle import INFERENCE, WEIGHTS
from ..terminal import PLAIN_LINES, LiveLine, duration
from ..wording import printable, shown
from .jobs import ERROR, Chunk, Finished, Job, Row
from .ledger import JOURNAL, PART_ROWS, Known, Ledger
from .pair_session import session_of
from .registrar import config_for
from .results import FILES

logger = logging.getLogger(__name__)

WINDOW = 20_000  # rows that are read and sorted together, so that images that come again come together
SECONDS, LEAST, MOST = 10.0, 4, 1000  # of a chunk: how long it is to take, and its pairs
TABLE = "table"  # of `files`: no files at all, but the table, which is always written
BEGIN_SECONDS = 60  # to wait for other shards, each of which writes a file or two when it begins
MOST_NAMED = 20  # rows in a message
UNDECIDING = ("device",)  # overrides that decide where, not what
ERROR_STATUS = 10  # of the exit status: what the number of pairs is added to that are not done


class Plan:
    """Pairs of a table that are not done, in chunks that take about as long.

    Args:
        table: the file.
        shard: see :func:`~..data.pair_table.pair_rows`.
        ledger: of the output folder.

    Attributes:
        known: what is done.
        skipped: pairs that were done, so far.
    """

    def __init__(self, table: Path, shard: tuple[int, int], ledger: Ledger) -> None:
        self.table, self.shard, self.ledger = table, shard, ledger
        self.known, self.size, self.skipped = Known(), LEAST, 0

    def chunks(self) -> Iterator[Chunk]:
        """Chunks, as they are asked for."""
        number, rows = 0, pair_rows(self.table, self.shard)
        while window := list(islice(rows, WINDOW)):
            done = self.known.has([row.id for row in window])
            todo = [row for row, is_done in zip(window, done, strict=True) if not is_done]
            self.skipped += len(window) - len(todo)
            todo = together(todo)
            while todo:
                chunk, todo = todo[: self.size], todo[self.size :]
                number += 1
                yield f"{self.ledger.run}-{number:08}", chunk

    def learn(self, finished: Finished) -> None:
        """Let the next chunks take as long as they should."""
        if finished.pairs and finished.seconds > 0:
            wanted = int(SECONDS * finished.pairs / finished.seconds)
            self.size = max(LEAST, min(wanted, 4 * self.size, MOST))


def known_of(table: Path, shard: tuple[int, int], ledger: Ledger, files: Sequence[str]) -> Known:
    """Ids that are done, once it is certain that they are done of the images and options of a table.

    Args:
        table: the file.
        shard: see :func:`~..data.pair_table.pair_rows`.
        ledger: of the output folder.
        files: what is to be written, where nothing is to be overwritten by it.

    Raises:
        ValueError: naming up to 20 rows whose ids, or names of results, are those of others.
    """
    known, pairs, names = ledger.known(files)
    rows, others = pair_rows(table, shard), dict[bytes, PairRow]()
    while len(known) and len(others) < MOST_NAMED and (window := list(islice(rows, WINDOW))):
        keys = b"".join(pair_digest(row.id, row.moving, row.fixed, row.options) for row in window)
        done = known.has([row.id for row in window])
        other = done & ~pairs.holds(np.frombuffer(keys, DIGEST))
        others |= {id_digest(window[i].id): window[i] for i in np.flatnonzero(other)[:MOST_NAMED]}
        new = [
            (name, row)
            for row, is_done in zip(window, done, strict=True)
            if not is_done
            for name in result_names(row.place, files)
        ]
        taken = names.has([name for name, _ in new])
        others |= {id_digest(new[i][0]): new[i][1] for i in np.flatnonzero(taken)[:MOST_NAMED]}
    if others:
        faults = [
            f"row {row.number}: {shown(row.id)} is done of {_of(was)}, but now is of "
            + _of(vars(row) | row.options)
            if id_digest(name) == id_digest(row.id)
            else f"row {row.number}: its results would overwrite those of {shown(was['id'])}, "
            f"{printable(name, 300)}; {remedy(row.place)}"
            for was in ledger.done()
            for name in (was["id"], *result_names(was.get("place") or "", files))
            if (row := others.get(id_digest(name)))
        ]
        said = (
            f"{table}: expected ids and results that are new to {ledger.out}, or pairs as they are done "
            "there. Give these pairs other ids, or another output folder (--out); nothing was changed:"
        )
        raise ValueError("\n- ".join([said, *faults[:MOST_NAMED]]))
    return known


def _of(row: Mapping[str, Any]) -> str:
    """The images and options of a row, for messages."""
    options = [f"{name} {row[name]}" for name in OPTIONS if row.get(name)]
    return printable(", ".join([row["moving"], row["fixed"], *options]), 500)


def together(rows: list[PairRow]) -> list[PairRow]:
    """Sort pairs so that those of one image follow each other: of the kind that comes again more often."""
    kinds = sorted((lambda row: row.moving, lambda row: row.fixed), key=lambda of: len({*map(of, rows)}))
    return sorted(rows, key=lambda row: [of(row) for of in kinds])


def serially(job: Job, chunks: Iterator[Chunk], journals: Path) -> Iterator[Finished]:
    """Register chunks in this process."""
    session = session_of(job)
    for name, rows in chunks:
        start = time.monotonic()
        counts = session.register(rows, journals / name)
        yield Finished(name, len(rows), time.monotonic() - start, counts)


@plain_input_errors()
def register_table(
    pairs: Path,
    job: Job,
    shard: tuple[int, int] = (1, 1),
    engine: Callable[[Job, Iterator[Chunk], Path], Iterator[Finished]] = serially,
) -> Counter[str]:
    """Register what is missing of a table of pairs.

    Args:
        pairs: see :func:`~..data.pair_table.pair_rows`.
        job: what the pairs have in common.
        shard: see :func:`~..data.pair_table.pair_rows`.
        engine: registers chunks; yields what is finished, in any order.

    Returns:
        number of pairs that were done `before`, of those that are an `error`, and of this call's other ones
        by verdict.

    Raises:
        FileNotFoundError: where the table or the networks are missing.
        ValueError: for a table with faults, and a folder that has results of something else, or of other
            images or options under the same ids.
        OSError: where the folder cannot be written to, or another process registers the same shard.
    """
    count, bids = survey(pairs, job.files)
    count = len(range(shard[0] - 1, count, shard[1]))
    ledger = Ledger(Path(job.out), shard)
    with one_writer(ledger.out, BEGIN_SECONDS):  # all shards may start at once
        ledger.claim(job.decided_by)
        if bids:
            with replacing(ledger.out / "dataset_description.json") as path:
                path.write_text(dataset_description(__version__), encoding="utf-8")
    with ledger.alone():
        return _register(Plan(pairs, shard, ledger), replace(job, shard=ledger.name), count, engine)


def _register(
    plan: Plan, job: Job, count: int, engine: Callable[[Job, Iterator[Chunk], Path], Iterator[Finished]]
) -> Counter[str]:
    ledger = plan.ledger
    left_over = sorted(ledger.journals.glob("*.jsonl"))
    if left_over:  # to know what is there already, all of the table is read
        ledger.compact(left_over, Known([ledger.ids(path) for path in ledger.parts()]), errors=False)
    rmtree(job.scratch, ignore_errors=True)
    plan.known = known_of(plan.table, plan.shard, ledger, job.files)
    counts, names, noted = Counter[str](), list[str](), 0
    with Progress(count, plan) as progress:
        for finished in engine(job, plan.chunks(), ledger.journals):
            plan.learn(finished)
            counts.update(finished.counts)
            names.append(finished.name)
            noted += finished.pairs
            progress.show(counts)
            if noted >= PART_ROWS:
                ledger.compact(journals_of(ledger, names))
                names, noted = [], 0
    ledger.compact(journals_of(ledger, names))
    rmtree(job.scratch, ignore_errors=True)
    return Counter(dict(counts) | {"before": plan.skipped, ERROR: ledger.list_errors()})


def journals_of(ledger: Ledger, names: Sequence[str]) -> list[Path]:
    """All journals of chunks, of workers that died, too."""
    wanted = set(names)
    return [path for path in sorted(ledger.journals.glob("*.jsonl")) if path.name.partition(".")[0] in wanted]


def merge(pairs: Path, out: Path) -> tuple[int, int, int]:
    """Put the tables of all shards together, without doubles, and list what is an error and what is missing.

    Args:
        pairs: the table of pairs.
        out: the output folder.

    Returns:
        number of done pairs of the table, of errors and of missing ones.

    Raises:
        BusyError: where a shard still runs.
        FileNotFoundError: where there is no such folder or table.
        ValueError: for a table with faults, and ids that are done of other images or options.
    """
    if not (out / "job.json").is_file():
        raise FileNotFoundError(f"Expected a folder of many pairs at {out}: it has no job.json.")
    survey(pairs)
    ledger = Ledger(out)
    with ledger.alone(every=True):
        return _merge(pairs, ledger)


def _merge(pairs: Path, ledger: Ledger) -> tuple[int, int, int]:
    journals = sorted((ledger.out / JOURNAL).glob("*/*.jsonl"))
    ledger.compact(journals, Known([ledger.ids(path) for path in ledger.parts()]))
    known_of(pairs, (1, 1), ledger, ())
    known, errors = ledger.without_doubles()
    for path in [*ledger.parts("errors"), *ledger.out.glob("errors*.csv")]:
        path.unlink()
    if errors:
        ledger.write("errors", errors, "all")
    ledger.write_list("errors.csv", errors)
    tried = Known([known.keys, digests([row["id"] for row in errors])])
    done = 0

    def missing() -> Iterator[Row]:
        nonlocal done
        rows = pair_rows(pairs)
        while window := list(islice(rows, WINDOW)):
            ids = [row.id for row in window]
            done += int(known.has(ids).sum())
            for row, is_there in zip(window, tried.has(ids), strict=True):
                if not is_there:
                    yield {"id": row.id, "moving": row.moving, "fixed": row.fixed, "error": "not computed"}

    absent = ledger.write_list("missing.csv", missing())
    return done, len(errors), absent


class Progress:
    """How many pairs are done, how fast, and how long the others will take: a bar, or plain lines."""

    def __init__(self, total: int, plan: Plan) -> None:
        self.total, self.plan = total, plan
        self.line = LiveLine("pairs", total)
        self.start, self.told = time.monotonic(), 0

    def __enter__(self) -> Progress:
        self.line.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.line.stop()

    def show(self, counts: Mapping[str, int]) -> None:
        """Show what is done."""
        new, seconds = sum(counts.values()), time.monotonic() - self.start
        done = new + self.plan.skipped
        said = f"{done:,} of {self.total:,}, {new / seconds:.3g} pairs/s"
        if counts.get(ERROR):
            said += f", {counts[ERROR]:,} errors"
        self.line.said, self.line.before, self.line.start = said, self.plan.skipped, self.start
        self.line.advance(done - self.line.done)
        tenth = PLAIN_LINES * done // max(self.total, 1)
        if new and not self.line.live and tenth > self.told:
            self.told = tenth
            left = duration(seconds / new * (self.total - done))
            logger.info(f"  pairs: {said}, {left} left")


def job_of(
    models: str,
    out: str,
    modalities: tuple[str, str],
    files: Sequence[str] | str | None,
    threads: int,
    cache_mib: int,
    overrides: Mapping[str, Any],
) -> Job:
    """What pairs have in common, checked.

    Raises:
        ValueError: naming all that cannot be, and ids that the config does not have.
        FileNotFoundError: where there are no networks.
    """
    wanted = [files] if isinstance(files, str) else list(FILES if files is None else files)
    faults = [
        f"--files: expected some of {', '.join([*FILES, TABLE])}, got {shown(name)}"
        for name in wanted
        if name not in (*FILES, TABLE)
    ]
    faults += [
        f"--{name}: expected source or target, got {shown(value)}"
        for name, value in zip(("moving_modality", "fixed_modality"), modalities, strict=True)
        if value not in MODALITIES
    ]
    faults += [
        f"--{name}: expected a positive number"
        for name, value in (("threads", threads), ("cache_mib", cache_mib))
        if value < 1
    ]
    if faults:
        raise ValueError("\n- ".join(["These options of register cannot be:", *faults]))
    path = Path(models).absolute()
    if path.is_file():
        networks = {"models": file_digest(path)}
    elif (path / INFERENCE).is_file() and (path / WEIGHTS).is_file():
        networks = {"config": file_digest(path / INFERENCE), "weights": file_digest(path / WEIGHTS)}
    else:
        raise FileNotFoundError(
            f"Expected a trained run, bundle or zip in {models}, but there is no {INFERENCE} and {WEIGHTS}: "
            "correct the path, or train the chain with `python -m crosswarp train`."
        )
    # what cannot be loaded must not become what a folder was begun with
    config_for(path, overrides.keys() - {"device", "trust"}, bool(overrides.get("trust")))
    chosen = tuple(name for name in FILES if name in wanted)
    deciding = {key: value for key, value in overrides.items() if key not in UNDECIDING}
    decided_by: dict[str, Any] = {
        "version": __version__,
        **networks,
        "modalities": modalities,
        "files": chosen,
    }
    decided_by |= {"ids": deciding, "threads": threads}
    return Job(
        str(path),
        str(Path(out).absolute()),
        modalities,
        chosen,
        dict(overrides),
        threads,
        cache_mib,
        decided_by,
    )


def shard_of(text: str) -> tuple[int, int]:
    """A shard as it is written, ``3/8`` for the third of eight.

    Raises:
        ValueError: for anything else.
    """
    found = re.fullmatch(r"\s*(\d{1,9})\s*/\s*(\d{1,9})\s*", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise ValueError(
            f"--shard: expected i/n with i from 1 to n, such as 1/8 to 8/8, got {printable(repr(text))}"
        )
    return int(found[1]), int(found[2])
