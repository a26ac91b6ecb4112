"""A run that is finished, seen without what trains: the same command, and no file has changed since."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from .. import __version__
from ..data.datalist import data_files, load_datalist
from ..files import file_state
from ..kept import TABLE, fault, keeping
from ..places import CODE, ROOT

RECORD = "finished.json"  # in the run's folder
# what makes a run, of the library and in the run's own folder
CONFIGS = ("configs/**/*.json", "bundles/*/configs/**/*.json")
RESULTS = (
    "*.json",
    "configs/*",
    "models/*",
    "*/configs/*",
    "*/models/*",
    "*/*.json",
    "*/checkpoints/history.json",
)


def remember_finished(
    run: Path, datalist: Path, command: Mapping[str, Any], warnings: Sequence[str] = ()
) -> None:
    """Note that a command has trained a run to its end.

    Args:
        run: the run's folder.
        datalist: the data.
        command: everything else that it was called with.
        warnings: what is to be said of the run whenever the command is given again.
    """
    with keeping(run / RECORD) as partial:
        note = {"state": _state(run, datalist, command), "warnings": list(warnings)}
        partial.write_text(json.dumps(note), encoding="utf-8")


def finished_warnings(run: Path, datalist: Path, command: Mapping[str, Any]) -> list[str] | None:
    """What is to be said of a run that this very command finished; None where there may be work to do."""
    try:
        note = json.loads((run / RECORD).read_text(encoding="utf-8"))
        if fault(run / RECORD) or note["state"] != _state(run, datalist, command):
            return None
        return None if any(map(fault, _results(run))) else note["warnings"]
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
    ):  # whatever it is, training looks more closely and says it
        return None


def _results(run: Path) -> list[Path]:
    """The files of a run that say whether it is finished, and those that are used once it is."""
    found = [path for pattern in RESULTS for path in run.glob(pattern) if path.name not in (RECORD, TABLE)]
    return [path for path in found if path.parent.name not in ("evaluation", "previous", "data")]


def _state(run: Path, datalist: Path, command: Mapping[str, Any]) -> str:
    """A digest that changes with the command and with every file, by its size and times, that it goes by."""
    library = [*CODE.glob("shared/*.json"), *(path for each in CONFIGS for path in ROOT.glob(each))]
    files = [datalist, *data_files(load_datalist(datalist)), *library, *_results(run)]
    states = {str(path): file_state(path) for path in files}
    content = [__version__, command, states]
    return sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
