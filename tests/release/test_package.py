"""A run as zips: the same bytes every time, the run's facts, nothing of where it was made."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

import crosswarp
from crosswarp.commands.package import package
from crosswarp.data import load_datalist
from crosswarp.files import file_digest
from crosswarp.kept import read_json
from crosswarp.places import META
from crosswarp.release.package import median_spacing
from crosswarp.release.verify import unpack
from crosswarp.runs import load_network
from crosswarp.runs.bundle import write_json
from tests.cohorts import write_blob_cohort
from tests.trained_run import ROOT, STAGES, write_trained_run

NAMES = (*STAGES, META)


@pytest.fixture(scope="module", params=[2, 3])
def packaged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data/`, `run/` and its zips in `dist/`; the source has two channels."""
    folder = tmp_path_factory.mktemp("packaged")
    write_blob_cohort(folder / "data", request.param, num_classes=3, channels=2, spatial_size=(16, 12))
    write_trained_run(folder / "run", folder / "data" / "datalist.json", deformation=0.02)
    package(str(folder / "run"), str(folder / "dist"))
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run to be changed."""
    return write_trained_run(tmp_path / "run", write_blob_cohort(tmp_path / "data", spatial_size=(16, 12)))


def members(folder: Path, name: str) -> dict[str, bytes]:
    with zipfile.ZipFile(folder / "dist" / f"{name}_v{crosswarp.__version__}.zip") as archive:
        return {member: archive.read(member) for member in archive.namelist()}


def metadata(folder: Path, name: str) -> dict:
    return json.loads(members(folder, name)[f"{name}/configs/metadata.json"])


def test_the_same_run_gives_the_same_bytes(packaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shutil.copytree(packaged / "run", tmp_path / "copy")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    mask = os.umask(0o077)
    try:
        again = package("copy", "dist", datalist=str(packaged / "data" / "datalist.json"))
    finally:
        os.umask(mask)
    first = sorted((packaged / "dist").iterdir())
    assert [path.name for path in first] == [f"{name}_v{crosswarp.__version__}.zip" for name in sorted(NAMES)]
    assert {path.name: file_digest(path) for path in again} == {
        path.name: file_digest(path) for path in first
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_zip_holds_its_bundle_and_nothing_of_this_machine(packaged: Path, name: str):
    files = members(packaged, name)
    assert {member.partition("/")[0] for member in files} == {name}
    assert [member for member in files if member.endswith(".pt")] == [f"{name}/models/model.pt"]
    trained = packaged / "run" / ("" if name == META else name)
    assert files[f"{name}/models/model.pt"] == (trained / "models" / "model.pt").read_bytes()
    library = {path.relative_to(ROOT / "crosswarp").as_posix() for path in (ROOT / "crosswarp").rglob("*.py")}
    code = {member.partition("/scripts/")[2] for member in files if "/scripts/" in member}
    assert library <= code and not any("cache" in member or "/test" in member for member in code)
    for place in (packaged, ROOT, Path.home()):
        assert [member for member, content in files.items() if str(place).encode() in content] == []


def test_paths_of_corrected_labels_stay_behind(run: Path, tmp_path: Path):
    config = run / "multimodal_registration" / "configs" / "train.json"
    place = {"image": "/hospital/patient.nii.gz", "label": "/hospital/labels/final/patient.nii.gz"}
    write_json(config, read_json(config) | {"corrected": [place]})
    package(str(run), str(tmp_path / "dist"))
    for name in (META, "multimodal_registration"):
        files = members(tmp_path, name)
        assert [member for member, content in files.items() if b"/hospital" in content] == []


def test_the_chain_holds_the_four_stages(packaged: Path):
    files = members(packaged, META)
    for name in STAGES:
        own = members(packaged, name)
        for file in ("LICENSE", "docs/README.md", "configs/train.json", "configs/inference.json"):
            assert files[f"{META}/bundles/{name}/{file}"] == own[f"{name}/{file}"]


@pytest.mark.parametrize("name", NAMES)
def test_metadata_tell_of_the_run_and_its_data(packaged: Path, name: str):
    data = load_datalist(packaged / "data" / "datalist.json")
    found = metadata(packaged, name)
    dims = data.spatial_dims
    formats = found["network_data_format"]
    tensors = {"image": formats["inputs"]["image"], "pred": formats["outputs"]["pred"]}
    classes = ["background", "blob 1", "blob 2"]
    both = [f"{which} {label}" for which in ("moving", "fixed") for label in classes]
    pair = [f"{which} channel {channel}" for which in ("moving", "fixed") for channel in (0, 1)]
    forward, backward = (
        [f"{way} axis {axis}" for axis in range(dims)] for way in ("moving_to_fixed", "fixed_to_moving")
    )
    expected = {
        "registration_augmentation": (pair, forward),
        "source_segmentation": (["image channel 0", "image channel 1"], classes),
        "domain_adaptation": (["image channel 0", "image channel 1"], classes),
        "multimodal_registration": (both, forward),
        META: (pair, forward + backward + both),
    }[name]
    for tensor, names in zip(tensors.values(), expected, strict=True):
        assert list(tensor["channel_def"].values()) == names and tensor["num_channels"] == len(names)
        assert tensor["spatial_shape"] == data.spatial_size
    versions = read_json(packaged / "run" / "provenance.json")["versions"]
    assert found["monai_version"] == versions["monai"] and found["numpy_version"] == versions["numpy"]
    assert found["pytorch_version"] == torch.__version__.split("+")[0]
    assert found["changelog"][found["version"]] == "trained on blobs (warm and cold), 2026-01-31"
    assert "warm: 3 labelled, 4 unlabelled" in found["data_source"]
    assert found["spacing"] == {"warm": [0.8, 0.9, 1.1][:dims], "cold": [0.8, 0.9, 1.1][:dims]}


def test_warnings_of_the_training_and_what_verdicts_need_go_along(run: Path, tmp_path: Path):
    path = run / "domain_adaptation" / "manifest.json"
    write_json(path, read_json(path) | {"warnings": ["outlines do not lie on edges"]})
    inference = run / "configs" / "inference.json"
    warnings = ["domain_adaptation: outlines do not lie on edges"]
    write_json(inference, read_json(inference) | {"training_warnings": warnings})
    package(str(run), str(tmp_path / "dist"))
    for name in NAMES:
        expected = warnings if name in ("domain_adaptation", META) else None
        assert metadata(tmp_path, name).get("training_warnings") == expected
    packaged = json.loads(members(tmp_path, META)[f"{META}/configs/inference.json"])
    assert packaged["training_warnings"] == warnings
    assert packaged["training_statistics"] == read_json(inference)["training_statistics"] is not None
    registrar = crosswarp.load(tmp_path / "dist" / f"{META}_v{crosswarp.__version__}.zip")
    image = np.random.default_rng(0).normal(size=(20, 18))
    assert f"training of {warnings[0]}" in registrar.register(image, image).quality["reasons"]


@pytest.mark.parametrize(("recorded", "steps"), [("changed", 7), ("in words", 500), (None, None)])
def test_the_chain_learns_poses_and_expectations_as_the_run_did(run: Path, tmp_path: Path, recorded, steps):
    """Earlier versions recorded in words how poses were learnt: then the library's own way stands there."""
    library = json.loads((ROOT / "configs" / "train.json").read_text())["pose_recognition"]
    poses = {"config": library | {"steps": 7}, "settings": ""} if recorded == "changed" else recorded
    provenance = read_json(run / "provenance.json") | {"worsened_pairs": 5, "pose_recognition": poses}
    write_json(run / "provenance.json", provenance)
    package(str(run), str(tmp_path / "dist"))
    chain = json.loads(members(tmp_path, META)[f"{META}/configs/train.json"])
    assert chain["worsened_pairs"] == 5
    found = chain["pose_recognition"]
    assert found["steps"] == steps and "_target_" in found["normalise"] if steps else found is None


