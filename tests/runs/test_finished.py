"""A finished run is recognised as long as nothing that decides about it has changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from crosswarp.runs.finished import finished_warnings, remember_finished
from tests.cohorts import write_blob_cohort
from tests.trained_run import write_trained_run

COMMAND = {"preset": "demo", "seed": 1}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that a command has finished, with a warning."""
    run = write_trained_run(tmp_path / "run", write_blob_cohort(tmp_path / "data"))
    remember_finished(run, tmp_path / "data" / "datalist.json", COMMAND, ["stage: worse than its start"])
    return run


def rewritten(path: Path) -> None:
    path.write_bytes(path.read_bytes())


CHANGES: dict[str, Callable[[Path], None]] = {
    "an image": lambda run: rewritten(run.parent / "data" / "images" / "warmtest0.nii.gz"),
    "a label is gone": lambda run: (run.parent / "data" / "labels" / "warmtest0.nii.gz").unlink(),
    "the datalist": lambda run: rewritten(run.parent / "data" / "datalist.json"),
    "a config": lambda run: rewritten(run / "configs" / "inference.json"),
    "weights": lambda run: rewritten(run / "domain_adaptation" / "models" / "model.pt"),
    "a stage is gone": lambda run: (run / "source_segmentation" / "manifest.json").unlink(),
    "the note is cut short": lambda run: (run / "finished.json").write_text("{"),
}


def test_the_same_command_finds_it_with_its_warnings(run: Path) -> None:
    datalist = run.parent / "data" / "datalist.json"
    assert finished_warnings(run, datalist, dict(COMMAND)) == ["stage: worse than its start"]
    assert finished_warnings(run, datalist, COMMAND | {"seed": 2}) is None
    assert finished_warnings(run.parent, datalist, COMMAND) is None


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_whatever_has_changed_is_looked_at_again(run: Path, change: Callable[[Path], None]) -> None:
    change(run)
    assert finished_warnings(run, run.parent / "data" / "datalist.json", COMMAND) is None
