"""The images of a user's table or folders, as `prepare` takes them: every row is used, named, or left out."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..wording import did_you_mean, nearest, printable, shown
from .datalist import SECTIONS, SIDES
from .tables import Table, TableRow, read_table

NEEDED = ("modality", "subject", "image")
COLUMNS = (*NEEDED, "label", "landmarks", "dims", "split", "side")
OTHER_COLUMNS = ("site", "size", "slide")  # of tables' own, and not `side` misspelt
LEFT_OUT = "left_out"
SPLIT_VALUES = ("train", *SECTIONS, LEFT_OUT)
SIDE_VALUES = {"": "", "l": "left", "r": "right"} | {side: side for side in SIDES}
VOXEL_FILES = (".raw", ".zraw", ".raw.gz")  # what an MHD or NHDR header beside it names


@dataclass
class Entry:
    """An image as the user gave it; `split` is one of `SPLIT_VALUES`, or empty: to be chosen.

    `side` is `left`, `right` or empty: not stated.
    """

    subject: str
    image: Path
    label: Path | None = None
    landmarks: Path | None = None
    split: str = ""
    side: str = ""


@dataclass
class Entries:
    """What a table or a folder holds.

    Attributes:
        source: images of the modality with the few labels.
        target: images of the other.
        faults: what is wrong, one line each.
        notes: what is not used, one line each.
    """

    source: list[Entry] = field(default_factory=list)
    target: list[Entry] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def of(self, key: str) -> list[Entry]:
        """The images of `source` or `target`."""
        return self.source if key == "source" else self.target


def read_entries(
    table: Path, modalities: Mapping[str, str], dims: int | None, leave_out: Sequence[str] = ()
) -> Entries:
    """The rows of a table that are of two modalities, and of one number of dimensions.

    Args:
        table: the file, with the columns `NEEDED` and any of `COLUMNS`.
        modalities: names of `source` and `target`.
        dims: 2 or 3: which rows to take, where the table says; None for all.
        leave_out: further modalities of the table that are not wanted.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is no table with these columns, or has no row of one of the modalities.
    """
    content = read_table(table, NEEDED)
    found = {row.cells["modality"] for row in content.rows} - {""}
    for modality in modalities.values():
        if modality not in found:
            names = shown(", ".join(sorted(found)), 300)[1:-1]
            suggestion = did_you_mean(modality, found)
            raise ValueError(
                f"{table}: no rows of modality {modality!r}{suggestion}, found {names}. "
                "Set --source and --target."
            )
    entries = Entries(faults=_column_faults(content))
    unused = [name for column, name in content.columns.items() if column and column not in COLUMNS]
    entries.notes += [f"columns {shown(', '.join(unused), 300)[1:-1]}"] * bool(unused)
    others: Counter[str] = Counter()
    misspelt = {name for name in found - set(modalities.values()) if nearest(name, modalities.values())}
    for row in content.rows:
        modality = row.cells["modality"]
        key = next((key for key, name in modalities.items() if name == modality), None)
        if key is not None:
            _take(content, row, key, dims, entries, others)
        elif modality in leave_out:
            others[f"rows of modality {modality}"] += 1
        elif not modality or modality in misspelt:
            escape = f", or leave it out: --leave-out {modality}" * bool(modality)
            entries.faults.append(
                f"{table}, row {row.number}: modality is {shown(modality)}"
                f"{did_you_mean(modality, modalities.values())}; expected "
                f"{' or '.join(modalities.values())}; correct it{escape}"
            )
        else:
            others[f"rows of modality {shown(modality)[1:-1]}, neither --source nor --target"] += 1
    entries.notes += [f"{count} {what}" for what, count in others.items()]
    stated = {key: _stated_dims(content, name) for key, name in modalities.items()}
    if dims is None and len(set().union(*stated.values())) > 1:
        listed = ", ".join(sorted(set().union(*stated.values())))
        raise ValueError(f"{table}: has rows with dims {listed}. Choose one by --dims.")
    return entries


def _stated_dims(table: Table, modality: str) -> set[str]:
    return {
        value
        for row in table.rows
        if row.cells["modality"] == modality and (value := _dims(row)) in ("2", "3")
    }


def _dims(row: TableRow) -> str:
    """Dimensions as the row states them; tables turn 2 into 2.0."""
    return re.sub(r"(?<=^\d)(\.0*|D)$", "", row.cells.get("dims", ""), flags=re.IGNORECASE)


def _column_faults(table: Table) -> list[str]:
    absent = [column for column in COLUMNS if column not in table.columns]
    return [
        f"{table.path}: column {shown(name)[1:-1]} is unknown{suggestion}; rename or remove it"
        for column, name in table.columns.items()
        if column not in (*COLUMNS, *OTHER_COLUMNS) and (suggestion := did_you_mean(column, absent))
    ]


def _take(
    table: Table, row: TableRow, key: str, dims: int | None, entries: Entries, others: Counter[str]
) -> None:
    """Take a row of one of the modalities, unless it is of other dimensions or left out."""
    cells, where = row.cells, f"{table.path}, row {row.number}"
    of_row, split = _dims(row), cells.get("split", "").lower()
    faults = [
        f"{where}: {column} is empty; fill it in" for column in ("subject", "image") if not cells[column]
    ]
    if of_row not in ("", "2", "3"):
        faults.append(f"{where}: dims is {shown(cells['dims'])}; expected 2, 3 or nothing")
    if split not in ("", *SPLIT_VALUES):
        suggestion = did_you_mean(split, SPLIT_VALUES)
        expected = f"expected {', '.join(SPLIT_VALUES)} or nothing"
        faults.append(f"{where}: split is {shown(cells['split'])}{suggestion}; {expected}")
    if (side := SIDE_VALUES.get(cells.get("side", "").lower())) is None:
        faults.append(f"{where}: side is {shown(cells['side'])}; expected left, right, l, r or nothing")
    entries.faults += faults
    if not faults and dims is not None and of_row not in ("", str(dims)):
        others[f"rows of {of_row} dimensions"] += 1
    elif split == LEFT_OUT:
        others["rows that the table leaves out"] += 1
    elif cells["subject"] and cells["image"]:
        folder = table.path.parent
        files = {name: folder / cells[name] for name in ("label", "landmarks") if cells.get(name)}
        image = folder / cells["image"]
        entries.of(key).append(Entry(cells["subject"], image, split=split, side=side or "", **files))


def read_folders(folder: Path, modalities: Mapping[str, str], subject_pattern: str) -> Entries:
    """The images in the folders of two modalities, with their labels.

    Args:
        folder: holds a folder for each modality.
        modalities: names of `source` and `target`.
        subject_pattern: regular expression that finds the subject in a file name.

    Raises:
        FileNotFoundError: when a modality has no folder `images`.
        ValueError: when the pattern is no regular expression, or a folder cannot be listed.
    """
    try:
        pattern = re.compile(subject_pattern)
    except re.error as error:
        raise ValueError(
            f"Expected a regular expression in --subject-pattern, got {shown(subject_pattern)} ({error})."
        ) from error
    entries = Entries()
    beside = [each for each in _listed(folder) if each.name not in modalities.values() and each.is_dir()]
    entries.notes += [f"folder {each}" for each in beside]
    for key, modality in modalities.items():
        place = folder / modality
        if not (place / "images").is_dir():
            near = did_you_mean(modality, [each.name for each in beside])
            raise FileNotFoundError(
                f"No folder {printable(str(place), 500)}/images{near}. Make it or set --source and --target."
            )
        for each in _listed(place):
            if each.name in ("images", "labels"):
                continue
            if nearest(each.name, ["labels"]) and not (place / "labels").exists():
                entries.faults.append(f"{each}: is not read (did you mean labels?); rename or move it")
            else:
                entries.notes.append(f"{each}, neither images nor labels")
        entries.of(key).extend(_entries_of(place, pattern, entries.faults))
    return entries


def _entries_of(place: Path, pattern: re.Pattern[str], faults: list[str]) -> Iterable[Entry]:
    images, labels = (_files_by_stem(place / kind, faults) for kind in ("images", "labels"))
    faults += [
        f"{labels[stem]}: label without an image; name it like its image"
        for stem in sorted(labels.keys() - images)
    ]
    for stem, image in images.items():
        match = pattern.search(stem)
        subject = (match[1 if pattern.groups else 0] or "").strip() if match else ""
        if subject:
            yield Entry(subject, image, labels.get(stem))
        else:
            remedy = f"change --subject-pattern {printable(pattern.pattern)}"
            faults.append(f"{image}: no subject found in its name; {remedy}")


def _files_by_stem(folder: Path, faults: list[str]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in _listed(folder) if folder.exists() else ():
        if path.name.lower().endswith(VOXEL_FILES):
            continue
        stem = path.name if path.is_dir() else re.sub(r"(\.nii)?\.[^.]+$", "", path.name)
        if stem in files:
            faults.append(f"{path}: same name as {files[stem].name} up to the suffix; keep one of them")
        files[stem] = path
    return files


def _listed(folder: Path) -> list[Path]:
    """What a folder holds, without hidden files, sorted."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise ValueError(
            f"{folder}: cannot be listed ({error.strerror}); make it a readable folder"
        ) from error
    return [folder / name for name in names if not name.startswith(".")]
