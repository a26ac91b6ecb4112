"""The whole chain in miniature: trained, skipped, resumed, refused, and used."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow

import scripts.data.readers  # by this name the configs know the library
import scripts.files
import scripts.runs.chain
import scripts.runs.training_statistics
import scripts.training
from crosswarp.errors import input_error, plain_input_errors
from crosswarp.files import file_digest
from crosswarp.runs import load_network
from crosswarp.runs.config import read_config
from tests.cohorts import write_blob_cohort
from tests.trained_run import ROOT, STAGES

COHORTS = {
    "2d": {"spatial_dims": 2, "num_classes": 2, "channels": 3, "spatial_size": (32, 24)},
    "3d": {"spatial_dims": 3, "num_classes": 6, "channels": 1, "spatial_size": (20, 18, 16)},
}
SHORT = {"max_epochs": 2, "steps_per_epoch": 2, "batch_size": 2}
REGISTRATION = SHORT | {
    "val_interval": 1,
    "displacement_network.down_channels": [4, 8],
    "displacement_network.up_channels": [4, 8],
}
SEGMENTATION = SHORT | {
    "network_def.channels": [4, 8],
    "network_def.strides": [2],
    "network_def.num_res_units": 1,
}
OVERLAY = ROOT / "bundles" / "domain_adaptation" / "configs" / "translation.json"
WEIGHTS = json.loads(OVERLAY.read_text())["weights"] | {"identity": 5.0}
TRANSLATION = {f"weights.{term}": weight for term, weight in WEIGHTS.items()} | {
    f"{part}.{key}": value
    for part, values in {
        "source_to_target": {"channels": [4, 8], "strides": [2]},
        "target_to_source": {"channels": [4, 8], "strides": [2]},
        "source_discriminator": {"channels": 4, "num_layers_d": 1},
        "target_discriminator": {"channels": 4, "num_layers_d": 1},
    }.items()
    for key, value in values.items()
}
TINY = {
    "registration_augmentation": REGISTRATION,
    "source_segmentation": SEGMENTATION | {"val_interval": 1, "max_augmented_pairs": 5},
    "domain_adaptation": SEGMENTATION | TRANSLATION | {"pool_size": 2},
    "multimodal_registration": REGISTRATION,
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small tensors gain nothing from more, and sums stay in one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def workflow(config: Path, kind: str = "train", **overrides) -> ConfigWorkflow:
    overrides = {"bundle_root": str(config.parents[1]), "device": "$torch.device('cpu')"} | overrides
    return ConfigWorkflow(str(config), workflow_type=kind, logging_file=False, **overrides)


@plain_input_errors()
def execute(*arguments, **overrides) -> None:
    work = workflow(*arguments, **overrides)
    work.initialize()
    work.run()
    work.finalize()


def train(run: Path, **overrides) -> None:
    """Train the chain of a folder that holds `data/`, with tiny networks."""
    tiny = {f"{stage}#{key}": value for stage, values in TINY.items() for key, value in values.items()}
    tiny |= {"worsened_pairs": 48, "pose_recognition#examples": 8, "pose_recognition#steps": 2}
    datalist = overrides.pop("datalist", run.parent / "data" / "datalist.json")
    execute(ROOT / "configs" / "train.json", datalist=str(datalist), run_dir=str(run), **tiny | overrides)


@pytest.fixture(scope="module", params=COHORTS)
def trained(request, tmp_path_factory) -> Path:
    """A trained run, to be looked at only."""
    folder = tmp_path_factory.mktemp(request.param)
    write_blob_cohort(folder / "data", **COHORTS[request.param])
    train(folder / "run")
    return folder / "run"


@contextmanager
def counted_reading() -> Iterator[dict[str, Counter]]:
    """How often each file was decoded and hashed, as in a process of its own."""
    found = {"decoded": Counter(), "hashed": Counter()}
    decode, digest = scripts.data.readers.AnyFormatReader.decode, hashlib.file_digest

    def decoding(self, path):
        found["decoded"][str(path)] += 1
        return decode(self, path)

    def hashing(file, algorithm):
        found["hashed"][file.name] += 1
        return digest(file, algorithm)

    scripts.files._digests.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scripts.data.readers.AnyFormatReader, "decode", decoding)
        patch.setattr(hashlib, "file_digest", hashing)
        yield found


@pytest.fixture(scope="module")
def first_reading() -> dict[str, Counter]:
    """What training the run to be copied has read."""
    return {}


@pytest.fixture(scope="module")
def original(tmp_path_factory, first_reading) -> Path:
    """A trained 2D run, to be copied."""
    folder = tmp_path_factory.mktemp("original")
    write_blob_cohort(folder / "data", **COHORTS["2d"])
    with counted_reading() as found:
        train(folder / "run")
    first_reading |= found
    return folder / "run"


@pytest.fixture
def run(original, tmp_path) -> Path:
    """A trained 2D run, to be changed."""
    shutil.copytree(original.parent / "data", tmp_path / "data")
    return shutil.copytree(original, tmp_path / "run")


def weights_of(run: Path) -> dict[str, Path]:
    return {name: run / name / "models" / "model.pt" for name in STAGES}


def times(run: Path) -> dict[str, list[int]]:
    """When each stage last wrote its checkpoint and its weights."""
    files = ("checkpoints/last.pt", "checkpoints/best.pt", "models/model.pt")
    return {name: [(run / name / file).stat().st_mtime_ns for file in files] for name in STAGES}


def read(path: Path):
    return json.loads(path.read_text())


def differences(first, second, where: str):
    """Where two states differ."""
    if isinstance(first, Mapping) and isinstance(second, Mapping) and first.keys() == second.keys():
        for key in first:
            yield from differences(first[key], second[key], f"{where}/{key}")
    elif isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        for index, pair in enumerate(zip(first, second, strict=True)):
            yield from differences(*pair, f"{where}/{index}")
    elif isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        if not torch.equal(first, second):
            yield where
    elif first != second:
        yield where


def test_all_stages_are_trained_and_recorded(trained):
    data = read(trained.parent / "data" / "datalist.json")
    provenance = read(trained / "provenance.json")
    digests = {name: file_digest(path) for name, path in weights_of(trained).items()}
    for name in STAGES:
        manifest = read(trained / name / "manifest.json")
        assert manifest["state"] == "done" and manifest["weights"] == digests[name]
        assert manifest == provenance["stages"][name]
        assert all(digests[key] == value for key, value in manifest["inputs"].items())
        history = read(trained / name / "checkpoints" / "history.json")
        assert [entry["epoch"] for entry in history] == [1, 2]
        assert all(np.isfinite(value) for entry in history for value in entry.values())
        config = read_config(trained / name / "configs" / "inference.json")
        assert config["spatial_size"] == data["spatial_size"] and config["num_classes"] == len(data["labels"])
        best = torch.load(trained / name / "checkpoints" / "best.pt", weights_only=True)
        weights = load_network(trained / name).state_dict()
        assert all(torch.equal(value, weights[key]) for key, value in best.items())
    assert list(provenance["stages"]["multimodal_registration"]["inputs"]) == [
        "source_segmentation",
        "domain_adaptation",
    ]
    assert provenance["seed"] == 0 and provenance["weights"] == file_digest(trained / "models" / "model.pt")
    poses = read_config(ROOT / "configs" / "train.json")["pose_recognition"] | {"examples": 8, "steps": 2}
    assert provenance["pose_recognition"]["config"] == poses


def test_the_run_is_one_network_that_segments_and_registers(trained):
    data = read(trained.parent / "data" / "datalist.json")
    dims, classes, channels = data["spatial_dims"], len(data["labels"]), data["source"]["channels"]
    network = load_network(trained)
    parts = {
        "source_segmentation": network.segmentation["source"],
        "domain_adaptation": network.segmentation["target"],
        "multimodal_registration": network.registration,
    }
    for name, part in parts.items():
        weights = torch.load(weights_of(trained)[name], weights_only=True)
        assert all(torch.equal(value, weights[key]) for key, value in part.state_dict().items())
    with torch.inference_mode():
        pred = network(torch.rand(1, 2 * channels, *data["spatial_size"]))
    assert pred.shape == (1, 2 * dims + 2 * classes, *data["spatial_size"])


def test_warnings_of_the_stages_go_with_the_run(trained):
    manifests = {name: read(trained / name / "manifest.json") for name in STAGES}
    expected = [f"{name}: {each}" for name, manifest in manifests.items() for each in manifest["warnings"]]
    assert any(each.startswith("multimodal_registration: ") for each in expected), "two steps teach nothing"
    assert read(trained / "configs" / "inference.json")["training_warnings"] == expected
    provenance = read(trained / "provenance.json")["stages"]
    assert {name: each["warnings"] for name, each in provenance.items()} == {
        name: each["warnings"] for name, each in manifests.items()
    }
    for name in STAGES:
        assert read(trained / name / "check.json")["measured"]


def test_other_limits_judge_again_without_training(run, caplog):
    before = times(run)
    lenient = {"least_gain": -9.0, "most_lost": 9.0, "most_folds_percent": 100.0}
    train(run, **{f"multimodal_registration#result_check.{key}": value for key, value in lenient.items()})
    assert times(run) == before and not (run / "previous").exists()
    assert read(run / "multimodal_registration" / "manifest.json")["warnings"] == []
    left = read(run / "configs" / "inference.json")["training_warnings"]
    assert left and not any(each.startswith("multimodal_registration") for each in left)
    (said,) = (each for each in caplog.messages if each.startswith("The run is trained, but not all is well"))
    assert said.splitlines()[1:] == [f"- {each}." for each in left]


def test_what_is_done_is_not_trained_again(run, caplog):
    before = times(run)
    with caplog.at_level(logging.INFO):
        train(run)
    assert times(run) == before and not (run / "previous").exists()
    assert sum("done, its inputs are unchanged" in message for message in caplog.messages) == 4


def test_a_chain_reads_each_file_once(original, first_reading):
    files = {str(path) for path in (original.parent / "data").glob("*/*.nii.gz")}
    unused = {path for path in files if "labels/coldval" in path}  # their bytes count, they are never read
    assert first_reading["decoded"] == dict.fromkeys(files - unused, 1)
    assert {path: first_reading["hashed"][path] for path in files} == dict.fromkeys(files, 1)


def test_a_finished_chain_computes_nothing_and_writes_its_log_alone(run, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("computed again")

    monkeypatch.setattr(scripts.runs.chain, "stage_statistics", refuse)
    written = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.name != "train.log"}
    with counted_reading() as found:
        train(run)
    assert not found["decoded"] and set(found["hashed"].values()) == {1}
    assert written == {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.name != "train.log"}


def test_an_edited_inference_config_outlives_a_new_training(run, monkeypatch, caplog):
    path = run / "configs" / "inference.json"
    before = read(path)
    path.write_text(json.dumps(before | {"initialisation": "moments"}))
    measured = []
    statistics = scripts.runs.training_statistics.training_statistics
    monkeypatch.setattr(
        scripts.runs.training_statistics,
        "training_statistics",
        lambda bundle, *rest, **more: measured.append(bundle.name) or statistics(bundle, *rest, **more),
    )
    train(run, **{"multimodal_registration#regularity_weight": 2.0})
    assert read(path)["initialisation"] == "moments"
    assert read(path)["training_statistics"] == before["training_statistics"] and measured == []
    assert any("initialisation stays as it is there" in message for message in caplog.messages)
    assert load_network(run)


def test_a_stage_by_itself_is_the_stage_of_the_chain(run):
    before = times(run)
    overrides = {key.replace(".", "#"): value for key, value in TINY["domain_adaptation"].items()}
    config = ROOT / "bundles" / "domain_adaptation" / "configs" / "train.json"
    execute(config, run_dir=str(run), datalist=str(run.parent / "data" / "datalist.json"), **overrides)
    assert not (run / "previous").exists()
    assert {name: written[:2] for name, written in times(run).items()} == {
        k: v[:2] for k, v in before.items()
    }
    train(run)
    assert not (run / "previous").exists()


def test_a_changed_parameter_trains_its_stage_and_those_after_it(run):
    before = times(run)
    train(run, **{"domain_adaptation#segmentation_learning_rate": 0.01})
    changed = {name for name, written in times(run).items() if written != before[name]}
    assert changed == {"domain_adaptation", "multimodal_registration"}
    aside = {path.name: path / "models" / "model.pt" for path in (run / "previous").iterdir()}
    assert set(aside) == {f"{name}-1" for name in changed}
    assert aside["domain_adaptation-1"].stat().st_mtime_ns == before["domain_adaptation"][2]
    assert read(run / "domain_adaptation" / "configs" / "train.json")["segmentation_learning_rate"] == 0.01


@pytest.mark.parametrize(
    ("stage", "rate"),
    [
        ("domain_adaptation", "segmentation_learning_rate"),
        ("domain_adaptation", "discriminator_learning_rate"),
        ("multimodal_registration", "learning_rate"),
    ],
)
def test_a_stage_that_diverges_is_not_published_and_trains_again_with_a_lower_rate(run, stage, rate):
    for _ in range(2):  # the same command again ends alike, and not the process
        with pytest.raises((RuntimeError, ValueError)) as caught:
            train(run, **{f"{stage}#{rate}": 1e30, f"{stage}#max_epochs": 6})
        error = input_error(caught.value)
        assert isinstance(error, scripts.training.TrainingError)
        assert f"Training of {stage} diverged in epoch" in str(error)
        assert f"Lower {rate} (in the chain --{stage}#{rate})." in str(error)
        assert not (run / stage / "models" / "model.pt").exists()
        assert read(run / stage / "manifest.json")["state"] == "running"
    train(run)
    assert all(read(run / name / "manifest.json")["state"] == "done" for name in STAGES)
    assert load_network(run / stage)


def test_changed_weights_are_put_right_without_training(run, original):
    path = weights_of(run)["source_segmentation"]
    path.write_bytes(b"changed")
    before = times(run)
    train(run)
    assert path.read_bytes() == weights_of(original)["source_segmentation"].read_bytes()
    assert {name: written[0] for name, written in times(run).items()} == {k: v[0] for k, v in before.items()}


@pytest.mark.parametrize("stage", STAGES)
def test_an_interrupted_chain_ends_as_an_uninterrupted_one(stage, original, tmp_path, monkeypatch):
    shutil.copytree(original.parent / "data", tmp_path / "data")
    run = tmp_path / "run"
    save = scripts.training.Checkpoints.save

    def interrupt(self, engine):
        if self.folder.parent.name == stage and engine.state.epoch == 2:
            raise KeyboardInterrupt
        save(self, engine)

    with monkeypatch.context() as patch:
        patch.setattr(scripts.training.Checkpoints, "save", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(run)
    assert read(run / stage / "manifest.json")["state"] == "running"
    assert torch.load(run / stage / "checkpoints" / "last.pt", weights_only=True)["epoch"] == 1
    train(run)
    assert not (run / "previous").exists()
    for name in STAGES:
        for file in ("models/model.pt", "checkpoints/last.pt"):
            states = [torch.load(folder / name / file, weights_only=True) for folder in (run, original)]
            assert not list(differences(*states, file))
        assert read(run / name / "checkpoints" / "history.json") == read(
            original / name / "checkpoints" / "history.json"
        )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"domain_adaptation#max_epoch": 3}, "Stage domain_adaptation.*'max_epoch' .did you mean max_epochs"),
        (
            {"multimodal_registration#displacement_network.down_channel": [4]},
            "'displacement_network#down_channel' .did you mean displacement_network#down_channels",
        ),
        (
            {"domain_adaptation#weights": {"adversaria": 1}},
            "'weights#adversaria' .did you mean weights#adversarial",
        ),
        ({"seeds": 3}, r"configs/train.json has no parameter 'seeds' .did you mean seed\?"),
        ({"domain_adaption": {"max_epochs": 3}}, "'domain_adaption' .did you mean domain_adaptation"),
        (
            {"spatial_size": [37, 32]},
            r"Images do not fit.*(\n.*)*network_def of stage source_segmentation cannot take \[37, 32\]",
        ),
        (
            {"domain_adaptation#spacing": [2.0, 2.0]},
            r"one value for all stages.*(\n.*)*spacing: None in source_segmentation, \[2.0, 2.0\] in domain_",
        ),
        ({"preset": "fast"}, r"No preset 'fast' for registration_augmentation: expected one of \["),
    ],
)
def test_a_misspelt_parameter_ends_it_before_training(override, message, tmp_path):
    write_blob_cohort(tmp_path / "data", **COHORTS["2d"])
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train(tmp_path / "run", **override)
    assert not (tmp_path / "run").exists()


def test_networks_that_nothing_uses_limit_no_size(tmp_path):
    """Volumes of few slices are not blown up for discriminators that learned translation alone trains."""
    write_blob_cohort(tmp_path / "data", **COHORTS["3d"] | {"spatial_size": (16, 32, 32)})
    given = {"datalist": str(tmp_path / "data" / "datalist.json"), "run_dir": str(tmp_path / "run")}
    with pytest.raises(
        ValueError, match=r"source_discriminator of stage domain_adaptation cannot take \[16, 32"
    ):
        execute(ROOT / "configs" / "train.json", **given, **{"domain_adaptation#weights.cycle": 1.0})
    workflow(ROOT / "configs" / "train.json", **given).initialize()


def test_a_run_of_other_data_is_refused(run, tmp_path):
    other = write_blob_cohort(tmp_path / "other", **COHORTS["2d"], seed=1)
    before = times(run)
    with pytest.raises(ValueError, match="holds a run of .*nothing was overwritten"):
        train(run, datalist=other)
    assert times(run) == before


def test_a_stage_names_what_has_to_be_trained_before(tmp_path):
    datalist = write_blob_cohort(tmp_path / "data", **COHORTS["2d"])
    config = ROOT / "bundles" / "multimodal_registration" / "configs" / "train.json"
    with pytest.raises(
        FileNotFoundError, match=r"needs the trained stages \['source_segmentation', 'domain_adaptation'\]"
    ):
        execute(config, datalist=str(datalist), run_dir=str(tmp_path / "run"))


def test_bundles_run_from_their_own_folder_and_from_the_root(tmp_path):
    """What the documentation tells users to type, in processes of their own."""
    datalist = write_blob_cohort(tmp_path / "data", **COHORTS["2d"])
    stages = STAGES[:2]
    for stage, folder in zip(stages, (ROOT / "bundles" / stages[0], ROOT), strict=True):
        tiny = {key.replace(".", "#"): value for key, value in TINY[stage].items()} | {"max_epochs": 1}
        options = {"datalist": datalist, "run_dir": tmp_path / "run"} | tiny
        root = "." if folder != ROOT else f"bundles/{stage}"
        options |= {"bundle_root": root, "config_file": f"{root}/configs/train.json"}
        command = [sys.executable, "-m", "monai.bundle", "run"]
        command += [word for key, value in options.items() for word in (f"--{key}", str(value))]
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr[-2000:]
        assert read(tmp_path / "run" / stage / "manifest.json")["state"] == "done"


def infer(bundle: Path, out: Path, **overrides) -> dict[str, nib.Nifti1Image]:
    execute(bundle / "configs" / "inference.json", "infer", output_dir=str(out), **overrides)
    images = sorted(path for path in out.glob("*.nii.gz") if not path.name.endswith("_displacement.nii.gz"))
    return {path.name.removesuffix(".nii.gz"): nib.load(path) for path in images}


def records(run: Path, modality: str, key: str) -> list[str]:
    data = read(run.parent / "data" / "datalist.json")
    return [str(run.parent / "data" / record[key]) for record in data[modality]["test"]]


def assert_on_grid(result: nib.Nifti1Image, reference: str, classes: int | None = None) -> None:
    """The grid of the reference, and class numbers or the channels of an image."""
    reference = nib.load(reference)
    dims = 2 if 1 in reference.shape[2:3] or reference.ndim == 2 else 3
    assert result.shape[:dims] == reference.shape[:dims]
    np.testing.assert_allclose(result.affine[:dims, :dims], reference.affine[:dims, :dims], atol=1e-6)
    np.testing.assert_allclose(result.affine[:dims, 3], reference.affine[:dims, 3], atol=1e-5)
    values = np.asarray(result.dataobj)
    if classes is None:
        assert result.get_data_dtype() == np.float32 and np.isfinite(values).all() and values.std() > 0.01
    else:
        assert result.shape == reference.shape[:dims] and values.max() < classes
        assert result.get_data_dtype() == np.uint8


@pytest.fixture
def turned(trained, tmp_path) -> str:
    """A target image of another size; in 3D stored with other axes."""
    image = nib.load(records(trained, "target", "image")[0])
    if image.ndim == 3:
        image = image.slicer[:, 2:, :-3].as_reoriented([[2, -1], [0, 1], [1, 1]])
    else:
        image = image.slicer[3:, :-4]
    nib.save(image, tmp_path / "turned.nii.gz")
    return str(tmp_path / "turned.nii.gz")


def test_segmentations_are_written_on_the_grid_of_the_image(trained, turned, tmp_path):
    classes = len(read(trained.parent / "data" / "datalist.json")["labels"])
    for stage, images in (
        ("source_segmentation", records(trained, "source", "image")),
        ("domain_adaptation", [*records(trained, "target", "image"), turned]),
    ):
        results = infer(trained / stage, tmp_path / stage, images=images)
        assert list(results) == [f"{Path(image).name.removesuffix('.nii.gz')}_seg" for image in images]
        for image, result in zip(images, results.values(), strict=True):
            assert_on_grid(result, image, classes)


def test_warped_images_and_labels_are_written_on_the_grid_of_the_fixed(trained, turned, tmp_path):
    classes = len(read(trained.parent / "data" / "datalist.json")["labels"])
    image, label = records(trained, "source", "image")[0], records(trained, "source", "label")[0]
    fixed = [records(trained, "target", "image")[1], turned]
    moving = {"moving": image, "fixed": fixed}
    results = infer(trained / "registration_augmentation", tmp_path / "first", **moving, moving_label=label)
    names = [f"warmtest0_to_{name}" for name in ("coldtest1", "turned")]
    assert set(results) == {f"{name}_{kind}" for name in names for kind in ("warped", "warped_seg")}
    for name, reference in zip(names, fixed, strict=True):
        assert_on_grid(results[f"{name}_warped"], reference)
        assert_on_grid(results[f"{name}_warped_seg"], reference, classes)

    labels = {"moving": label, "fixed": records(trained, "target", "label")}
    results = infer(trained / "multimodal_registration", tmp_path / "last", **labels)
    assert list(results) == [f"warmtest0_to_coldtest{number}_warped" for number in range(2)]
    for reference, result in zip(labels["fixed"], results.values(), strict=True):
        assert_on_grid(result, reference, classes)

    results = infer(trained, tmp_path / "whole", **moving)
    for name, reference in zip(names, fixed, strict=True):
        assert_on_grid(results.pop(f"{name}_warped"), reference)
        assert_on_grid(results.pop(f"{name}_warped_seg"), reference, classes)
        assert_on_grid(results.pop(f"{name.rpartition('_')[2]}_fixed_seg"), reference, classes)
    assert list(results) == ["warmtest0_moving_seg"]
    assert_on_grid(results["warmtest0_moving_seg"], image, classes)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_damage_to_a_finished_run_is_made_good_without_training(run, original, caplog):
    before = times(run)
    (run / "multimodal_registration" / "models" / "model.pt").unlink()
    for name in ("run.json", "provenance.json", "models/model.pt", "source_segmentation/manifest.json"):
        flip(run / name)
    for name in ("configs/train.json", "checkpoints/history.json", "statistics.json", "models/model.pt"):
        flip(run / "domain_adaptation" / name)
    with pytest.raises(
        ValueError, match="models/model.pt is damaged, or was changed: .*give the training's command"
    ):
        load_network(run)
    with caplog.at_level(logging.INFO):
        train(run)
    assert not (run / "previous").exists()
    assert {name: written[0] for name, written in times(run).items()} == {k: v[0] for k, v in before.items()}
    for name in (*(f"{stage}/models/model.pt" for stage in STAGES), "models/model.pt"):
        assert (run / name).read_bytes() == (original / name).read_bytes()
    assert "domain_adaptation: is made again from its checkpoints: models/model.pt is damaged" in caplog.text
    assert load_network(run)


def test_a_stage_that_finds_damage_has_it_made_again(run, original, caplog):
    flip(run / "source_segmentation" / "augmented" / "image.npy")
    train(run)  # nothing reads it
    assert not list((run / "source_segmentation" / "augmented").glob("*.damaged"))
    shutil.rmtree(run / "domain_adaptation")
    train(run)
    assert "augmented/image.npy is damaged, or was changed: it is made again" in caplog.text
    for name in STAGES:
        assert weights_of(run)[name].read_bytes() == weights_of(original)[name].read_bytes()
