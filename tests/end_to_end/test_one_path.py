"""One pair, registered in every way that there is: all find the same, to the bit."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.bundle import run as run_bundle
from monai.transforms import Compose

import crosswarp
from crosswarp.commands import COMMANDS
from crosswarp.evaluation.methods import LabelRegistration, TrainedRun
from crosswarp.inference.runner import predict, renamed
from crosswarp.networks import Prediction
from crosswarp.runs.bundle import INFERENCE, WEIGHTS, load_weights
from tests.cohorts import write_blob_cohort
from tests.trained_run import write_trained_run


@pytest.fixture(scope="module", params=[None, "moments"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the identity's neighbourhood, also with what a user may change in its inference config."""
    folder = tmp_path_factory.mktemp("run")
    datalist = write_blob_cohort(folder / "data", num_classes=3)
    run = write_trained_run(folder / "run", datalist, deformation=0.02)
    config = json.loads((run / INFERENCE).read_text())
    config["initialisation"] = request.param
    (run / INFERENCE).write_text(json.dumps(config))
    return run


@pytest.fixture
def files(run: Path) -> dict[str, str]:
    images = run.parent / "data" / "images"
    return {"moving": str(images / "warmtest0.nii.gz"), "fixed": str(images / "coldtest1.nii.gz")}


def written(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: np.asarray(nib.load(path).dataobj) for path in folder.glob("*.nii.gz")}


def test_monai_the_command_line_and_python_write_the_same(
    run: Path, files: dict[str, str], tmp_path: Path
) -> None:
    where = {name: tmp_path / name for name in ("monai", "command", "python")}
    run_bundle(
        config_file=str(run / INFERENCE), bundle_root=str(run), output_dir=str(where["monai"]), **files
    )
    COMMANDS["register"](**files, models=str(run), out=str(where["command"]))
    crosswarp.load(run).register(**files).save(where["python"])
    expected = written(where["monai"])
    assert len(expected) == 5
    for name in ("command", "python"):
        found = written(where[name])
        assert found.keys() == expected.keys()
        for file, values in found.items():
            np.testing.assert_array_equal(values, expected[file])


def labelled(run: Path, files: dict[str, str]) -> Prediction:
    """What MONAI Label does with a bundle, up to our task's own step."""
    parser = ConfigParser(renamed(json.loads((run / INFERENCE).read_text()), "crosswarp."))
    parser.config |= {"bundle_root": str(run), "device": "cpu"}
    network = parser.get_parsed_content("network")
    load_weights(network, run / WEIGHTS)
    item: Any = {"image": files["fixed"], "moving": files["moving"], "results": "a folder"}
    item = Compose(parser.get_parsed_content("pre_transforms"))(item)
    return Prediction.split(predict(parser, network.eval(), [item], "cpu"))


def test_the_label_server_predicts_what_python_does(run: Path, files: dict[str, str]) -> None:
    pair = crosswarp.load(run, device="cpu").register(**files)
    found = labelled(run, files)
    assert torch.equal(found.moving_to_fixed, pair.moving_to_fixed)
    assert torch.equal(found.fixed_to_moving, pair.fixed_to_moving)


def test_the_evaluation_measures_what_python_finds_in_either_direction(
    run: Path, files: dict[str, str]
) -> None:
    own = LabelRegistration(TrainedRun(str(run)))
    own.load()
    prepared = []
    for key, modality in (("moving", "source"), ("fixed", "target")):
        item = own.runner.prepare(files[key], key)
        image: Any = SimpleNamespace(image=item["image"].as_tensor(), item=item)
        prepared.append([own.prepare(image, modality)])
    there, back = own.register(*prepared)
    trained = crosswarp.load(run, device="cpu")
    assert torch.equal(there, trained.register(**files).moving_to_fixed)
    reverse = trained.register(files["fixed"], files["moving"], "target", "source")
    torch.testing.assert_close(back, reverse.moving_to_fixed, atol=1e-6, rtol=0)  # another place in a batch
