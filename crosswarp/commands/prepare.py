"""The command `prepare`: from a user's folders or table to a checked datalist, split by subject."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.datalist import (
    EXTENT,
    SECTIONS,
    SUBJECTS,
    DatalistError,
    is_length,
    parse_datalist,
    path_faults,
)
from ..data.entries import Entry, read_entries, read_folders
from ..data.splits import split_entries
from ..files import replacing
from ..wording import did_you_mean, printable, shown
from .arguments import numbers

if TYPE_CHECKING:
    from ..data.checks import Facts, FileFacts


def prepare(
    data: str | Path,
    out: str | Path,
    source: str = "source",
    target: str = "target",
    labels: Mapping[Any, str] | None = None,
    dims: int | None = None,
    spatial_size: int | Sequence[int] | None = None,
    spacing: float | Sequence[float] | str | None = None,
    subject_pattern: str = "^[^_]+",
    val_fraction: float = 0.15,
    test_fraction: float = 0.15,
    seed: int = 0,
    name: str | None = None,
    subjects: str = "shared",
    leave_out: str | Sequence[str] = (),
    overwrite: bool = False,
) -> Path:
    """Write a checked datalist from a folder or a table, and print what was found and what is not used.

    A folder holds `<source>/images`, `<source>/labels`, `<target>/images` and, if there are any,
    `<target>/labels`. A label has its image's file name up to the suffix; a folder among the images is a
    DICOM series.

    A table (CSV, see `read_table`) has the columns `modality`, `subject`, `image` and, if wanted, `label`,
    `landmarks`, `dims` (2 or 3), `split` (train, train_labelled, train_unlabelled, val, test or left_out) and
    `side` (left, right, l or r; for DICOM by default what the header says). Paths are relative to the file.
    Rows of a third modality are not used, and said; a modality or a column that looks like a misspelt one is
    a fault. Sides are written into the datalist where they are known of all images, of both modalities.

    One subject is one person, in both modalities. People without a given split are split at random, all their
    images together. Of the source's people, those with labels are for training, validation (at least one) and
    test, and the others train; unlabelled source images of people for validation or test are left out. Of the
    target's people, those with labels are for the test, up to half of all; of the others a part is for
    validation. Who is in both modalities is where the source's labels are needed, first for the test if there
    are target labels. Labels that nothing would read are left out: those of `train_unlabelled` and of the
    target's `val`.

    Where all training images state their spacing, the networks' grid gets one in mm, for both modalities:
    its frame holds the 95th percentile of the training images' extents along each axis, in the modality where
    that is more. An image is then laid into the frame as large as it is. Images larger than the frame are
    counted and named.

    Args:
        data: the folder or table.
        out: the datalist to write; its paths are relative to it.
        source: the modality with the few labels, as the folder or the column `modality` names it.
        target: the modality without.
        labels: class names by label value; by default the values found, named "label 1" and so on.
        dims: 2 or 3: which rows of a table to take, and what images must be; by default what most are.
        spatial_size: size of the networks' grid, one number or one per axis; by default the median image
            size, rounded to a multiple of 16, 32 to 256 (2D) or 16 to 128 (3D) per axis, and no more than the
            frame needs where axes get one spacing.
        spacing: of the networks' grid in mm, one number or one per axis, or the word `extent`: none, the grid
            spans the whole of each image, whatever its size. By default from the training images, where all
            state theirs: isotropic where that changes an axis by at most 25 % and no `spatial_size` is
            given, otherwise as each axis needs it.
        subject_pattern: regular expression (its first group, if any) that finds the subject in the file name
            of an image; by default what stands before the first "_". For folders only.
        val_fraction: share of subjects for validation.
        test_fraction: share of the source's labelled subjects for the test.
        seed: of the splits.
        name: of the project; by default the file name of `out`.
        subjects: `shared`, or `per_modality` where equal names in the two modalities are two people.
        leave_out: further modalities of the table that are not wanted, though named much like these two.
        overwrite: whether another datalist may be replaced.

    Returns:
        Path of the datalist.

    Raises:
        FileNotFoundError: when `data` is missing.
        FileExistsError: when `out` exists with other content and `overwrite` is not set.
        ValueError: for an option that cannot be.
        DatalistError: (a `ValueError`) naming every problem found.
    """
    from ..data.checks import find_faults, read_facts, warn_of_doubts
    from ..data.summary import describe, facts_of
    from ..terminal import silence_others

    silence_others()
    _check_names({"--data": data, "--out": out, "--source": source, "--target": target})
    data, out = Path(data).absolute(), Path(out).absolute()
    modalities = {"source": source, "target": target}
    labels = _label_option(labels)
    _check_options(data, out, modalities, dims, spacing, val_fraction, test_fraction, seed, subjects)
    left_out = str(leave_out).split(",") if not isinstance(leave_out, (list, tuple)) else leave_out
    entries = (
        read_folders(data, modalities, str(subject_pattern))
        if data.is_dir()
        else read_entries(data, modalities, dims, left_out)
    )
    rng = np.random.default_rng(seed)
    split_entries(entries, subjects == "shared", val_fraction, test_fraction, rng)

    records = {
        key: {section: _records(entries.of(key), key, section, out.parent) for section in SECTIONS}
        for key in modalities
    }
    everything = [record for sections in records.values() for some in sections.values() for record in some]
    files = [record[kind] for record in everything for kind in ("image", "label") if kind in record]
    facts = read_facts(os.path.normpath(out.parent / file) for file in files if not path_faults("", file))
    about_sides = _declare_sides(everything, out.parent, facts)
    content: dict[str, Any] = {
        "name": out.stem if name is None else str(name),
        **_dims_and_grid(records, out.parent, facts, dims, spatial_size, spacing),
        "labels": _class_names(labels, facts_of(everything, "label", out.parent, facts)),
    }
    if subjects != "shared":
        content["subjects"] = subjects
    for key, modality in modalities.items():
        images = facts_of(sum(records[key].values(), []), "image", out.parent, facts)
        channels = _most_common([fact.channels for fact in images], default=1)
        content[key] = {"name": modality, "channels": channels, **records[key]}
    faults = entries.faults
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
    _write(out, content, overwrite)
    warn_of_doubts(datalist, facts)
    more = [f"not used: {len(entries.notes) - 20} more"] * (len(entries.notes) > 20)
    unused = [f"not used: {note}" for note in entries.notes[:20]]
    print("\n".join([describe(datalist, facts), *about_sides, *unused, *more]))
    return out


def _dims_and_grid(
    records: Mapping[str, Mapping[str, list[dict[str, str]]]],
    folder: Path,
    facts: Facts,
    dims: int | None,
    size: object,
    spacing: object,
) -> dict[str, Any]:
    """The keys `spatial_dims`, `spatial_size` and `spacing`, of what is asked for and of what images are.

    Args:
        records: by modality and section.
        folder: what their paths are relative to.
        facts: of the images.
        dims: asked for, or None.
        size: asked for, or None.
        spacing: asked for, or None.
    """
    from ..data.checks import TRAINING
    from ..data.extents import networks_grid
    from ..data.summary import facts_of

    def images(*sections: str) -> list[list[FileFacts]]:
        """Those of each modality."""
        return [
            facts_of([record for section in sections for record in each[section]], "image", folder, facts)
            for each in records.values()
        ]

    everything = sum(images(*SECTIONS), [])
    dims = dims or _most_common([fact.grid.dims for fact in everything], default=2)
    grid = networks_grid(size, _spacing_option(spacing), dims, everything, images(*TRAINING))
    return {"spatial_dims": dims, **grid}


def _declare_sides(records: Sequence[dict[str, str]], folder: Path, facts: Facts) -> list[str]:
    """Write the sides of all images, by the table or else by DICOM headers, into records, or of none.

    Args:
        records: of both modalities, with the `side` that a table states.
        folder: what their paths are relative to.
        facts: of the images.

    Returns:
        what is to be said of it.
    """
    from ..data.summary import facts_of, some_names

    sides, contradicted = [], []
    for record in records:
        header = next((fact.side for fact in facts_of([record], "image", folder, facts)), None)
        stated = record.pop("side", None)
        sides.append(stated or header)
        if stated and header and stated != header:
            contradicted.append(record["image"])
    silent = [record["image"] for record, side in zip(records, sides, strict=True) if not side]
    lines = []
    if not silent:
        for record, side in zip(records, sides, strict=True):
            record["side"] = str(side)
        lines.append(f"side: {sides.count('left')} images of the left, {sides.count('right')} of the right")
    elif len(silent) < len(records):
        lines.append(
            f"side: known of {len(records) - len(silent)} images, not of {len(silent)} "
            f"({some_names(silent)}), so none is written; state it for all in the column side of a table"
        )
    if contradicted:
        lines.append(
            f"side: {len(contradicted)} images are of the other side by their DICOM header "
            f"({some_names(contradicted)}); what the table says is taken"
        )
    return lines


def _write(out: Path, content: Mapping[str, Any], overwrite: bool) -> None:
    text = json.dumps(content, indent=1).encode()
    if os.path.exists(out) and out.read_bytes() != text and not overwrite:
        raise FileExistsError(
            f"{out} exists with other content. Name another --out or replace it: --overwrite."
        )
    with replacing(out) as partial:
        partial.write_bytes(text)


def _check_names(options: Mapping[str, object]) -> None:
    """Refuse options that no file or folder can be called."""
    texts = {key: str(value) if isinstance(value, Path) else value for key, value in options.items()}
    if faults := [fault for key, value in texts.items() for fault in path_faults(key, value)]:
        raise ValueError("\n- ".join(["These options of prepare cannot be:", *faults]))


def _check_options(
    data: Path,
    out: Path,
    modalities: Mapping[str, str],
    dims: object,
    spacing: object,
    val_fraction: object,
    test_fraction: object,
    seed: object,
    subjects: object,
) -> None:
    """Refuse options that cannot be, all at once; they come from the command line as anything."""
    if not os.path.exists(data):
        raise FileNotFoundError(f"No folder or CSV file at {printable(str(data), 500)}. Correct the path.")
    faults = []
    if data == out or (os.path.exists(out) and not os.path.isfile(out)):
        what = "the data" if data == out else "a folder or a device"
        faults.append(f"--out: expected a file to write, got {what}, {printable(str(out), 500)}")
    if modalities["source"] == modalities["target"]:
        faults.append(f"--source, --target: expected two modalities, got {shown(modalities['source'])} twice")
    if dims is not None and not (_is_whole(dims) and dims in (2, 3)):
        faults.append(f"--dims: expected dims of 2 or 3, got {shown(dims)}")
    try:
        _spacing_option(spacing)
    except ValueError as error:
        faults.append(str(error))
    fractions = {"--val-fraction": val_fraction, "--test-fraction": test_fraction}
    wrong = {key: value for key, value in fractions.items() if not _is_fraction(value)}
    faults += [f"{key}: expected a number from 0 to 1, got {shown(value)}" for key, value in wrong.items()]
    if not wrong and sum(fractions.values()) >= 1:  # type: ignore[arg-type]
        faults.append(
            f"--val-fraction, --test-fraction: expected fractions that leave a part to train on, got "
            f"{val_fraction} and {test_fraction}"
        )
    if not _is_whole(seed) or seed < 0:  # type: ignore[operator]
        faults.append(f"--seed: expected a whole number from 0 on, got {shown(seed)}")
    if subjects not in SUBJECTS:
        suggestion = did_you_mean(str(subjects), SUBJECTS)
        faults.append(f"--subjects: expected {' or '.join(SUBJECTS)}, got {shown(subjects)}{suggestion}")
    if faults:
        raise ValueError("\n- ".join(["These options of prepare cannot be:", *faults]))


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_fraction(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


def _spacing_option(spacing: object) -> float | list[float] | str | None:
    """The spacing that is asked for: a number or several, `extent`, or None where nothing is.

    Raises:
        ValueError: for anything else.
    """
    if spacing is None or (isinstance(spacing, str) and spacing == EXTENT):
        return spacing
    value = list(spacing) if isinstance(spacing, (list, tuple)) else spacing
    texts = value if isinstance(value, list) else [value]
    if texts and all(isinstance(text, str) for text in texts):  # of a command line
        try:
            value = numbers(",".join(map(str, texts)), float, several=True)
        except ValueError:
            pass
    if isinstance(value, list) and value and all(map(is_length, value)):
        return [float(length) for length in value]
    if is_length(value):
        return float(value)  # type: ignore[arg-type]
    suggestion = did_you_mean(value, [EXTENT]) if isinstance(value, str) else ""
    raise ValueError(
        f"--spacing: expected a positive number (mm), one for each axis, or {EXTENT}, got "
        f"{shown(spacing)}{suggestion}"
    )


def _label_option(labels: object) -> Mapping[Any, Any] | None:
    """Class names by label value, also as the JSON that a command line passes on."""
    if isinstance(labels, str):
        try:
            labels = json.loads(labels)
        except (ValueError, RecursionError):
            pass
    if labels is not None and not isinstance(labels, Mapping):
        raise ValueError(
            f'Expected --labels as a JSON object, such as \'{{"1": "femur", "2": "tibia"}}\', got '
            f"{shown(labels)}."
        )
    return labels


def _records(rows: list[Entry], key: str, section: str, folder: Path) -> list[dict[str, str]]:
    """Records with paths relative to the folder."""
    records = []
    for row in rows:
        if row.split != section:
            continue
        read = section != "train_unlabelled" and (key, section) != ("target", "val")
        files = {"image": row.image, "label": row.label if read else None, "landmarks": row.landmarks}
        paths = {name: Path(os.path.relpath(path, folder)).as_posix() for name, path in files.items() if path}
        records.append({**paths, "subject": row.subject} | ({"side": row.side} if row.side else {}))
    return records


def _most_common(values: list[int], default: int) -> int:
    return Counter(values).most_common(1)[0][0] if values else default


def _class_names(names: Mapping[Any, Any] | None, labels: list[FileFacts]) -> dict[str, Any]:
    if names is not None:
        return {"0": "background"} | {str(value): name for value, name in names.items()}
    found = {0, 1}.union(*(label.values or () for label in labels))
    return {str(value): f"label {value}" if value else "background" for value in range(len(found))}
