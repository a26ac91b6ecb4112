"""The datalist: one JSON file that names every image, label, class and size of a project.

::

    {"name": "knee", "spatial_dims": 2, "spatial_size": [256, 256], "spacing": [0.9, 0.9],
     "labels": {"0": "background", "1": "femur", "2": "tibia", "3": "fibula"},
     "source": {"name": "dxa", "channels": 1,
                "train_labelled": [{"image": "images/a.nii.gz", "label": "labels/a.nii.gz", "subject": "a"}],
                "train_unlabelled": [{"image": "images/b.nii.gz", "subject": "b"}], "val": [], "test": []},
     "target": {"name": "xray", "channels": 1, "train_unlabelled": [], "val": [], "test": []}}

Paths are relative to the file. `spacing` is that of the networks' grid in mm, for both modalities; where it
is absent or null, the grid spans the whole extent of each image. A record may say `side`, ``left`` or
``right``: all of them do or none. `source` is the modality with the few labels; labels of the target's `val`
and `test` records are optional and never read in training. One subject is one person in both modalities,
unless the datalist says ``"subjects": "per_modality"``. What stands *in* the files, and that no person is in
two splits, is checked by :func:`~.checks.check_datalist`.
"""

from __future__ import annotations

import glob
import hashlib
import json
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import file_digest, read_bounded
from ..wording import did_you_mean, printable, shown

MAX_BYTES = 16 * 2**20
MAX_VOXELS = 2**28  # of the networks' grid: more than any GPU trains
SIDES, SUBJECTS = ("left", "right"), ("shared", "per_modality")
EXTENT = "extent"  # what is asked for in place of a spacing: a grid that spans the whole of each image
MAX_NAME, MAX_PATH = 200, 1000  # characters
TRAINING = ("train_labelled", "train_unlabelled")
SECTIONS = (*TRAINING, "val", "test")
FILE_KEYS = ("image", "label", "landmarks")
DETACHED = (".mhd", ".nhdr")  # headers that name the files of their voxels
PAIRED = re.compile(r"\.(hdr|img)(\.gz)?$", re.IGNORECASE)  # header and voxels of one name
BODY = re.compile(r"^(?:ElementDataFile\s*=|data ?file\s*:)", re.IGNORECASE | re.MULTILINE)
RECORD_KEYS = (*FILE_KEYS, "subject", "side")
MODALITY_KEYS = ("name", "channels", *SECTIONS)
KEYS = ("name", "spatial_dims", "spatial_size", "spacing", "labels", "subjects", "source", "target")
FOLDED = 8  # so many faults of one kind are told one by one


class DatalistError(ValueError):
    """Everything that is wrong with a datalist, in one message.

    Of more than eight faults that differ in names and numbers alone, the message gives three and the names of
    the others' files, as far as a few lines hold them.

    Args:
        path: the datalist.
        faults: one line per fault, each naming the record or file and the remedy.

    Attributes:
        faults: all of them.
    """

    def __init__(self, path: Path, faults: Iterable[str]) -> None:
        self.faults = list(dict.fromkeys(faults))
        count = f"{len(self.faults)} fault{'s' * (len(self.faults) > 1)}"
        super().__init__("\n".join([f"{printable(str(path), 500)}: {count} found:", *_told(self.faults)]))


def _told(faults: Sequence[str]) -> list[str]:
    """The lines of a message, many faults of one kind folded."""
    kinds: dict[str, list[str]] = {}
    for fault in (printable(fault, 600) for fault in faults):
        kinds.setdefault(re.sub(r"'[^']*'|\([^)]*\)|\S*/\S*|\d+", "", fault), []).append(fault)
    lines = []
    for alike in kinds.values():
        told = alike if len(alike) <= FOLDED else alike[:3]
        lines += [f"- {fault}" for fault in told]
        if len(alike) > FOLDED:
            names = ", ".join(fault.split(": ")[0].rsplit("/", 1)[-1].rstrip(")") for fault in alike[3:])
            lines.append(f"- and {len(alike) - 3} more of the same kind: {printable(names, 400)}")
    return lines


