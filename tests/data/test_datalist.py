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
    assert source.labelled("train_labelled", "train_unlabelled") == source.train_labelled
    target = load_datalist(cohort).target
    assert target.labelled("val") == [] and target.labelled("test") == target.test


@pytest.mark.parametrize("spacing", [[0.5, 2], [1e-3, 1e3], None])
def test_spacing_of_the_networks_grid(cohort, spacing):
    assert load_datalist(cohort).spacing is None
    loaded = load_datalist(edit(cohort, lambda content: content.update(spacing=spacing))).spacing
    assert loaded == spacing and all(isinstance(length, float) for length in loaded or ())


def test_sides_pass_through_where_all_records_state_them(cohort):
    sides = {}

    def declare(content):
        for index, record in enumerate(records(content)):
            record["side"] = sides[record["image"]] = ("left", "right")[index % 2]

    datalist = load_datalist(edit(cohort, declare))
    read = {each["image"]: each["side"] for m in (datalist.source, datalist.target) for each in m.records()}
    assert read == {str(cohort.parent / image): side for image, side in sides.items()}
    with pytest.raises(DatalistError) as raised:
        load_datalist(edit(cohort, lambda content: content["target"]["val"][1].pop("side")))
    assert raised.value.faults == [
        f"side: 1 of {len(sides)} records do not state it (the first: images/coldval1.nii.gz); state it in "
        "all or in none"
    ]


def records(content):
    return [
        record
        for key in ("source", "target")
        for part in content[key].values()
        if isinstance(part, list)
        for record in part
    ]


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


def source(**values):
    return lambda content: content["source"].update(values)


def first(section: str, **values):
    return lambda content: content["source"][section][0].update(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.update(spatial_dims=4), "spatial_dims: expected 2 or 3, got 4"),
        (lambda content: content.update(spatial_dims=2.0), "spatial_dims: expected 2 or 3, got 2.0"),
        (
            lambda content: content.update(spatial_size=[24.0, 20]),
            "expected a list of 2 positive integers, got",
        ),
        (
            lambda content: content.update(spatial_size=[-24, 20]),
            "expected a list of 2 positive integers, got",
        ),
        (lambda content: content.update(spatial_size=[float("nan"), 20]), "integers, got [nan, 20]"),
        (
            lambda content: content.update(spatial_size=[10**6, 10**6]),
            "spatial_size: expected a grid that a network",
        ),
        (
            lambda content: content.update(spatial_size=[]),
            "spatial_size: expected a list of 2 positive integers",
        ),
        (lambda content: content.update(spacing=[1.0]), "spacing: expected a list of 2 positive numbers"),
        (lambda content: content.update(spacing=0.5), "positive numbers (mm), or null, got 0.5"),
        (lambda content: content.update(spacing="extent"), "(mm), or null, got 'extent'"),
        (lambda content: content.update(spacing=[1, 0]), "(mm), or null, got [1, 0]"),
        (lambda content: content.update(spacing=[1, -1.0]), "(mm), or null, got [1, -1.0]"),
        (lambda content: content.update(spacing=[1, float("inf")]), "(mm), or null, got [1, inf]"),
        (lambda content: content.update(spacing=[1, float("nan")]), "(mm), or null, got [1, nan]"),
        (lambda content: content.update(spacing=[1, 10**400]), "(mm), or null, got [1, 1000"),
        (lambda content: content.update(spacing=[1, True]), "(mm), or null, got [1, True]"),
        (lambda content: content.update(spacing=[1, "1"]), "(mm), or null, got [1, '1']"),
        (lambda content: content.update(spacng=[1, 1]), "'spacng' is unknown (did you mean spacing?)"),
        (
            first("val", side="L"),
            "source.val[0] (images/warmval0.nii.gz): side: expected left or right, got 'L'",
        ),
        (first("val", side=None), "side: expected left or right, got None"),
        (first("val", side=["left"]), "side: expected left or right, got ['left']"),
        (source(name="pre_to_post"), 'source.name: expected a name without "_to_"'),
        (
            lambda content: content["labels"].update({"1": "mean"}),
            'labels: expected another name than "mean"',
        ),
        (lambda content: content.update(labels={}), "labels: expected {"),
        (lambda content: content.update(labels={"0": "background"}), "labels: expected {"),
        (
            lambda content: content.update(labels={"1": "femur", "2": "tibia"}),
            "values ['0', '1'], got ['1', '2']",
        ),
        (
            lambda content: content["labels"].update({"1": 7}),
            "labels.'1': expected a non-empty string, got 7",
        ),
        (
            lambda content: content["labels"].update({"1": "a\nb"}),
            "labels.'1': expected at most 200 printable",
        ),
        (lambda content: content.update(lables={}), "'lables' is unknown (did you mean labels?)"),
        (lambda content: content.update(subject="x"), "'subject' is unknown (did you mean subjects?)"),
        (
            lambda content: content.update(subjects="both"),
            "subjects: expected one of shared, per_modality, got 'both'",
        ),
        (
            lambda content: content.update(subjects=[]),
            "subjects: expected one of shared, per_modality, got []",
        ),
        (source(tset=[]), "source.tset: unknown (did you mean test?); expected name, channels or one of"),
        (source(val=None), "source.val: expected a list of records, got NoneType"),
        (source(name=""), "source.name: expected a non-empty string, got ''"),
        (source(name="x" * 10**6), "source.name: expected at most 200 printable characters, got 'xxx"),
        (source(channels=1.0), "source.channels: expected a positive integer, got 1.0"),
        (source(channels=-1), "source.channels: expected a positive integer, got -1"),
        (first("val", image=None), "source.val[0]: image: expected a non-empty string, got None"),
        (first("val", image=["a"]), "source.val[0]: image: expected a non-empty string, got ['a']"),
        (first("val", image="a\0b"), "source.val[0] (a\\x00b): image: no file can have the name 'a\\x00b'"),
        (first("val", image="\ud800"), "image: no file can have the name '\\ud800'; correct it"),
        (first("val", image="x" * 300), "image: no file can have the name 'xxx"),
        (first("val", image="x/" * 900), "image: expected at most 1000 characters, got 1800: 'x/x/"),
        (first("val", landmarks={}), "landmarks: expected a non-empty string, got {}"),
        (first("val", subject="a\x1b[31m"), "subject: expected at most 200 printable characters"),
        (first("val", imgae="x"), "imgae is unknown (did you mean image?); expected one of image, label"),
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
    assert str(cohort) in str(raised.value) and len(str(raised.value)) < 600


