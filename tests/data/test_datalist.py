"""Datalists: loading, schema faults and the digest."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from crosswarp.data import DatalistError, datalist_digest, load_datalist
from tests.cohorts import write_blob_cohort


@pytest.fixture
def cohort(tmp_path) -> Path:
    return write_blob_cohort(tmp_path / "cohort", num_classes=3)


def edit(path: Path, change) -> Path:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def test_load(cohort):
    datalist = load_datalist(cohort)
    assert (datalist.name, datalist.path, datalist.spatial_dims) == ("blobs", cohort, 2)
    assert datalist.spatial_size == [24, 20]
    assert datalist.label_names == ["background", "blob 1", "blob 2"]
    assert datalist.num_classes == 3
    assert (datalist.source.name, datalist.target.name, datalist.target.channels) == ("warm", "cold", 1)
    assert datalist.target.train_labelled == []
    assert [set(record) for record in datalist.source.val] == [{"image", "label", "subject"}] * 2
    assert [set(record) for record in datalist.target.val] == [{"image", "subject"}] * 2
    for record in datalist.source.records() + datalist.target.records():
        assert Path(record["image"]).is_absolute() and Path(record["image"]).is_file()


def test_records_are_those_of_the_sections_in_their_order(cohort):
    source = load_datalist(cohort).source
    assert source.records("val", "train_labelled") == source.val + source.train_labelled
    assert len(source.records()) == 3 + 4 + 2 + 2


def test_absolute_paths_and_a_relative_datalist(cohort, monkeypatch):
    absolute = str(cohort.parent / "images" / "elsewhere.nii.gz")
    edit(cohort, lambda content: content["source"]["test"][0].update(image=absolute))
    monkeypatch.chdir(cohort.parent)
    datalist = load_datalist("datalist.json")
    assert datalist.source.test[0]["image"] == absolute
    assert datalist.path == cohort


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="prepare"):
        load_datalist(tmp_path / "none.json")


@pytest.mark.parametrize("text", ["{", "[1, 2]", "\xff"])
def test_not_a_json_object(tmp_path, text):
    path = tmp_path / "bad.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(DatalistError, match="JSON"):
        load_datalist(path)


def test_all_schema_faults_are_named_at_once(cohort):
    def spoil(content):
        content["name"] = " "
        content["spatial_size"] = [24, 20, 20]
        content["labels"] = {"0": "background", "2": "bone", "3": "bone"}
        content["source"]["channels"] = True
        content["source"]["vals"] = []
        del content["source"]["train_labelled"][1]["label"]
        content["source"]["train_unlabelled"][2]["label"] = "labels/x.nii.gz"
        content["source"]["val"][0]["lable"] = "labels/x.nii.gz"
        content["source"]["val"][1]["subject"] = 7
        content["source"]["test"] = {"image": "x"}
        content["target"]["name"] = None
        content["target"]["train_labelled"] = [{"image": "x", "label": "y", "subject": "z"}]
        content["target"]["test"][0] = "x.nii.gz"

    with pytest.raises(DatalistError) as raised:
        load_datalist(edit(cohort, spoil))
    expected = [
        "name: expected a non-empty string",
        "spatial_size: expected a list of 2 positive integers, got [24, 20, 20]",
        "labels: expected the consecutive values ['0', '1', '2'], got ['0', '2', '3']",
        "labels: names must differ",
        "source.channels: expected a positive integer, got True",
        "source.vals: unknown",
        "source.train_labelled[1] (images/warmtrainlabelled1.nii.gz): label is missing",
        "source.train_unlabelled[2] (images/warmtrainunlabelled2.nii.gz): has a label",
        "source.val[0] (images/warmval0.nii.gz): lable is unknown",
        "source.val[1] (images/warmval1.nii.gz): subject: expected a non-empty string, got 7",
        "source.test: expected a list of records, got dict",
        "target.name: expected a non-empty string, got None",
        "target.train_labelled[0] (x): the target has no labels in training",
        "target.test[0]: expected an object with image and subject",
    ]
    assert len(raised.value.faults) == len(expected)
    assert f"{len(expected)} faults" in str(raised.value)
    for line in expected:
        assert line in str(raised.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.update(spatial_dims=4), "spatial_dims: expected 2 or 3, got 4"),
        (lambda content: content.update(labels=["background", "bone"]), "labels: expected {"),
        (lambda content: content.update(target=[]), "target: expected an object"),
        (lambda content: content["target"].update(name="warm"), "both named 'warm'"),
    ],
)
def test_single_schema_faults(cohort, change, message):
    with pytest.raises(DatalistError) as raised:
        load_datalist(edit(cohort, change))
    assert len(raised.value.faults) == 1
    assert message in raised.value.faults[0]


def test_digest_is_of_content_alone(cohort, tmp_path):
    digest = datalist_digest(load_datalist(cohort))
    assert len(digest) == 64
    shutil.copytree(cohort.parent, tmp_path / "copy")
    copy = tmp_path / "copy" / "datalist.json"
    copy.write_text(json.dumps(json.loads(copy.read_text()), indent=7))
    assert datalist_digest(load_datalist(copy)) == digest
    edit(copy, lambda content: content.update(name="other"))
    assert datalist_digest(load_datalist(copy)) != digest


@pytest.mark.parametrize("kind", ["image", "label"])
def test_digest_changes_with_one_byte_of_a_file(cohort, kind):
    datalist = load_datalist(cohort)
    digest = datalist_digest(datalist)
    file = Path(datalist.source.test[-1][kind])
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert datalist_digest(datalist) != digest


def test_digest_counts_every_file_of_a_folder(cohort):
    folder = cohort.parent / "images" / "series"
    folder.mkdir()
    (folder / "1.dcm").write_bytes(b"1")
    edit(cohort, lambda content: content["target"]["val"][0].update(image="images/series"))
    datalist = load_datalist(cohort)
    digest = datalist_digest(datalist)
    (folder / "2.dcm").write_bytes(b"2")
    assert datalist_digest(datalist) != digest


def test_digest_of_a_missing_file(cohort):
    datalist = load_datalist(cohort)
    Path(datalist.target.test[0]["label"]).unlink()
    with pytest.raises(FileNotFoundError, match="coldtest0"):
        datalist_digest(datalist)
