"""Many small pairs on Dask: workers killed on the way, a restart, and the bits of a single process.

    python benchmarks/many_pairs.py --pairs 20000 --kills 20 --folder runs/many_pairs

Makes a run with tiny networks and random weights, and images of 32 x 32 points. Then it

1. measures what a pair costs in a bare loop (read, predict, write, judge), in a table by one process, and on
   Dask with one worker, in turns; the cost of starting is left out;
2. registers a table of pairs on Dask, in a process of its own. Workers are killed (SIGKILL) at random times,
   and once the driver itself, scheduler included; the same command then goes on;
3. registers the same table in one process without an engine, and compares: pairs that are lost or doubled,
   rows of the table, and bytes of every file.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from shutil import rmtree
from typing import Any

import fire
import psutil  # noqa: I001 # comes with distributed
from common import ROOT, Row, report

from crosswarp.data.pair_table import pair_rows
from crosswarp.inference.dask_engine import on_dask
from crosswarp.inference.jobs import Finished, Job
from crosswarp.inference.ledger import Ledger
from crosswarp.inference.many_pairs import job_of, register_table, serially
from crosswarp.inference.pair_session import PairSession
from tests.cohorts import write_blob_cohort
from tests.trained_run import write_trained_run

MIB = 2**20


def make(folder: Path, pairs: int, size: int) -> tuple[Path, Path]:
    """A run, and a table: each moving image to each of some fixed ones."""
    moving = min(max(round((10 * pairs) ** 0.5), 4), pairs)
    fixed = -(-pairs // moving)
    datalist = write_blob_cohort(
        folder / "data", spatial_size=(size, size), train_unlabelled=moving, target=fixed
    )
    run = folder / "run"
    if not (run / "models" / "model.pt").is_file():
        write_trained_run(run, datalist, deformation=0.05)
    images = folder / "data" / "images"
    sides = [sorted(images.glob(f"{name}trainunlabelled*")) for name in ("warm", "cold")]
    rows = [f"{a.name},{b.name}" for a in sides[0] for b in sides[1]][:pairs]
    table = images / "pairs.csv"
    table.write_text("\n".join(["moving,fixed", *rows]) + "\n")
    return run, table


def bare(job: Job, table: Path, out: Path, count: int) -> float:
    """Seconds a pair in a loop that reads, predicts, writes and judges, and knows nothing of tables."""
    session = PairSession(job)
    rows = [row for row, _ in zip(pair_rows(table), range(count + 5), strict=False)]
    runner, _, _, judge = session.kind(rows[0])
    postprocess = runner.postprocessing(out, job.files)
    out.mkdir(parents=True, exist_ok=True)
    start = 0.0
    for number, row in enumerate(rows):
        if number == 5:  # the first ones load libraries
            start = time.perf_counter()
        item = runner.preprocess({"moving": row.moving, "fixed": row.fixed})
        item["pred"] = runner.predict([item])[0]
        item = postprocess(item)
        judge.measure(item)
    return (time.perf_counter() - start) / count


def per_pair(finished: Iterator[Finished], warm: int) -> tuple[float, int]:
    """Seconds a pair, by the wall, once some pairs are done."""
    done, counted, start = 0, 0, 0.0
    for each in finished:
        if start:
            counted += each.pairs
        done += each.pairs
        if not start and done >= warm:
            start = time.perf_counter()
    return (time.perf_counter() - start) / max(counted, 1), counted


def overhead(run: Path, table: Path, folder: Path, files: str, count: int, rounds: int) -> list[Row]:
    """Milliseconds a pair, the fastest of some rounds, in turns."""
    found: dict[str, float] = {}

    def chunks() -> Iterator[tuple[str, list[Any]]]:
        rows = sorted(pair_rows(table), key=lambda row: row.number)[: count + 50]
        yield from ((f"c{start:06}", rows[start : start + 50]) for start in range(0, len(rows), 50))

    for _ in range(rounds):
        for name in ("bare loop", "table, one process", "table, Dask, 1 worker"):
            out = folder / "overhead"
            rmtree(out, ignore_errors=True)
            job = job_of(
                str(run), str(out), ("source", "target"), files.split(","), 1, 256, {"device": "cpu"}
            )
            if name == "bare loop":
                seconds = bare(job, table, out, count)
            elif "Dask" in name:
                seconds, _ = per_pair(_until_end(on_dask(job, chunks(), out / "journal", None, 1)), 50)
            else:
                seconds, _ = per_pair(serially(job, chunks(), out / "journal"), 50)
            found[name] = min(seconds, found.get(name, seconds))
            print(f"{name}: {1e3 * seconds:.2f} ms a pair", flush=True)
    first = found["bare loop"]
    return [
        {"way": name, "ms a pair": 1e3 * each, "over the bare loop, %": 100 * (each / first - 1)}
        for name, each in found.items()
    ]


def _until_end(finished: Iterator[Finished]) -> Iterator[Finished]:
    """What an engine finishes; the time that it takes to close is nobody's."""
    yield from finished