@dataclass(frozen=True)
class Modality:
    """One modality; a record is a dict of `image`, `subject` and, if present, `label`, `landmarks`, `side`.

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

    def labelled(self, *sections: str) -> list[dict[str, str]]:
        """Those of :meth:`records` that have a label."""
        return [record for record in self.records(*sections) if "label" in record]


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
        subjects: ``shared`` where equal subjects in both modalities are one person, else ``per_modality``.
        spacing: of the networks' grid in mm, one entry per spatial axis; None where it spans the extent of
            each image.
    """

    name: str
    path: Path
    spatial_dims: int
    spatial_size: list[int]
    label_names: list[str]
    source: Modality
    target: Modality
    subjects: str = "shared"
    spacing: list[float] | None = None

    @property
    def mirrored_side(self) -> str | None:
        """The side whose images are mirrored, the rarer one in training; None where none is stated."""
        records = (*self.source.records(*TRAINING), *self.target.records(*TRAINING))
        counts = Counter(record["side"] for record in records if "side" in record)
        return min(SIDES, key=lambda side: counts[side]) if counts else None

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
        ValueError: when it is a folder or has more than 16 MiB.
        DatalistError: (a `ValueError`) when it is not JSON or breaks the schema, naming every fault.
    """
    path = Path(path).absolute()
    try:
        content = read_bounded(path, MAX_BYTES, "a datalist")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error} Write one with `python -m crosswarp prepare`.") from None
    return parse_datalist(_json(content, path), path)


def _json(content: bytes, path: Path) -> Any:
    """What a JSON file holds, once no key of an object stands in it twice."""

    def without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if twice := [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]:
            raise ValueError(f"{', '.join(map(shown, twice[:5]))} stands twice in one object")
        return dict(pairs)

    try:
        return json.loads(content, object_pairs_hook=without_repetition)
    except (ValueError, RecursionError) as error:  # ValueError: of bad encoding, too
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise DatalistError(path, [f"not a JSON file ({reason}); correct it or prepare it anew"]) from error


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
    labels, spacing = content["labels"], content.get("spacing")
    return Datalist(
        name=content["name"],
        path=path,
        spatial_dims=content["spatial_dims"],
        spatial_size=content["spatial_size"],
        label_names=[labels[str(value)] for value in range(len(labels))],
        **modalities,
        subjects=content.get("subjects", "shared"),
        spacing=None if spacing is None else [float(length) for length in spacing],
    )


def schema_faults(content: Any) -> list[str]:
    """What breaks the schema in the content of a datalist, one line per fault; empty when nothing does."""
    if not isinstance(content, dict):
        return [f"expected a JSON object, got {type(content).__name__}"]
    faults = [
        f"{shown(key)} is unknown{suggestion}; correct or remove it"
        for key in content
        if key not in KEYS and (suggestion := did_you_mean(key, KEYS))  # other keys are the user's own notes
    ]
    faults += _name_faults("name", content.get("name"))
    dims, size = content.get("spatial_dims"), content.get("spatial_size")
    if not _is_positive_int(dims) or dims not in (2, 3):
        faults.append(f"spatial_dims: expected 2 or 3, got {shown(dims)}")
    elif not (isinstance(size, list) and len(size) == dims and all(map(_is_positive_int, size))):
        faults.append(f"spatial_size: expected a list of {dims} positive integers, got {shown(size)}")
    elif math.prod(size) > MAX_VOXELS:
        faults.append(f"spatial_size: expected a grid that a network can take, got {shown(size)} voxels")
    faults += _spacing_faults(content.get("spacing"), dims) + _label_faults(content.get("labels"))
    if (subjects := content.get("subjects", "shared")) not in SUBJECTS:
        faults.append(f"subjects: expected one of {', '.join(SUBJECTS)}, got {shown(subjects)}")
    for key in ("source", "target"):
        faults += _modality_faults(key, content.get(key))
    if faults:
        return faults
    if content["source"]["name"] == content["target"]["name"]:
        faults.append(f"source and target are both named {content['source']['name']!r}; rename one of them")
    return faults + _partial_side_faults(content)


def data_files(datalist: Datalist) -> list[Path]:
    """Every file that a datalist names, in one order, each as :func:`files_of` has it."""
    paths = {
        Path(record[key])
        for modality in (datalist.source, datalist.target)
        for record in modality.records()
        for key in FILE_KEYS
        if key in record
    }
    return list(dict.fromkeys(file for path in sorted(paths) for file in files_of(path)))


def files_of(path: Path) -> list[Path]:
    """The files that hold an image: all of a folder (a DICOM series), and those that a header names.

    Args:
        path: such as ``a.nii.gz``; ``a.mhd``, ``a.nhdr`` and ``a.hdr`` have their voxels in other files.
    """
    if path.is_dir():
        return sorted(each for each in path.rglob("*") if not each.is_dir())
    found = [path]
    if PAIRED.search(path.name):
        ends = (".hdr", ".hdr.gz", ".img", ".img.gz")
        partners = (path.with_name(PAIRED.sub(end, path.name)) for end in ends)
        found += [each for each in partners if each != path and each.is_file()]
    elif path.suffix.lower() in DETACHED and path.is_file():
        with open(path, "rb") as file:
            named = BODY.split(file.read(MAX_BYTES).decode("latin-1"), maxsplit=1)[1:]
        first, *others = map(str.strip, "".join(named).splitlines() or [""])
        if "%" in first:  # a pattern with the numbers of slices
            pattern = re.sub(r"%\d*[diu]", "*", glob.escape(first.split()[0]))
            found += sorted(map(Path, glob.glob(os.path.join(glob.escape(str(path.parent)), pattern))))
        else:
            names = others if first.lower().startswith("list") else [first]
            found += [path.parent / name for name in names if name and os.path.isfile(path.parent / name)]
    return found


def datalist_digest(datalist: Datalist) -> str:
    """SHA-256 over the JSON content and the bytes of every file that it names, as a hexadecimal string.

    The same content in another folder has the same digest. An image counts with all files that hold it: a
    folder (a DICOM series) with its own, a header with those of its voxels.

    Args:
        datalist: what :func:`load_datalist` returned.

    Raises:
        FileNotFoundError: when a file is missing.
    """
    digest = hashlib.sha256(json.dumps(json.loads(datalist.path.read_bytes()), sort_keys=True).encode())
    with ThreadPoolExecutor() as pool:  # hashlib releases the GIL
        for each in pool.map(file_digest, data_files(datalist)):
            digest.update(bytes.fromhex(each))
    return digest.hexdigest()


def _absolute(record: dict[str, str], folder: Path) -> dict[str, str]:
    return {
        key: os.path.normpath(folder / value) if key in FILE_KEYS else value for key, value in record.items()
    }


def _is_positive_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def is_length(value: Any) -> bool:
    """Whether a value is a positive, finite number, as a length in mm is."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= sys.float_info.max


