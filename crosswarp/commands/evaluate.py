"""The command `evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..places import ROOT
from .seeds import seed_folders


def evaluate(
    run: str,
    datalist: str | None = None,
    baselines: str | Sequence[str] | None = None,
    target_labels: str | None = None,
    seeds: int | Sequence[int] | None = None,
    **overrides: Any,
) -> None:
    """Evaluate a trained run on the test records, and write its report.html: configs/evaluate.json.

    Args:
        run: the run's folder.
        datalist: the data, where they are not where they were in training.
        baselines: other methods to compare with on the same pairs, `all` or names of configs/baselines,
            separated by commas.
        target_labels: for the baseline of this name, a datalist with labels of the target modality.
        seeds: which of the trainings in the run's folder, by seed; by default all that are there. They are
            evaluated one by one, and then in one report with their spread.
        overrides: ids of the config.

    Raises:
        ValueError: for a baseline that there is not, or seeds that cannot be.
    """
    from ..runs.config import check_ids, read_config
    from .running import run_config

    files = [ROOT / "configs" / "evaluate.json", *baseline_configs(baselines)]
    check_ids(overrides, read_config(*files), str(files[0]))
    folders = seed_folders(run, seeds)
    if folders:
        from ..evaluation.seeds import check_one_cohort, write_seeds_report

        check_one_cohort(folders)
    for folder in folders.values() or [Path(run)]:
        values = {"run_dir": folder, "datalist": datalist, "target_labels": target_labels}
        run_config(files, ROOT, values, overrides)
    if folders:
        write_seeds_report(run, folders)


def baseline_configs(names: str | Sequence[str] | None) -> list[Path]:
    """The configs of baselines, by name or `all`.

    Raises:
        ValueError: for a name that there is not.
    """
    known = {path.stem: path for path in sorted((ROOT / "configs" / "baselines").glob("*.json"))}
    if names == "all":
        return list(known.values())
    chosen = names.split(",") if isinstance(names, str) else list(names or ())
    if unknown := [name for name in chosen if name not in known]:
        raise ValueError(f"Expected baselines of {', '.join(known)} or all, got {', '.join(unknown)}.")
    return [known[name] for name in chosen]
