"""From a user's folders or table to a checked datalist, split by subject."""

from __future__ import annotations

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator

from .checks import SPLITS, Facts, FileFacts, find_faults, read_facts, warn_of_missing_spacing
from .datalist import SECTIONS, Datalist, DatalistError, parse_datalist

VOXEL_FILES = (".raw", ".zraw", ".raw.gz")  # what an MHD or NHDR header beside it names
LARGEST_GRID = {2: 256, 3: 128}  # default per axis: what a workstation's GPU trains comfortably
SMALLEST_GRID = 32  # what the discriminators of the adaptation can still take


@dataclass
class _Row:
    """An image as the user gave it; `split` is one of `SECTIONS`, "train", or empty: to be chosen."""

    subject: str
    image: Path
    label: Path | None = None
    landmarks: Path | None = None
    split: str = ""


def prepare(
    data: str | Path,
    out: str | Path,
    source: str = "source",
    target: str = "target",
    labels: Mapping[Any, str] | None = None,
    dims: int | None = None,
    spatial_size: int | Sequence[int] | None = None,
    subject_pattern: str = "^[^_]+",
    val_fraction: float = 0.15,
    test_fraction: float = 0.15,
    seed: int = 0,
    name: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a checked datalist from a folder or a CSV file, and print what was found.

    A folder holds `<source>/images`, `<source>/labels`, `<target>/images` and, if there are any,
    `<target>/labels`. A label has its image's file name up to the suffix; a folder among the images is a
    DICOM series.

    A CSV file has the columns `modality`, `subject`, `image` and, if wanted, `label`, `landmarks`, `dims` (2
    or 3) and `split` (train, train_labelled, train_unlabelled, val or test). Paths are relative to the file.

    Subjects without a given split are split at random, all images of a subject together. Of the source, those
    with labels are for training, validation (at least one) and test, and the others train; unlabelled images
    of subjects for validation or test are left out. Of the target, those with labels are for the test, up to
    half of all; of the others a part is for validation. Labels that nothing would read are left out: those of
    `train_unlabelled` and of the target's `val`.

    Args:
        data: the folder or CSV file.
        out: the datalist to write; its paths are relative to it.
        source: the modality with the few labels, as the folder or the column `modality` names it.
        target: the modality without.
        labels: class names by label value; by default the values found, named "label 1" and so on.
        dims: 2 or 3: which rows of a CSV file to take, and what images must be; by default what most are.
        spatial_size: size of the networks' grid, one number or one per axis; by default the median image
            size, rounded to a multiple of 16, at least 32, at most 256 (2D) or 128 (3D) per axis.
        subject_pattern: regular expression (its first group, if any) that finds the subject in the file name
            of an image; by default what stands before the first "_". For folders only.
        val_fraction: share of subjects for validation.
        test_fraction: share of the source's labelled subjects for the test.
        seed: of the splits.
        name: of the project; by default the file name of `out`.
        overwrite: whether another datalist may be replaced.

    Returns:
        Path of the datalist.

    Raises:
        FileNotFoundError: when `data` is missing.
        FileExistsError: when `out` exists with other content and `overwrite` is not set.
        DatalistError: (a `ValueError`) naming every problem found.
    """
    data, out = Path(data).absolute(), Path(out).absolute()
    if not data.exists():
        raise FileNotFoundError(f"No folder or CSV file at {data}. Correct the path.")
    if dims not in (None, 2, 3):
        raise ValueError(f"Expected dims of 2 or 3, got {dims!r}.")
    if min(val_fraction, test_fraction) < 0 or val_fraction + test_fraction >= 1:
        raise ValueError(
            f"Expected fractions that leave a part to train on: {val_fraction}, {test_fraction}."
        )
    modalities = {"source": source, "target": target}
    faults: list[str] = []
    rows = {
        key: _read_folder(data / modality, subject_pattern, faults)
        if data.is_dir()
        else _read_csv(data, modality, dims, faults)
        for key, modality in modalities.items()
    }
    rng = np.random.default_rng(seed)
    _split_source(rows["source"], val_fraction, test_fraction, rng, faults)
    _split_target(rows["target"], val_fraction, rng)

    records = {
        key: {section: _records(rows[key], key, section, out.parent) for section in SECTIONS} for key in rows
    }
    everything = [record for sections in records.values() for some in sections.values() for record in some]
    files = [record[key] for record in everything for key in ("image", "label") if key in record]
    facts = read_facts(os.path.normpath(out.parent / file) for file in files)
    shapes = [fact.shape for fact in _facts_of(everything, "image", out.parent, facts)]
    dims = dims or _most_common([len(shape) for shape in shapes], default=2)
    content: dict[str, Any] = {
        "name": name or out.stem,
        "spatial_dims": dims,
        "spatial_size": _grid(spatial_size, dims, shapes),
        "labels": _class_names(labels, _facts_of(everything, "label", out.parent, facts)),
    }
    for key, modality in modalities.items():
        images = _facts_of(sum(records[key].values(), []), "image", out.parent, facts)
        channels = _most_common([fact.channels for fact in images], default=1)
        content[key] = {"name": modality, "channels": channels, **records[key]}
    try:
        datalist = parse_datalist(content, out)
        faults += find_faults(datalist, facts)
    except DatalistError as error:
        faults += [
            *error.faults,
            *(f"{path}: {fact}" for path, fact in facts.items() if isinstance(fact, str)),
        ]
    if faults:
        raise DatalistError(out, faults)
    text = json.dumps(content, indent=1)
    if out.exists() and out.read_text(encoding="utf-8") != text and not overwrite:
        raise FileExistsError(
            f"{out} exists with other content. Name another --out or replace it: --overwrite."
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    warn_of_missing_spacing(facts)
    print(describe(datalist, facts))
    return out


def describe(datalist: Datalist, facts: Facts) -> str:
    """A table of what a datalist holds: images, labels, subjects, sizes and spacing, section by section."""
    grid = " x ".join(map(str, datalist.spatial_size))
    lines = [
        f"{datalist.path}: {datalist.name}, {datalist.spatial_dims}D, networks' grid {grid}",
        f"classes: {', '.join(f'{value} {name}' for value, name in enumerate(datalist.label_names))}",
        f"{'modality':12}{'section':18}{'images':>7}{'labels':>7}{'subjects':>9}  {'size':24}spacing (mm)",
    ]
    for modality in (datalist.source, datalist.target):
        for section in SECTIONS:
            records = modality.records(section)
            if not records:
                continue
            images = _facts_of(records, "image", Path(), facts)
            labelled = sum("label" in record for record in records)
            subjects = len({record["subject"] for record in records})
            sizes = _range(fact.shape for fact in images)
            spacings = _range(fact.spacing for fact in images if fact.spacing) or "not stated"
            counts = f"{len(records):7}{labelled:7}{subjects:9}"
            lines.append(f"{modality.name:12}{section:18}{counts}  {sizes:24}{spacings}")
    return "\n".join(lines)


def _read_csv(path: Path, modality: str, dims: int | None, faults: list[str]) -> list[_Row]:
    """The rows of one modality (and one number of dimensions)."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        table = [
            {key: (value or "").strip() for key, value in line.items() if key}
            for line in csv.DictReader(file)
        ]
    columns = table[0].keys() if table else set()
    if missing := [column for column in ("modality", "subject", "image") if column not in columns]:
        raise ValueError(
            f"{path}: expected the columns modality, subject, image; {', '.join(missing)} missing."
        )
    chosen = [line for line in table if line["modality"] == modality]
    if not chosen:
        found = ", ".join(sorted({line["modality"] for line in table}))
        raise ValueError(
            f"{path}: no rows of modality {modality!r}, found {found}. Set --source and --target."
        )
    several = sorted({line.get("dims", "") for line in chosen})
    if dims is None and len(several) > 1:
        raise ValueError(f"{path}: {modality} has rows with dims {', '.join(several)}. Choose one by --dims.")
    rows = []
    for number, line in enumerate(chosen, 1):
        where = f"{path}, row {number} of {modality}"
        if dims is not None and line.get("dims", "") not in ("", str(dims)):
            continue
        faults += [
            f"{where}: {column} is empty; fill it in" for column in ("subject", "image") if not line[column]
        ]
        split = line.get("split", "")
        if split not in ("", "train", *SECTIONS):
            faults.append(f"{where}: split is {split!r}; expected train, {', '.join(SECTIONS)} or nothing")
        files = {key: path.parent / line[key] for key in ("label", "landmarks") if line.get(key)}
        rows.append(_Row(line["subject"], path.parent / line["image"], split=split, **files))
    return rows