def killed_run(command: list[str], kills: int, out: Path, pairs: int, seed: int) -> Row:
    """Register a table while workers are killed at random times, and the driver once; what happened."""
    rng, done, restarts, memory = random.Random(seed), 0, 0, list[tuple[int, float]]()
    at = sorted(rng.uniform(0.03, 0.95) for _ in range(kills))
    driver_at, start = rng.uniform(0.4, 0.6), time.perf_counter()
    log = open(out.with_suffix(".log"), "a", encoding="utf-8")
    process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    while process.poll() is None:
        time.sleep(1.0)
        share = _lines(out) / pairs
        driver = psutil.Process(process.pid)
        memory.append((_lines(out), driver.memory_info().rss / MIB))
        if not restarts and share > driver_at:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            restarts += 1
            process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        elif done < kills and share > at[done]:
            workers = [each for each in driver.children() if "spawn_main" in " ".join(each.cmdline())]
            workers = [each for each in workers if each.memory_info().rss > 200 * MIB]  # have networks
            if workers:
                os.kill(rng.choice(workers).pid, signal.SIGKILL)
                done += 1
    log.close()
    quarter = [value for count, value in memory if count > 0.25 * pairs and value > 200]
    return {
        "seconds": time.perf_counter() - start,
        "workers killed": done,
        "restarts": restarts,
        "exit status": process.returncode,
        "driver MiB, at a quarter": quarter[0] if quarter else None,
        "driver MiB, at the end": memory[-1][1] if len(quarter) < 2 else quarter[-1],
        "driver MiB, most": max(value for _, value in memory),
    }


def _lines(out: Path) -> int:
    """Pairs that are noted so far."""
    ledger, count = Ledger(out), 0
    for path in [*(out / "journal").glob("*/*.jsonl")]:
        try:
            count += path.read_bytes().count(b"\n")
        except FileNotFoundError:
            pass
    if ledger.pyarrow is not None:
        for path in ledger.parts():
            try:
                count += ledger.pyarrow.parquet.read_metadata(path).num_rows
            except (OSError, ValueError):
                pass
    return count


def rows_of(out: Path) -> tuple[dict[str, Any], int]:
    """The table by id, and how many rows are in it twice."""
    ledger = Ledger(out)
    rows = [row for path in (out / "table").iterdir() for some in ledger.read(path) for row in some]
    found = {row["id"]: row for row in rows}
    return found, len(rows) - len(found)


def compared(table: Path, out: Path, serial: Path) -> Row:
    """What is lost, doubled, or other than a single process writes."""
    wanted = {row.id for row in pair_rows(table)}
    (found, doubled), (expected, _) = rows_of(out), rows_of(serial)
    files = [name for row in expected.values() for name in row["files"]]
    return {
        "pairs": len(wanted),
        "lost": len(wanted - found.keys()),
        "doubled": doubled,
        "errors": sum(row["status"] != "done" for row in found.values()),
        "rows that differ": sum(found.get(name) != row for name, row in expected.items()),
        "files": len(files),
        "files that differ": sum((out / each).read_bytes() != (serial / each).read_bytes() for each in files),
    }


def main(
    folder: str = "runs/many_pairs",
    pairs: int = 20000,
    size: int = 32,
    kills: int = 20,
    workers: int = 2,
    files: str = "transform",
    measured: int = 400,
    rounds: int = 2,
    seed: int = 0,
    out: str | None = None,
) -> dict[str, Any]:
    """Measure the overhead, then kill workers on the way, and compare with a single process.

    Args:
        folder: for the run, the images and the results; what is there of an earlier call is removed.
        pairs: of the table.
        size: of the images, both axes.
        kills: workers to kill.
        workers: of Dask.
        files: what is written, beside the table.
        measured: pairs by which the overhead is measured.
        rounds: of measuring it; the fastest counts.
        seed: of the times of kills.
        out: file for the figures as JSON.
    """
    arguments = locals().copy()
    if isinstance(files, (tuple, list)):
        files = ",".join(files)
    place = Path(folder).absolute()
    run, table = make(place, pairs, size)
    rows = overhead(run, table, place, files, measured, rounds)
    dask, serial = place / "dask", place / "serial"
    for path in (dask, serial):
        rmtree(path, ignore_errors=True)
    command = [sys.executable, "-m", "crosswarp", "register", "--pairs", str(table), "--models", str(run)]
    command += ["--out", str(dask), "--files", files, "--device", "cpu", "--engine", "dask"]
    happened = killed_run([*command, "--workers", str(workers)], kills, dask, pairs, seed)
    print(json.dumps(happened), flush=True)
    job = job_of(str(run), str(serial), ("source", "target"), files.split(","), 1, 1024, {"device": "cpu"})
    start = time.perf_counter()
    register_table(table, job)
    happened["seconds, one process"] = time.perf_counter() - start
    happened |= compared(table, dask, serial)
    for name, value in happened.items():
        print(f"{name}: {value:.1f}" if isinstance(value, float) else f"{name}: {value}")
    return report("many_pairs", arguments, rows, out, killed=happened)


if __name__ == "__main__":
    fire.Fire(main, serialize=lambda _: None)