def _spacing_faults(spacing: Any, dims: Any) -> list[str]:
    unknown = spacing is None or dims not in (2, 3)  # then nobody knows how many entries are right
    if unknown or (isinstance(spacing, list) and len(spacing) == dims and all(map(is_length, spacing))):
        return []
    return [f"spacing: expected a list of {dims} positive numbers (mm), or null, got {shown(spacing)}"]


def _partial_side_faults(content: dict[str, Any]) -> list[str]:
    """Sides that some records of a datalist without other faults state and others do not."""
    modalities = (content["source"], content["target"])
    records = [record for each in modalities for section in SECTIONS for record in each.get(section, [])]
    silent = [shown(record["image"])[1:-1] for record in records if "side" not in record]
    if len(silent) in (0, len(records)):
        return []
    count = f"{len(silent)} of {len(records)} records do not state it (the first: {silent[0]})"
    return [f"side: {count}; state it in all or in none"]


def _name_faults(where: str, value: Any) -> list[str]:
    if not isinstance(value, str) or not value.strip():
        return [f"{where}: expected a non-empty string, got {shown(value)}"]
    if len(value) > MAX_NAME or not value.isprintable():
        return [f"{where}: expected at most {MAX_NAME} printable characters, got {shown(value)}"]
    return []


def path_faults(where: str, value: Any) -> list[str]:
    """What keeps a value from being the path of a file: one line or none."""
    if not isinstance(value, str) or not value.strip():
        return [f"{where}: expected a non-empty string, got {shown(value)}"]
    if len(value) > MAX_PATH:
        return [f"{where}: expected at most {MAX_PATH} characters, got {len(value)}: {shown(value, 60)}"]
    try:
        parts = os.fsencode(value).split(b"/")
        possible = b"\0" not in b"".join(parts) and max(map(len, parts)) <= 255
    except UnicodeEncodeError:
        possible = False
    return [] if possible else [f"{where}: no file can have the name {shown(value)}; correct it"]