def _read_folder(folder: Path, subject_pattern: str, faults: list[str]) -> list[_Row]:
    """The images in a modality's folder, with their labels."""
    if not (folder / "images").is_dir():
        raise FileNotFoundError(f"No folder {folder / 'images'}. Make it or set --source and --target.")
    images, labels = (_files_by_stem(folder / kind, faults) for kind in ("images", "labels"))
    faults += [
        f"{labels[stem]}: label without an image; name it like its image"
        for stem in sorted(labels.keys() - images)
    ]
    rows = []
    for stem, image in images.items():
        match = re.search(subject_pattern, stem)
        if match:
            rows.append(_Row(match[1 if match.re.groups else 0], image, labels.get(stem)))
        else:
            faults.append(
                f"{image}: no subject found in its name; change --subject-pattern {subject_pattern}"
            )
    return rows


def _files_by_stem(folder: Path, faults: list[str]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in sorted(folder.glob("[!.]*")):
        if path.name.lower().endswith(VOXEL_FILES):
            continue
        stem = path.name if path.is_dir() else re.sub(r"(\.nii)?\.[^.]+$", "", path.name)
        if stem in files:
            faults.append(f"{path}: same name as {files[stem].name} up to the suffix; keep one of them")
        files[stem] = path
    return files


def _split_source(
    rows: list[_Row], val_fraction: float, test_fraction: float, rng: Generator, faults: list[str]
) -> None:
    implied = [row for row in rows if not row.split]
    unsplit = _follow_subjects(rows)
    labelled = _shuffled({row.subject for row in unsplit if row.label}, rng)
    if len(labelled) == 1:
        faults.append(
            f"all labelled source images are of one subject, {labelled[0]!r}; validation needs another "
            "(if there are more, set --subject-pattern)"
        )
    val = min(max(1, round(val_fraction * len(labelled))), max(len(labelled) - 1, 0))
    test = min(round(test_fraction * len(labelled)), max(len(labelled) - val - 1, 0))
    splits = dict.fromkeys(labelled[:val], "val") | dict.fromkeys(labelled[val : val + test], "test")
    for row in unsplit:
        row.split = splits.get(row.subject, "train")
    for row in implied:
        if row.split in ("val", "test") and not row.label:
            row.split = "left out"  # of no use there, and training must not see the subject
    for row in rows:
        if row.split == "train":
            row.split = "train_labelled" if row.label else "train_unlabelled"


def _split_target(rows: list[_Row], val_fraction: float, rng: Generator) -> None:
    unsplit = _follow_subjects(rows)
    subjects = {row.subject for row in unsplit}
    test = _shuffled({row.subject for row in unsplit if row.label}, rng)[: len(subjects) // 2]
    rest = _shuffled(subjects - set(test), rng)
    val = rest[: min(round(val_fraction * len(rest)), max(len(rest) - 1, 0))]
    splits = dict.fromkeys(test, "test") | dict.fromkeys(val, "val")
    for row in unsplit:
        row.split = splits.get(row.subject, "train")
    for row in rows:
        if row.split in ("train", "train_labelled"):
            row.split = "train_unlabelled"


def _follow_subjects(rows: list[_Row]) -> list[_Row]:
    """Give rows without a split that of their subject's other rows; returns those that still have none."""
    known = {row.subject: SPLITS.get(row.split, row.split) for row in rows if row.split}
    for row in rows:
        row.split = row.split or known.get(row.subject, "")
    return [row for row in rows if not row.split]


def _shuffled(subjects: set[str], rng: Generator) -> list[str]:
    return [str(subject) for subject in rng.permutation(sorted(subjects))]


def _records(rows: list[_Row], key: str, section: str, folder: Path) -> list[dict[str, str]]:
    """Records with paths relative to the folder."""
    records = []
    for row in rows:
        if row.split != section:
            continue
        read = section != "train_unlabelled" and (key, section) != ("target", "val")
        files = {"image": row.image, "label": row.label if read else None, "landmarks": row.landmarks}
        paths = {name: Path(os.path.relpath(path, folder)).as_posix() for name, path in files.items() if path}
        records.append({**paths, "subject": row.subject})
    return records


def _facts_of(records: Iterable[Mapping[str, str]], key: str, folder: Path, facts: Facts) -> list[FileFacts]:
    found = (facts.get(os.path.normpath(folder / record[key])) for record in records if key in record)
    return [fact for fact in found if isinstance(fact, FileFacts)]


def _most_common(values: list[int], default: int) -> int:
    return Counter(values).most_common(1)[0][0] if values else default


def _grid(wanted: int | Sequence[int] | None, dims: int, shapes: list[tuple[int, ...]]) -> list[int]:
    if isinstance(wanted, int):
        return [wanted] * dims
    if wanted is not None:
        return list(wanted)
    largest = LARGEST_GRID.get(dims, 16)
    sizes = np.median([shape for shape in shapes if len(shape) == dims] or [(largest,) * dims], axis=0)
    return [int(np.clip(16 * round(size / 16), SMALLEST_GRID, largest)) for size in sizes]


def _class_names(names: Mapping[Any, str] | None, labels: list[FileFacts]) -> dict[str, str]:
    if names is not None:
        return {"0": "background"} | {str(value): name for value, name in names.items()}
    found = {0, 1}.union(*(label.values or () for label in labels))
    return {str(value): f"label {value}" if value else "background" for value in range(len(found))}


def _range(values: Iterable[tuple[float, ...]]) -> str:
    """The tuples' smallest and largest, entry by entry; empty when there are none."""
    table = np.array(list(values))
    if not len(table):
        return ""
    low, high = ("x".join(f"{entry:.4g}" for entry in extreme) for extreme in (table.min(0), table.max(0)))
    return low if low == high else f"{low} to {high}"