def test_a_users_own_notes_and_a_byte_order_mark_do_no_harm(cohort):
    edit(cohort, lambda content: content.update(comment={"by": "me"}, subjects="per_modality"))
    cohort.write_bytes(b"\xef\xbb\xbf" + cohort.read_bytes())
    assert load_datalist(cohort).subjects == "per_modality"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"name": "a", "name": "b"}', "'name' stands twice in one object"),
        ('{"source": {"val": [], "val": []}}', "'val' stands twice in one object"),
        ("[" * 10**6, "it is nested too deeply"),
        ('{"name": ' + "9" * 5000 + "}", "not a JSON file"),
        ("", "not a JSON file"),
    ],
)
def test_json_that_is_none(tmp_path, text, message):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(DatalistError) as raised:
        load_datalist(path)
    assert message in str(raised.value) and str(path) in str(raised.value) and len(str(raised.value)) < 600


def test_no_more_is_read_than_a_datalist_has(tmp_path):
    path = tmp_path / "big.json"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match=r"big.json: has more than 16,777,216 bytes"):
        load_datalist(path)
    for path in (tmp_path, Path("/dev/zero")):
        with pytest.raises(ValueError, match=f"{path}: expected a datalist, got a folder or a device"):
            load_datalist(path)


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


BODIES = {
    "a.mhd": ("NDims = 2\nElementDataFile = a b.zraw\n", ["a b.zraw"]),
    "b.mhd": ("ElementDataFile = LIST\nb1.raw\nb2.raw\n", ["b1.raw", "b2.raw"]),
    "c.MHD": ("ElementDataFile = c%02d.raw 1 2 1\n", ["c01.raw", "c02.raw"]),
    "d.nhdr": ("NRRD0004\ndimension: 2\ndata file: d.raw.gz\nencoding: gz\n", ["d.raw.gz"]),
    "e.nhdr": ("NRRD0004\ndatafile:LIST\ne1.raw\n", ["e1.raw"]),
    "f.hdr": ("", ["f.img"]),
    "g.img": ("", ["g.hdr"]),
    "h.hdr": ("", ["h.img.gz"]),
}


@pytest.mark.parametrize("name", BODIES)
def test_digest_counts_the_voxels_that_a_header_names(cohort, name):
    text, bodies = BODIES[name]
    folder = cohort.parent / "images"
    (folder / name).write_text(text)
    edit(cohort, lambda content: content["target"]["val"][0].update(image=f"images/{name}"))
    for body in bodies:
        (folder / body).write_bytes(b"1")
    datalist = load_datalist(cohort)
    digests = {datalist_digest(datalist)}
    for body in bodies:
        (folder / body).write_bytes(b"2")
        digests.add(datalist_digest(datalist))
    assert len(digests) == 1 + len(bodies)


def test_digest_of_a_missing_file(cohort):
    datalist = load_datalist(cohort)
    Path(datalist.target.test[0]["label"]).unlink()
    with pytest.raises(FileNotFoundError, match="coldtest0"):
        datalist_digest(datalist)
