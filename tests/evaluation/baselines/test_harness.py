"""Baselines in the evaluation of a run in miniature, by their configs, as the command line uses them."""

from __future__ import annotations

import csv
import json
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import run as run_bundle

import scripts.evaluation.baselines.elastix
import scripts.evaluation.baselines.identity
import scripts.evaluation.evaluation
from crosswarp.commands.evaluate import baseline_configs
from crosswarp.errors import plain_input_errors
from crosswarp.evaluation.baselines.identity import Identity
from crosswarp.evaluation.measure import Measure
from crosswarp.evaluation.methods import measured_cost
from crosswarp.kept import read_json
from crosswarp.metrics import MeasuredImage
from crosswarp.runs.bundle import INFERENCE, write_json
from crosswarp.spatial.grid import Grid
from tests.cohorts import write_blob_cohort
from tests.trained_run import ROOT, write_trained_run

SCHEDULE = {"seed": 0, "max_epochs": 1, "steps_per_epoch": 2, "batch_size": 2, "learning_rate": 0.001}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that deforms, with what its stages record of their training; reports are not drawn."""
    monkeypatch.setattr(scripts.evaluation.evaluation, "write_report", lambda path, *_: path.write_text(""))
    run = write_trained_run(tmp_path / "run", write_blob_cohort(tmp_path / "data"), deformation=0.3)
    for stage in ("source_segmentation", "multimodal_registration"):
        network = read_json(run / stage / INFERENCE)["network_def"]
        config = SCHEDULE | {
            "spatial_size": [24, 20],
            "spacing": None,
            "regularity_weight": 1.5,
            "network_def": network,
        }
        write_json(run / stage / "configs" / "train.json", config)
    return run


@pytest.fixture
def target_labels(tmp_path: Path) -> Path:
    """Labelled images of the target modality, other than those of the test."""
    path = write_blob_cohort(tmp_path / "labelled", seed=5)
    content = json.loads(path.read_text())
    content["source"]["name"], content["target"]["name"] = "cold", "warm"
    path.write_text(json.dumps(content))
    return path


@plain_input_errors()
def evaluate(run: Path, baselines: str, **overrides: Any) -> list[dict[str, str]]:
    """The rows of metrics.csv."""
    files = [ROOT / "configs" / "evaluate.json", *baseline_configs(baselines)]
    overrides = {"run_dir": str(run), "bundle_root": str(ROOT), "max_pairs": 3, **overrides}
    run_bundle(config_file=[str(file) for file in files], **overrides)
    with (run / "evaluation" / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def dice_of(rows: Sequence[dict[str, str]], method: str) -> dict[tuple[str, ...], float]:
    keys = ("direction", "moving", "fixed", "class")
    return {tuple(row[key] for key in keys): float(row["dice"]) for row in rows if row["method"] == method}


def test_networks_are_trained_once_and_measured_on_the_same_pairs(
    run: Path, target_labels: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = "identity,lncc_network,mind_network,source_as_is,target_labels,manual_labels"
    rows = evaluate(run, names, target_labels=str(target_labels))
    own = dice_of(rows, "crosswarp")
    assert len(own) == 3 * 2 * 3
    measured = {name: dice_of(rows, name) for name in names.split(",")}
    assert all(dice.keys() == own.keys() for dice in measured.values())
    identity = [row for row in rows if row["method"] == "identity"]
    assert all(row["dice"] == row["unregistered_dice"] for row in identity)
    assert all(float(row["inverse_error_mm"]) < 1e-4 for row in identity)
    # what replaces a part of the run changes the maps, and so does another loss
    maps = {name: [row["sd_log_jacobian"] for row in rows if row["method"] == name] for name in measured}
    maps["crosswarp"] = [row["sd_log_jacobian"] for row in rows if row["method"] == "crosswarp"]
    assert len({tuple(values) for values in maps.values()}) == 7

    printed = capsys.readouterr().out
    assert "crosswarp ahead by" in printed
    with (run / "evaluation" / "comparison.csv").open(newline="", encoding="utf-8") as file:
        compared = list(csv.DictReader(file))
    assert {row["method"] for row in compared} == {"crosswarp", *measured}
    assert {row["direction"] for row in compared} == {"warm_to_cold", "cold_to_warm", "both"}

    trained = run / "baselines" / "mind_network" / "registration_augmentation"
    config = read_json(trained / "configs" / "train.json")
    assert config["train"]["similarity"]["_target_"] == "scripts.losses.MINDSSCLoss"
    assert config["max_epochs"] == 1
    assert [epoch["epoch"] for epoch in read_json(trained / "checkpoints" / "history.json")] == [1], (
        "kept once"
    )
    manifest = trained / "manifest.json"
    assert read_json(manifest)["criterion"] == "last epoch", "no label chose it"
    before = manifest.read_bytes()
    evaluate(run, "mind_network,identity", max_pairs=2)
    assert manifest.read_bytes() == before, "trained once"
    run_bundle(config_file=str(ROOT / "configs" / "evaluate.json"), run_dir=str(run), bundle_root=str(ROOT))
    names = sorted(path.name for path in (run / "evaluation").glob("comparison*"))
    assert names == ["comparison.previous.csv"], "it is not of these measurements"


def test_measurements_of_a_baseline_are_kept(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = evaluate(run, "identity")

    def fail(*_: Any) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(scripts.evaluation.baselines.identity.Identity, "register", fail)
    second = evaluate(run, "identity,manual_labels")
    assert dice_of(second, "identity") == dice_of(first, "identity")
    with pytest.raises(RuntimeError):
        evaluate(run, "identity", max_pairs=2)


def test_what_is_missing_is_named_and_left_out(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scripts.evaluation.baselines.elastix, "itk", object())
    monkeypatch.setattr(
        scripts.evaluation.evaluation,
        "write_report",
        lambda path, *content: path.write_text(" ".join(content[6])),  # the notes
    )
    rows = evaluate(run, "elastix_bspline,target_labels,unigradicon,identity")
    assert {row["method"] for row in rows if row["kind"] == "registration"} == {"crosswarp", "identity"}
    left_out = read_json(run / "evaluation" / "manifest.json")["left_out"]
    assert left_out.keys() == {"elastix_bspline", "target_labels", "unigradicon"}
    assert left_out["unigradicon"] == "it registers volumes, not images of 2 dimensions"
    for told in (capsys.readouterr().out, (run / "report.html").read_text()):
        assert "Baseline elastix_bspline was left out: itk-elastix is not installed" in told
        assert "Baseline target_labels was left out: it needs labels of cold images to train on" in told
        assert "Baseline unigradicon was left out: it registers volumes" in told


def test_failures_are_counted(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no overlap")

    monkeypatch.setattr(scripts.evaluation.baselines.identity.Identity, "displacements", fail)
    evaluate(run, "identity")
    assert "Baseline identity failed on 6 of 6 maps" in capsys.readouterr().out


def test_labels_of_the_test_are_not_trained_on(run: Path, target_labels: Path) -> None:
    content = json.loads(target_labels.read_text())
    for number, record in enumerate(content["source"]["val"]):
        record["subject"] = f"coldtest{number}"
    target_labels.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="trains on subjects of the test: coldtest0, coldtest1"):
        evaluate(run, "target_labels", target_labels=str(target_labels))
    content["source"]["name"] = "lukewarm"
    target_labels.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="Expected the labelled modality cold"):
        evaluate(run, "target_labels", target_labels=str(target_labels))


def test_every_config_is_a_method_by_its_name() -> None:
    for path in baseline_configs("all"):
        (identifier,) = (key for key in read_json(path) if key.startswith("baselines#"))
        assert identifier == f"baselines#{path.stem}"
    with pytest.raises(ValueError, match="Expected baselines of ants_syn, .* or all, got sin"):
        baseline_configs("ants_syn,sin")


def test_landmarks_of_a_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the identity, what is measured is how far apart the landmarks are when the extents coincide."""
    data = run.parent / "data"
    content = json.loads((data / "datalist.json").read_text())
    for key, offset in (("source", 0.0), ("target", 2.0)):
        record = content[key]["test"][0]
        (data / f"{key}.csv").write_text(f"name,x,y\na,{5 + offset},6\nb,7,{8 + offset}\nfar,99,1\n")
        record["landmarks"] = f"{key}.csv"
    (data / "datalist.json").write_text(json.dumps(content))
    run = write_trained_run(run.parent / "landmarks", data / "datalist.json")
    rows = [row for row in evaluate(run, "identity", max_pairs=None) if row["method"] == "identity"]
    pair = {"warmtest0", "coldtest0"}
    for row in rows:
        measured = {row["moving_subject"], row["fixed_subject"]} == pair
        assert float(row["tre_mm"]) == pytest.approx(2, abs=1e-4) if measured else row["tre_mm"] == "nan"
    assert "Landmarks outside images/warmtest0.nii.gz were left out: far." in capsys.readouterr().out
    (data / "source.csv").write_text("name,x\na,5\n")
    with pytest.raises(ValueError, match="another datalist|expected the columns x, y"):
        evaluate(run, "identity")


