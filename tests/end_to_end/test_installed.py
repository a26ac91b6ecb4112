"""Installed from its wheel, without a checkout: every command is there, and a run goes from data to zips."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from crosswarp.commands.package import package
from crosswarp.release.package import copied
from tests.cohorts import write_blob_cohort
from tests.runs.test_chain import TINY
from tests.trained_run import ROOT, STAGES, write_trained_run

PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]


def tracked(folder: Path) -> list[Path]:
    """What a build needs of a checkout, without links to folders and what lies about."""
    listed = subprocess.run(["git", "-C", folder, "ls-files", "-z"], capture_output=True, check=True).stdout
    needed = ("crosswarp", "configs", "bundles", "docs", "pyproject.toml", "README.md", "LICENSE")
    paths = (Path(os.fsdecode(name)) for name in listed.split(b"\0") if name)
    return [path for path in paths if path.parts[0] in needed and (folder / path).is_file()]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed wheel, and nothing else; its dependencies are those of the tests."""
    folder = tmp_path_factory.mktemp("installed")
    for path in tracked(ROOT):
        (folder / "source" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "source" / path).write_bytes((ROOT / path).read_bytes())
    subprocess.run(
        [*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, folder / "source"],
        check=True,
    )
    (wheel,) = folder.glob("crosswarp-*.whl")
    subprocess.run([*PIP, "install", "--no-deps", "--target", folder / "site", wheel], check=True)
    return folder / "site"


class Program:
    """The installed command."""

    def __init__(self, site: Path, folder: Path) -> None:
        self.site, self.folder = site, folder

    def __call__(self, *words: str | Path) -> str:
        environment = os.environ | {"PYTHONPATH": str(self.site), "OMP_NUM_THREADS": "1"}
        command = [self.site / "bin" / "crosswarp", *words]
        finished = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)
        assert finished.returncode == 0, finished.stderr
        return finished.stdout + finished.stderr


def test_the_wheel_holds_the_library_and_the_meta_bundle(site: Path) -> None:
    installed = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()}
    code = {path.as_posix() for path in tracked(ROOT) if path.parts[0] == "crosswarp"}
    assert code <= installed and "crosswarp/py.typed" in code
    bundles = [ROOT, *(ROOT / "bundles" / stage for stage in STAGES)]
    wanted = {(bundle / path).relative_to(ROOT).as_posix() for bundle in bundles for path in copied(bundle)}
    wanted |= {path.relative_to(ROOT).as_posix() for path in ROOT.glob("configs/baselines/**/*.json")}
    assert {f"crosswarp/bundle/{path}" for path in wanted} <= installed
    assert not [path for path in installed if path.startswith("crosswarp/bundle/") and path.endswith(".py")]
    assert {path.split("/")[0] for path in installed} == {"bin", "crosswarp", "crosswarp-0.1.0.dist-info"}


def test_a_run_from_data_to_zips_outside_any_checkout(site: Path, tmp_path: Path) -> None:
    crosswarp = Program(site, tmp_path)
    counts = {"train_labelled": 3, "train_unlabelled": 1, "val": 1, "test": 1}
    counts |= {"target_train": 2, "target_val": 1, "target_test": 1}
    crosswarp(
        "cohort", "--folder", "data", "--size=32", *(f"--{key}={value}" for key, value in counts.items())
    )
    content = json.loads((tmp_path / "data" / "datalist.json").read_text())
    with (tmp_path / "data" / "table.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, ["modality", "split", "subject", "image", "label"])
        table.writeheader()
        for modality in (content["source"], content["target"]):
            for split, records in modality.items():
                for record in records if isinstance(records, list) else ():
                    table.writerow(record | {"modality": modality["name"], "split": split})
    crosswarp("prepare", "data/table.csv", "--out", "my.json", "--source", "dxa", "--target", "xray")
    few = {stage: each | {"max_epochs": 1, "steps_per_epoch": 1} for stage, each in TINY.items()}
    tiny = [f"--{stage}#{key}={value}" for stage, each in few.items() for key, value in each.items()]
    tiny += ["--worsened_pairs=48", "--pose_recognition#examples=8", "--pose_recognition#steps=2"]
    crosswarp("train", "--datalist", "my.json", "--run", "run", "--device", "cpu", *tiny)
    images = [f"data/{content[key]['test'][0]['image']}" for key in ("source", "target")]
    crosswarp("register", "--moving", images[0], "--fixed", images[1], "--models", "run", "--out", "out")
    assert len(list((tmp_path / "out").glob("*_transform.h5"))) == 1
    zips = crosswarp("package", "--run", "run").splitlines()[-5:]
    assert crosswarp("verify", *zips).count("scripts/ is this library, byte for byte") == 5


def test_zips_of_the_installed_library_are_those_of_the_checkout(site: Path, tmp_path: Path) -> None:
    write_trained_run(tmp_path / "run", write_blob_cohort(tmp_path / "data"))
    Program(site, tmp_path)("package", "--run", "run", "--out", "installed")
    for path in package(str(tmp_path / "run"), str(tmp_path / "checkout")):
        assert (tmp_path / "installed" / path.name).read_bytes() == path.read_bytes(), path.name


def test_the_supported_pythons_are_said_alike_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    named = [each.rpartition(" ")[2] for each in project["project"]["classifiers"] if "Python :: 3" in each]
    oldest, newest = named[0], named[-1]
    assert named == [f"3.{minor}" for minor in range(int(oldest[2:]), int(newest[2:]) + 1)]
    assert project["project"]["requires-python"] == f">={oldest}"
    assert project["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.findall(r"need Python (\S+) to (\S+),", makefile) == [(oldest, newest)]
    assert f"(3, {oldest[2:]}) <= sys.version_info[:2] <= (3, {newest[2:]})" in makefile
    assert f"Python {oldest} to {newest}" in (ROOT / "README.md").read_text(encoding="utf-8")
