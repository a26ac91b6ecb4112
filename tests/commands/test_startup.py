"""What starting costs, without a clock: which modules are loaded. benchmarks/startup.py has the seconds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from crosswarp.commands import COMMANDS
from crosswarp.runs.finished import remember_finished
from tests.cohorts import write_blob_cohort
from tests.trained_run import ROOT, write_trained_run

HEAVY = {"torch", "monai", "ignite", "matplotlib", "itk", "SimpleITK", "scipy", "nibabel", "pydicom"}
LOADED = "import sys; print(*sys.modules, file=sys.stderr)"


def loaded(code: str, folder: Path = ROOT) -> set[str]:
    """The modules that are there after some code."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", f"{code}\n{LOADED}"]
    finished = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return set(finished.stderr.splitlines()[-1].split())


def calling(*words: str) -> str:
    """A command, called as a program does it."""
    return (
        f"import sys\nfrom crosswarp.__main__ import main\nsys.argv = ['crosswarp', *{list(words)}]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass"
    )


def test_the_package_needs_nothing() -> None:
    assert not loaded("import crosswarp") & {*HEAVY, "numpy", "fire"}


@pytest.mark.parametrize("words", [["--help"], *([name, "--help"] for name in COMMANDS), ["train", "--rum"]])
def test_help_and_faults_of_arguments_need_no_library_of_images(words: list[str]) -> None:
    found = loaded(calling(*words))
    assert "fire" in found and not found & HEAVY


def test_a_finished_run_is_seen_without_what_trains(tmp_path: Path) -> None:
    datalist = write_blob_cohort(tmp_path / "data")
    remember_finished(write_trained_run(tmp_path / "run", datalist), datalist, {"preset": None})
    found = loaded(calling("train", "--datalist", str(datalist), "--run", str(tmp_path / "run")))
    assert "crosswarp.runs.finished" in found and not found & HEAVY


def test_registering_wraps_nothing_of_itk(tmp_path: Path) -> None:
    write_trained_run(tmp_path / "run", write_blob_cohort(tmp_path / "data"))
    images = [f"data/images/{name}.nii.gz" for name in ("warmtest0", "coldtest0")]
    words = ["register", "--moving", images[0], "--fixed", images[1], "--models", "run", "--out", "out"]
    found = loaded(calling(*words), tmp_path)
    assert len(list((tmp_path / "out").glob("*_to_*"))) == 7
    assert {"torch", "monai", "SimpleITK", "matplotlib"} <= found and "jinja2" not in found
    assert not [name for name in found if name.startswith("itk.ITK")]  # a wrapping takes seconds