def _label_faults(labels: Any) -> list[str]:
    if not isinstance(labels, dict) or len(labels) < 2:
        return [f'labels: expected {{"0": "background", "1": <name>, ...}}, got {shown(labels)}']
    unfit = [fault for key, name in labels.items() for fault in _name_faults(f"labels.{shown(key)}", name)]
    faults = list(unfit)
    expected = [str(value) for value in range(len(labels))]
    if sorted(labels) != sorted(expected):
        faults.append(
            f"labels: expected the consecutive values {shown(expected)}, got {shown(list(labels))}; "
            "renumber them"
        )
    if "mean" in labels.values():
        faults.append('labels: expected another name than "mean", which is that of the mean over classes')
    if not unfit and len(set(labels.values())) < len(labels):
        faults.append(f"labels: names must differ, got {shown(list(labels.values()))}")
    return faults


def _modality_faults(key: str, modality: Any) -> list[str]:
    if not isinstance(modality, dict):
        return [f"{key}: expected an object with name, channels and records, got {shown(modality)}"]
    faults = _name_faults(f"{key}.name", modality.get("name"))
    if "_to_" in str(modality.get("name")):
        faults.append(f'{key}.name: expected a name without "_to_", which stands between two modalities')
    if not _is_positive_int(modality.get("channels")):
        faults.append(f"{key}.channels: expected a positive integer, got {shown(modality.get('channels'))}")
    for unknown in [each for each in modality if each not in MODALITY_KEYS]:
        suggestion = did_you_mean(unknown, MODALITY_KEYS)
        expected = f"expected name, channels or one of {', '.join(SECTIONS)}"
        faults.append(f"{key}.{shown(unknown)[1:-1]}: unknown{suggestion}; {expected}")
    for section in SECTIONS:
        records = modality.get(section, [])
        if not isinstance(records, list):
            faults.append(f"{key}.{section}: expected a list of records, got {type(records).__name__}")
            continue
        for index, record in enumerate(records):
            image = record.get("image") if isinstance(record, dict) else None
            where = f"{key}.{section}[{index}]" + f" ({shown(image)[1:-1]})" * isinstance(image, str)
            faults += [f"{where}: {fault}" for fault in _record_faults(key, section, record)]
    return faults


def _record_faults(key: str, section: str, record: Any) -> list[str]:
    if not isinstance(record, dict):
        return [f"expected an object with image and subject, got {shown(record)}"]
    labelled = section == "train_labelled" or (key == "source" and section != "train_unlabelled")
    required = ("image", "subject", "label") if labelled else ("image", "subject")
    faults = [f"{name} is missing; add it" for name in required if name not in record]
    if section == "train_unlabelled" and "label" in record:
        faults.append("has a label; move it to train_labelled or leave the label out")
    if section == "train_labelled" and key == "target":
        faults.append("the target has no labels in training; move it to train_unlabelled without its label")
    for name, value in record.items():
        if name in FILE_KEYS:
            faults += path_faults(name, value)
        elif name == "subject":
            faults += _name_faults(name, value)
        elif name == "side":
            faults += [] if value in SIDES else [f"side: expected {' or '.join(SIDES)}, got {shown(value)}"]
        else:
            suggestion = did_you_mean(name, RECORD_KEYS)
            expected = f"expected one of {', '.join(RECORD_KEYS)}"
            faults.append(f"{shown(name)[1:-1]} is unknown{suggestion}; {expected}")
    return faults
