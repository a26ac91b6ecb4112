"""The command `register`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

# what a table of pairs is registered with, beside what a single pair has
OF_TABLES = ("engine", "address", "workers", "shard", "merge", "files", "threads", "cache_mib")


def register(
    moving: str | Sequence[str] | None = None,
    fixed: str | Sequence[str] | None = None,
    models: str | None = None,
    out: str | None = None,
    moving_modality: str = "source",
    fixed_modality: str = "target",
    pairs: str | None = None,
    engine: str | None = None,
    address: str | None = None,
    workers: int | None = None,
    shard: str | None = None,
    merge: bool = False,
    files: str | Sequence[str] | None = None,
    threads: int | None = None,
    cache_mib: int | None = None,
    **overrides: Any,
) -> None:
    """Segment and register two images, or all pairs of a table: configs/inference.json.

    Writes labels, warped images, transforms and verdicts. Of a table, what is done is not done again: the
    same command goes on where it was. Its exit status is 0 if all pairs are done, else 10 and the number of
    pairs that are errors or missing, 110 at most; 1 is an error.

    Args:
        moving: the image to warp; several as a list, `a.nii.gz,b.nii.gz` or `["a.nii.gz","b.nii.gz"]`. What
            exists by the very name that is given is that image.
        fixed: the image to warp it to; several as a list.
        models: a trained run, or another trained bundle of the whole chain, or its zip, which is verified.
        out: folder for the results.
        moving_modality: `source` or `target`.
        fixed_modality: `source` or `target`.
        pairs: in place of moving and fixed, a table, .csv or .parquet, with the columns moving and fixed, and
            if wanted id, moving_pose, fixed_pose, moving_side, fixed_side, moving_modality, fixed_modality.
        engine: `dask` for several processes; this process alone if not given.
        address: of a Dask scheduler, `tcp://...`, or `slurm`, `pbs`, `lsf`, `sge`; local processes if not.
        workers: number of processes, all cores by default, or of jobs of a queueing system.
        shard: `i/n`: each n-th pair from the i-th on, for job arrays: `1/8` to `8/8`.
        merge: register nothing; put the tables of shards together and list what is missing.
        files: what to write of a table's pairs: some of transform, inverse, displacement, warped, warped_seg,
            moving_seg, fixed_seg, quality, picture; `table` for the table alone, which is always written.
        threads: with which a process computes a table's pairs, 1 by default; the last bits depend on it.
        cache_mib: memory of a process for images that come again, MiB; 1024 by default.
        overrides: ids of the config.

    Raises:
        FileNotFoundError: where there are no trained networks.
        ValueError: for another modality, an id that the config does not have, or a table with faults.
    """
    given = {
        name: value
        for name, value in locals().items()
        if name in OF_TABLES and value is not None and value is not False
    }
    needed: dict[str, Any] = {"pairs": pairs, "models": "" if merge else models, "out": out}
    if pairs is None:
        needed = {"moving": moving, "fixed": fixed, "models": models, "out": out}
    faults = [f"--{name} is missing" for name, value in needed.items() if value is None]
    if pairs is None:
        faults += [f"--{name} is for tables: give --pairs" for name in given]
    elif moving is not None or fixed is not None:
        faults.append("--pairs names moving and fixed images itself")
    if faults:
        raise ValueError(
            "\n- ".join(["Expected other arguments (see `python -m crosswarp register --help`):", *faults])
        )
    values = {
        "moving": moving,
        "fixed": fixed,
        "output_dir": Path(str(out)).absolute(),
        "moving_modality": moving_modality,
        "fixed_modality": fixed_modality,
    }
    if twice := sorted({"bundle_root", *values} & overrides.keys()):
        raise ValueError(f"Expected no {', '.join(twice)}: the command's own arguments say that.")
    if pairs is not None:
        _register_table(
            Path(pairs), str(models), Path(str(out)), (moving_modality, fixed_modality), given, overrides
        )
        return
    from ..inference.registrar import load
    from ..runs.config import verbatim
    from ..terminal import silence_others

    silence_others()
    load(str(models), **verbatim(values), **overrides).register_files()
    print(f"Wrote {out}.")


def _register_table(
    pairs: Path,
    models: str,
    out: Path,
    modalities: tuple[str, str],
    given: dict[str, Any],
    overrides: dict[str, Any],
) -> None:
    """Register, or merge, what a table names; ends the program if some of it is not there."""
    from ..inference.many_pairs import ERROR_STATUS, job_of, merge, register_table, serially, shard_of
    from ..terminal import end_line, silence_others

    _check_engine(given)
    if given.get("merge"):
        done, errors, missing = merge(pairs, out)
        print(f"{out}: {done:,} pairs done, {errors:,} errors, {missing:,} missing.")
    else:
        engine = serially
        if given.get("engine"):
            from ..inference.dask_engine import on_dask

            engine = partial(on_dask, address=given.get("address"), workers=given.get("workers"))
        shard = shard_of(given.get("shard", "1/1"))
        job = job_of(
            models,
            str(out),
            modalities,
            given.get("files"),
            given.get("threads", 1),
            given.get("cache_mib", 1024),
            overrides,
        )
        silence_others()
        try:
            counts = register_table(pairs, job, shard, engine)
        except KeyboardInterrupt:
            end_line()
            print("\nstopped; the same command goes on where it was", file=sys.stderr)
            sys.exit(130)
        errors, missing = counts.pop("error"), 0
        before = counts.pop("before")
        verdicts = ", ".join(f"{count:,} {verdict}" for verdict, count in sorted(counts.items()))
        print(f"Wrote {out}: {verdicts or 'nothing new'}; {before:,} were done before; {errors:,} errors.")
    for name, count in (("errors", errors), ("missing", missing)):
        if count:
            print(f"See {out}/{name}*.csv, whose last column says why.", file=sys.stderr)
    if errors or missing:
        sys.exit(ERROR_STATUS + min(errors + missing, 100))


def _check_engine(given: dict[str, Any]) -> None:
    """Raise what is wrong with the options of an engine."""
    faults = []
    if given.get("engine") not in (None, "dask"):
        faults.append(f"--engine: expected dask or nothing, got {given['engine']!r}")
    if not given.get("engine"):
        faults += [
            f"--{name} is for an engine: give --engine dask"
            for name in ("address", "workers")
            if name in given
        ]
    elif "shard" in given or "merge" in given:
        faults.append("--shard and --merge are without an engine, which divides the work itself")
    if given.get("workers", 1) < 1:
        faults.append("--workers: expected a positive number")
    if "shard" in given and "merge" in given:
        faults.append("--merge is of all shards: leave --shard out")
    if faults:
        raise ValueError("\n- ".join(["These options of register cannot be:", *faults]))
