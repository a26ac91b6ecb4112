"""Networks that stay loaded while pairs of a table come by: read ahead, registered, and written for good."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import time
import uuid
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import rmtree
from threading import Lock
from typing import Any

import torch

from ..data.bids import bids_name
from ..data.pair_table import PairRow
from ..disk import DiskError, disk_error, explained, flush_to_disk, flushed_later
from ..errors import described, input_error
from ..wording import printable
from .jobs import DONE, ERROR, Job, Row, journal_rows
from .registrar import load
from .results import FILES, file_stem
from .runner import Item, Runner, SegmentedOnce
from .save_quality import SaveQualityd
from .save_quality import logger as quality_logger

AHEAD = 2  # pairs that are read while others are computed
GROUP, GROUP_SECONDS = 32, 2.0  # pairs, or time, after which files are on the disk and lines in the journal
_sessions: dict[str, PairSession] = {}


def session_of(job: Job) -> PairSession:
    """The session of a job in this process: its networks are loaded once."""
    key = repr(job)
    if key not in _sessions:
        _sessions.clear()
        _sessions[key] = PairSession(job)
    return _sessions[key]


class PairSession:
    """Registers pairs of a table with networks that stay loaded.

    Args:
        job: what the pairs have in common.

    Raises:
        FileNotFoundError: as :func:`~.registrar.load`.
        ValueError: the same.
    """

    def __init__(self, job: Job) -> None:
        torch.set_num_threads(job.threads)
        self.job, self.lock = job, Lock()
        self.registrar = load(job.models, **job.overrides)
        self.scratch = job.scratch / uuid.uuid4().hex
        self.images: OrderedDict[tuple[str, ...], Item] = OrderedDict()
        self.held = 0  # bytes
        self.kinds: dict[tuple[str, str], tuple[Runner, SegmentedOnce, Any, SaveQualityd]] = {}

    def kind(self, row: PairRow) -> tuple[Runner, SegmentedOnce, Any, SaveQualityd]:
        """Runner, network, postprocessing and judge of a row's modalities."""
        default = self.job.modalities
        modalities = (
            row.options.get("moving_modality", default[0]),
            row.options.get("fixed_modality", default[1]),
        )
        if modalities not in self.kinds:
            runner = self.registrar.runner(*modalities)
            size = 4 * runner.parsed("num_classes") * int(torch.Size(runner.parsed("spatial_size")).numel())
            calls = min(max(self.job.cache_mib * 2**20 // size, 2), 256)
            network = SegmentedOnce(runner.network, calls)
            post = runner.postprocessing(self.scratch, self.job.files)
            self.kinds[modalities] = runner, network, post, runner.component(SaveQualityd)
        return self.kinds[modalities]

    def register(self, rows: Sequence[PairRow], journal: Path) -> Counter[str]:
        """Register pairs; what cannot be registered is noted with its reason.

        Args:
            rows: of the table. Pairs that a journal of this name has, of a process that died, are left out.
            journal: where lines go, to its name with a part that is new.

        Returns:
            number of pairs by verdict, and of those that are an `error`.

        Raises:
            OSError: where results cannot be written.
        """
        torch.set_num_threads(self.job.threads)
        before = {
            row["id"]: row
            for path in journal.parent.glob(f"{journal.name}.*.jsonl")
            for row in journal_rows(path)
        }
        counts = Counter(_counted_as(row) for row in before.values())
        todo = deque(row for row in rows if row.id not in before)
        with (
            self.lock,
            _quiet(),
            ThreadPoolExecutor(1) as reader,
            Writer(self.job, self.scratch, journal) as writer,
        ):
            ahead: deque[tuple[PairRow, Future[Item]]] = deque()
            while todo or ahead:
                while todo and len(ahead) <= AHEAD:
                    ahead.append((todo[0], reader.submit(self.read, todo.popleft())))
                row, item = ahead.popleft()
                noted = self.one(row, item)
                writer.add(row, noted)
                counts[_counted_as(noted)] += 1
        return counts

    def one(self, row: PairRow, reading: Future[Item]) -> Row:
        """Register one pair into the scratch folder; its row of the table, without files."""
        told: Row = {"id": row.id, "moving": row.moving, "fixed": row.fixed, **row.options}
        told |= {"place": row.place, "out": self.job.out, "reasons": []}
        self.scratch.mkdir(parents=True, exist_ok=True)
        try:
            item = reading.result()
            runner, network, postprocess, judge = self.kind(row)
            item["pred"] = runner.predict([item], network)[0]
        except Exception as error:
            return told | {"status": ERROR, "error": _why(error)}
        try:
            with flushed_later():  # Writer does it, beside the next pairs
                item = postprocess(item)
            self.require_names(row)
            quality = item.get("quality") or judge.measure(item)
        except Exception as error:
            cause = input_error(error)
            if isinstance(cause, OSError) and cause.errno != errno.ENAMETOOLONG:
                raise cause from None  # of the folder, not of the pair
            return told | {"status": ERROR, "error": _why(error)}
        expected = (quality.get("expected_overlap") or {}).get("mean") or {}
        return told | {
            "status": DONE,
            "verdict": quality["verdict"],
            "expected_overlap": expected.get("value"),
            "expected_low": expected.get("low"),
            "expected_high": expected.get("high"),
            "reasons": quality["reasons"] + quality["notes"],
        }

    def require_names(self, row: PairRow) -> None:
        """Check that the files in the scratch folder can have the names that they are to have.

        Raises:
            DiskError: where a name is too long.
        """
        for path in self.scratch.iterdir():
            target = Path(self.job.out, place_of(row, path.name))
            with explained(target), suppress(FileNotFoundError):
                target.parent.mkdir(parents=True, exist_ok=True)  # else that is all that is found out
                os.lstat(target)

    def read(self, row: PairRow) -> Item:
        """Read and prepare both images of a pair; those that come again are kept.

        Raises:
            ValueError: with the faults of both.
            FileNotFoundError: where both or one are missing.
        """
        items, faults = [], list[Exception]()
        for key in ("moving", "fixed"):
            try:
                items.append(self.image(row, key))
            except (ValueError, OSError) as error:
                faults.append(error)
        if len(faults) == 1:
            raise faults[0]
        if faults:
            kind = FileNotFoundError if isinstance(faults[0], FileNotFoundError) else ValueError
            raise kind("; ".join(map(str, faults)))
        return self.kind(row)[0].pair(*items)

    def image(self, row: PairRow, key: str) -> Item:
        """One image, prepared; of those that are kept, the one that was not used for longest is given up."""
        runner = self.kind(row)[0]
        path = row.moving if key == "moving" else row.fixed
        options = row.options
        named = {f"{key}_pose": f"{key}_pose", f"{key}_input_side": f"{key}_side"}
        said = {name: options[column] for name, column in named.items() if column in options}
        known_as = (key, path, *runner.modalities, *said.values())
        if known_as in self.images:
            self.images.move_to_end(known_as)
            return self.images[known_as]
        item = self.images[known_as] = runner.preprocess_one(path, key, **said)
        self.held += _bytes(item)
        while self.held > self.job.cache_mib * 2**20 and len(self.images) > 2:
            self.held -= _bytes(self.images.popitem(last=False)[1])
        return item


class Writer:
    """Puts results in their places and lines in a journal, in this order, while others are computed.

    Files are written to a folder of their own. Some pairs together are then brought to the disk, renamed to
    their places, and only then noted: who dies in between leaves nothing that counts as done.

    Args:
        job: what the pairs have in common.
        scratch: where the files of one pair are written.
        journal: the file of lines, to whose name a part that is new is added.
    """

    def __init__(self, job: Job, scratch: Path, journal: Path) -> None:
        self.out, self.scratch = Path(job.out), scratch
        self.path = journal.with_name(f"{journal.name}.{uuid.uuid4().hex[:12]}.jsonl")
        self.group: list[tuple[PairRow, Row, Path | None]] = []
        self.pool = ThreadPoolExecutor(1)
        self.writing: Future[None] | None = None
        self.since, self.number = time.monotonic(), 0

    def __enter__(self) -> Writer:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.flush()
            if self.writing is not None:
                self.writing.result()
        finally:
            self.pool.shutdown()
            for folder in self.scratch.parent.glob(f"{self.scratch.name}*"):
                rmtree(folder, ignore_errors=True)

    def add(self, row: PairRow, noted: Row) -> None:
        """Take the files that are in the scratch folder as those of a pair."""
        staged = None
        if noted["status"] == DONE:
            self.number += 1
            staged = self.scratch.with_name(f"{self.scratch.name}-{self.number}")
            os.rename(self.scratch, staged)
        else:
            rmtree(self.scratch)
        self.group.append((row, noted, staged))
        if len(self.group) >= GROUP or time.monotonic() - self.since > GROUP_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Bring what there is to its place, in the background; waits for what was there before."""
        if self.writing is not None:
            self.writing.result()
        group, self.group, self.since = self.group, [], time.monotonic()
        self.writing = self.pool.submit(self._put, group) if group else None

    def _put(self, group: Sequence[tuple[PairRow, Row, Path | None]]) -> None:
        folders: set[Path] = set()
        for row, noted, staged in group:
            noted["files"], noted["digests"] = [], []
            for path in sorted(staged.iterdir()) if staged else ():
                place = place_of(row, path.name)
                with open(path, "rb") as file:
                    noted["digests"].append(hashlib.file_digest(file, "sha256").hexdigest())
                flush_to_disk(path)
                target = self.out / place
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, target)
                folders |= {target.parent, target.parent.parent}
                noted["files"].append(place)
            if staged:
                staged.rmdir()
        for folder in folders:
            flush_to_disk(folder)
        with explained(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(noted) + "\n" for _, noted, _ in group)
        flush_to_disk(self.path)


def place_of(row: PairRow, name: str) -> str:
    """Where a file of a pair goes within the output folder.

    Args:
        row: the pair.
        name: what `register` calls it: ``a_to_b_transform.h5``, ``a_moving_seg.nii.gz``.
    """
    stem = file_stem(name)
    suffix = name[len(stem) :]
    kinds = sorted(FILES, key=len, reverse=True)
    kind = next((each for each in kinds if stem.endswith(f"_{each}")), stem)
    if kind == "quality" and suffix != ".json":
        kind = "picture"
    if "|" in row.place:
        return bids_name(row.place, kind) + suffix
    return f"{row.place}_{kind}{suffix}"


def _counted_as(noted: Row) -> str:
    return ERROR if noted["status"] == ERROR else str(noted["verdict"])


def _why(error: Exception) -> str:
    cause = input_error(error)
    if isinstance(cause, OSError) and cause.errno == errno.ENAMETOOLONG and not isinstance(cause, DiskError):
        cause = disk_error(Path(cause.filename or "its files"), cause.errno)
    told = described(error).partition(" Correct")[0] if cause is None else " ".join(str(cause).split())
    return printable(told, 500)


def _bytes(item: Item) -> int:
    return sum(value.nbytes for value in item.values() if isinstance(value, torch.Tensor))


@contextmanager
def _quiet() -> Iterator[None]:
    """The table says what the log would say of every pair."""
    loggers = (quality_logger, logging.getLogger("monai.data.image_writer"))
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
