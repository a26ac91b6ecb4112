"""A stage's folder from new to done, interrupted and stale, in a bundle that trains nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigWorkflow
from torch import nn

from crosswarp.data import load_datalist
from crosswarp.errors import plain_input_errors
from crosswarp.runs import Stage
from crosswarp.runs.bundle import write_json
from crosswarp.runs.stage import training_warnings
from crosswarp.training.handlers import save_atomically
from tests.cohorts import write_blob_cohort

CONFIG = {
    "imports": ["$from types import SimpleNamespace", "$from crosswarp.data import load_datalist"],
    "bundle_root": ".",
    "run_dir": ".",
    "datalist": ".",
    "data": "$load_datalist(@datalist)",
    "device": "cpu",
    "spatial_size": "$@data.spatial_size",
    "num_classes": "$@data.num_classes",
    "learning_rate": 0.1,
    "inputs": [],
    "weights": None,
    "stage": {
        "_target_": "crosswarp.runs.Stage",
        "name": "segment",
        "bundle_root": "@bundle_root",
        "run_dir": "@run_dir",
        "datalist": "@data",
        "inputs": "@inputs",
    },
    "network_def": {"_target_": "torch.nn.Linear", "in_features": "@num_classes", "out_features": 2},
    "chosen": {"weights": "@weights", "criterion": "dice", "value": 0.5, "epoch": 3},
    "checkpoints": "$SimpleNamespace(chosen=@chosen)",
    "initialize": ["$@stage.begin()"],
    "run": [],
    "finalize": ["$@stage.finish(@checkpoints)"],
}
INFERENCE = {"num_classes": 4, "network_def": {}, "output_dir": "output"}


class Bundle:
    """A bundle and the run of one datalist."""

    def __init__(self, folder: Path):
        self.root, self.run_dir = folder / "bundle", folder / "run"
        self.datalist = write_blob_cohort(folder / "data")
        (self.root / "configs").mkdir(parents=True)
        (self.root / "configs" / "train.json").write_text(json.dumps(CONFIG))
        (self.root / "configs" / "inference.json").write_text(json.dumps(INFERENCE))
        self.weights = folder / "best.pt"
        torch.save(nn.Linear(4, 2).state_dict(), self.weights)
        self.folder = self.run_dir / "segment"

    def workflow(self, **overrides):
        places = {
            "bundle_root": self.root,
            "run_dir": self.run_dir,
            "datalist": self.datalist,
            "weights": self.weights,
        }
        return ConfigWorkflow(
            config_file=str(self.root / "configs" / "train.json"),
            meta_file=[],
            logging_file=False,
            workflow_type="train",
            **{key: str(value) for key, value in places.items()} | overrides,
        )

    @plain_input_errors()
    def begin(self, **overrides):
        workflow = self.workflow(**overrides)
        workflow.initialize()
        return workflow

    def train(self, **overrides):
        self.begin(**overrides).finalize()
        return self.manifest

    def state(self, **overrides):
        parser = self.workflow(**overrides).parser
        parser.parse()
        digest = json.loads((self.run_dir / "run.json").read_text())["datalist_digest"]
        stage = parser.get_parsed_content("stage")
        return stage.state(stage.fingerprint(parser, digest))

    @property
    def manifest(self):
        return json.loads((self.folder / "manifest.json").read_text())


@pytest.fixture
def bundle(tmp_path):
    return Bundle(tmp_path)


def test_a_stage_is_new_then_interrupted_then_done(bundle):
    assert (
        Stage("segment", str(bundle.root), str(bundle.run_dir), load_datalist(bundle.datalist)).manifest
        is None
    )
    bundle.begin()
    assert bundle.manifest["state"] == "running" and bundle.state() == "interrupted"
    (bundle.folder / "checkpoints").mkdir()
    manifest = bundle.train()
    assert (bundle.folder / "checkpoints").is_dir()  # resumed where it was
    assert manifest["state"] == "done" and bundle.state() == "done"
    assert {manifest[key] for key in ("stage", "criterion", "value", "epoch")} == {"segment", "dice", 0.5, 3}
    assert set(manifest["versions"]) == {"crosswarp", "python", "torch", "monai", "numpy", "pytorch-ignite"}
    assert (bundle.folder / "models" / "model.pt").read_bytes() == bundle.weights.read_bytes()


def test_the_folder_becomes_a_bundle_with_the_config_as_run(bundle):
    bundle.train(learning_rate=0.3)
    config = json.loads((bundle.folder / "configs" / "train.json").read_text())
    assert config["learning_rate"] == 0.3 and set(config) == set(CONFIG)
    inference = json.loads((bundle.folder / "configs" / "inference.json").read_text())
    assert inference == INFERENCE | {"network_def": CONFIG["network_def"] | {"in_features": 4}}


def test_another_parameter_makes_it_stale_and_puts_it_aside(bundle):
    for number, rate in enumerate((0.2, 0.3, 0.4)):
        bundle.train(learning_rate=rate)
        (bundle.folder / "mark").write_text(str(rate))
        assert bundle.state(learning_rate=rate) == "done" and bundle.state(learning_rate=9) == "stale"
        assert len(list(bundle.run_dir.glob("previous/*"))) == number
    kept = {path.name: (path / "mark").read_text() for path in bundle.run_dir.glob("previous/*")}
    assert kept == {"segment-1": "0.2", "segment-2": "0.3"}
    assert (bundle.folder / "mark").read_text() == "0.4"


def test_where_it_runs_and_who_gives_a_value_of_the_data_do_not_matter(bundle):
    bundle.train()
    bundle.run_dir = bundle.run_dir.rename(bundle.run_dir.with_name("moved"))
    bundle.folder = bundle.run_dir / "segment"
    assert bundle.state(device="cuda:1", spatial_size=[24, 20]) == "done"
    assert bundle.state(spatial_size=[24, 24]) == "stale"


def test_changed_or_missing_weights_are_not_done(bundle):
    bundle.train()
    weights = bundle.folder / "models" / "model.pt"
    whole = weights.read_bytes()
    weights.write_bytes(whole + b"0")
    assert bundle.state() == "interrupted"
    weights.unlink()
    assert bundle.state() == "interrupted"
    bundle.train()
    assert bundle.state() == "done" and weights.read_bytes() == whole


def test_a_folder_without_a_manifest_is_put_aside(bundle):
    bundle.folder.mkdir(parents=True)
    (bundle.folder / "mine.txt").write_text("not to be lost")
    bundle.train()
    assert (bundle.run_dir / "previous" / "segment-1" / "mine.txt").read_text() == "not to be lost"
    assert not (bundle.folder / "mine.txt").exists()


def test_weights_of_earlier_stages_decide_too(bundle):
    with pytest.raises(
        FileNotFoundError,
        match=r"Stage segment needs the trained stages \['first', 'second'\].*run them first",
    ):
        bundle.begin(inputs=["first", "second"])
    assert not bundle.folder.exists()
    for name in ("first", "second"):
        path = bundle.run_dir / name / "models" / "model.pt"
        path.parent.mkdir(parents=True)
        path.write_text(name)
    manifest = bundle.train(inputs=["first", "second"])
    assert set(manifest["inputs"]) == {"first", "second"}
    assert bundle.state(inputs=["first", "second"]) == "done"
    path.write_text("trained anew")
    assert bundle.state(inputs=["first", "second"]) == "stale"


def test_a_run_folder_belongs_to_one_datalist(bundle, tmp_path):
    bundle.train()
    other = write_blob_cohort(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match="holds a run of .*data/datalist.json.*Choose another run_dir"):
        bundle.begin(datalist=str(other))
    assert bundle.state() == "done"
    same = write_blob_cohort(tmp_path / "same")
    bundle.begin(datalist=str(same))  # the same files elsewhere
    next((tmp_path / "data" / "images").iterdir()).write_bytes(b"changed")
    with pytest.raises(ValueError, match="its files changed"):
        bundle.begin()


def test_faults_of_the_data_and_of_the_parameters_end_it_before_anything_is_written(bundle):
    with pytest.raises(ValueError, match=r"no parameter 'learningrate' \(did you mean learning_rate"):
        bundle.begin(learningrate=1)
    images = sorted((bundle.datalist.parent / "images").iterdir())[:2]
    for image in images:
        image.unlink()
    with pytest.raises(
        ValueError, match="(?s)2 faults.*coldtest0.nii.gz: missing.*coldtest1.nii.gz: missing"
    ):
        bundle.begin()
    assert not bundle.run_dir.exists()


def test_time_of_a_finished_training_is_kept_when_it_is_begun_again(bundle):
    bundle.train()
    content = bundle.manifest | {"seconds": 100.0}
    write_json(bundle.folder / "manifest.json", content, twin=True)
    assert 100 <= bundle.train()["seconds"] < 110
    assert bundle.train(learning_rate=0.5)["seconds"] < 10


def test_a_stage_that_goes_on_computes_with_the_threads_it_began_with(bundle, monkeypatch):
    taken = []
    monkeypatch.setattr(
        "crosswarp.runs.stage.choose_threads", lambda known: taken.append(known) or known or 3
    )
    bundle.begin()
    assert bundle.manifest["threads"] == 3
    assert bundle.train()["threads"] == 3
    bundle.begin(learning_rate=0.2)
    assert taken == [None, 3, None]


def judge(warnings=(), **limits):
    """What finalize adds to judge the result by a check that finds the given things."""
    check = {"_target_": "tests.runs.test_stage.Check", "warnings": list(warnings), **limits}
    return {"result_check": check, "finalize": [*CONFIG["finalize"], "$@stage.judge(@result_check)"]}


class Check:
    """Finds what it is told to, and that a network with weights above a limit is worse than its start.

    What it is told to find is of the start, ``start_warnings``, where the weights are zeros.
    """

    def __init__(self, warnings, limit=0.0, start_size=None, start_warnings=()):
        self.warnings, self.limit, self.start_warnings = warnings, limit, list(start_warnings)
        if start_size is not None:
            self.fallback = nn.Linear(4, start_size)
            nn.init.zeros_(self.fallback.weight)

    def __call__(self, network):
        worse = "grain .1 (before .9)" if network.weight.abs().max() > self.limit else ""
        found = {"weight": network.weight.shape[0], "limit": self.limit, "worse_than_start": worse}
        return found, self.warnings if network.weight.any() else self.start_warnings


def test_a_check_judges_the_published_network(bundle, caplog):
    warnings = ["Dice 0.1, expected 0.5. Look at the curves"]
    manifest = bundle.train(**judge(warnings=warnings))
    assert manifest["state"] == "done" and manifest["warnings"] == warnings
    assert f"segment: {warnings[0]}." in caplog.messages
    check = json.loads((bundle.folder / "check.json").read_text())
    assert check["measured"] == {"weight": 2, "limit": 0.0, "worse_than_start": "grain .1 (before .9)"}
    assert check["by"]["warnings"] == warnings
    assert training_warnings(bundle.run_dir, ["segment", "absent"]) == [f"segment: {warnings[0]}"]


def test_a_good_result_and_no_check_warn_of_nothing(bundle, caplog):
    assert bundle.train(**judge())["warnings"] == []
    finalize = judge()["finalize"]
    assert bundle.train(result_check=None, finalize=finalize)["warnings"] == []
    assert not any(record.name.startswith("crosswarp") for record in caplog.records if record.levelno > 20)
    assert training_warnings(bundle.run_dir, ["segment"]) == []


def test_another_limit_makes_nothing_stale_but_the_verdict(bundle):
    bundle.train(**judge(limit=0.5))
    assert bundle.state(**judge(limit=0.7)) == "done"
    for limit, judged in ((0.5, True), (0.7, False)):
        parser = bundle.workflow(**judge(limit=limit)).parser
        parser.parse()
        assert parser.get_parsed_content("stage").judged(parser) is judged


@pytest.mark.parametrize(("start_size", "falls_back"), [(2, True), (3, False), (None, False)])
def test_what_is_worse_than_its_start_is_not_published(bundle, caplog, start_size, falls_back):
    def published():
        assert bundle.state(**worse) == "done"
        return torch.load(bundle.folder / "models" / "model.pt", weights_only=True)["weight"]

    def judge_again(**limits):
        parser = bundle.workflow(**judge(["of what was trained"], **start, **limits)).parser
        parser.parse()
        parsed = parser.get_parsed_content
        parsed("stage").judge(parsed("result_check"), "cpu", parser)

    start = {"start_size": start_size, "start_warnings": ["of the start"]}
    worse = judge(["of what was trained"], limit=0.0, **start)
    bundle.weights = bundle.folder / "checkpoints" / "best.pt"
    workflow = bundle.begin(**worse)
    trained = nn.Linear(4, 2)
    save_atomically(trained.state_dict(), bundle.weights)
    workflow.finalize()
    for _ in range(2):  # the second time it is judged by the same check
        assert bundle.manifest.get("fell_back", False) is falls_back
        first, *more = bundle.manifest["warnings"]
        assert first == "of the start" if falls_back else (first, more) == ("of what was trained", [])
        assert [("is published" in each and "grain .1" in each) for each in more] == [True] * falls_back
        assert any("what it started from is published" in each for each in caplog.messages) is falls_back
        assert published().equal(torch.zeros(2, 4) if falls_back else trained.weight)
        judge_again(limit=0.0)
    judge_again(limit=9.0)
    assert published().equal(trained.weight), "with this limit it passes"
    assert bundle.manifest["warnings"] == ["of what was trained"] and "fell_back" not in bundle.manifest


def test_weights_that_a_training_starts_from_count(bundle, tmp_path):
    start = tmp_path / "start.pt"
    start.write_bytes(b"one")
    fine_tuned = {"stage#start_file": str(start)}
    bundle.train(**fine_tuned)
    assert bundle.state(**fine_tuned) == "done" and bundle.state() == "stale"
    start.write_bytes(b"two")
    assert bundle.state(**fine_tuned) == "stale"
