"""A datalist in a few lines: its frame, and what images it has, as `prepare` prints them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ..wording import printable
from .checks import TRAINING, Facts, FileFacts, stated_extents
from .datalist import SECTIONS, Datalist
from .extents import holds, in_mm
from .people import appearances

NAMED = 3  # so many images are named where some are counted


def describe(datalist: Datalist, facts: Facts) -> str:
    """A table of what a datalist holds: its frame; images, labels, subjects, sizes, spacing by section."""
    grid = " x ".join(map(str, datalist.spatial_size))
    grid += f" of {in_mm(datalist.spacing)}" if datalist.spacing else ""
    lines = [
        f"{datalist.path}: {datalist.name}, {datalist.spatial_dims}D, networks' grid {grid}",
        _frame(datalist, facts),
        f"classes: {', '.join(f'{value} {name}' for value, name in enumerate(datalist.label_names))}",
        f"{'modality':12}{'section':18}{'images':>7}{'labels':>7}{'subjects':>9}  {'size':24}spacing (mm)",
    ]
    for modality in (datalist.source, datalist.target):
        for section in SECTIONS:
            records = modality.records(section)
            if not records:
                continue
            images = facts_of(records, "image", Path(), facts)
            labelled = sum("label" in record for record in records)
            subjects = len({record["subject"] for record in records})
            sizes = _range(fact.grid.shape for fact in images)
            spacings = (
                _range(tuple(fact.grid.spacing) for fact in images if fact.spacing_known) or "not stated"
            )
            counts = f"{len(records):7}{labelled:7}{subjects:9}"
            lines.append(f"{modality.name:12}{section:18}{counts}  {sizes:24}{spacings}")
    people = appearances(datalist).values()
    both = [records for records in people if len({each.modality for each in records}) > 1]
    if both:
        lines.append(
            f"{len(both)} of {len(people)} people are in both modalities, by name (the first: "
            f"{both[0][0].record['subject']}); if they are other people: --subjects per_modality"
        )
    return "\n".join(lines)


def facts_of(records: Iterable[Mapping[str, str]], key: str, folder: Path, facts: Facts) -> list[FileFacts]:
    """The facts of the records' files that could be read.

    Args:
        records: with paths.
        key: `image` or `label`; records without are passed over.
        folder: what the paths are relative to.
        facts: by absolute path.
    """
    found = (facts.get(os.path.normpath(folder / record[key])) for record in records if key in record)
    return [fact for fact in found if fact is not None and not isinstance(fact, str)]


def some_names(paths: Sequence[str]) -> str:
    """The names of the first few files, and how many more there are."""
    names = [printable(Path(path).name, 60) for path in paths[:NAMED]]
    return ", ".join(names) + f" and {len(paths) - NAMED} more" * (len(paths) > NAMED)


def _frame(datalist: Datalist, facts: Facts) -> str:
    """What the networks see of an image, and which training images are larger than that."""
    records = [r for modality in (datalist.source, datalist.target) for r in modality.records(*TRAINING)]
    extents = stated_extents(records, datalist.spatial_dims, facts)
    silent = [record["image"] for record in records if record["image"] not in extents]
    size, spacing = datalist.spatial_size, datalist.spacing
    if spacing is None:
        why = ""
        if silent:
            why = f": {len(silent)} of {len(records)} training images do not state their spacing"
            why += f" ({some_names(silent)}); store it in all, as NIfTI, MHA and DICOM do" * bool(extents)
        return f"frame: the whole extent of each image{why}"
    told = []
    if larger := [path for path, extent in extents.items() if not holds(size, spacing, extent)]:
        told.append(f"{len(larger)} of {len(records)} training images are larger ({some_names(larger)})")
    if silent:
        told.append(f"{len(silent)} do not state their spacing ({some_names(silent)})")
    return f"frame: {in_mm(np.multiply(size, spacing))}, {', '.join(told) or 'no training image is larger'}"


def _range(values: Iterable[Sequence[float] | np.ndarray]) -> str:
    """The tuples' smallest and largest, entry by entry; empty when there are none."""
    table = np.array(list(values))
    if not len(table):
        return ""
    low, high = ("x".join(f"{entry:.4g}" for entry in extreme) for extreme in (table.min(0), table.max(0)))
    return low if low == high else f"{low} to {high}"
