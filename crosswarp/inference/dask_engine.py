"""Chunks of pairs on Dask: local processes, or a cluster that there is."""

from __future__ import annotations

import json
import logging
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..data.pair_table import PairRow
from ..terminal import show_messages, silence_others
from .jobs import ERROR, LISTS, Chunk, Finished, Job, journal_rows

logger = logging.getLogger(__name__)

QUEUES = {
    name.lower(): f"{name}Cluster" for name in ("SLURM", "PBS", "LSF", "SGE", "OAR", "Moab", "HTCondor")
}
AHEAD = 2  # chunks for each thread of the workers: one that it has, one that waits
LEAST = 4  # chunks in flight, also before there are workers
DIED = "the process that registered it died each time: it may need more memory than a worker has"


def register_chunk(job: Job, rows: list[PairRow], journal: str) -> tuple[dict[str, int], float]:
    """What a worker does with a chunk; returns its counts and the seconds that it took."""
    from .pair_session import session_of

    start = time.monotonic()
    counts = session_of(job).register(rows, Path(journal))
    return dict(counts), time.monotonic() - start


def loaded_at_start(job: Job) -> Any:
    """A plugin by which each worker loads the networks once, when it starts."""
    from distributed import WorkerPlugin

    class Loaded(WorkerPlugin):
        name = "crosswarp"

        def setup(self, worker: Any) -> None:
            show_messages()  # before others are loaded, which say much
            from .pair_session import session_of

            session_of(job)
            silence_others()

    return Loaded()


def on_dask(
    job: Job,
    chunks: Iterator[Chunk],
    journals: Path,
    address: str | None = None,
    workers: int | None = None,
) -> Iterator[Finished]:
    """Register chunks on Dask, a few more at a time than there are threads.

    Args:
        job: what the pairs have in common.
        chunks: as they are asked for.
        journals: folder of the journals, which all workers see under this name.
        address: of a scheduler, ``tcp://...``, or a queueing system of `QUEUES`; None for processes here.
        workers: how many; all cores here, one job of a queueing system by default.

    Yields:
        what is finished.

    Raises:
        ValueError: where Dask is not installed, and for an address that is none.
        OSError: where the scheduler cannot be reached, or is gone, and where results cannot be written.
    """
    from .registrar import load

    load(job.models, **job.overrides)  # what is wrong with it is said here, before there are workers
    with connected(address, workers) as client:
        client.register_plugin(loaded_at_start(job))
        yield from InFlight(client, job, chunks, journals).finished()


class InFlight:
    """The chunks that Dask has at a time.

    Args:
        client: of a scheduler.
        job: what the pairs have in common.
        chunks: as they are asked for.
        journals: folder of the journals.
    """

    def __init__(self, client: Any, job: Job, chunks: Iterator[Chunk], journals: Path) -> None:
        from distributed import as_completed

        self.client, self.job, self.chunks, self.journals = client, job, chunks, journals
        self.tasks: dict[str, Chunk] = {}
        self.completed = as_completed()
        self.counted, self.room = 0.0, LEAST

    def finished(self) -> Iterator[Finished]:
        """What is finished, as it is; what waits is bounded, so that memory is."""
        from distributed import KilledWorker

        more = True
        while more or self.tasks:
            while more and len(self.tasks) < self.window():
                chunk = next(self.chunks, None)
                more = chunk is not None
                if chunk is not None:
                    self.submit(*chunk)
            if not self.tasks:
                return
            future = next(self.completed)
            name, rows = self.tasks.pop(future.key)
            try:
                counts, seconds = future.result()
            except KilledWorker:
                counts, seconds = self.killed(name, rows), 0.0
            yield Finished(name, sum(counts.values()), seconds, counts)

    def window(self) -> int:
        """How many chunks may be in flight; workers come and go."""
        if time.monotonic() - self.counted > 2:
            self.counted = time.monotonic()
            self.room = max(LEAST, AHEAD * sum(self.client.nthreads().values()))
        return self.room

    def submit(self, name: str, rows: list[PairRow]) -> None:
        """Hand a chunk to Dask, which gives it to another worker where one dies."""
        future = self.client.submit(
            register_chunk, self.job, rows, str(self.journals / name), key=f"pairs-{name}", pure=False
        )
        self.tasks[future.key] = name, rows
        self.completed.add(future)

    def killed(self, name: str, rows: list[PairRow]) -> dict[str, int]:
        """Several workers died of a chunk: its pairs are tried one by one, and one that kills is an error.

        Returns:
            counts of those of its pairs that are done.
        """
        done = {
            row["id"]: row for path in self.journals.glob(f"{name}.*.jsonl") for row in journal_rows(path)
        }
        counts = Counter(str(row.get("verdict") or ERROR) for row in done.values())
        left = [row for row in rows if row.id not in done]
        if len(rows) > 1:
            for number, row in enumerate(left):
                self.submit(f"{name}-{number:04}", [row])
            return dict(counts)
        for row in left:
            noted = {"id": row.id, "moving": row.moving, "fixed": row.fixed, **row.options, "status": ERROR}
            self.journals.mkdir(parents=True, exist_ok=True)
            path = self.journals / f"{name}.driver.jsonl"
            path.write_text(
                json.dumps(noted | {"error": DIED} | dict.fromkeys(LISTS, [])) + "\n", encoding="utf-8"
            )
            counts[ERROR] += 1
        return dict(counts)