def test_peak_memory_is_that_of_what_is_measured() -> None:
    with measured_cost(torch.device("cpu")) as small:
        pass
    with measured_cost(torch.device("cpu")) as large:
        with mmap.mmap(-1, 2**28) as memory:  # pages that no earlier test left to the process
            for page in range(0, 2**28, mmap.PAGESIZE):
                memory[page] = 1
    assert 0 < small.seconds < large.seconds
    if small.memory_mib == small.memory_mib:  # Linux
        assert large.memory_mib - small.memory_mib == pytest.approx(256, abs=16)


def test_cost_is_measured_where_a_method_computes(tmp_path: Path) -> None:
    """Without a GPU, to ask for its memory would be an error."""
    image = MeasuredImage("a", "a", "warm", torch.zeros(1, 4, 4), Grid((4, 4), np.eye(3)))
    measure = Measure(["background", "bone"], tmp_path, device="cuda", batch_size=1)
    with measure.prepared("identity", Identity(), {"source": [image]}) as prepared:
        assert prepared["a"][1] >= 0
        rows, failures = measure.registrations("identity", Identity(), prepared, [(image, image)])
    assert len(rows) == 2 and rows[0]["memory_mib"] != 0 and failures == 0
    assert not list(tmp_path.iterdir()), "nothing is left"


def test_without_a_pair_there_is_nothing_to_compare(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    datalist = run.parent / "data" / "datalist.json"
    content = json.loads(datalist.read_text())
    del content["source"]["test"]
    datalist.write_text(json.dumps(content))
    run = write_trained_run(run.parent / "unpaired", datalist)
    rows = evaluate(run, "identity,lncc_network")
    assert {row["kind"] for row in rows} == {"segmentation"}
    assert "0 of their 0 pairs were registered" in capsys.readouterr().out
