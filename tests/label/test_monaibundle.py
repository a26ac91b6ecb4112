"""The packaged bundles in MONAI Label's own `monaibundle` app, driven by HTTP as a client does."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("monailabel", reason="needs the environment of requirements-label.txt")

from monai.bundle import run
from PIL import Image

from apps.monailabel.serve import APPS, SEGMENTATION, SERVED, install
from crosswarp.commands.package import package
from tests.cohorts import write_blob_cohort
from tests.label.hostile import REFUSALS, answers
from tests.label.server import Client, serving
from tests.trained_run import write_trained_run

pytestmark = pytest.mark.label

# what tests of one server share: images of both modalities, and copies of one stored in other ways
IMAGES = ("warmtest0", "warmtest1", "coldtest0", "coldtest1")


@dataclass
class Session:
    client: Client
    app: Path
    data: Path
    studies: Path
    dims: int
    out: Path

    def bundle_writes(self, model: str, **overrides: object) -> Path:
        """What the bundle's own inference writes, without MONAI Label."""
        bundle = self.app / "model" / model
        out = self.out / f"{model}_run"
        run(
            config_file=str(bundle / "configs" / "inference.json"),
            bundle_root=str(bundle),
            output_dir=str(out),
            **overrides,
        )
        return out


def array(file: Path) -> np.ndarray:
    return np.asarray(nib.load(file).dataobj)


def packaged_app(folder: Path, dims: int) -> Path:
    datalist = write_blob_cohort(folder / "data", dims, num_classes=3, spatial_size=(32, 24))
    trained = write_trained_run(folder / "run", datalist, deformation=0.3)
    zips = package(str(trained), str(folder / "dist"))
    app = install(APPS["monaibundle"], [z for z in zips if z.name.startswith(SERVED)], folder / "app")
    for model in SEGMENTATION:  # tiny networks need larger steps
        file = app / "model" / model / "configs" / "train.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"learning_rate": 0.03}))
    return app