@contextmanager
def connected(address: str | None, workers: int | None) -> Iterator[Any]:
    """A client of a cluster, whose dashboard is named; what was started for it ends with it."""
    try:
        import dask
        from distributed import Client, LocalCluster
        from distributed.client import FutureCancelledError
        from distributed.comm import CommClosedError
    except ImportError as error:
        raise ValueError(
            "Expected the package distributed for --engine dask: install crosswarp's extra `cohort` "
            "(pip install 'crosswarp[cohort]'), or leave the engine out; --shard needs none."
        ) from error
    settings = {"distributed.scheduler.worker-saturation": 1.0}
    cluster = None
    with dask.config.set(settings):
        if address is None:
            count = workers or os.cpu_count() or 1
            cluster = LocalCluster(
                n_workers=count,
                threads_per_worker=1,
                processes=True,
                dashboard_address=":0",
                silence_logs=logging.CRITICAL,
            )
        elif address.lower() in QUEUES:
            cluster = queue_cluster(address.lower(), workers or 1)
    try:
        try:
            client = Client(cluster if cluster is not None else address, timeout=30)
        except (OSError, TimeoutError, ValueError) as error:
            raise OSError(
                f"Expected a Dask scheduler at {address}, such as tcp://host:8786, but it does not answer: "
                "start one with `dask scheduler` and `dask worker`, or correct the address."
            ) from error
        with client:
            logger.info(f"Dask: {client.scheduler.address}, dashboard {client.dashboard_link}")
            try:
                yield client
            except (FutureCancelledError, CommClosedError, TimeoutError) as error:
                raise OSError(
                    f"The Dask scheduler {address or ''} is gone or has dropped the work: the same command "
                    "goes on where it was."
                ) from error
    finally:
        if cluster is not None:
            cluster.close()


def queue_cluster(name: str, workers: int) -> Any:
    """A cluster of jobs of a queueing system, which dask-jobqueue's own settings describe."""
    try:
        import dask_jobqueue
    except ImportError as error:
        raise ValueError(
            f"Expected the package dask-jobqueue for --address {name}: install crosswarp's extra `cohort` "
            "(pip install 'crosswarp[cohort]'), or use --shard in a job array."
        ) from error
    try:
        cluster = getattr(dask_jobqueue, QUEUES[name])()
    except ValueError as error:
        raise ValueError(
            f"{name}: {error}. Say cores, memory, queue and walltime of a job in "
            "~/.config/dask/jobqueue.yaml (see dask-jobqueue)."
        ) from error
    cluster.scale(workers)
    return cluster
