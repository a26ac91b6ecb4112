"""What our app takes without the guard, and how it tells images apart; no server is started."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("monailabel", reason="needs the environment of requirements-label.txt")

from fastapi import HTTPException
from monailabel.utils.others.class_utils import module_from_file

from apps.monailabel.serve import APPS

pytestmark = pytest.mark.label


@pytest.fixture(scope="module")
def main() -> ModuleType:
    """The app's module, as MONAI Label imports it."""
    return module_from_file("main", str(APPS["crosswarp"] / "main.py"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_epochs", "$print(1)"),
        ("max_epochs", 0),
        ("max_epochs", 2.5),
        ("device", "$print(1)"),
        ("device", "tpu"),
    ]
    + [("run_id", "$print(1)"), ("train#trainer#max_epochs", 3), ("network", {"_target_": "os.system"})],
)
def test_a_training_has_typed_values_without_the_guard(main: ModuleType, key: str, value: Any) -> None:
    app = object.__new__(main.CrosswarpApp)
    with pytest.raises(HTTPException) as refused:
        app.train({"model": "crosswarp", "bundle_path": "x", key: value})
    assert refused.value.status_code == 422 and f"'{key}': " in refused.value.detail


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("device", "$print(1)"),
        ("device", "tpu"),
        ("moving", "../x"),
        ("moving", "/x.nii.gz"),
        ("network", "x"),
    ],
)
def test_an_inference_has_typed_values_without_the_guard(
    main: ModuleType, tmp_path: Path, key: str, value: Any
) -> None:
    app = object.__new__(main.CrosswarpApp)
    app.studies = str(tmp_path)
    with pytest.raises(HTTPException) as refused:
        app.infer({"model": "domain_adaptation", "image": "knee", key: value})
    assert refused.value.status_code == 422 and f"'{key}': " in refused.value.detail


def test_images_of_equal_names_are_told_apart_by_their_content(main: ModuleType, tmp_path: Path) -> None:
    """Source and target images have equal names in their folders; the source image is elsewhere, too."""
    for folder, content in (("dxa", b"dxa"), ("xray", b"x-ray"), ("studies", b"dxa"), ("others", b"xyz")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.nii.gz").write_bytes(content)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "a.nii.gz").symlink_to(tmp_path / "dxa" / "a.nii.gz")
    records = {"train_labelled": [{"image": "dxa/a.nii.gz"}], "val": [{"image": "gone/a.nii.gz"}]}
    records["test"] = [{"image": "../dxa/b.nii.gz"}]  # from the folder that the datalist is found in
    (tmp_path / "dxa" / "b.nii.gz").write_bytes(b"b")
    (tmp_path / "deep" / "lists").mkdir(parents=True)
    (tmp_path / "lists").symlink_to(tmp_path / "deep" / "lists")
    linked = tmp_path / "lists" / "datalist.json"
    linked.write_text(json.dumps({"source": {"test": records.pop("test")}}))
    assert main.is_one_of(tmp_path / "dxa" / "b.nii.gz", main.source_images(linked)["b.nii.gz"])
    datalist = tmp_path / "datalist.json"
    datalist.write_text(json.dumps({"source": {"name": "DXA", "channels": 1, **records}}))
    files = main.source_images(datalist)
    found = [
        folder
        for folder in ("dxa", "xray", "studies", "others", "links")
        if main.is_one_of(tmp_path / folder / "a.nii.gz", files["a.nii.gz"])
    ]
    assert found == ["dxa", "studies", "links"]
