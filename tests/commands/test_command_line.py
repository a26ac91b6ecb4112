from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from crosswarp.__main__ import main
from tests.cohorts import write_blob_cohort
from tests.trained_run import ROOT, write_trained_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose registration is the identity."""
    return write_trained_run(tmp_path / "run", write_blob_cohort(tmp_path / "data"))


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another working folder, with a package `scripts` of its own."""
    folder = tmp_path / "elsewhere"
    (folder / "scripts").mkdir(parents=True)
    (folder / "scripts" / "__init__.py").write_text("")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", sys.path[:])
    return folder


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", ["crosswarp", *map(str, arguments)])
    main()


def test_evaluates_a_volume_run_from_any_folder(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    datalist = write_blob_cohort(elsewhere / "data", spatial_dims=3, num_classes=3, spatial_size=(16, 12))
    write_trained_run(elsewhere / "run", datalist, deformation=0.5)
    command(
        monkeypatch, "evaluate", "--run", "run", "--max_pairs", "2", "--baselines", "identity,manual_labels"
    )
    printed = capsys.readouterr().out
    assert "grid of 16 × 12 × 12 points" in printed and "2 of their 4 pairs" in printed
    assert "cold to warm  crosswarp " in printed and "cold to warm  identity " in printed
    assert "both          manual_labels" in printed
    assert (elsewhere / "run" / "report.html").read_text(encoding="utf-8").count("<figure>") > 3


def test_registers_as_a_program_from_any_folder(run: Path, elsewhere: Path) -> None:
    # only the package is on the path: the code that the configs call `scripts` has to be found
    (elsewhere / "site").mkdir()
    (elsewhere / "site" / "crosswarp").symlink_to(ROOT / "crosswarp")
    images = run.parent / "data" / "images"
    arguments = [
        "--moving",
        images / "coldtest0.nii.gz",
        "--fixed",
        images / "warmtest1.nii.gz",
        "--models",
        run,
    ]
    arguments += ["--out", "out", "--moving_modality", "target", "--fixed_modality", "source"]
    arguments += ["--displacement_suffix", "null"]
    finished = subprocess.run(
        [sys.executable, "-m", "crosswarp", "register", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(elsewhere / "site")},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr
    verdict, written = finished.stdout.splitlines()  # and nothing of MONAI's
    assert "coldtest0_to_warmtest1: " in verdict and written == "Wrote out."
    (warped,) = (elsewhere / "out").glob("*_warped.nii.gz")
    moving, fixed = (nib.load(images / f"{name}.nii.gz") for name in ("coldtest0", "warmtest1"))
    # the registration is the identity, and both images have the same grid
    np.testing.assert_allclose(nib.load(warped).get_fdata(), moving.get_fdata(), atol=1e-4)
    np.testing.assert_allclose(nib.load(warped).affine[:2], fixed.affine[:2])
    assert len(list((elsewhere / "out").glob("*_seg.nii.gz"))) == 3
    assert not list((elsewhere / "out").glob("*displacement*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("evaluate --run nowhere", "Expected a run in nowhere"),
        ("evaluate --run {run} --max_pair 3", "no parameter 'max_pair'"),
        (
            "register --moving a.nii --fixed b.nii --models nowhere --out out",
            "Expected a trained run, bundle or zip in nowhere",
        ),
        ("register --moving a.nii --fixed b.nii --models {run} --out out", "not there: a.nii, b.nii"),
        (
            "register --moving a.nii --fixed b.nii --models {run} --out out --outputdir b",
            "no parameter 'outputdir' .did you mean output_dir",
        ),
        ("train --datalist nowhere.json --run new", "Expected a datalist at .*nowhere.json"),
        (
            "evaluate --run {run} --measure#batch_sise 3",
            "batch_sise. .did you mean measure#batch_size",
        ),
        ("register --moving a --fixed b --models {run} --out out --output_dir c", "Expected no output_dir"),
        (
            "register --moving a --fixed b --models {run} --out out --moving_modality dxa",
            "Expected modalities 'source' or 'target', got 'dxa' and 'target'",
        ),
        ("trian --datalist {data}", "Expected one of cohort, .*, got 'trian' .did you mean train"),
        (
            "train --datalist {data} --run new --source_segmentation#max_epoch 3",
            "Stage source_segmentation has no parameter 'max_epoch' .did you mean max_epochs",
        ),
        ("train --datalist {data} --run new --preset fastest", "No preset 'fastest'"),
        ("train --datalist {data} --run new --sed 3", "no parameter 'sed' .did you mean seed"),
    ],
)
@pytest.mark.usefixtures("elsewhere")
def test_faults_are_one_message(
    run: Path, monkeypatch: pytest.MonkeyPatch, arguments: str, message: str
) -> None:
    data = run.parent / "data" / "datalist.json"
    with pytest.raises(SystemExit, match=message) as caught:
        command(monkeypatch, *arguments.format(run=run, data=data).split())
    assert str(caught.value).startswith("\nerror: ") and str(caught.value).count("\n") == 1
    assert not Path("new").exists() and not Path("out").exists()


def test_our_own_faults_keep_their_traceback(
    run: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(*_: object, **__: object) -> None:
        raise KeyError("ours")

    monkeypatch.setattr("crosswarp.commands.running.open_workflow", fault)
    with pytest.raises(KeyError, match="ours"):
        command(monkeypatch, "evaluate", "--run", run)


def test_waiting_threads_spin_briefly_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "5")
    monkeypatch.setenv("OMP_WAIT_POLICY", "")
    monkeypatch.delenv("OMP_WAIT_POLICY")
    with pytest.raises(SystemExit):
        command(monkeypatch, "no such command")
    assert (os.environ["OMP_WAIT_POLICY"], os.environ["GOMP_SPINCOUNT"]) == ("PASSIVE", "5")
