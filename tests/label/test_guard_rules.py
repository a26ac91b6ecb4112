"""What a request to the label server may hold; it needs neither MONAI Label nor a server."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import itk
import nibabel as nib
import numpy as np
import pytest

from apps.monailabel.guard.routes import Understood, Upload, infer_fields, routes, train_fields
from apps.monailabel.guard.studies import (
    BEGINNINGS,
    IMAGE_SUFFIXES,
    Studies,
    check_content,
    suffix_of,
)
from apps.monailabel.guard.values import Refused, check_fields, strict_json

CODE = "$__import__('os').system('touch x')"
DEVICES = ("cpu", "cuda", "NVIDIA A100:0")
# what the extension of 3D Slicer sends of the configuration that MONAI Label gives it
SLICER_TRAINS = {
    "device": "NVIDIA A100:0",
    "pretrained": True,
    "max_epochs": 50,
    "val_split": 0.2,
    "multi_gpu": True,
    "gpus": "all",
    "tracking": "None",
    "tracking_uri": "",
    "tracking_experiment_name": "",
    "run_id": "",
    "model_filename": "model.pt",
    "client_id": "user-xyz",
}


@pytest.fixture
def studies(tmp_path: Path) -> Studies:
    """Two images and a label in a folder; beside it a secret, to which links lead."""
    folder = tmp_path / "studies"
    (folder / "labels" / "final").mkdir(parents=True)
    for name in ("knee.nii.gz", "ray 2.png", "straße#1.nrrd", "labels/final/knee.nii.gz", "notes.txt"):
        (folder / name).touch()
    (tmp_path / "secret.nii.gz").touch()
    (tmp_path / "elsewhere").mkdir()
    (folder / "link.nii.gz").symlink_to(tmp_path / "secret.nii.gz")
    (folder / "labels" / "final" / "ray 2.nrrd").symlink_to(tmp_path / "secret.nii.gz")
    (folder / "labels" / "elsewhere").symlink_to(tmp_path / "elsewhere")
    return Studies(folder)


def test_what_slicer_sends_is_let_through_as_it_is(studies: Studies) -> None:
    assert check_fields(SLICER_TRAINS, train_fields(DEVICES)) == SLICER_TRAINS
    infer = {"device": "cpu", "model_filename": "model.pt", "result_extension": ".nrrd"}
    infer |= {"result_dtype": "uint8", "client_id": None, "moving": "ray 2"}
    assert check_fields(infer, infer_fields(DEVICES, studies)) == infer


@pytest.mark.parametrize("key", [*SLICER_TRAINS, "bundle_path", "network", "dataset", "model", CODE])
@pytest.mark.parametrize("value", [CODE, [CODE], {"a": {"_target_": "os.system"}}, f'{{"a": "{CODE}"}}'])
def test_no_field_of_a_training_takes_an_expression(key: str, value: Any) -> None:
    with pytest.raises(Refused) as refused:
        check_fields({key: value}, train_fields(DEVICES))
    assert refused.value.status == 422


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("max_epochs", 0, "a whole number from 1 to 10000, got 0"),
        ("max_epochs", 10_001, "got 10001"),
        ("max_epochs", 1.0, "got 1.0"),
        ("max_epochs", True, "got True"),
        ("max_epochs", "12", "got '12'"),
        ("max_epochs", CODE, "got the expression"),
        ("max_epochs", None, "got None"),
        ("val_split", 1, "from -1 to below 1, got 1"),
        ("val_split", float("nan"), "got nan"),
        ("pretrained", "true", "true or false"),
        ("device", "tpu", "expected one of 'NVIDIA A100:0', 'cpu', 'cuda', got 'tpu'"),
        ("device", ["cpu"], "got ['cpu']"),
        ("device", "cuda:9", "got 'cuda:9'"),
        ("gpus", "all; rm", "'all' or numbers"),
        ("tracking", "/tmp/tracking.json", "'mlflow'"),
        ("tracking_uri", "http://example.org", "expected one of ''"),
        ("run_id", "initialize", "'run'"),
        ("model_filename", "../../secret.pt", "a .pt file"),
        ("model_filename", "model.pt\n", "a .pt file"),
        ("bundle_path", "/tmp", "is not known here; expected device or pretrained or max_epochs"),
        ("train#trainer#max_epochs", 3, "is not known here"),
    ],
)
def test_a_training_is_told_what_was_expected(key: str, value: Any, message: str) -> None:
    with pytest.raises(Refused) as refused:
        check_fields({key: value}, train_fields(DEVICES))
    assert f"'{key}': " in str(refused.value) and message in str(refused.value)


def test_all_faults_are_named_together() -> None:
    with pytest.raises(Refused, match="'max_epochs': .*; 'device': .*; 'a': is not known here"):
        check_fields({"max_epochs": 0, "device": "x", "pretrained": True, "a": 1}, train_fields(DEVICES))


@pytest.mark.parametrize(
    "text",
    [CODE, " $1", "\t$1", "\ufeff$1", "\u200b$1", "\uff041", "'$1'", "@bundle_root", "%file.json::x", "%24x"]
    + ['["$1"]', ' {"a": ["@b"]}', '{"$a": 1}', '["[\\"$1\\"]"]'],
)
def test_a_text_is_no_expression(text: str) -> None:
    (label_info,) = (route for route in routes(Studies("."), ()) if route.path == "/activelearning/{name}")
    assert label_info.body is not None
    with pytest.raises(Refused, match="'client_id': expected a value, got the expression"):
        check_fields({"client_id": text}, label_info.body)
    assert check_fields({"client_id": "someone@example.org: 5 $"}, label_info.body)


@pytest.mark.parametrize(
    "content",
    [
        '{"a": 1, "a": 2}',
        '{"a": NaN}',
        '{"a": -Infinity}',
        "{'a': 1}",
        "{",
        "",
        "[" * 100_000,
        "[" * 30 + "]" * 30,
    ]
    + ["9" * 5000, b"\xff\xfe{}", b'{"a": "\xed\xa0\x80"}', "{} {}"],
)
def test_json_that_readers_understand_differently_is_refused(content: str | bytes) -> None:
    with pytest.raises(Refused, match="expected JSON") as refused:
        strict_json(content)
    assert refused.value.status == 400 and len(str(refused.value)) < 300


def test_images_are_those_of_the_studies(studies: Studies) -> None:
    for name in ("knee", "ray 2", "straße#1"):
        assert studies.image(name) == name
    label = studies.folder / "labels" / "final" / "knee.nii.gz"
    assert studies.image_or_path(str(label)) == str(label)
    with pytest.raises(Refused, match=r"got 'nobody'; they have 'knee', 'link', 'ray 2', ") as refused:
        studies.image("nobody")
    assert refused.value.status == 404


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "..",
        ".",
        "",
        "./knee",
        "/etc/passwd",
        "labels/final/knee",
        "..\\secret",
        "knee\0",
        "knee\n",
    ]
    + [
        "..\uff0fsecret",
        "\u2025/secret",
        "knee.nii.gz",
        "notes",
        "labels",
        "link",
        "knee\u200b",
        "%2e%2e%2fsecret",
    ]
    + ["knee ", ".knee", "k" * 300, 7, None, ["knee"], {"knee": 1}, "*", "[k]nee", "$knee", "\ud800"],
)
def test_no_other_file_is_an_image(studies: Studies, name: Any) -> None:
    for check in (studies.image, studies.image_or_path):
        with pytest.raises(Refused) as refused:
            check(name)
        assert 400 <= refused.value.status < 500 and str(refused.value).isascii()


@pytest.mark.parametrize(
    "path",
    [
        "{studies}/../secret.nii.gz",
        "{studies}/link.nii.gz",
        "/etc/passwd",
        "/proc/self/environ",
        "//etc/passwd.png",
    ]
    + [
        "{studies}-2/x.nii.gz",
        "{studies}/labels/final/ray 2.nrrd",
        "{studies}/notes.txt",
        "{studies}/none.png",
    ]
    + [
        "{studies}/%2e%2e/secret.nii.gz",
        "{studies}",
        "file://{studies}/knee.nii.gz",
        "{studies}/knee.nii.gz\0",
    ]
    + ["{studies}/labels/elsewhere/../../../secret.nii.gz", "knee.nii.gz", "~/knee.nii.gz"],
)
def test_a_path_stays_in_the_studies(studies: Studies, path: str) -> None:
    with pytest.raises(Refused):
        studies.path(path.format(studies=studies.folder))


@pytest.mark.parametrize(
    ("image", "tag"),
    [
        ("knee", ".."),
        ("knee", "../../x"),
        ("knee", "/tmp"),
        ("knee", "elsewhere"),
        ("ray 2", "final"),
        ("knee", "$x"),
    ],
)
def test_a_label_stays_in_the_studies(studies: Studies, image: str, tag: str) -> None:
    with pytest.raises(Refused):
        studies.check_labels(image, tag)
    studies.check_labels("knee", "final")
    studies.check_labels("knee", "transform_from_ray 2")


@pytest.mark.parametrize("image", ["../x", "link", "labels/final/x", "", "..", ".lock", "x\0"])
def test_a_new_image_is_written_into_the_studies(studies: Studies, image: str) -> None:
    with pytest.raises(Refused):
        studies.check_new(image, ".nii.gz")
    studies.check_new("new 1", ".nii.gz")


@pytest.mark.parametrize(
    "content",
    [
        b"NRRD0004\ntype: short\ndata file: /etc/passwd\n\n",
        b"NRRD0004\r\ntype: short\r\nDataFile: LIST\r\n\r\n",
        b"NRRD0004\n" + b"# a\n" * 50_000 + b"data file: /etc/passwd\n\n",
    ],
)
def test_an_upload_that_names_another_file_is_refused(content: bytes) -> None:
    with pytest.raises(Refused, match=r"in one file|NRRD header"):
        check_content(io.BytesIO(content), ".seg.nrrd")
    plain = io.BytesIO(b"NRRD0004\ntype: short\nencoding: raw\n\n\ndata file: 1")
    check_content(plain, ".nrrd")
    assert plain.tell() == 0


@pytest.mark.parametrize("suffix", BEGINNINGS)
def test_an_upload_is_what_its_suffix_says(suffix: str) -> None:
    for content in (
        b"\x89HDF\r\n\x1a\n",
        b"ObjectType = Image\nElementDataFile = /etc/passwd\n",
        b"\x93NUMPY",
        b"",
    ):
        with pytest.raises(Refused, match=f"content of a {suffix} file"):
            check_content(io.BytesIO(content), suffix)
    for at, start in BEGINNINGS[suffix]:
        check_content(io.BytesIO(bytes(at) + start + b"4\n\n"), suffix)


def test_real_images_are_what_their_suffixes_say(tmp_path: Path) -> None:
    array = np.zeros((8, 9, 1), np.uint8)
    for kind in (nib.Nifti1Image, nib.Nifti2Image):
        for suffix in (".nii", ".nii.gz"):
            nib.save(kind(array, np.eye(4)), tmp_path / f"{kind.__name__}{suffix}")
    for suffix in (".png", ".jpg", ".tif", ".nrrd"):
        itk.imwrite(itk.image_from_array(array[..., 0]), str(tmp_path / f"a{suffix}"))
    for path in tmp_path.iterdir():
        with path.open("rb") as file:
            check_content(file, suffix_of(path.name, IMAGE_SUFFIXES))


def test_a_file_of_the_working_folder_is_no_new_image(
    studies: Studies, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(studies.folder)
    with pytest.raises(Refused, match="the folder that the server was started in"):
        studies.check_new("labels", ".nii.gz")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/proxy/dicom/wado/x"),
        ("POST", "/reload"),
        ("PUT", "/model/crosswarp"),
        ("GET", "/model/crosswarp"),
    ]
    + [
        ("POST", "/infer/wsi_v2/crosswarp"),
        ("POST", "/train/"),
        ("GET", "/session/.."),
        ("DELETE", "/session/%2e%2e"),
    ]
    + [
        ("GET", "/static/../main.py"),
        ("GET", "/ohif/..%2f..%2fx"),
        ("GET", "/ohif//etc/passwd"),
        ("POST", "/info/"),
    ]
    + [("POST", "/infer/../train/x"), ("POST", "/train/$x"), ("POST", "/train/x\n"), ("OPTIONS", "/train/x")]
    + [("GET", "//info/"), ("GET", "/info/."), ("GET", "/INFO/"), ("GET", "/info/;x"), ("GET", "/info\0")]
    + [("PUT", "/datastore/updatelabelinfo"), ("GET", "/static/.hidden"), ("GET", ""), ("HEAD", "/logs/")],
)
def test_other_routes_are_not_let_through(method: str, path: str) -> None:
    assert not [r for r in routes(Studies("."), ()) if r.method == method and r.understand(path) is not None]


@pytest.mark.parametrize(
    ("method", "path", "passed_on"),
    [
        ("GET", "/", "/"),
        ("GET", "/info", "/info/"),
        ("GET", "/info/", "/info/"),
        ("POST", "/infer/source_segmentation_v9.9.9", "/infer/source_segmentation_v9.9.9"),
        ("GET", "/ohif/", "/ohif/"),
        ("GET", "/ohif/app.bundle.js", "/ohif/app.bundle.js"),
        ("GET", "/static/ohif/a-1/b.wasm", "/static/ohif/a-1/b.wasm"),
        (
            "GET",
            "/session/0d2e1c1e-99b5-11f0-9a2e-0242ac110002",
            "/session/0d2e1c1e-99b5-11f0-9a2e-0242ac110002",
        ),
        ("PUT", "/datastore/", "/datastore/"),
        ("DELETE", "/batch/infer/", "/batch/infer"),
    ],
)
def test_the_routes_of_the_clients_are(method: str, path: str, passed_on: str) -> None:
    (known,) = [
        known
        for route in routes(Studies("."), ())
        if route.method == method and (known := route.understand(path)) is not None
    ]
    assert known == passed_on


def test_an_image_has_one_of_two_modalities() -> None:
    (route,) = (r for r in routes(Studies("."), ()) if (r.method, r.path) == ("PUT", "/datastore/image/info"))
    assert route.form is not None
    for info in ('{"modality": "source"}', '{"modality": "target", "side": "left"}', "{}"):
        assert check_fields({"info": info}, route.form) == {"info": info}
    for info in (
        '{"modality": "x"}',
        '{"modality": ["source"]}',
        '{"strategy": "x"}',
        '{"epistemic_entropy": "x"}',
        '{"_target_": 1}',
        "[]",
        '{"a": [[[[[1]]]]]}',
    ):
        with pytest.raises(Refused):
            check_fields({"info": info}, route.form)


def test_an_upload_without_a_name_of_its_own_is_called_as_its_file(studies: Studies) -> None:
    (route,) = (r for r in routes(studies, ()) if (r.method, r.path) == ("PUT", "/datastore/image"))
    assert route.also is not None
    request = Understood("", {}, files=[Upload("file", "/tmp/a/knee.v1.NII.GZ", io.BytesIO())])
    route.also(request)
    assert request.query == {"image": "knee.v1"}
