"""The benchmarks from end to end on a few tiny images, and what they calculate themselves."""

from __future__ import annotations

import json

import ablation
import chain
import failures
import nibabel as nib
import numpy as np
import pairs
import pytest
import stages
import torch
import trust
import verdicts

from crosswarp.commands.cohort import cohort

SMALL = {"max_epochs": 1, "steps_per_epoch": 1, "batch_size": 2}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder with a cohort and a benchmark of the chain on it, and the benchmark's figures."""
    folder = tmp_path_factory.mktemp("benchmarks")
    data = cohort(
        folder / "data", 32, train_labelled=3, train_unlabelled=4, val=2, test=2, target_train=4,
        target_val=2, target_test=2,
    )  # fmt: skip
    overrides = {f"{stage}#{key}": value for stage in chain.STAGES for key, value in SMALL.items()}
    overrides |= {"worsened_pairs": 96, "pose_recognition#examples": 64, "pose_recognition#steps": 20}
    out = folder / "chain.json"
    figures = chain.main(datalist=str(data), seeds=1, folder=str(folder), out=str(out), **overrides)
    assert json.loads(out.read_text()) == json.loads(json.dumps(figures))
    return folder, data, figures


def test_chain(tiny):
    _, _, figures = tiny
    (row,) = figures["seeds"]
    assert row["total s"] > sum(row[f"{stage} s"] for stage in chain.STAGES) > 0
    dice = ("source", "source as is", "target", "target fibula", "dxa_to_xray", "xray_to_dxa", "unregistered")
    assert all(0 <= row[name] <= 1 for name in dice) and row["folds %"] >= 0
    assert figures["device"] and figures["versions"]["torch"] and figures["date"]
    assert {line[""] for line in figures["rows"]} == set(row) - {"seed"}


def test_ablation(tiny):
    folder, data, _ = tiny
    figures = ablation.main(
        datalist=str(data),
        seeds=1,
        folder=str(folder),
        variants="full,all pieces",
        self_training_start=0,
        **SMALL | {"max_epochs": 2},
    )
    assert [row["variant"] for row in figures["rows"]] == ["full", "all pieces"]
    (result,) = figures["results"]["full"]
    assert set(result["as is"]) == {"femur", "tibia", "fibula", "mean"} and len(result["curve"]) == 2
    with pytest.raises(SystemExit, match="got \\['fulll'\\]"):
        ablation.main(variants="fulll")


def test_an_ablation_sums_up_gains_and_how_far_the_last_epoch_is_behind():
    results = [
        {"as is": {"a": 0.5, "b": 0.4, "mean": 0.45}, "curve": [{"a": 0.9, "b": 0.5, "mean": 0.7}] * 2},
        {
            "as is": {"a": 0.5, "b": 0.4, "mean": 0.45},
            "curve": [{"a": 0.9, "b": 0.5, "mean": 0.7}, {"a": 0.7, "b": 0.3, "mean": 0.5}],
        },
    ]
    row = ablation.summarise("x", results)
    assert row["best − last, largest"] == pytest.approx(0.2)
    assert row["smallest gain of a class"] == pytest.approx(-0.1)
    assert row["a"] == "0.800 ± 0.141" and row["as is"] == "0.450 ± 0.000"


@pytest.fixture
def same_process(monkeypatch):
    """Measure a block of steps without starting a process: imports take long."""
    monkeypatch.setattr(stages, "BLOCKS", 1)
    for script in (stages, pairs):
        monkeypatch.setattr(script, "in_new_process", lambda function, *arguments: function(*arguments))


def test_stages(tiny, same_process, monkeypatch, capsys):
    folder, _, _ = tiny
    monkeypatch.setattr(stages, "prepare", lambda *_: {"demo": folder / "seed_0"})
    out = folder / "stages.json"
    figures = stages.main(
        batch_size=2, steps=1, warmup=1, presets="demo", device="cpu", rounds=1, out=str(out)
    )
    assert json.loads(out.read_text()) == json.loads(json.dumps(figures))
    assert [row["stage"] for row in figures["rows"]] == list(chain.STAGES)
    for row in figures["rows"]:
        pairs_or_images = 4 if "registration" in row["stage"] else 2
        assert row["images/s"] == pytest.approx(pairs_or_images * row["steps/s"])
        assert min(row["GFLOP/step"], row["memory GiB"], row["of a step, drawing ms"]) > 0
    assert figures["arguments"]["batch_size"] == 2 and figures["threads"] == torch.get_num_threads()
    assert "GFLOP/step" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("stage", "active"),
    [(chain.STAGES[0], 3), (chain.STAGES[0], 4), *((stage, None) for stage in chain.STAGES[1:])],
)
def test_the_plain_step_of_a_stage_trains_the_papers_networks(tiny, same_process, stage, active):
    folder, _, _ = tiny
    row = stages.measure(stage, "plain", folder / "seed_0", 1, 1, 1, "cpu", active=active)
    ours = stages.measure(stage, "paper", folder / "seed_0", 1, 1, 1, "cpu", active=active)
    assert row["GFLOP/step"] == pytest.approx(ours["GFLOP/step"], rel=0.01)  # no wasted work


