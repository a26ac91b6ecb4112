"""The command `train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..places import ROOT, STAGES


def train(
    datalist: str, run: str, preset: str | None = None, verbose: bool = False, **overrides: Any
) -> None:
    """Train the whole chain, or what of it is not done: configs/train.json.

    Args:
        datalist: the data, as `prepare` writes them.
        run: the run's folder, a new one or one to go on with.
        preset: an overlay of the configs, such as `demo`.
        verbose: show what else is said, which otherwise only the run's `train.log` holds.
        overrides: ids of the config, those of a stage as `--<stage>#<id> value`.
    """
    from ..runs.finished import finished_warnings, remember_finished

    command = {"preset": preset, **overrides}
    warnings = finished_warnings(Path(run), Path(datalist), command)
    if warnings is not None:
        print("\n- ".join([f"{run} is trained, and its inputs are unchanged: nothing is done.", *warnings]))
        return
    from ..runs.stage import training_warnings
    from .running import run_config

    files = [ROOT / "configs" / "train.json"]
    overlays = {path.stem: path for path in (ROOT / "configs" / "presets").glob("*.json")}
    if preset in overlays:
        files.append(overlays[preset])
    values = {"datalist": datalist, "run_dir": run, "preset": preset}
    run_config(files, ROOT, values, overrides | ({"verbose": True} if verbose else {}))
    remember_finished(Path(run), Path(datalist), command, training_warnings(run, STAGES))
