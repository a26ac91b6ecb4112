"""Several seeds: trained one by one, evaluated together, and how far they lie apart."""

from __future__ import annotations

import csv
import json
from math import isnan
from statistics import fmean, stdev

import pytest

from crosswarp.commands.arguments import Arguments
from crosswarp.commands.evaluate import evaluate
from crosswarp.commands.train import train
from crosswarp.evaluation.seeds import read_rows
from crosswarp.metrics.trainings import averaged, spread
from tests.cohorts import write_blob_cohort
from tests.trained_run import write_trained_run


def rows(*dice: float) -> list[dict]:
    """Of two images of two subjects, each with two classes."""
    names = [(image, name) for image in ("a", "b") for name in ("femur", "tibia")]
    common = {"kind": "segmentation", "modality": "dxa", "network": "source"}
    return [
        common | {"image": image, "subject": f"of {image}", "class": name, "dice": value}
        for (image, name), value in zip(names, dice, strict=True)
    ]


def test_the_spread_is_that_of_the_means_of_the_trainings():
    trainings = {"seed-0": rows(0.8, 0.6, 0.9, 0.7), "seed-1": rows(0.9, 0.6, 1.0, 0.5)}
    found = {row["class"]: row for row in spread(trainings)}
    assert found["femur"]["dice seed-0"] == pytest.approx(0.85)
    assert found["femur"]["dice_mean"] == pytest.approx(0.9) and found["femur"]["trainings"] == 2
    assert found["femur"]["dice_sd"] == pytest.approx(stdev([0.85, 0.95]))
    assert (found["femur"]["dice_least"], found["femur"]["dice_most"]) == pytest.approx((0.85, 0.95))
    assert found["femur"]["dice_low"] == pytest.approx(0.85) and found["femur"]["dice_high"] == pytest.approx(
        0.95
    )
    assert found["mean"]["dice_mean"] == pytest.approx(0.75) and found["mean"]["dice_sd"] == pytest.approx(0)
    assert [row["dice"] for row in averaged(trainings)] == pytest.approx([0.85, 0.6, 0.95, 0.6])


def test_a_class_that_one_training_has_not_measured_counts_where_it_is():
    trainings = {"seed-0": rows(0.8, float("nan"), 0.9, float("nan")), "seed-1": rows(0.8, 0.5, 0.9, 0.7)}
    tibia = next(row for row in spread(trainings) if row["class"] == "tibia")
    assert tibia["trainings"] == 1 and tibia["dice_mean"] == pytest.approx(0.6) and isnan(tibia["dice_sd"])


def test_seeds_are_trained_one_by_one_and_those_that_are_done_are_left(tmp_path, monkeypatch, capsys):
    trained = []

    def run_config(files, bundle, values, overrides):
        trained.append((values["run_dir"], overrides["seed"], overrides["max_epochs"]))

    monkeypatch.setattr("crosswarp.commands.running.run_config", run_config)
    monkeypatch.setattr("crosswarp.runs.finished.remember_finished", lambda *_: None)
    monkeypatch.setattr(
        "crosswarp.runs.finished.finished_warnings", lambda run, *_: [] if run.name == "seed-1" else None
    )
    given = Arguments("train", train).checked(
        ["my.json", str(tmp_path), "--seeds", "2,0,1", "--max_epochs", "3"]
    )
    assert "--seeds=2,0,1" in given
    train("my.json", str(tmp_path), seeds=[2, 0, 1], max_epochs=3)
    assert trained == [(str(tmp_path / f"seed-{seed}"), seed, 3) for seed in (2, 0)]
    said = capsys.readouterr().out
    assert f"{tmp_path / 'seed-1'} is trained" in said and "one report of all 3 seeds" in said


@pytest.mark.parametrize(
    ("seeds", "more", "message"),
    [
        ([0, 0], {}, "Expected different seeds from 0 on, got 0, 0"),
        (-1, {}, "Expected different seeds from 0 on, got -1"),
        ([0, 1], {"seed": 3}, "Expected seed or seeds, got both"),
    ],
)
def test_seeds_that_cannot_be_are_refused(seeds, more, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train("my.json", str(tmp_path), seeds=seeds, **more)


def test_a_run_by_itself_is_no_folder_of_seeds(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ValueError, match="is a run by itself"):
        train("my.json", str(tmp_path), seeds=[0])


def test_all_seeds_are_evaluated_and_their_spread_is_in_one_report(tmp_path, capsys):
    data = write_blob_cohort(tmp_path / "data", num_classes=3)
    for seed in (0, 3):
        write_trained_run(tmp_path / "runs" / f"seed-{seed}", data, seed=seed, worsened_pairs=0)
    evaluate(str(tmp_path / "runs"))
    said = capsys.readouterr().out
    assert "Dice over seed-0, seed-3, mean ± standard deviation over the trainings" in said
    with (tmp_path / "runs" / "evaluation" / "seeds.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    each = [read_rows(tmp_path / "runs" / f"seed-{seed}" / "evaluation" / "metrics.csv") for seed in (0, 3)]
    wanted = {"kind": "segmentation", "network": "target", "class": "blob 1"}
    means = [fmean(row["dice"] for row in measured if wanted.items() <= row.items()) for measured in each]
    (row,) = (row for row in found if wanted.items() <= row.items())
    assert float(row["dice_mean"]) == pytest.approx(fmean(means))
    assert float(row["dice_sd"]) == pytest.approx(stdev(means))
    assert means[0] != means[1]
    html = (tmp_path / "runs" / "report.html").read_text(encoding="utf-8")
    assert "Spread over the trainings" in html and '<th scope="col">seed-3</th>' in html


def test_seeds_of_different_data_or_of_none_make_no_report(tmp_path):
    for seed in (0, 1):
        (tmp_path / f"seed-{seed}").mkdir()
        (tmp_path / f"seed-{seed}" / "run.json").write_text(f'{{"datalist_digest": "{seed}"}}')
    with pytest.raises(ValueError, match="seed-0, seed-1 are runs of different data"):
        evaluate(str(tmp_path))
    for seed, epochs in ((0, 5), (1, 9)):
        (tmp_path / f"seed-{seed}" / "run.json").write_text('{"datalist_digest": "same"}')
        config = tmp_path / f"seed-{seed}" / "domain_adaptation" / "configs" / "train.json"
        config.parent.mkdir(parents=True)
        config.write_text(json.dumps({"max_epochs": epochs, "seed": seed, "run_dir": str(seed)}))
    with pytest.raises(ValueError, match="from seed-0 differ seed-1 in domain_adaptation#max_epochs: give"):
        evaluate(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="Expected trained runs in .*seed-2, but there are none"):
        evaluate(str(tmp_path), seeds=[0, 2])
