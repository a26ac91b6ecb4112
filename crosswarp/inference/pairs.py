"""Pairs of files to register."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..data.checks import image_faults, label_faults, read_facts, warn_of_missing_spacing
from ..data.readers import given_spacing
from .results import claim, pair_results, result_faults, segmentation_results

Paths = str | Sequence[str] | None
Records = list[dict[str, str]]
Spacings = Mapping[str, float | Sequence[float] | None]


def pair_records(
    folder: str = ".",
    spatial_dims: int | None = None,
    channels: Mapping[str, int] | None = None,
    labels: Mapping[str, str] | None = None,
    num_classes: int = 0,
    spacing: Spacings | None = None,
    output_dir: str | None = None,
    **files: Paths,
) -> Records:
    """Line files up as pairs, the first moving with the first fixed and so on; one file serves all pairs.

    With ``spatial_dims`` the files are read and checked. Warns of files that do not state their spacing.

    Args:
        folder: what relative paths are relative to.
        spatial_dims: of the networks, 2 or 3; None to check only that the files are there.
        channels: of ``moving`` and of ``fixed``.
        labels: what of ``files`` is a label, and which of ``files`` its image is (or itself).
        num_classes: of labels, background included.
        spacing: of ``moving`` and of ``fixed``, in mm, where the files do not state it; see
            :class:`~.readers.AnyFormatReader`.
        output_dir: where the results will be written: their names are taken there, see
            :func:`~crosswarp.inference.results.claim`.
        files: ``moving``, ``fixed`` and whatever belongs to them (``moving_label``), each a path, a list or
            None.

    Returns:
        one record ``{"moving": path, "fixed": path, ...}`` for each pair, with absolute paths.

    Raises:
        ValueError: when moving or fixed are not given, their numbers do not fit, or results would have one
            name, as those of equally named files in different folders, or the name of what another pair left
            in `output_dir`; when files cannot be read, have other dimensions or channels, NaN, equal voxels
            all over, no labels where they should, or a spacing that contradicts the given one. All faults of
            the files are named.
        FileNotFoundError: naming every missing file, and all faults of the others.
    """
    lists = {key: [value] if isinstance(value, str) else list(value) for key, value in files.items() if value}
    absent = [key for key in ("moving", "fixed") if key not in lists]
    if absent:
        raise ValueError(
            f"Expected a path or a list of paths for {' and '.join(absent)}: give --moving A --fixed B."
        )
    count = max(map(len, lists.values()))
    wrong = {key: len(value) for key, value in lists.items() if len(value) not in (1, count)}
    if wrong:
        raise ValueError(f"Expected one file or {count} files of each kind, got {wrong}.")
    paths = {key: [str(Path(folder) / path) for path in value] for key, value in lists.items()}
    records = [{key: _absolute(value[i % len(value)]) for key, value in paths.items()} for i in range(count)]
    missing = sorted({path for value in paths.values() for path in value if not Path(path).exists()})
    results = [
        pair_results({key: os.path.abspath(path) for key, path in record.items()}) for record in records
    ]
    faults = result_faults(results, output_dir)
    if spatial_dims is not None:
        for sizes in (spacing or {}).values():
            if sizes is not None:
                given_spacing(sizes, spatial_dims)
        faults += file_faults(records, spatial_dims, channels or {}, labels or {}, num_classes, spacing or {})
    if missing:
        lines = ["Expected files that are not there: " + ", ".join(missing), *faults]
        raise FileNotFoundError("\n- ".join(lines))
    if faults:
        raise ValueError("\n- ".join(["Expected images to register, but some do not serve:", *faults]))
    if output_dir is not None:
        claim(output_dir, results)
    return records


def image_records(images: Paths, output_dir: str, folder: str = ".") -> Records:
    """Images to segment, the names of whose results are taken where these will be written.

    Args:
        images: a path or a list of paths; None for all ``.nii.gz`` of the folder.
        output_dir: see :func:`~crosswarp.inference.results.claim`.
        folder: what relative paths are relative to.

    Returns:
        one record ``{"image": path}`` for each, with an absolute path.

    Raises:
        FileNotFoundError: naming every missing file.
        ValueError: where results would have one name, or the name of what is there of another image.
    """
    if images is None:
        images = sorted(path.name for path in Path(folder).glob("[!.]*.nii.gz"))
    paths = [str(Path(folder) / path) for path in ([images] if isinstance(images, str) else images)]
    if missing := [path for path in paths if not Path(path).exists()]:
        raise FileNotFoundError("Expected files that are not there: " + ", ".join(missing))
    claim(output_dir, [segmentation_results(os.path.abspath(path)) for path in paths])
    return [{"image": _absolute(path)} for path in paths]


def _absolute(path: str) -> str:
    """A path that no reader takes for somebody's home, as they do where ``~`` begins it."""
    return str(Path(path).absolute())


def file_faults(
    records: Records,
    spatial_dims: int,
    channels: Mapping[str, int],
    labels: Mapping[str, str],
    num_classes: int,
    spacing: Spacings,
) -> list[str]:
    """All faults of the files of pairs, one line each; missing files are left out. See `pair_records`."""
    facts, faults = {}, []
    for key in {**channels, **labels}:
        paths = {record[key] for record in records if key in record and Path(record[key]).exists()}
        facts[key] = read_facts(paths, spacing.get(key))
        faults += [f"{path}: {fact}" for path, fact in facts[key].items() if isinstance(fact, str)]
    for record in records:
        for key, count in channels.items():
            if record[key] in facts[key]:
                faults += image_faults({"image": record[key]}, count, spatial_dims, facts[key])
        for key, image in labels.items():
            known = facts[image] | facts[key]
            if key in record and {record[key], record[image]} <= known.keys():
                faults += label_faults({"image": record[image], "label": record[key]}, num_classes, known)
    warn_of_missing_spacing({path: fact for key in channels for path, fact in facts[key].items()})
    return list(dict.fromkeys(faults))
