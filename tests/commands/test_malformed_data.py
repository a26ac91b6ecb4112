"""Whatever a datalist, table, folder, option or override holds: it is used as it stands, or refused in words.

Every case is drawn from a seed. It ends well, with nothing dropped in silence, or in a ``ValueError`` or
``FileNotFoundError`` that names the file or option in less than 1500 characters, within seconds.
"""

from __future__ import annotations

import copy
import json
import random
import re
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from crosswarp.commands.prepare import prepare
from crosswarp.data import check_people, load_datalist
from crosswarp.data.checks import read_facts
from crosswarp.data.datalist import FILE_KEYS, SECTIONS
from crosswarp.runs.chain import Chain
from crosswarp.runs.config import check_ids, flatten, read_config
from tests.cohorts import write_blob_cohort

ROOT = Path(__file__).parents[2]
SECONDS = 30  # for one case, on a machine that does much else
MEMORY = 400 * 2**20  # what all cases together may add to the process
SIZES = {"spatial_size": (16, 16), "train_labelled": 2, "train_unlabelled": 1}
SIZES |= {"val": 1, "test": 1, "target": 2}
VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2.0, 0.5, 1e999, float("nan"), 10**4000, "", " ", "x", "7", "a\0b", "\ud800",
    "..", "/", "/dev/zero", "x" * 10**5, "../" * 2000, "line\nbreak", "\x1b[2J", "$__import__('os')",
    "@labels", "%name", "#1", "val", "Warm", "é", "e\u0301", [], {}, [[]], [None], {"": None}, [0] * 1000,
    {"a": {"b": {"c": {}}}},
]  # fmt: skip


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    return write_blob_cohort(tmp_path_factory.mktemp("cohort"), num_classes=2, **SIZES)


@pytest.fixture(scope="module", autouse=True)
def bounded_memory(cohort) -> Iterator[None]:
    prepare(tree_of(cohort, cohort.parent / "first"), cohort.parent / "first.json", "warm", "cold")
    read_facts([str(cohort.parent)])  # ITK loads its DICOM reader at the first folder, which takes a while
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MEMORY


