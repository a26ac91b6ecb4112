"""The datalist: one JSON file that names every image, label, class and size of a project.

::

    {"name": "knee", "spatial_dims": 2, "spatial_size": [256, 256],
     "labels": {"0": "background", "1": "femur", "2": "tibia", "3": "fibula"},
     "source": {"name": "dxa", "channels": 1,
                "train_labelled": [{"image": "images/a.nii.gz", "label": "labels/a.nii.gz", "subject": "a"}],
                "train_unlabelled": [{"image": "images/b.nii.gz", "subject": "b"}], "val": [], "test": []},
     "target": {"name": "xray", "channels": 1, "train_unlabelled": [], "val": [], "test": []}}

Paths are relative to the file. `source` is the modality with the few labels; labels of the target's `val`
and `test` records are optional and never read in training. What stands *in* the files is checked by
:func:`~.checks.check_datalist`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECTIONS = ("train_labelled", "train_unlabelled", "val", "test")
FILE_KEYS = ("image", "label", "landmarks")
RECORD_KEYS = (*FILE_KEYS, "subject")


class DatalistError(ValueError):
    """Everything that is wrong with a datalist, in one message.

    Args:
        path: the datalist.
        faults: one line per fault, each naming the record or file and the remedy.
    """

    def __init__(self, path: Path, faults: Iterable[str]) -> None:
        self.faults = list(faults)
        count = f"{len(self.faults)} fault{'s' * (len(self.faults) > 1)}"
        super().__init__("\n".join([f"{path}: {count} found:", *(f"- {fault}" for fault in self.faults)]))


@dataclass(frozen=True)
class Modality:
    """One modality; a record is a dict of `image`, `subject` and, if present, `label`, `landmarks`.

    Attributes:
        name: name of the modality, used in file names and reports.
        channels: number of image channels.
        train_labelled: records with labels to train on (empty for the target).
        train_unlabelled: images to train on.
        val: records for choosing a model.
        test: records for reporting only.
    """

    name: str
    channels: int
    train_labelled: list[dict[str, str]]
    train_unlabelled: list[dict[str, str]]
    val: list[dict[str, str]]
    test: list[dict[str, str]]

    def records(self, *sections: str) -> list[dict[str, str]]:
        """The records of the named sections in that order, or of all sections."""
        return [record for section in sections or SECTIONS for record in getattr(self, section)]


@dataclass(frozen=True)
class Datalist:
    """A datalist with absolute paths, as :func:`load_datalist` returns it.

    Attributes:
        name: name of the project.
        path: the JSON file.
        spatial_dims: 2 or 3.
        spatial_size: size of the networks' grid, one entry per spatial axis.
        label_names: class names in order of label value, background first.
        source: the modality with the few labels.
        target: the modality without.
    """

    name: str
    path: Path
    spatial_dims: int
    spatial_size: list[int]
    label_names: list[str]
    source: Modality
    target: Modality

    @property
    def num_classes(self) -> int:
        """Number of classes, background included."""
        return len(self.label_names)


def load_datalist(path: str | Path) -> Datalist:
    """Read a datalist and check its schema.

    Args:
        path: the JSON file.

    Raises:
        FileNotFoundError: when there is no such file.
        DatalistError: (a `ValueError`) when it is not JSON or breaks the schema, naming every fault.
    """
    path = Path(path).absolute()
    if not path.is_file():
        raise FileNotFoundError(f"No datalist at {path}. Write one with `python -m crosswarp prepare`.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # also of bad encoding
        raise DatalistError(path, [f"not a JSON file ({error}); correct it or prepare it anew"]) from error
    return parse_datalist(content, path)


def parse_datalist(content: Any, path: Path) -> Datalist:
    """Check the content of a datalist against the schema and make its paths absolute.

    Args:
        content: what the JSON file holds.
        path: absolute path of the file.

    Raises:
        DatalistError: (a `ValueError`) naming every fault.
    """
    if faults := schema_faults(content):
        raise DatalistError(path, faults)
    modalities = {
        key: Modality(
            name=content[key]["name"],
            channels=content[key]["channels"],
            **{
                section: [_absolute(record, path.parent) for record in content[key].get(section, [])]
                for section in SECTIONS
            },
        )
        for key in ("source", "target")
    }
    labels = content["labels"]
    return Datalist(
        name=content["name"],
        path=path,
        spatial_dims=content["spatial_dims"],
        spatial_size=content["spatial_size"],
        label_names=[labels[str(value)] for value in range(len(labels))],
        **modalities,
    )


def schema_faults(content: Any) -> list[str]:
    """What breaks the schema in the content of a datalist, one line per fault; empty when nothing does."""
    if not isinstance(content, dict):
        return [f"expected a JSON object, got {type(content).__name__}"]
    faults = []
    if not _is_name(content.get("name")):
        faults.append(f"name: expected a non-empty string, got {content.get('name')!r}")
    dims, size = content.get("spatial_dims"), content.get("spatial_size")
    if dims not in (2, 3):
        faults.append(f"spatial_dims: expected 2 or 3, got {dims!r}")
    elif not (isinstance(size, list) and len(size) == dims and all(_is_positive_int(n) for n in size)):
        faults.append(f"spatial_size: expected a list of {dims} positive integers, got {size!r}")
    faults += _label_faults(content.get("labels"))
    for key in ("source", "target"):
        faults += _modality_faults(key, content.get(key))
    if not faults and content["source"]["name"] == content["target"]["name"]:
        faults.append(f"source and target are both named {content['source']['name']!r}; rename one of them")
    return faults


def datalist_digest(datalist: Datalist) -> str:
    """SHA-256 over the JSON content and the bytes of every file that it names, as a hexadecimal string.

    The same content in another folder has the same digest. An image that is a folder (a DICOM series) counts
    with all its files.

    Args:
        datalist: what :func:`load_datalist` returned.

    Raises:
        FileNotFoundError: when a file is missing.
    """
    paths = {
        Path(record[key])
        for modality in (datalist.source, datalist.target)
        for record in modality.records()
        for key in FILE_KEYS
        if key in record
    }
    files = [file for path in sorted(paths) for file in (path, *sorted(path.rglob("*"))) if not file.is_dir()]
    digest = hashlib.sha256(json.dumps(json.loads(datalist.path.read_bytes()), sort_keys=True).encode())
    with ThreadPoolExecutor() as pool:  # hashlib releases the GIL
        for file_digest in pool.map(_sha256, files):
            digest.update(file_digest)
    return digest.hexdigest()


def _sha256(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def _absolute(record: dict[str, str], folder: Path) -> dict[str, str]:
    return {
        key: os.path.normpath(folder / value) if key in FILE_KEYS else value for key, value in record.items()
    }


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value.strip() != ""


def _is_positive_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _label_faults(labels: Any) -> list[str]:
    if not (isinstance(labels, dict) and len(labels) >= 2 and all(map(_is_name, labels.values()))):
        return [f'labels: expected {{"0": "background", "1": <name>, ...}}, got {labels!r}']
    expected = [str(value) for value in range(len(labels))]
    faults = []
    if sorted(labels) != sorted(expected):
        faults.append(
            f"labels: expected the consecutive values {expected}, got {list(labels)}; renumber them"
        )
    if len(set(labels.values())) < len(labels):
        faults.append(f"labels: names must differ, got {list(labels.values())}")
    return faults


def _modality_faults(key: str, modality: Any) -> list[str]:
    if not isinstance(modality, dict):
        return [f"{key}: expected an object with name, channels and records, got {modality!r}"]
    faults = []
    if not _is_name(modality.get("name")):
        faults.append(f"{key}.name: expected a non-empty string, got {modality.get('name')!r}")
    if not _is_positive_int(modality.get("channels")):
        faults.append(f"{key}.channels: expected a positive integer, got {modality.get('channels')!r}")
    for unknown in modality.keys() - {"name", "channels", *SECTIONS}:
        faults.append(f"{key}.{unknown}: unknown; expected name, channels or one of {', '.join(SECTIONS)}")
    for section in SECTIONS:
        records = modality.get(section, [])
        if not isinstance(records, list):
            faults.append(f"{key}.{section}: expected a list of records, got {type(records).__name__}")
            continue
        for index, record in enumerate(records):
            image = f" ({record['image']})" if isinstance(record, dict) and "image" in record else ""
            where = f"{key}.{section}[{index}]{image}"
            faults += [f"{where}: {fault}" for fault in _record_faults(key, section, record)]
    return faults


def _record_faults(key: str, section: str, record: Any) -> list[str]:
    if not isinstance(record, dict):
        return [f"expected an object with image and subject, got {record!r}"]
    labelled = section == "train_labelled" or (key == "source" and section != "train_unlabelled")
    required = ("image", "subject", "label") if labelled else ("image", "subject")
    faults = [f"{name} is missing; add it" for name in required if name not in record]
    if section == "train_unlabelled" and "label" in record:
        faults.append("has a label; move it to train_labelled or leave the label out")
    if section == "train_labelled" and key == "target":
        faults.append("the target has no labels in training; move it to train_unlabelled without its label")
    for name, value in record.items():
        if name not in RECORD_KEYS:
            faults.append(f"{name} is unknown; expected one of {', '.join(RECORD_KEYS)}")
        elif not _is_name(value):
            faults.append(f"{name}: expected a non-empty string, got {value!r}")
    return faults