def test_edits_that_stay_behind_are_named(run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    package(str(run), str(tmp_path / "before"))
    assert not caplog.messages
    for folder, key in ((run, "quality_limits"), (run, "training_warnings"), (run / STAGES[1], "inferer")):
        path = folder / "configs" / "inference.json"
        write_json(path, read_json(path) | {key: []})
    package(str(run), str(tmp_path / "dist"))
    path = Path("configs") / "inference.json"
    assert [message.partition(". ")[0] for message in caplog.messages] == [
        f"{run / path} was edited: quality_limits",
        f"{run / STAGES[1] / path} was edited: inferer",
    ]


def test_an_unpacked_stage_is_a_trained_bundle(packaged: Path, tmp_path: Path):
    for path in (packaged / "dist").iterdir():
        bundle = unpack(path, tmp_path)
        trained = packaged / "run" / ("" if bundle.name == META else bundle.name)
        expected = load_network(trained).state_dict()
        assert all(
            torch.equal(value, expected[key]) for key, value in load_network(bundle).state_dict().items()
        )


def test_spacing_is_along_the_axes_of_space(tmp_path: Path):
    datalist = write_blob_cohort(tmp_path, 3, spatial_size=(16, 12, 10))
    data = load_datalist(datalist)
    for record in data.source.records("train_labelled", "train_unlabelled"):
        image = nib.load(record["image"])
        turned = nib.Nifti1Image(np.asarray(image.dataobj).transpose(2, 0, 1), image.affine[:, [2, 0, 1, 3]])
        nib.save(turned, record["image"])
    assert median_spacing(data.source) == [0.8, 0.9, 1.1]


def test_only_what_was_measured_is_reported(run: Path, tmp_path: Path):
    def metrics(out: str) -> dict[str, dict]:
        package(str(run), str(tmp_path / out / "dist"))
        return {name: metadata(tmp_path / out, name).get("eval_metrics", {}) for name in NAMES}

    validated = dict.fromkeys(STAGES, {"val_dice": 0.5}) | {META: {}}
    assert metrics("not evaluated") == validated
    rows = [
        {
            "kind": "segmentation",
            "modality": "warm",
            "network": "source",
            "class": "mean",
            "dice_mean": 0.91234,
        },
        {
            "kind": "segmentation",
            "modality": "cold",
            "network": "source as is",
            "class": "mean",
            "dice_mean": 0.1,
        },
        {
            "kind": "segmentation",
            "modality": "cold",
            "network": "target",
            "class": "blob 1",
            "dice_mean": None,
        },
        {
            "kind": "registration",
            "direction": "cold_to_warm",
            "class": "mean",
            "dice_mean": 0.8,
            "folds_mean": 0.1,
        },
        {
            "kind": "registration",
            "direction": "cold_to_warm",
            "class": "blob 1",
            "dice_mean": 0.7,
            "folds_mean": 0.1,
        },
    ]
    evaluation = {"weights": file_digest(run / "models" / "model.pt"), "summary": rows}
    write_json(run / "evaluation" / "manifest.json", evaluation | {"weights": "of an earlier training"})
    assert metrics("stale") == validated
    write_json(run / "evaluation" / "manifest.json", evaluation)
    segmentation, registration = (
        {"test_warm_dice_mean": 0.9123},
        {"test_cold_to_warm_dice_mean": 0.8, "test_cold_to_warm_folds_mean": 0.1},
    )
    registration["test_cold_to_warm_dice_blob 1"] = 0.7
    assert metrics("evaluated") == validated | {
        "source_segmentation": {"val_dice": 0.5} | segmentation,
        "multimodal_registration": {"val_dice": 0.5} | registration,
        META: segmentation | registration,
    }
    # stage 3 chooses nothing by a measure: the loss of its last epoch is none
    provenance = read_json(run / "provenance.json")
    provenance["stages"]["domain_adaptation"]["criterion"] = "last epoch"
    write_json(run / "provenance.json", provenance)
    assert metrics("unvalidated")["domain_adaptation"] == {}


def test_other_content_is_not_overwritten(run: Path, tmp_path: Path):
    zips = package(str(run), str(tmp_path / "dist"))
    assert package(str(run), str(tmp_path / "dist")) == zips  # the same content
    before = {path: file_digest(path) for path in zips}
    with pytest.raises(FileExistsError, match="source_segmentation_v0.1.0.zip.*--version.*--overwrite"):
        package(str(run), str(tmp_path / "dist"), changes="a better text")
    assert {path: file_digest(path) for path in zips} == before
    newer = package(str(run), str(tmp_path / "dist"), version="0.2.0", changes="more images")
    assert not set(newer) & set(zips) and {path: file_digest(path) for path in zips} == before
    assert package(str(run), str(tmp_path / "dist"), changes="a better text", overwrite=True) == zips
    assert metadata(tmp_path, META)["changelog"] == {"0.1.0": "a better text"}


def unfinish(run: Path) -> None:
    write_json(run / "domain_adaptation" / "manifest.json", {"state": "running"})


def lose_first_stage(run: Path) -> None:
    (run / "registration_augmentation" / "models" / "model.pt").unlink()


def exchange_weights(run: Path) -> None:
    shutil.copy(run / "source_segmentation" / "models" / "model.pt", run / "models" / "model.pt")


def be_older(run: Path) -> None:
    provenance = read_json(run / "provenance.json")
    provenance["versions"]["crosswarp"] = "0.0.9"
    write_json(run / "provenance.json", provenance)


def change_data(run: Path) -> None:
    image = next((run.parent / "data" / "images").iterdir())
    image.write_bytes(image.read_bytes() + b"\0")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (unfinish, "not trained yet: domain_adaptation"),
        (lose_first_stage, "registration_augmentation.*model.pt is not there"),
        (exchange_weights, "model.pt is not there or was changed"),
        (be_older, "trained by crosswarp 0.0.9, this is 0.1.0"),
        (change_data, "or its files changed"),
        (lambda run: (run / "run.json").unlink(), "there is no run.json"),
    ],
)
def test_what_is_no_finished_run_is_refused(run: Path, tmp_path: Path, change, reason: str):
    change(run)
    with pytest.raises((ValueError, FileNotFoundError), match=reason):
        package(str(run), str(tmp_path / "dist"))
    assert not (tmp_path / "dist").exists()
