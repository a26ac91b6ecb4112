"""The command `train`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import LAUNCHED
from ..places import ROOT, STAGES
from .seeds import FOLDER, seed_folders


def train(
    datalist: str,
    run: str,
    preset: str | None = None,
    verbose: bool = False,
    seeds: int | Sequence[int] | None = None,
    **overrides: Any,
) -> None:
    """Train the whole chain, or what of it is not done: configs/train.json.

    Started by torchrun, with `-m crosswarp train`, several processes train it together.

    Args:
        datalist: the data, as `prepare` writes them.
        run: the run's folder, a new one or one to go on with.
        preset: an overlay of the configs, such as `demo`.
        verbose: show what else is said, which otherwise only the run's `train.log` holds.
        seeds: train once for each of these, such as 0,1,2, into `seed-0`, ... of the run's folder.
        overrides: ids of the config, those of a stage as `--<stage>#<id> value`.

    Raises:
        ValueError: for seeds that cannot be.
    """
    folders = seed_folders(run, seeds) if seeds is not None else {}
    if folders and "seed" in overrides:
        raise ValueError("Expected seed or seeds, got both: leave one out.")
    for name, folder in folders.items():
        number = int(name.removeprefix(FOLDER))
        _train(datalist, str(folder), preset, verbose, overrides | {"seed": number})
    if not folders:
        _train(datalist, run, preset, verbose, overrides)
    elif _speaks():
        print(f"Next: python -m crosswarp evaluate --run {run}, one report of all {len(folders)} seeds.")


def _speaks() -> bool:
    """Whether this is the first of torchrun's processes, or the only one; without loading torch."""
    return os.environ.get("RANK", "0") == "0"


def _train(datalist: str, run: str, preset: str | None, verbose: bool, overrides: Mapping[str, Any]) -> None:
    """Train one chain."""
    from ..runs.finished import finished_warnings, remember_finished

    command = {"preset": preset, **overrides}
    warnings = finished_warnings(Path(run), Path(datalist), command)
    if warnings is not None:
        if _speaks():
            print(
                "\n- ".join([f"{run} is trained, and its inputs are unchanged: nothing is done.", *warnings])
            )
        return
    from ..runs.stage import training_warnings
    from .running import run_config

    files = [ROOT / "configs" / "train.json"]
    overlays = {path.stem: path for path in (ROOT / "configs" / "presets").glob("*.json")}
    if preset in overlays:
        files.append(overlays[preset])
    if LAUNCHED in os.environ:
        files.append(ROOT / "configs" / "multi_gpu_train.json")
    values = {"datalist": datalist, "run_dir": run, "preset": preset}
    run_config(files, ROOT, values, {**overrides, **({"verbose": True} if verbose else {})})
    from ..processes import is_first

    if is_first():
        remember_finished(Path(run), Path(datalist), command, training_warnings(run, STAGES))
