"""Several seeds of one training: their folders within a run's folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

FOLDER = "seed-"


def seed_folders(run: str, seeds: int | Sequence[int] | None = None) -> dict[str, Path]:
    """The folder of each seed, by its name.

    Args:
        run: the folder that holds them.
        seeds: which; None for all that are there.

    Returns:
        nothing where no seeds are given, and the folder holds none or is a run itself.

    Raises:
        ValueError: for a seed that is given twice or below 0, and for seeds in the folder of a single run.
    """
    there = (Path(run) / "run.json").is_file()
    if seeds is None:
        found = [] if there else Path(run).glob(f"{FOLDER}*/run.json")
        numbers = sorted(
            int(number) for path in found if (number := path.parent.name[len(FOLDER) :]).isdigit()
        )
    else:
        numbers = [seeds] if isinstance(seeds, int) else list(seeds)
        if len(set(numbers)) < len(numbers) or min(numbers) < 0:
            raise ValueError(f"Expected different seeds from 0 on, got {', '.join(map(str, numbers))}.")
        if there:
            raise ValueError(
                f"Expected a folder for the runs of several seeds, but {run} is a run by itself: choose "
                "another folder, or leave --seeds out."
            )
    return {f"{FOLDER}{number}": Path(run) / f"{FOLDER}{number}" for number in numbers}
