"""Many small pairs on Dask: workers killed on the way, a restart, and the bits of a single process.

    python benchmarks/many_pairs.py --pairs 20000 --kills 20 --folder runs/many_pairs

Makes a run with tiny networks and random weights, and small images. Then it

1. registers a table of pairs on Dask, in a process of its own. Workers are killed (SIGKILL) at random times,
   and once the driver itself, scheduler included; the same command then goes on;
2. registers the same table, or a share of it, in one process without an engine, at the same time, and
   compares: pairs that are lost or doubled, rows of the table, and bytes of every file;
3. measures what a pair costs in a bare loop (read, predict, write, judge), in a table by one process, and on
   Dask with one worker, in turns. CPU time of all processes counts, which other work on the machine leaves
   alone; the cost of starting is left out.
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
from itertools import islice
from pathlib import Path
from shutil import rmtree
from typing import Any

import fire
import psutil  # noqa: I001 # comes with distributed
from common import ROOT, Row, names, report

from crosswarp.data.pair_table import pair_rows
from crosswarp.inference.dask_engine import on_dask
from crosswarp.inference.jobs import Job
from crosswarp.inference.ledger import Ledger
from crosswarp.inference.many_pairs import job_of, serially
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


def cpu() -> float:
    """CPU seconds of this process and of those that it has started and that still run."""
    own = psutil.Process()
    times = [each.cpu_times() for each in (own, *own.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def bare(job: Job, table: Path, out: Path, count: int) -> Iterator[int]:
    """A loop that reads, predicts, writes and judges, and knows nothing of tables."""
    session = PairSession(job)
    rows = list(islice(pair_rows(table), count))
    runner, _, _, judge = session.kind(rows[0])
    postprocess = runner.postprocessing(out, job.files)
    out.mkdir(parents=True, exist_ok=True)
    for row in rows:
        item = runner.preprocess({"moving": row.moving, "fixed": row.fixed})
        item["pred"] = runner.predict([item])[0]
        item = postprocess(item)
        judge.measure(item)
        yield 1


def per_pair(finished: Iterator[int], warm: int) -> tuple[float, float]:
    """Milliseconds of CPU and of the wall a pair, once some pairs are done and until the last one is."""
    done, counted, start, now = 0, 0, (0.0, 0.0), (0.0, 0.0)
    for pairs in finished:
        now, done = (cpu(), time.perf_counter()), done + pairs
        if start[1]:
            counted += pairs
        elif done >= warm:
            start = now
    used, waited = (1e3 * (b - a) / max(counted, 1) for a, b in zip(start, now, strict=True))
    return used, waited


def overhead(run: Path, table: Path, folder: Path, files: list[str], count: int, rounds: int) -> list[Row]:
    """Milliseconds a pair, the fewest of some rounds, in turns."""
    found: dict[str, tuple[float, float]] = {}

    def chunks() -> Iterator[tuple[str, list[Any]]]:
        rows = list(islice(pair_rows(table), count))
        yield from ((f"c{start:06}", rows[start : start + 50]) for start in range(0, count, 50))

    for _ in range(rounds):
        for name in ("bare loop", "table, one process", "table, Dask, 1 worker"):
            out = folder / "overhead"
            rmtree(out, ignore_errors=True)
            job = job_of(str(run), str(out), ("source", "target"), files, 1, 256, {"device": "cpu"})
            if name == "bare loop":
                finished = bare(job, table, out, count)
            elif "Dask" in name:
                finished = (each.pairs for each in on_dask(job, chunks(), out / "journal", None, 1))
            else:
                finished = (each.pairs for each in serially(job, chunks(), out / "journal"))
            now = per_pair(finished, 100)
            found[name] = min(now, found.get(name, now))
            print(f"{name}: {now[0]:.2f} ms of CPU, {now[1]:.2f} ms a pair", flush=True)
    first = found["bare loop"]
    return [
        {
            "way": name,
            "CPU ms a pair": used,
            "over the bare loop, %": 100 * (used / first[0] - 1),
            "wall ms a pair": waited,
        }
        for name, (used, waited) in found.items()
    ]


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
    found = {row["id"]: row | {"out": None} for row in rows}
    return found, len(rows) - len(found)


def compared(table: Path, out: Path, serial: Path) -> Row:
    """What is lost, doubled, or other than a single process writes."""
    wanted = {row.id for row in pair_rows(table)}
    (found, doubled), (expected, _) = rows_of(out), rows_of(serial)
    files = [name for row in expected.values() for name in row["files"]]
    return {
        "pairs": len(wanted),
        "pairs, one process": len(expected),
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
    parts: str = "killed,overhead",
    share: int = 1,
    expectation: bool = True,
    out: str | None = None,
) -> dict[str, Any]:
    """Kill workers on the way, compare with a single process, and measure the overhead.

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
        parts: of the benchmark.
        share: the single process registers each so-manieth pair only.
        expectation: judge pairs by the overlap to expect, too, which costs the half of small pairs.
        out: file for the figures as JSON.
    """
    arguments = locals().copy()
    wanted = names(files)
    place = Path(folder).absolute()
    run, table = make(place, pairs, size)
    rows: list[Row] = []
    happened: Row = {}
    if "killed" in names(parts):
        dask, serial = place / "dask", place / "serial"
        for path in (dask, serial):
            rmtree(path, ignore_errors=True)
        ids = [] if expectation else ["--expected_overlap", "null"]
        command = [sys.executable, "-m", "crosswarp", "register", "--pairs", str(table), "--models", str(run)]
        command += ["--files", ",".join(wanted), "--device", "cpu", *ids, "--out"]
        with open(place / "serial.log", "w", encoding="utf-8") as log:
            start = time.perf_counter()
            part = ["--shard", f"1/{share}"] if share > 1 else []
            alone = subprocess.Popen([*command, str(serial), *part], cwd=ROOT, stdout=log, stderr=log)
            engine = [*command, str(dask), "--engine", "dask", "--workers", str(workers)]
            happened = killed_run(engine, kills, dask, pairs, seed)
            print(json.dumps(happened), flush=True)
            happened["exit status, one process"] = alone.wait()
            happened["seconds, one process"] = time.perf_counter() - start
        happened |= compared(table, dask, serial)
        for name, value in happened.items():
            print(f"{name}: {value:.1f}" if isinstance(value, float) else f"{name}: {value}")
    if "overhead" in names(parts):
        rows = overhead(run, table, place, wanted, measured, rounds)
    return report("many_pairs", arguments, rows or [happened], out, killed=happened)


if __name__ == "__main__":
    fire.Fire(main, serialize=lambda _: None)
