"""Bundles out of their zips: every tool of MONAI on each, in a folder and a process without the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from monai.bundle import download, load_bundle_config

from crosswarp.commands.package import package
from crosswarp.files import file_digest
from crosswarp.places import META
from crosswarp.release.verify import inspect, unpack
from tests.cohorts import write_blob_cohort
from tests.trained_run import STAGES, write_trained_run

SCRIPT = Path(__file__).with_name("monai_tools.py").read_text()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data/`, and `bundles/` unpacked from the zips in `dist/`; nothing of the checkout."""
    folder = tmp_path_factory.mktemp("elsewhere")
    datalist = write_blob_cohort(folder / "data", num_classes=3, spatial_size=(32, 24))
    run = write_trained_run(folder / "original", datalist, deformation=0.02, downsampling=[2, 1])
    for path in package(str(run), str(folder / "dist")):
        unpack(path, folder / "bundles")
    (folder / "exports").mkdir()
    return folder


def python(folder: Path, *arguments: str, script: str | None = None) -> str:
    """Run Python in a folder, with nothing in reach but what is installed and what the folder holds."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    finished = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        input=script,
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stdout[-3000:] + finished.stderr[-3000:]
    return finished.stdout + finished.stderr


@pytest.mark.parametrize("name", STAGES)  # in this order: each trains on what the ones before it left
def test_monais_tools_on_a_stage(place: Path, name: str) -> None:
    arguments = [place / "data" / "datalist.json", place / "run", place / "exports"]
    python(place / "bundles" / name, "-", *map(str, arguments), script=SCRIPT)
    manifest = json.loads((place / "run" / name / "manifest.json").read_text())
    assert manifest["state"] == "done"
    assert manifest["weights"] != file_digest(place / "bundles" / name / "models" / "model.pt")
    written = {path.name for path in (place / "exports" / name).iterdir()}
    assert any(file.endswith(("_seg.nii.gz", "_warped.nii.gz")) for file in written), written


def test_the_chain_out_of_its_zip(place: Path) -> None:
    """Trained, evaluated and used, then packaged again by the library that is in it as `scripts`."""
    arguments = [place / "data" / "datalist.json", place / "chain", place / "exports"]
    bundle = place / "bundles" / META
    python(bundle, "-", *map(str, arguments), script=SCRIPT)
    assert (place / "chain" / "report.html").is_file()
    python(bundle, "-m", "scripts", "package", "--run", str(place / "chain"), "--out", str(place / "second"))
    zips = sorted((place / "second").glob("*.zip"))
    assert (
        len(zips) == 5 and [fault for path in zips for fault in inspect(path.read_bytes(), "").faults] == []
    )


def test_a_stage_is_run_from_the_command_line(place: Path) -> None:
    images = f"['{place / 'data' / 'images' / 'warmtest0.nii.gz'}']"
    config = ["--config_file", "configs/inference.json", "--output_dir", str(place / "cli")]
    python(place / "bundles" / STAGES[1], "-m", "monai.bundle", "run", *config, "--images", images)
    assert {path.name for path in (place / "cli").iterdir()} == {"sources.jsonl", "warmtest0_seg.nii.gz"}


@pytest.mark.parametrize("name", [*STAGES, META])
def test_download_from_a_file(place: Path, tmp_path: Path, name: str) -> None:
    (path,) = (place / "dist").glob(f"{name}_v*.zip")
    download(name=name, url=path.as_uri(), bundle_dir=tmp_path, progress=False)
    parser = load_bundle_config(str(tmp_path / f"{name}.zip"), "inference.json")
    assert parser["_meta_"]["version"] in parser["_meta_"]["changelog"] and "network_def" in parser
    packaged = place / "bundles" / name / "models" / "model.pt"
    assert file_digest(tmp_path / name / "models" / "model.pt") == file_digest(packaged)
