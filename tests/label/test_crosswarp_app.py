"""Our own MONAI Label app: pairs of the datastore, their transforms, and stage 4 with corrected labels."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("monailabel", reason="needs the environment of requirements-label.txt")

import SimpleITK as sitk
from monai.bundle import run

from apps.monailabel.serve import APPS, SERVED, install
from crosswarp.commands.package import package
from crosswarp.kept import read_json
from crosswarp.places import ROOT, STAGES
from crosswarp.release.package import LEARNED_IDS
from crosswarp.runs.shared import with_shared
from tests.cohorts import write_blob_cohort
from tests.label.hostile import REFUSALS, answers
from tests.label.server import Client, serving
from tests.trained_run import write_trained_run

pytestmark = pytest.mark.label

STRANGER = "stranger #1"  # a source image that the datalist does not have
NAMESAKE = "warmval0"  # a target image that has the file name of a source image of the datalist


@dataclass
class Session:
    client: Client
    app: Path
    studies: Path
    run: Path
    data: Path
    out: Path


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """A run that was trained for a step, packaged and served with images of both modalities."""
    folder = tmp_path_factory.mktemp("crosswarp_app")
    datalist = write_blob_cohort(folder / "data", num_classes=3, spatial_size=(32, 24))
    tiny = write_trained_run(folder / "tiny", datalist)
    first = install(APPS["crosswarp"], package(str(tiny), str(folder / "tiny_zips")), folder / "first")
    trained, bundle = folder / "run", first / "model" / "crosswarp"
    configs, library = bundle / "configs", ROOT / "configs"
    own = with_shared(read_json(library / "inference.json"))["pose_network"]  # the tiny run has none
    inference = read_json(configs / "inference.json") | {"pose_network": own}
    (configs / "inference.json").write_text(json.dumps(inference))
    place = {"run_dir": str(trained), "datalist": str(datalist), "device": "cpu"}
    poses = with_shared(read_json(library / "train.json"))["pose_recognition"]
    given = {"spatial_size": [32, 32], "deterministic": True, "worsened_pairs": 64}
    given |= {"seed": 3, "pose_recognition": poses | {"examples": 8, "steps": 2}}
    run(config_file=str(configs / "train.json"), bundle_root=str(bundle), **place, **given)
    zips = package(str(trained), str(folder / "dist"))
    app = install(APPS["crosswarp"], [path for path in zips if path.name.startswith(SERVED)], folder / "app")
    studies, out = folder / "studies", folder / "out"
    studies.mkdir(), out.mkdir()
    for name in ("warmtest0", "warmtest1", "coldtest0", "coldtest1", "coldval0", "coldval1"):
        shutil.copy(folder / "data" / "images" / f"{name}.nii.gz", studies)
    shutil.copy(studies / "warmtest0.nii.gz", studies / f"{STRANGER}.nii.gz")
    shutil.copy(studies / "coldtest0.nii.gz", studies / f"{NAMESAKE}.nii.gz")
    with serving(app, studies, SERVED, "--conf", "run", str(trained)) as client:
        info = {"info": json.dumps({"modality": "source"})}
        client.request("PUT", "datastore/image/info", params={"image": STRANGER}, data=info)
        yield Session(client, app, studies, trained, folder / "data", out)


def test_hostile_requests_are_refused(session: Session) -> None:
    marker = session.studies.parent / "made.nii.gz"
    secret = session.data / "images" / "coldtest1.nii.gz"
    refused = answers(session.client, marker, secret)
    assert {
        name for name, (status, detail) in refused.items() if status not in REFUSALS or not detail
    } == set()
    assert not marker.exists() and "coldtest1" in session.client.request("GET", "datastore/?output=all").text
    assert not session.client.request("GET", "info/").json()["datastore"]["label_tags"]


def test_both_directions_and_all_trainings_are_offered(session: Session) -> None:
    info = session.client.info()
    assert set(info["models"]) == {*SERVED, "crosswarp_target_to_source"}
    assert set(info["trainers"]) == set(SERVED) and "epistemic" in info["strategies"]


@pytest.mark.parametrize(
    ("model", "moving", "fixed"),
    [
        ("crosswarp", "warmtest0", "coldtest1"),
        ("crosswarp_target_to_source", "coldtest0", "warmtest1"),
    ],
)
def test_a_pair_of_the_datastore_and_its_transforms(
    session: Session, model: str, moving: str, fixed: str
) -> None:
    """The final label of the moving image comes back warped; the transform that comes back warps it too."""
    manual = session.data / "labels" / f"{moving}.nii.gz"
    session.client.save_label(moving, manual)
    label, params = session.client.infer(model, fixed, session.out, moving=moving)
    assert params["quality"]["verdict"] in ("ok", "check", "failed")
    assert (params["quality"]["moving"], params["quality"]["fixed"]) == (moving, fixed)
    transforms = {}
    for kind in ("transform", "inverse"):
        assert params[kind] == {"label": fixed, "tag": f"{kind}_from_{moving}"}
        file = session.out / f"{kind}.h5"
        file.write_bytes(session.client.request("GET", "datastore/label", params=params[kind]).content)
        transforms[kind] = sitk.ReadTransform(str(file))
    reference = sitk.ReadImage(str(session.data / "images" / f"{fixed}.nii.gz"))
    warped = sitk.Resample(
        sitk.ReadImage(str(manual)), reference, transforms["transform"], sitk.sitkNearestNeighbor
    )
    served = np.squeeze(np.asarray(nib.load(label).dataobj))
    assert np.count_nonzero(served) and np.mean(sitk.GetArrayFromImage(warped).T == served) > 0.99
    point = reference.TransformContinuousIndexToPhysicalPoint([15.0, 12.0])
    back = transforms["inverse"].TransformPoint(transforms["transform"].TransformPoint(point))
    np.testing.assert_allclose(back, point, atol=0.5)


def test_two_pairs_at_once_have_transforms_of_their_own(session: Session) -> None:
    """MONAI Label computes several images of a batch in threads of one process."""
    images = ("coldtest0", "coldtest1", "coldval0", "coldval1", "warmtest1", STRANGER)
    alone = {}
    for image in images:
        _, params = session.client.infer("crosswarp", image, session.out, moving="warmtest0")
        alone[image] = params
    transforms = {image: transform(session, image, "warmtest0") for image in images}
    for image in images:
        for kind in ("transform", "inverse"):
            session.client.request(
                "DELETE", "datastore/label", params={"id": image, "tag": alone[image][kind]["tag"]}
            )
    asked = {"run_sync": True, "images": "all"}
    body = {"moving": "warmtest0", "max_workers": 4, "label_tag": "batch", "multi_gpu": False}
    together = session.client.request("POST", "batch/infer/crosswarp", params=asked, json=body).json()
    for image in images:
        assert together[image]["params"]["quality"] == alone[image]["quality"]
        assert transform(session, image, "warmtest0") == transforms[image]


def transform(session: Session, fixed: str, moving: str) -> tuple[float, ...]:
    """Where the stored transform of a pair takes some points."""
    file = session.out / "transform.h5"
    params = {"label": fixed, "tag": f"transform_from_{moving}"}
    file.write_bytes(session.client.request("GET", "datastore/label", params=params).content)
    read = sitk.ReadTransform(str(file))
    return tuple(value for x in range(4, 28, 4) for value in read.TransformPoint((0.8 * x, 0.9 * x / 2)))


def test_a_path_in_the_request_is_not_read(session: Session) -> None:
    path = session.studies / "labels" / "final" / "broken.nii.gz"
    path.write_bytes(b"")
    label, _ = session.client.infer(
        "crosswarp", "coldtest1", session.out, moving="warmtest1", moving_label=str(path)
    )
    assert label.is_file()


def test_an_image_that_is_not_there_is_named(session: Session) -> None:
    with pytest.raises(RuntimeError, match=r"404 .*got 'nobody'; they have 'coldtest0', "):
        session.client.infer("crosswarp", "coldtest0", session.out, moving="nobody")
    moving = str(session.studies / "warmtest0.nii.gz")
    with pytest.raises(RuntimeError, match=r"422 .*'moving': expected a name"):
        session.client.infer("crosswarp", "coldtest0", session.out, moving=moving)


def test_the_least_certain_image_is_offered_first(session: Session) -> None:
    session.client.request("POST", "scoring/domain_adaptation", params={"run_sync": True}, json={})
    scores = {}
    for name in ("coldtest1", "coldval0", "coldval1", NAMESAKE, "warmtest1", STRANGER):
        info = session.client.request("GET", "datastore/image/info", params={"image": name}).json()
        scores[name] = info.get("epistemic_entropy", -1)
        assert (scores[name] > 0) == name.startswith(("cold", NAMESAKE))
    offered = session.client.request("POST", "activelearning/epistemic").json()["id"]
    assert offered == max(scores, key=scores.__getitem__)


def test_segmentations_learn_from_their_own_modality(session: Session) -> None:
    for name in ("warmtest0", "coldtest0"):
        session.client.save_label(name, session.data / "labels" / f"{name}.nii.gz")
    session.client.save_label(STRANGER, session.data / "labels" / "warmtest0.nii.gz")
    for model, image in (("source_segmentation", "warmtest0"), ("domain_adaptation", "coldtest0")):
        session.client.train(model, max_epochs=1, val_split=0)
        log = session.client.log.read_text()
        data = log[log.rindex("train#dataset#data") :][:600]
        assert image in data and ("cold" if image.startswith("warm") else "warm") + "test" not in data


def test_corrected_target_labels_refresh_stage_4(session: Session) -> None:
    """All else stays, though the run was trained with other values than the datalist's and the chain's."""
    served = session.app / "model" / "crosswarp" / "models" / "model.pt"
    manifests = {name: (session.run / name / "manifest.json").read_text() for name in STAGES}
    before, poses = served.read_bytes(), (session.run / "pose.json").read_bytes()
    old = json.loads((served.parents[1] / "configs" / "inference.json").read_text())
    assert read_json(session.run / "expected_overlap.json")["of"][2] == 64
    for correction in ("coldtest0", "coldtest1"):  # the same image, its label corrected again
        session.client.save_label("coldtest0", session.data / "labels" / f"{correction}.nii.gz")
        session.client.train("crosswarp")
        assert served.read_bytes() == (session.run / "models" / "model.pt").read_bytes()
        assert served.read_bytes() != before
    stage = session.run / "multimodal_registration"
    (record,) = json.loads((stage / "configs" / "train.json").read_text())["corrected"]
    assert record["image"].endswith("coldtest0.nii.gz") and "/labels/final/" in record["label"]
    assert len(list((session.run / "previous").glob("multimodal_registration-*"))) == 2
    for name, manifest in manifests.items():
        unchanged = (session.run / name / "manifest.json").read_text() == manifest
        assert unchanged == (name != "multimodal_registration")
    assert (session.run / "pose.json").read_bytes() == poses
    assert read_json(session.run / "expected_overlap.json")["of"][2] == 64
    path = session.app / "model" / "crosswarp" / "configs" / "inference.json"
    config, trained = (json.loads(each.read_text()) for each in (path, session.run / "configs" / path.name))
    for key in LEARNED_IDS:
        assert config[key] == trained[key]
    assert config["expected_overlap"] != old["expected_overlap"]
    warning = "multimodal_registration: boundaries cross"
    path.write_text(json.dumps(config | {"training_warnings": [warning]}))  # as the next training might
    for model, fixed, moving in (
        ("crosswarp", "coldtest1", "warmtest0"),
        ("crosswarp_target_to_source", "warmtest0", "coldtest1"),
    ):
        label, params = session.client.infer(model, fixed, session.out, moving=moving)
        assert nib.load(label).shape == (32, 24, 1)
        assert f"training of {warning}" in params["quality"]["reasons"]