@pytest.fixture(scope="module", params=[2, 3], ids=["2D", "3D"])
def session(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    folder = tmp_path_factory.mktemp(f"label{request.param}d")
    app = packaged_app(folder, request.param)
    studies, out = folder / "studies", folder / "out"
    studies.mkdir(), out.mkdir()
    for name in IMAGES:
        shutil.copy(folder / "data" / "images" / f"{name}.nii.gz", studies)
    store_otherwise(studies, request.param)
    with serving(app, studies) as client:
        yield Session(client, app, folder / "data", studies, request.param, out)


def store_otherwise(studies: Path, dims: int) -> None:
    """The first image stored otherwise: with other axes, as a slice of a volume, as a picture."""
    image = nib.load(studies / "warmtest0.nii.gz")
    if dims == 3:
        turned = image.as_reoriented(np.array([[1, -1], [2, 1], [0, -1]]))
        nib.save(turned, studies / "turned.nii.gz")
        return
    affine = image.affine.copy()
    affine[:3, 2:] = [[0, 7], [0, -11], [5, 37.5]]
    nib.save(
        nib.Nifti1Image(array(studies / "warmtest0.nii.gz")[:, :, None], affine), studies / "slice.nii.gz"
    )
    grey = np.uint8(255 * np.clip(array(studies / "warmtest0.nii.gz"), 0, 1))
    Image.fromarray(grey.T).save(studies / "picture.png")


def test_all_are_served_with_their_classes(session: Session) -> None:
    info = session.client.info()
    assert set(info["models"]) == set(SERVED) and set(info["trainers"]) == set(SEGMENTATION)
    for model in info["models"].values():
        assert model["labels"] == {"blob 1": 1, "blob 2": 2} and model["dimension"] == session.dims
    assert info["labels"] == ["blob 1", "blob 2"] and "random" in info["strategies"]


def test_hostile_requests_are_refused(session: Session) -> None:
    marker = session.studies.parent / "made.nii.gz"
    secret = session.data / "images" / "coldtest1.nii.gz"
    refused = answers(session.client, marker, secret)
    assert {
        name for name, (status, detail) in refused.items() if status not in REFUSALS or not detail
    } == set()
    assert not marker.exists() and "coldtest1" in session.client.request("GET", "datastore/?output=all").text
    assert not session.client.request("GET", "info/").json()["datastore"]["label_tags"]


@pytest.mark.parametrize(("model", "image"), [(SEGMENTATION[0], "warmtest1"), (SEGMENTATION[1], "coldtest1")])
def test_a_served_label_is_what_the_bundle_writes(session: Session, model: str, image: str) -> None:
    original = session.studies / f"{image}.nii.gz"
    label, params = session.client.infer(model, image, session.out)
    written = session.bundle_writes(model, images=[str(original)]) / f"{image}_seg.nii.gz"
    assert array(label).dtype == np.uint8 and params["label_names"] == {"blob 1": 1, "blob 2": 2}
    np.testing.assert_array_equal(np.squeeze(array(label)), np.squeeze(array(written)))
    assert len(np.unique(array(label))) > 1
    spatial = nib.load(original).shape
    assert nib.load(label).shape == (*spatial, 1)[:3]
    np.testing.assert_allclose(nib.load(label).affine, nib.load(original).affine, atol=1e-5)


def test_a_label_follows_the_axes_of_its_file(session: Session) -> None:
    if session.dims == 2:
        pytest.skip("a slice has no other axes")
    plain, _ = session.client.infer(SEGMENTATION[0], "warmtest0", session.out)
    turned, _ = session.client.infer(SEGMENTATION[0], "turned", session.out)
    np.testing.assert_allclose(
        nib.load(turned).affine, nib.load(session.studies / "turned.nii.gz").affine, atol=1e-5
    )
    np.testing.assert_array_equal(
        nib.as_closest_canonical(nib.load(turned)).get_fdata(),
        nib.as_closest_canonical(nib.load(plain)).get_fdata(),
    )


def test_a_slice_stays_where_it_was(session: Session) -> None:
    if session.dims == 3:
        pytest.skip("of 2D networks")
    plain, _ = session.client.infer(SEGMENTATION[0], "warmtest0", session.out)
    label, _ = session.client.infer(SEGMENTATION[0], "slice", session.out)
    original = nib.load(session.studies / "slice.nii.gz")
    assert nib.load(label).shape == original.shape
    np.testing.assert_allclose(nib.load(label).affine, original.affine, atol=1e-5)
    np.testing.assert_array_equal(array(label), array(plain))


def test_a_picture_gives_a_picture(session: Session) -> None:
    if session.dims == 3:
        pytest.skip("of 2D networks")
    label, _ = session.client.infer(SEGMENTATION[0], "picture", session.out)
    original = Image.open(session.studies / "picture.png")
    written = session.bundle_writes(SEGMENTATION[0], images=[str(session.studies / "picture.png")])
    assert (
        label.suffix == ".png" and Image.open(label).size == original.size and Image.open(label).mode == "L"
    )
    np.testing.assert_array_equal(
        np.array(Image.open(label)).T, array(written / "picture_seg.nii.gz").squeeze()
    )


def test_registration_returns_the_warped_label(session: Session) -> None:
    moving, fixed = (session.studies / f"{name}.nii.gz" for name in ("warmtest0", "coldtest0"))
    label, _ = session.client.infer("crosswarp", "coldtest0", session.out, moving=str(moving))
    out = session.bundle_writes("crosswarp", moving=str(moving), fixed=str(fixed))
    written = array(out / "warmtest0_to_coldtest0_warped_seg.nii.gz")
    np.testing.assert_array_equal(np.squeeze(array(label)), np.squeeze(written))
    np.testing.assert_allclose(nib.load(label).affine, nib.load(fixed).affine, atol=1e-5)
    # a label that is given is warped instead, by the same map
    manual = session.data / "labels" / "warmtest0.nii.gz"
    session.client.save_label("warmtest0", manual)
    stored = session.studies / "labels" / "final" / "warmtest0.nii.gz"
    label, _ = session.client.infer(
        "crosswarp", "coldtest0", session.out, moving=str(moving), moving_label=str(stored)
    )
    session.client.request("DELETE", "datastore/label", params={"id": "warmtest0", "tag": "final"})
    assert 0 < np.count_nonzero(array(label)) < 3 * np.count_nonzero(array(manual))
    assert np.count_nonzero(np.squeeze(array(label)) != array(manual)) > 0


def test_samples_are_offered_until_they_are_labelled(session: Session) -> None:
    images = {path.name.partition(".")[0] for path in session.studies.iterdir() if path.is_file()}
    images -= {"datastore_v2", ""}
    assert session.client.request("POST", "activelearning/random").json()["id"] in images
    labelled = sorted(images - {"coldtest1"})
    for name in labelled:
        session.client.save_label(name, session.data / "labels" / "warmtest0.nii.gz")
    time.sleep(1.1)  # an image offered within the same second has no weight in MONAI Label's choice
    assert session.client.request("POST", "activelearning/random").json()["id"] == "coldtest1"
    for name in labelled:
        session.client.request("DELETE", "datastore/label", params={"id": name, "tag": "final"})


def test_uncertainty_is_an_entropy_of_probabilities(session: Session) -> None:
    """Between 0 and log(3) for three classes; an entropy of label values would be negative.

    In one thread: MONAI Label's own threads unload a bundle's modules under each other.
    """
    options = {"simulation_size": 3, "max_workers": 1}
    path = f"scoring/{SEGMENTATION[1]}"
    summary = session.client.request("POST", path, params={"run_sync": True}, json=options).json()
    assert summary["executed"] == summary["total"] > 0
    for image in ("coldtest0", "coldtest1"):
        info = session.client.request("GET", "datastore/image/info", params={"image": image}).json()
        assert 0.01 < info["epistemic_entropy"] < math.log(3)


@pytest.mark.parametrize("model", SEGMENTATION)
def test_training_learns_from_corrected_labels(session: Session, model: str) -> None:
    """With what the extension of 3D Slicer sends."""
    prefix = {"source_segmentation": "warm", "domain_adaptation": "cold"}[model]
    image, weights = f"{prefix}test0", session.app / "model" / model / "models" / "model.pt"
    truth = array(session.data / "labels" / f"{image}.nii.gz")
    for name in IMAGES:
        session.client.save_label(name, session.data / "labels" / f"{name}.nii.gz")
    before = weights.read_bytes()

    def dice() -> float:
        label, _ = session.client.infer(model, image, session.out)
        predicted = np.squeeze(array(label))
        scores = [
            2 * np.sum((predicted == k) & (truth == k)) / (np.sum(predicted == k) + np.sum(truth == k))
            for k in (1, 2)
        ]
        return float(np.mean(scores))

    start = dice()
    config = session.client.info()["trainers"][model]["config"]
    options = {key: value[0] if isinstance(value, list) else value for key, value in config.items()}
    status = session.client.train_in_the_background(model, **options | {"max_epochs": 12})
    assert status["status"] == "DONE", status
    assert weights.read_bytes() != before
    assert dice() > max(start + 0.1, 0.5), start


def test_training_without_validation_images(session: Session) -> None:
    weights = session.app / "model" / SEGMENTATION[0] / "models" / "model.pt"
    session.client.save_label("warmtest0", session.data / "labels" / "warmtest0.nii.gz")
    before = weights.read_bytes()
    session.client.train(SEGMENTATION[0], max_epochs=1, val_split=0)
    assert weights.read_bytes() != before


def test_two_releases_do_not_mix_their_code(tmp_path: Path) -> None:
    """The second release numbers its labels otherwise; requests take turns."""
    app = packaged_app(tmp_path, 2)
    models = ["source_segmentation", "source_segmentation_v9.9.9"]
    shutil.copytree(app / "model" / models[0], app / "model" / models[1])
    code = app / "model" / models[1] / "scripts" / "inference" / "serving.py"
    text = code.read_text()
    assert text.count("label.argmax(0)") == 1
    code.write_text(text.replace("label.argmax(0)", "label.argmax(0) + 10"))
    metadata = app / "model" / models[1] / "configs" / "metadata.json"
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {"version": "9.9.9"}))
    with serving(app, tmp_path / "data" / "images", models) as client:
        versions = [client.info()["models"][model]["version"] for model in models]
        assert versions[1] == "9.9.9" != versions[0]
        labels = [array(client.infer(model, "warmtest0", tmp_path)[0]) for model in models * 2]
    np.testing.assert_array_equal(labels[0] + 10, labels[1])
    np.testing.assert_array_equal(labels[0], labels[2])
    np.testing.assert_array_equal(labels[1], labels[3])