def test_pairs(tiny, same_process, monkeypatch):
    folder, _, _ = tiny
    monkeypatch.setattr(pairs, "prepare", lambda *_: dict.fromkeys(("plain", "demo"), folder / "seed_0"))
    figures = pairs.main(size=32, batch_size=2, repeats=2, presets="plain,demo", device="cpu", rounds=2)
    plain, ours = figures["rows"]
    assert plain["× plain"] == 1 and ours["× plain"] == pytest.approx(plain["warm ms"] / ours["warm ms"])
    assert ours["pairs/s"] == pytest.approx(1e3 / ours["batch ms"]) and ours["cold ms"] > 0


def test_trust(tiny):
    folder, _, _ = tiny
    figures = trust.main(str(folder / "seed_0"))
    assert len(figures["rows"]) == 5 + 2 * (len(trust.STRANGERS) + len(trust.SPOILT))
    assert all(row["ok"] + row["check"] + row["failed"] == 2 for row in figures["rows"])
    for row in figures["exactness"]:
        assert row["inverse mm"] < 2  # an epoch of one step hardly moves anything
        assert row["flipped, apart px"] == row["turned, apart px"] == "0.000, 0.000"


def test_verdicts(tiny):
    folder, _, _ = tiny
    out = folder / "verdicts.json"
    figures = verdicts.main(str(folder / "seed_0"), pairs=15, out=str(out))
    rows = {row["pairs"]: row for row in figures["rows"]}
    measured = json.loads(out.read_text())["measured"]
    assert len(measured) == 15 and sum(row["kind"] == "as it is" for row in measured) >= 5
    assert all(row["dice"] <= row["registered"] + 1e-6 for row in measured if row["dice"] == row["dice"])
    assert all(row["ok"] + row["check"] + row["failed"] == row["n"] for row in rows.values())
    assert rows["as it is"]["n"] == 5 and 0 <= rows["all"]["coverage"] <= 1


def test_epochs_fill_a_budget():
    epochs, probe = {"a": 10, "b": 30}, {"a": (5.0, 2.0), "b": (5.0, 1.0)}
    assert chain.scale_epochs(epochs, probe, 60.0) == {"a": 10, "b": 30}
    assert chain.scale_epochs(epochs, probe, 35.0) == {"a": 5, "b": 15}
    assert chain.scale_epochs(epochs, probe, 1.0) == {"a": 1, "b": 1}
    assert chain.preset_epochs("source_segmentation", "demo") == 20


def test_failures(tiny):
    folder, data, _ = tiny
    for number, stage in enumerate(failures.STAGES, 1):
        failures.judged(folder / "seed_0", data, stage)
        row = failures.described(folder / "seed_0", data, stage)
        manifest = json.loads((folder / "seed_0" / stage / "manifest.json").read_text())
        assert row["stage"] == number and row["warnings"] == len(manifest["warnings"]) > 0
        assert 0 <= row["dice"] <= 1 and 0 <= row["start"] <= 1


def test_data_of_failures_are_wrong_as_they_say(tiny, tmp_path):
    _, data, _ = tiny

    def files(path, modality, section, key):
        records = json.loads(path.read_text())[modality][section]
        return [np.asanyarray(nib.load(path.parent / record[key]).dataobj) for record in records]

    labels = files(data, "source", "train_labelled", "label")
    for number, other in enumerate(
        files(failures.shuffled(data, tmp_path), "source", "train_labelled", "label")
    ):
        np.testing.assert_array_equal(other, labels[(number + 3) % len(labels)])
    for section, key in (("train_unlabelled", "image"), ("test", "image"), ("test", "label")):
        turned = files(failures.upside(data, tmp_path), "target", section, key)
        for image, other in zip(files(data, "target", section, key), turned, strict=True):
            np.testing.assert_array_equal(other, image[:, ::-1])
