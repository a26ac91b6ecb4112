"""Runs and zips of other versions of the library: refused by one message, whatever one would do with them."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import crosswarp
from crosswarp.commands.package import package
from crosswarp.data import load_datalist
from crosswarp.release.verify import inspect
from crosswarp.runs import Chain, load_network
from crosswarp.runs.chain import data_of_run
from crosswarp.runs.origin import check_origin, missing_names
from tests.cohorts import write_blob_cohort
from tests.release.zips import changed, read_files, stored, summed
from tests.trained_run import ROOT, STAGES, write_trained_run

OLD = {"_target_": "scripts.pipeline.Stage"}


def test_names_that_the_library_does_not_have_are_found_without_importing_them() -> None:
    config = {
        "imports": ["$from scripts.runs import load_network", "$from scripts.pipeline.chain import Chain"],
        "known": ["scripts.networks.DisplacementUNet", "scripts.runs.chain.Chain", "%scripts/shared/a.json"],
        "gone": ["scripts.data.PseudoLabels", "scripts.pipeline.Stage", "scripts.runs.chain.Absent"],
        "others": ["my.scripts", "scripts", "UNet"],
    }
    assert missing_names(json.dumps(config)) == ["scripts.pipeline.chain.Chain", *config["gone"]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run."""
    folder = tmp_path_factory.mktemp("origin")
    return write_trained_run(folder / "run", write_blob_cohort(folder / "data", spatial_size=(16, 12)))


@pytest.fixture(scope="module")
def zipped(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zip of its second stage."""
    package(str(run), str(dist := tmp_path_factory.mktemp("dist")))
    return next(dist.glob(f"{STAGES[1]}_v*.zip"))


@pytest.fixture(scope="module")
def old(run: Path, zipped: Path) -> Path:
    """The run as if another version had trained it, once it was packaged."""
    for config in (*run.glob("configs/inference.json"), *run.glob("*/configs/*e.json")):
        config.write_text(json.dumps(json.loads(config.read_text()) | {"old": OLD}))
    for record in (run / "provenance.json", *run.glob("*/manifest.json")):
        made = {"versions": {"crosswarp": "0.0.7"}, "git_commit": "abc"}
        record.write_text(json.dumps(json.loads(record.read_text()) | made))
    return run


@pytest.mark.parametrize(
    ("use", "folder"),
    [
        (crosswarp.load, ""),
        (data_of_run, ""),  # begins every evaluation
        (lambda run: package(str(run), str(run.parent / "second")), ""),
        (load_network, STAGES[0]),
    ],
    ids=["load", "evaluate", "package", "stage"],
)
def test_a_run_of_another_version_is_refused(old: Path, use: Callable[[Path], object], folder: str) -> None:
    expected = (
        rf"{re.escape(str(old / folder))} \(inference.json\) was made by crosswarp 0.0.7 \(commit abc\)"
    )
    with pytest.raises(
        ValueError, match=rf"{expected}.*not have: scripts.pipeline.Stage. Train it again with"
    ):
        use(old / folder)


def test_it_is_not_trained_on_either(old: Path) -> None:
    before = {path: path.read_bytes() for path in old.rglob("*.json")}
    data = load_datalist(old.parent / "data" / "datalist.json")
    with pytest.raises(ValueError, match="was made by crosswarp 0.0.7"):
        Chain(dict.fromkeys(STAGES, {}), {}, str(ROOT / "bundles"), str(ROOT), str(old), data).run()
    assert before == {path: path.read_bytes() for path in old.rglob("*.json")}


def test_a_zip_of_another_version_says_so_before_its_names(zipped: Path) -> None:
    files = changed(read_files(zipped), "configs/inference.json", lambda config: config.update(old=OLD))
    info = json.loads(files["model_info.json"])
    info["training"] |= {"versions": {"crosswarp": "0.0.7"}, "git_commit": None}
    del files["scripts/lazy.py"]  # its code differs
    files = summed(files | {"model_info.json": json.dumps(info).encode()})
    first, *others = inspect(io.BytesIO(stored(files)), "old.zip").faults
    assert first.startswith("it was made by crosswarp 0.0.7, with modules that this one, ")
    assert "scripts.pipeline.Stage" in first and any("scripts.pipeline.Stage" in each for each in others)


def test_what_this_version_wrote_is_taken() -> None:
    for config in (*ROOT.glob("configs/**/*.json"), *ROOT.glob("bundles/*/configs/**/*.json")):
        check_origin(config)
