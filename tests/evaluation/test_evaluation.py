from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import nibabel as nib
import pytest
import torch
from monai.bundle import run as run_bundle

import scripts.evaluation.evaluation  # by this name the configs know it
import scripts.networks
from crosswarp.errors import plain_input_errors
from crosswarp.inference.registrar import Registrar, load
from crosswarp.kept import read_json
from crosswarp.metrics import dice_per_class
from crosswarp.runs.bundle import INFERENCE, write_json
from crosswarp.spatial import jacobian_determinant
from tests.cohorts import write_blob_cohort
from tests.trained_run import ROOT, STAGES, write_trained_run


def evaluate(run: Path, **overrides: Any) -> list[dict[str, str]]:
    """The rows of metrics.csv."""
    overrides = {"run_dir": str(run), "bundle_root": str(ROOT), **overrides}
    run_bundle(config_file=str(ROOT / "configs" / "evaluate.json"), **overrides)
    with (run / "evaluation" / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def of(rows: Sequence[dict[str, str]], **names: str) -> list[dict[str, str]]:
    return [row for row in rows if all(row[key] == value for key, value in names.items())]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose registration is the identity."""
    return write_trained_run(tmp_path / "run", write_blob_cohort(tmp_path / "data"))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty report where it is not looked at: its pictures take most of the time."""
    monkeypatch.setattr(scripts.evaluation.evaluation, "write_report", lambda path, *_: path.write_text(""))


def test_measurements_of_an_identity_registration(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = evaluate(run)
    assert set(rows[0]) == {
        *("kind", "modality", "network", "image", "subject", "class", "dice", "hd95_mm", "assd_mm"),
        *("method", "direction", "moving", "fixed", "moving_subject", "fixed_subject", "unregistered_dice"),
        *("tre_mm", "unregistered_tre_mm", "folds_percent", "sd_log_jacobian", "inverse_error_mm"),
        *("seconds", "memory_mib"),
    }
    images = {key: [f"images/{key}test{i}.nii.gz" for i in range(2)] for key in ("warm", "cold")}
    classes = ["blob 1", "blob 2", "blob 3"]
    segmented = {
        (row["modality"], row["network"], row["image"], row["class"]) for row in of(rows, kind="segmentation")
    }
    networks = [("warm", "source"), ("cold", "target"), ("cold", "source as is")]
    assert segmented == {(m, n, i, c) for m, n in networks for i in images[m] for c in classes}
    pairs = of(rows, kind="registration")
    assert {(row["direction"], row["moving"], row["fixed"], row["class"]) for row in pairs} == {
        (f"{a}_to_{b}", *pair, c)
        for a, b in (("warm", "cold"), ("cold", "warm"))
        for pair in product(images[a], images[b])
        for c in classes
    }
    assert len(rows) == len(segmented) + len(pairs) == 18 + 24
    assert all(row["dice"] == row["unregistered_dice"] for row in pairs)
    assert all(float(row["folds_percent"]) == 0 for row in pairs)
    with (run / "evaluation" / "expected.csv").open(newline="", encoding="utf-8") as file:
        expected = list(csv.DictReader(file))
    found = {(row["moving"], row["fixed"], row["class"]): float(row["dice"]) for row in expected}
    assert len(found) == len(expected) == 8 * (1 + 3), "each pair both ways, its classes and their mean"
    for row in pairs:
        names = row["moving"], row["fixed"]
        assert found[(*names, row["class"])] <= float(row["dice"]) + 1e-6, "the least, of both labels, too"
        assert found[(*names, "mean")] == pytest.approx(fmean(found[(*names, c)] for c in classes), abs=1e-6)
    assert all(
        0 <= float(row["expected_low"]) <= float(row["expected"]) <= float(row["expected_high"]) <= 1
        for row in expected
        if row["expected"] != "nan"
    )
    assert any(row["expected"] != "nan" for row in expected)
    assert all(float(row["inverse_error_mm"]) == pytest.approx(0, abs=1e-4) for row in pairs)
    assert all(row["moving"] == f"images/{row['moving_subject']}.nii.gz" for row in pairs)
    assert all(0 < float(row["seconds"]) < 10 for row in pairs)

    printed = capsys.readouterr().out
    assert "networks' grid of 24 × 20 points, on 2 warm and 2 cold test images; 4 of their 4 pairs" in printed
    assert (
        "cold to warm  unregistered" in printed
        and "warm to cold  crosswarp " in printed
        and "source as is" in printed
    )
    report = (run / "report.html").read_text(encoding="utf-8")
    assert "blobs: warm and cold" in report and "Measured on the networks&#39; grid of 24 × 20" in report
    assert all(f"{i}. {name.replace('_', ' ')}" in report for i, name in enumerate(STAGES, 1))
    assert report.count("<figcaption>Volume change</figcaption>") == 3 and "worst, Dice" in report
    weights = read_json(run / "provenance.json")["weights"]
    assert weights in report and "cpu (" in report
    summary = read_json(run / "evaluation" / "manifest.json")["summary"]
    mean = next(row for row in summary if row["class"] == "mean" and row.get("network") == "target")
    assert mean["dice_mean"] == pytest.approx(fmean(float(row["dice"]) for row in of(rows, network="target")))


def test_warnings_of_the_training_stand_first(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "domain_adaptation" / "manifest.json"
    write_json(path, read_json(path) | {"warnings": ["outlines do not lie on edges"]})
    evaluate(run, max_pairs=1)
    printed = capsys.readouterr().out.strip().splitlines()
    warning = "training of domain_adaptation: outlines do not lie on edges."
    assert f"Warning: {warning}" in printed
    assert printed.index(f"Warning: {warning}") < printed.index(next(x for x in printed if "Measured" in x))
    report = (run / "report.html").read_text(encoding="utf-8")
    assert report.index("<li>domain_adaptation: outlines do not") < report.index("Dice overlap")


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_what_is_measured_is_what_a_user_gets(tmp_path: Path, spatial_dims: int) -> None:
    """Whatever the inference config says: here its preprocessing, inferer and alignment are not the usual."""
    datalist = write_blob_cohort(tmp_path / "data", spatial_dims, num_classes=3, spatial_size=(16, 12))
    run = write_trained_run(tmp_path / "run", datalist, deformation=0.5)
    usual = evaluate(run, batch_size=3)
    assert_what_a_user_gets(
        usual, load(run, device="cpu"), tmp_path / "data", rel=1e-4
    )  # rounding in a batch
    config = read_json(run / INFERENCE)
    config["preprocessing"]["transforms"][-2] |= {"b_min": 1.0, "b_max": 0.0}
    config["inferer"]["enabled"] = True  # bfloat16
    write_json(run / INFERENCE, config)
    alignment = {"initialisation": "moments"}
    rows = evaluate(run, batch_size=1, inference=alignment)
    assert_what_a_user_gets(rows, load(run, device="cpu", **alignment), tmp_path / "data", rel=1e-9)
    spreads = [{row["sd_log_jacobian"] for row in each} for each in (usual, rows)]
    assert spreads[0] & spreads[1] == {""}, "all of that changes the maps"


def assert_what_a_user_gets(rows: list[dict[str, str]], registrar: Registrar, data: Path, rel: float) -> None:
    """Compare labels and maps that were measured with those of single images and pairs in Python."""
    file = (data / "{}" / "{}test{}.nii.gz").as_posix()
    for i, j in product(range(2), range(2)):
        warm, cold = (f"images/{name}test{n}.nii.gz" for name, n in (("warm", i), ("cold", j)))
        for moving, fixed, *modalities in (
            (warm, cold, "source", "target"),
            (cold, warm, "target", "source"),
        ):
            pair = registrar.register(data / moving, data / fixed, *modalities)
            determinant = jacobian_determinant(pair.moving_to_fixed)
            spread = determinant[determinant > 0].log().std(correction=0).item()
            measured = of(rows, kind="registration", moving=moving, fixed=fixed)
            assert [float(row["sd_log_jacobian"]) for row in measured] == pytest.approx([spread] * 2, rel=rel)
    for i, (name, modality) in product(range(2), (("warm", "source"), ("cold", "target"))):
        label = registrar.segment(file.format("images", name, i), modality).label[None]
        manual = torch.from_numpy(nib.load(file.format("labels", name, i)).get_fdata())[None, None]
        expected = dice_per_class(label, manual, 3)[0].tolist()
        measured = of(rows, network=modality, image=f"images/{name}test{i}.nii.gz")
        assert [float(row["dice"]) for row in measured] == pytest.approx(expected)


@pytest.mark.usefixtures("undrawn")
def test_second_call_shows_what_is_stored(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = evaluate(run, max_pairs=2)
    sources, targets = (
        {row[side] for row in of(first, direction="warm_to_cold")} for side in ("moving", "fixed")
    )
    assert len(sources) == len(targets) == 2, "few pairs still use every image"
    table = capsys.readouterr().out.partition("Measured on")[2]
    assert "Registration, mean" in table

    class ComputedAgain(Exception):
        pass

    def fail(*_: Any) -> None:
        raise ComputedAgain

    monkeypatch.setattr(scripts.networks.SegmentAndRegister, "segment", fail)
    evaluate(run, max_pairs=2, device="$torch.device('cpu')")
    assert capsys.readouterr().out.partition("Measured on")[2] == table

    def computes_again(**overrides: Any) -> bool:
        with pytest.raises(RuntimeError) as caught:
            evaluate(run, **overrides)
        return isinstance(caught.value.__cause__, ComputedAgain)

    assert computes_again(max_pairs=3)
    (run / "report.html").unlink()
    assert computes_again(max_pairs=2)


@pytest.mark.usefixtures("undrawn")
def test_named_pairs(run: Path) -> None:
    rows = evaluate(run, pairs=[["images/warmtest1.nii.gz", "images/coldtest0.nii.gz"]])
    pairs = {(row["moving"], row["fixed"]) for row in of(rows, kind="registration")}
    one, other = "images/warmtest1.nii.gz", "images/coldtest0.nii.gz"
    assert pairs == {(one, other), (other, one)}


def test_unlabelled_test_images_are_shown_and_not_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    datalist = write_blob_cohort(tmp_path / "data")
    content = json.loads(datalist.read_text())
    for record in content["target"]["test"]:
        del record["label"]
    datalist.write_text(json.dumps(content))
    rows = evaluate(write_trained_run(tmp_path / "run", datalist))
    assert {row["modality"] for row in of(rows, kind="segmentation")} == {"warm"}
    pairs = of(rows, kind="registration")
    assert len(pairs) == 24 and all(row["dice"] == row["unregistered_dice"] == "nan" for row in pairs)
    assert all(float(row["folds_percent"]) == 0 for row in pairs)
    assert "No cold test image has a label" in capsys.readouterr().out
    report = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Example: warm to cold" in report and "cold, example: images/coldtest0.nii.gz" in report
    assert "<strong>nan" not in report


@pytest.mark.usefixtures("undrawn")
def test_only_labelled_images_where_some_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    datalist = write_blob_cohort(tmp_path / "data")
    content = json.loads(datalist.read_text())
    del content["target"]["test"][0]["label"]
    datalist.write_text(json.dumps(content))
    rows = evaluate(write_trained_run(tmp_path / "run", datalist))
    assert {row["image"] for row in of(rows, modality="cold")} == {"images/coldtest1.nii.gz"}
    assert "1 cold test images without label and landmarks were left out" in capsys.readouterr().out


@pytest.mark.usefixtures("undrawn")
def test_other_channels_leave_out_the_source_network_as_it_is(tmp_path: Path) -> None:
    datalist = write_blob_cohort(tmp_path / "data", channels=2)
    content = json.loads(datalist.read_text())
    grey = json.loads(write_blob_cohort(tmp_path / "grey").read_text())["target"]
    for section in ("train_unlabelled", "val", "test"):
        for record in grey[section]:
            record |= {key: f"../grey/{record[key]}" for key in ("image", "label") if key in record}
    datalist.write_text(json.dumps(content | {"target": grey}))
    rows = evaluate(write_trained_run(tmp_path / "run", datalist), max_pairs=1)
    assert {(row["modality"], row["network"]) for row in of(rows, kind="segmentation")} == {
        ("warm", "source"),
        ("cold", "target"),
    }


def break_nothing(run: Path) -> dict[str, Any]:
    return {"run_dir": str(run / "nowhere")}


def break_stage(run: Path) -> dict[str, Any]:
    (run / "domain_adaptation" / "manifest.json").unlink()
    return {}


def break_publication(run: Path) -> dict[str, Any]:
    write_json(run / "domain_adaptation" / "manifest.json", {"state": "done", "weights": "trained anew"})
    return {}


def other_data(run: Path) -> dict[str, Any]:
    return {"datalist": str(write_blob_cohort(run.parent / "other", seed=1))}


def lost_data(run: Path) -> dict[str, Any]:
    (run.parent / "data").rename(run.parent / "moved")
    return {}


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (break_nothing, "Expected a run in .*nowhere"),
        (break_stage, "not trained yet: domain_adaptation. Go on with configs/train.json"),
        (break_publication, "a stage was trained by itself since"),
        (other_data, "another datalist"),
        (lost_data, "datalist.json is not there any more: give its new place"),
        (lambda run: {"max_pair": 3}, "no parameter 'max_pair' .did you mean max_pairs"),
        (lambda run: {"pairs": [["warmtest0", "coldtest0"]]}, "such as .'images/warmtest0.nii.gz'"),
        (lambda run: {"max_pairs": 0}, "at least one pair or null"),
        (
            lambda run: {"inference": {"initialization": "affine"}},
            "inference.json has no parameter 'initialization' .did you mean initialisation",
        ),
    ],
)
def test_faults_end_with_their_remedy(run: Path, prepare: Any, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message), plain_input_errors():
        evaluate(run, **prepare(run))
    assert not (run / "report.html").exists()


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("inside", [False, True])
def test_single_stages(run: Path, monkeypatch: pytest.MonkeyPatch, inside: bool) -> None:
    overall = evaluate(run)
    manifests = {name: (run / name / "manifest.json").read_bytes() for name in STAGES}
    dice = {}
    for name in STAGES:
        bundle = ROOT / "bundles" / name
        monkeypatch.chdir(bundle if inside else ROOT)
        folder = "configs" if inside else f"bundles/{name}/configs"
        run_bundle(
            config_file=[f"{folder}/train.json", f"{folder}/evaluate.json"],
            bundle_root="." if inside else f"bundles/{name}",
            datalist=str(run.parent / "data" / "datalist.json"),
            run_dir=str(run),
        )
        metrics = dict(
            line.split(",") for line in (run / name / "evaluation" / "metrics.csv").read_text().split()
        )
        dice[name] = float(metrics["val_dice"])
        assert (run / name / "evaluation" / "val_dice_raw.csv").is_file()
    assert manifests == {name: (run / name / "manifest.json").read_bytes() for name in STAGES}, (
        "nothing began"
    )
    assert not (run / "previous").exists()
    for stage, network in (("source_segmentation", "source"), ("domain_adaptation", "target")):
        values = [float(row["dice"]) for row in of(overall, network=network)]
        # classes of networks that have hardly trained lie near each other, and batches round otherwise
        assert dice[stage] == pytest.approx(fmean(values), abs=1e-3)
    # the identity leaves every pair as it is; in stage 4, pairs across and within the modalities
    assert 0 < dice["registration_augmentation"] < 1 and 0 < dice["multimodal_registration"] < 1


def test_single_stage_that_is_not_trained(run: Path) -> None:
    folder = ROOT / "bundles" / "source_segmentation"
    (run / "source_segmentation" / "manifest.json").unlink()
    message = "Expected the trained stage source_segmentation"
    with pytest.raises(FileNotFoundError, match=message), plain_input_errors():
        run_bundle(
            config_file=[str(folder / "configs" / f"{name}.json") for name in ("train", "evaluate")],
            bundle_root=str(folder),
            datalist=str(run.parent / "data" / "datalist.json"),
            run_dir=str(run),
        )
