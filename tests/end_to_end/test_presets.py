"""The README's commands on data of real size, with only a few steps of training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigWorkflow

from crosswarp.commands.cohort import cohort
from crosswarp.commands.prepare import prepare
from crosswarp.runs import load_network
from tests.cohorts import write_blob_cohort

ROOT = Path(__file__).parents[2]
LUMBAR = ROOT.parent / "shared" / "data" / "lumbar" / "manifest.csv"
STAGES = ("registration_augmentation", "source_segmentation", "domain_adaptation", "multimodal_registration")


def execute(*files: str, **overrides) -> None:
    work = ConfigWorkflow(
        [str(ROOT / "configs" / file) for file in files],
        workflow_type="train",
        logging_file=False,
        bundle_root=str(ROOT),
        device="$torch.device('cpu')",
        **overrides,
    )
    work.initialize()
    work.run()
    work.finalize()


FEW_POSES = {"pose_recognition#examples": 8, "pose_recognition#steps": 2}


def train_and_evaluate(datalist: Path, run: Path, preset: str = "demo", **more) -> list[dict]:
    few = {
        f"{stage}#{key}": value
        for stage in STAGES
        for key, value in (("max_epochs", 2), ("steps_per_epoch", 3))
    }
    few |= {"source_segmentation#max_augmented_pairs": 20, "worsened_pairs": 96} | FEW_POSES | more
    execute("train.json", f"presets/{preset}.json", datalist=str(datalist), run_dir=str(run), **few)
    execute("evaluate.json", run_dir=str(run), max_pairs=4)
    return json.loads((run / "evaluation" / "manifest.json").read_text())["summary"]


def test_demo_on_the_knee_cohort(tmp_path):
    counts = {"train_labelled": 3, "train_unlabelled": 5, "val": 2, "test": 3}
    targets = {"target_train": 5, "target_val": 2, "target_test": 3}
    datalist = cohort(tmp_path / "data", size=64, **counts, **targets)
    summary = train_and_evaluate(datalist, tmp_path / "run")
    assert {row["class"] for row in summary} == {"femur", "tibia", "fibula", "mean"}
    history = json.loads(
        (tmp_path / "run" / "domain_adaptation" / "checkpoints" / "history.json").read_text()
    )
    assert [row["epoch"] for row in history] == [1, 2]
    assert set().union(*history) == {"epoch", "loss", "mixed_segmentation", "self_training"}
    report = (tmp_path / "run" / "report.html").read_text()
    assert all(stage in report for stage in STAGES)


def test_demo3d_on_volumes(tmp_path):
    datalist = write_blob_cohort(tmp_path / "data", 3, 3, spatial_size=(24, 32, 32))
    fewer = {"pose_recognition#examples": 2, "pose_recognition#steps": 2, "worsened_pairs": 0}
    for stage in STAGES:
        fewer |= {f"{stage}#steps_per_epoch": 1, f"{stage}#batch_size": 2}
    fewer |= {f"{stage}#max_val_pairs": 2 for stage in (STAGES[0], STAGES[3])}
    summary = train_and_evaluate(datalist, tmp_path / "run", "demo3d", **fewer)
    assert {row["class"] for row in summary} == {"blob 1", "blob 2", "mean"}
    network = load_network(tmp_path / "run")
    assert network.registration.downsampling == (4, 2, 2) and network.pose is not None


def test_paper_in_two_steps(tmp_path):
    datalist = write_blob_cohort(
        tmp_path / "data", spatial_size=(32, 32), train_labelled=3, train_unlabelled=4
    )
    run = tmp_path / "run"
    few = {f"{stage}#max_epochs": 2 for stage in STAGES} | {f"{stage}#steps_per_epoch": 1 for stage in STAGES}
    few |= {f"{stage}#batch_size": 2 for stage in STAGES if stage != "domain_adaptation"}
    few |= {"worsened_pairs": 48} | FEW_POSES
    execute("train.json", "presets/paper.json", datalist=str(datalist), run_dir=str(run), **few)
    last = {stage: torch.load(run / stage / "checkpoints" / "last.pt", weights_only=True) for stage in STAGES}
    # the fourth network joined in the second epoch, and is used
    states = last["registration_augmentation"]["optimizer"]["state"]
    fourth = len(states) // 4
    assert [state["step"] for state in states.values()] == [2] * 3 * fourth + [1] * fourth
    assert load_network(run / "registration_augmentation").active == 4
    # no pair is left out, no term of ours is added, and no weights are averaged
    index = json.loads((run / "source_segmentation" / "augmented" / "index.json").read_text())
    assert len(index["pairs"]) == 3 * 4
    history = json.loads((run / "domain_adaptation" / "checkpoints" / "history.json").read_text())
    terms = {"adversarial", "cycle", "identity", "translated_segmentation", "cycle_segmentation"}
    terms |= {"agreement", "cycle_agreement"}
    assert set(history[-1]) == terms | {"epoch", "loss", "discriminator"}
    published = torch.load(run / "domain_adaptation" / "models" / "model.pt", weights_only=True)
    torch.testing.assert_close(published, last["domain_adaptation"]["network"], rtol=0, atol=0)
    assert load_network(run).registration.downsampling == (4, 2, 1)


@pytest.mark.skipif(not LUMBAR.is_file(), reason="the lumbar spine data set is not beside the repository")
def test_demo_on_the_lumbar_slices(tmp_path):
    labels = {str(number): f"L{number}" for number in range(1, 6)}
    datalist = tmp_path / "lumbar.json"
    prepare(LUMBAR, datalist, source="water", target="t2tse", dims=2, spatial_size=32, labels=labels)
    summary = train_and_evaluate(datalist, tmp_path / "run")
    assert {row["class"] for row in summary} == {*labels.values(), "mean"}
    assert {row["modality"] for row in summary if row["kind"] == "segmentation"} == {"water", "t2tse"}
    assert torch.load(tmp_path / "run" / "models" / "model.pt", weights_only=True)