@contextmanager
def refused_in_words(*names: object) -> Iterator[None]:
    """What is raised within names one of these and is short; nothing hangs."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        message = str(error)
        assert len(message) < 1500, message[:2000]
        assert any(str(name) in message for name in names), message
        assert "Traceback" not in message and "Error(" not in message
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", message)
        assert len(message.split()) > 5, message  # what was expected, what came, what to do
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def places(content: Any, place: tuple = ()) -> Iterator[tuple]:
    """Where every value of a JSON document stands."""
    if place:
        yield place
    if isinstance(content, (dict, list)):
        for key in content if isinstance(content, dict) else range(len(content)):
            yield from places(content[key], (*place, key))


def at(content: Any, place: tuple) -> Any:
    for key in place:
        content = content[key]
    return content


def misspelt(text: str, rng: random.Random) -> str:
    where = rng.randrange(len(text) + 1)
    before, after = text[:where], text[where:]
    return rng.choice([before + after[1:], before + "x" + after, text.upper(), text + " "])


def mutate(content: Any, rng: random.Random) -> Any:
    """The document with one value, key or entry changed."""
    content = copy.deepcopy(content)
    place = rng.choice(list(places(content)))
    parent, key = at(content, place[:-1]), place[-1]
    kind = rng.choice(["value", "value", "value", "away", "twice", "key", "wrapped", "moved"])
    if kind == "value":
        parent[key] = rng.choice(VALUES)
    elif kind == "away":
        del parent[key]
    elif kind == "twice" and isinstance(parent, list):
        parent.append(copy.deepcopy(parent[key]))
    elif kind in ("twice", "key") and isinstance(parent, dict):
        parent[misspelt(key, rng)] = parent[key] if kind == "twice" else parent.pop(key)
    elif kind == "wrapped":
        parent[key] = [parent[key]]
    else:
        parent[key] = copy.deepcopy(at(content, rng.choice(list(places(content)))))
    return content


def assert_loaded_as_written(path: Path, content: Any) -> None:
    """All that stands in the file is in the datalist, and nothing else."""
    datalist = load_datalist(path)
    check_people(datalist)
    assert (datalist.name, datalist.spatial_dims) == (content["name"], content["spatial_dims"])
    assert datalist.spatial_size == content["spatial_size"]
    assert {str(value): name for value, name in enumerate(datalist.label_names)} == content["labels"]
    for key, modality in (("source", datalist.source), ("target", datalist.target)):
        own = content[key]
        assert (modality.name, modality.channels) == (own["name"], own["channels"])
        assert own.keys() <= {"name", "channels", *SECTIONS}
        for section in SECTIONS:
            written = own.get(section, [])
            assert len(modality.records(section)) == len(written)
            for record, line in zip(modality.records(section), written, strict=True):
                assert record.keys() == line.keys() and record["subject"] == line["subject"]
                for file in FILE_KEYS & line.keys():
                    assert Path(record[file]).name == Path(line[file]).name or ".." in line[file]


@pytest.mark.parametrize("seed", range(120))
def test_datalists(cohort, tmp_path, seed):
    rng = random.Random(seed)
    content = json.loads(cohort.read_text())
    for _ in range(rng.choice([1, 1, 1, 3])):
        content = mutate(content, rng) if isinstance(content, dict) and content else content
    path = tmp_path / "datalist.json"
    path.write_text(json.dumps(content))
    with refused_in_words(path):
        assert_loaded_as_written(path, content)


def spoilt_bytes(content: bytes, rng: random.Random) -> bytes:
    """Bytes cut off, changed, doubled or encoded otherwise."""
    where = rng.randrange(len(content))
    kinds: list[Callable[[], bytes]] = [
        lambda: content[:where],
        lambda: content[where:],
        lambda: content[:where] + bytes([rng.randrange(256)]) + content[where + 1 :],
        lambda: content[:where] + b"\0" + content[where:],
        lambda: (
            content[:where] + rng.choice([b'"', b"{", b"[", b"}", b",", b"\n", b";", b"\\"]) + content[where:]
        ),
        lambda: content + content,
        lambda: content.decode().encode("utf-16"),
        lambda: b"\xef\xbb\xbf" + content,
        lambda: rng.choice([b"", b"\0" * 100, b"PK\x03\x04" + content, b"\x1f\x8b" + content, b"[" * 10**5]),
    ]
    return rng.choice(kinds)()


@pytest.mark.parametrize("seed", range(60))
def test_bytes_of_datalists(cohort, tmp_path, seed):
    path = tmp_path / "datalist.json"
    path.write_bytes(spoilt_bytes(cohort.read_bytes(), random.Random(seed)))
    with refused_in_words(path):
        load_datalist(path)
        assert_loaded_as_written(path, json.loads(path.read_bytes()))


def table_of(cohort: Path) -> list[list[str]]:
    content = json.loads(cohort.read_text())
    columns = ["modality", "subject", "image", "label", "split", "dims"]
    lines = [
        [content[key]["name"], record["subject"], record["image"], record.get("label", ""), section, "2"]
        for key in ("source", "target")
        for section in SECTIONS
        for record in content[key].get(section, [])
    ]
    return [columns, *lines]


def mutate_table(table: list[list[str]], rng: random.Random) -> None:
    row = rng.randrange(len(table))
    column = rng.randrange(len(table[row]) or 1)
    kind = rng.choice(
        ["cell", "cell", "cell", "misspelt", "away", "short", "long", "twice", "empty", "column"]
    )
    if kind == "cell":
        text = rng.choice(VALUES)
        table[row][column : column + 1] = [str(text).encode("utf-8", "replace").decode()]
    elif kind == "misspelt":
        table[row] = [misspelt(cell, rng) if n == column else cell for n, cell in enumerate(table[row])]
    elif kind == "away":
        del table[row]
    elif kind == "short":
        del table[row][column:]
    elif kind == "long":
        table[row].append("more")
    elif kind == "twice":
        table.append(list(table[row]))
    elif kind == "empty":
        table.insert(row, rng.choice([[], [""] * 6]))
    else:
        for line in table:
            del line[column : column + 1]


def quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if re.search(r'[",;\t\n\r]', cell) else cell


def assert_every_row_is_used_or_said(out: Path, rows: int, printed: str) -> None:
    datalist = load_datalist(out)
    used = len(datalist.source.records()) + len(datalist.target.records())
    said = sum(map(int, re.findall(r"^not used: (\d+) (?:rows|source images)", printed, re.MULTILINE)))
    assert used + said == rows


@pytest.mark.parametrize("seed", range(70))
def test_tables(cohort, tmp_path, seed, capsys):
    rng = random.Random(seed)
    table = table_of(cohort)
    if seed % 2:
        table = [line[:4] for line in table]  # without splits
    for _ in range(rng.choice([1, 1, 2])):
        mutate_table(table, rng)
    separator, encoding = rng.choice(",;\t"), rng.choice(["utf-8", "utf-8-sig", "utf-16"])
    path = cohort.parent / f"table{seed}.csv"
    text = "\n".join(separator.join(map(quoted, line)) for line in table)
    path.write_bytes(text.encode(encoding))
    out = tmp_path / "out.json"
    with refused_in_words(path, out):
        prepare(path, out, source="warm", target="cold", spatial_size=32)
        rows = sum(any(cell.strip() for cell in line) for line in table) - 1
        assert_every_row_is_used_or_said(out, rows, capsys.readouterr().out)


@pytest.mark.parametrize("seed", range(30))
def test_bytes_of_tables(cohort, tmp_path, seed):
    path = cohort.parent / f"bytes{seed}.csv"
    text = "\n".join(",".join(line) for line in table_of(cohort))
    path.write_bytes(spoilt_bytes(text.encode(), random.Random(seed)))
    out = tmp_path / "out.json"
    with refused_in_words(path, out):
        prepare(path, out, source="warm", target="cold", spatial_size=32)
        assert load_datalist(out).source.train_labelled


def tree_of(cohort: Path, folder: Path) -> Path:
    content = json.loads(cohort.read_text())
    for key in ("source", "target"):
        for kind in ("image", "label"):
            place = folder / content[key]["name"] / f"{kind}s"
            place.mkdir(parents=True)
            for section in SECTIONS:
                for record in content[key].get(section, []):
                    if kind in record:
                        shutil.copy(cohort.parent / record[kind], place)
    return folder


def mutate_folder(tree: Path, rng: random.Random) -> None:
    path = rng.choice(sorted(tree.rglob("*")))
    kind = rng.choice(["away", "renamed", "cut", "empty", "folder", "loop", "copied", "beside"])
    if kind == "renamed":
        path.rename(path.with_name(misspelt(path.name, rng).replace("/", "")))
    elif kind == "cut" and path.is_file():
        path.write_bytes(path.read_bytes()[: rng.randrange(100)])
    elif kind == "copied" and path.is_file():
        shutil.copy(path, path.with_name(f"copy-{path.name}"))
    elif kind == "beside":
        (path.parent / rng.choice(["notes.txt", "Labels", "$x", "a #1.nii.gz"])).write_text("text")
    else:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        if kind == "empty":
            path.write_bytes(b"")
        elif kind == "folder":
            path.mkdir()
        elif kind == "loop":
            path.symlink_to(path)


@pytest.mark.parametrize("seed", range(40))
def test_folders(cohort, tmp_path, seed, capsys):
    rng = random.Random(seed)
    tree = tree_of(cohort, tmp_path / "tree")
    for _ in range(rng.choice([1, 2])):
        mutate_folder(tree, rng)
    out = tmp_path / "out.json"
    with refused_in_words(tree, out):
        prepare(tree, out, source="warm", target="cold", spatial_size=32)
        images = len(list(tree.glob("*/images/[!.]*")))
        assert_every_row_is_used_or_said(out, images, capsys.readouterr().out)


OPTIONS = {
    "data": ["--data", "No folder or CSV file at", "No folder", "/dev/zero", "cannot be listed"],
    "out": ["--out", "name: "],
    "source": ["--source", "source.name"],
    "target": ["--target", "target.name"],
    "labels": ["--labels", "labels"],
    "dims": ["--dims", "spatial_dims"],
    "spatial_size": ["spatial_size"],
    "spacing": ["--spacing", "spacing"],
    "subject_pattern": ["--subject-pattern"],
    "val_fraction": ["--val-fraction"],
    "test_fraction": ["--test-fraction"],
    "seed": ["--seed"],
    "name": ["name"],
    "subjects": ["--subjects"],
    "leave_out": ["leave_out"],
}


@pytest.fixture(scope="module")
def tree(cohort, tmp_path_factory) -> Path:
    return tree_of(cohort, tmp_path_factory.mktemp("options") / "tree")


@pytest.mark.parametrize("option", OPTIONS)
def test_options_of_prepare(tree, tmp_path, monkeypatch, option):
    monkeypatch.chdir(tmp_path)
    fine = {
        "data": tree,
        "out": tmp_path / "out.json",
        "source": "warm",
        "target": "cold",
        "spatial_size": 32,
    }
    rng = random.Random(option)
    for value in rng.sample(VALUES, 12):
        with refused_in_words(*OPTIONS[option]):
            out = prepare(**fine | {option: value}, overwrite=True)
            written = load_datalist(out)
            assert len(written.source.records()) == 5 and len(written.target.records()) == 4
            assert written.source.name == "warm" and written.target.name == "cold"


@cache
def parser_of(name: str):
    return read_config(ROOT / "bundles" / name / "configs" / "train.json")


@pytest.mark.parametrize("seed", range(30))
def test_overrides(seed):
    rng = random.Random(seed)
    parser = parser_of(rng.choice(["source_segmentation", "multimodal_registration"]))
    known = sorted(parser.get())
    identifier: Any = rng.choice(known)
    kind = rng.choice(["misspelt", "inner", "value", "nested"])
    if kind == "misspelt":
        identifier = misspelt(identifier, rng)
    elif kind == "inner":
        identifier += rng.choice(["#", "##", "#x", "#99", "#none#1", "#_none_", "." * 5, "\0"])
    elif kind == "value":
        identifier = rng.choice([value for value in VALUES if not isinstance(value, (list, dict))])
    overrides = {identifier: {"x": {"y": 1}} if kind == "nested" else 1}
    with refused_in_words("Stage a"):
        flat = flatten(overrides)
        check_ids(flat, parser, "Stage a")
        assert all(each in parser for each in flat)


PRESETS = [*(value for value in VALUES if isinstance(value, str)), "../train", "Demo", 7]


@pytest.mark.parametrize("preset", PRESETS, ids=range(len(PRESETS)))
def test_presets(preset):
    chain = Chain({}, {}, str(ROOT / "bundles"), str(ROOT), "run", None, preset)  # type: ignore[arg-type]
    with refused_in_words("No preset"):
        pytest.fail(f"took {chain.config_files('source_segmentation')}")
