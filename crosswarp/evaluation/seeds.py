"""Trainings of several seeds: one report with their means and their spread."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..kept import read_json
from ..metrics.rows import Row
from ..metrics.trainings import averaged, spread
from ..places import STAGES
from ..report import write_csv, write_report
from ..report.printing import show
from ..report.tables import seeds_table
from ..runs.stage import CONFIG, UNDECISIVE_IDS

TEXTS = {
    *("kind", "modality", "network", "image", "subject", "class", "method", "direction"),
    *("moving", "fixed", "moving_subject", "fixed_subject"),
}


def write_seeds_report(run_dir: str | Path, runs: Mapping[str, Path]) -> None:
    """Write `report.html` and `evaluation/seeds.csv` of evaluated runs of one cohort, and print their spread.

    Args:
        run_dir: where to write.
        runs: by name, the runs; each evaluated.

    Raises:
        ValueError: where they are runs of different data.
    """
    claims = check_one_cohort(runs)
    measured = {name: read_rows(path / "evaluation" / "metrics.csv") for name, path in runs.items()}
    spreads = spread(measured)
    folder = Path(run_dir)
    write_csv(spreads, folder / "evaluation" / "seeds.csv")
    warnings = [f"{name}, {warning}" for name, path in runs.items() for warning in _warnings(path)]
    names = ", ".join(runs)
    write_report(
        folder / "report.html",
        f"{next(iter(claims.values()))['name']}: {len(runs)} trainings",
        averaged(measured),
        [],
        [],
        {},
        {"trainings": {name: claim | _origin(runs[name]) for name, claim in claims.items()}},
        [f"Trained {len(runs)} times, {names}: what was measured of an image or pair is their mean."],
        warnings=warnings,
        seeds=spreads,
    )
    print()
    show({f"Dice over {names}, mean ± standard deviation over the trainings": seeds_table(spreads)})
    print(folder / "evaluation" / "seeds.csv", folder / "report.html", sep="\n")


def check_one_cohort(runs: Mapping[str, Path]) -> dict[str, Any]:
    """What the `run.json` of each run says, by its name.

    Raises:
        FileNotFoundError: naming those that are not there.
        ValueError: where they are runs of different data, or trained with different parameters.
    """
    files = {name: path / "run.json" for name, path in runs.items()}
    if missing := [str(path.parent) for path in files.values() if not path.is_file()]:
        raise FileNotFoundError(f"Expected trained runs in {', '.join(missing)}, but there are none.")
    claims = {name: read_json(path) for name, path in files.items()}
    if len({claim["datalist_digest"] for claim in claims.values()}) > 1:
        raise ValueError(
            f"Expected seeds of one cohort, but {', '.join(claims)} are runs of different data: give with "
            "--seeds those that belong together."
        )
    configs = {name: _configs(path) for name, path in runs.items()}
    first = next(iter(configs.values()))
    others = {
        name: [key for key in first | own if first.get(key) != own.get(key)] for name, own in configs.items()
    }
    if differing := [f"{name} in {', '.join(keys)}" for name, keys in others.items() if keys]:
        raise ValueError(
            f"Expected trainings that differ by their seed alone, but from {next(iter(configs))} differ "
            f"{'; '.join(differing)}: give with --seeds those that belong together."
        )
    return claims


def _configs(run: Path) -> dict[str, Any]:
    """What the stages of a run were trained with, but for seed and places, by ``<stage>#<id>``."""
    return {
        f"{stage}#{key}": value
        for stage in STAGES
        for key, value in (
            read_json(run / stage / CONFIG) if (run / stage / CONFIG).is_file() else {}
        ).items()
        if key not in UNDECISIVE_IDS | {"seed"}
    }


def read_rows(path: Path) -> list[Row]:
    """Measurements that ``report.write_csv`` wrote; what a row did not have, it does not get."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            {key: value if key in TEXTS else float(value) for key, value in row.items() if value != ""}
            for row in csv.DictReader(file)
        ]


def _warnings(run: Path) -> Sequence[str]:
    return [
        f"{name}: {warning}"
        for name, stage in read_json(run / "provenance.json")["stages"].items()
        for warning in stage.get("warnings", ())
    ]


def _origin(run: Path) -> dict[str, Any]:
    provenance = read_json(run / "provenance.json")
    return {key: provenance[key] for key in ("seed", "weights", "versions")}
