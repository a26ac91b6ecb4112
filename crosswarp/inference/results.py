"""What results are called, and whose they are: known, distinct and free before anything is computed."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..disk import explained
from ..lock import one_writer
from ..wording import printable

IMAGES = (
    *(".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".nhdr", ".dcm", ".img.gz", ".img", ".hdr"),
    *(".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp"),
)
SUFFIXES = (*IMAGES, ".h5", ".tfm", ".json")
PAIR_KINDS = ("warped", "warped_seg", "transform", "inverse", "displacement", "quality")
FILES = ("transform", "inverse", "displacement", "warped", "warped_seg", "moving_seg", "fixed_seg") + (
    *("quality", "picture"),
)
SOURCES = "sources.jsonl"
CLAIM_SECONDS = 5  # to wait for another process that claims its results in the same folder
MOST_BYTES = 220  # of a result's name, which gets a suffix, and another one while it is written
_NAMES = {  # class of a postprocessing -> what it writes, or is for
    "SaveTransformsd": ("transform", "inverse", "displacement"),
    "SaveQualityd": ("quality", "picture"),
    "PredictedLabelsd": ("warped_seg", "moving_seg", "fixed_seg"),
    "WarpMovingd": ("warped", "warped_seg"),
}
Results = Mapping[str, tuple[str, ...]]  # name, without suffix -> what it is made of


def file_stem(path: str | Path) -> str:
    """A file's name without the suffix of an image, if it has one: what results are named after.

    Nothing else is cut off: ``knee.v1.nii.gz`` is ``knee.v1``, and so is the DICOM folder ``knee.v1/``.
    """
    name = os.path.basename(os.path.abspath(path))
    suffix = next((each for each in SUFFIXES if name.lower().endswith(each) and name.lower() != each), "")
    return name.removesuffix(name[len(name) - len(suffix) :])


def pair_results(record: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """The results of a pair, and what each is made of.

    Args:
        record: paths, or other unique names, of ``moving``, ``fixed`` and what else there is, such as
            ``moving_label``.

    Returns:
        name, without suffix -> sources.
    """
    sources = tuple(record.values())
    fixed = file_stem(record["fixed"])
    stems = [file_stem(path) for key, path in record.items() if key != "fixed"]
    results = {f"{stem}_to_{fixed}_{kind}": sources for stem in stems for kind in PAIR_KINDS}
    own = {f"{file_stem(record[key])}_{key}_seg": (record[key],) for key in ("moving", "fixed")}
    return results | own


def segmentation_results(image: str) -> dict[str, tuple[str, ...]]:
    """The result of an image that is segmented by itself; see :func:`pair_results`."""
    return {f"{file_stem(image)}_seg": (image,)}


def named_result(meta: Mapping[str, Any], _: object) -> dict[str, Any]:
    """Name a result for MONAI's ``SaveImage``, which would cut ``scan.1`` and ``IM.0001`` at the dot."""
    return {"subject": f"{file_stem(meta['filename_or_obj'])}.nii.gz", "idx": meta.get("patch_index")}


def only(transforms: Sequence[Any], files: Sequence[str]) -> list[Any]:
    """Return the postprocessing of a config that writes some of `FILES` alone.

    Args:
        transforms: of the config's postprocessing. What is not the library's own is left as it is.
        files: which ones.
    """
    kept = []
    for transform in transforms:
        said = transform if isinstance(transform, dict) else {}
        kind = str(said.get("_target_", "")).rpartition(".")[2]
        could = _NAMES.get(kind, (said.get("output_postfix", ""),) if kind == "SaveImaged" else ())
        names = [name for name in could if name in files]
        if not names and set(could) & set(FILES):
            continue
        if kind in ("SaveTransformsd", "SaveQualityd"):
            transform = transform | {"names": names}
        if kind == "SaveTransformsd" and "displacement" not in names:
            transform = transform | {"displacement_suffix": None}
        kept.append(transform)
    return kept


def result_faults(results: Iterable[Results], folder: str | Path | None = None) -> list[str]:
    """Why results cannot be written: names that are equal or too long, or are taken by what others made.

    Args:
        results: of each pair.
        folder: where they are to be; None to compare them with each other alone.
    """
    wanted: dict[str, tuple[str, tuple[str, ...]]] = {}
    clashes: dict[tuple[str, ...], str] = {}
    faults = []
    for name, sources in ((name, sources) for each in results for name, sources in each.items()):
        known = wanted.setdefault(_folded(name), (name, sources))
        if known[1] != sources:
            clashes.setdefault(tuple(sorted({*known[1], *sources})), name)
        if len(os.fsencode(name)) > MOST_BYTES:
            faults.append(f"{printable(name)} has more than {MOST_BYTES} bytes: shorten the files' names")
    faults += [
        "Expected files of different names, since results are named after them and would overwrite each "
        f"other as {printable(name, 300)}, got {', '.join(files)}: rename them, or give each its own "
        "output folder"
        for files, name in clashes.items()
    ]
    if folder is not None:
        faults += _taken(wanted, Path(folder))
    return list(dict.fromkeys(faults))


def claim(folder: str | Path, results: Sequence[Results]) -> None:
    """Note in a folder what results are made of, so that only they themselves are ever replaced.

    The notes are lines of ``sources.jsonl``. The folder is made if absent.

    Args:
        folder: where they are to be.
        results: of each pair.

    Raises:
        ValueError: as :func:`result_faults` says.
        BusyError: where another process registers a list of pairs into the folder.
        DiskError: where the folder cannot be written to.
    """
    folder = Path(folder)
    if faults := result_faults(results, folder):
        raise ValueError("\n- ".join([f"Expected results to write into {folder}, but:", *faults]))
    with one_writer(folder, CLAIM_SECONDS), explained(folder / SOURCES):
        _note(folder, results)


def _note(folder: Path, results: Sequence[Results]) -> None:
    """Write what results are made of, as far as it is not known, at once and on the disk."""
    if faults := result_faults(results, folder):  # of those that another process has claimed meanwhile
        raise ValueError("\n- ".join([f"Expected results to write into {folder}, but:", *faults]))
    known = _sources(folder)
    lines: dict[tuple[str, ...], list[str]] = {}
    for name, sources in ((name, sources) for each in results for name, sources in each.items()):
        if known.get(_folded(name)) != sources:
            lines.setdefault(sources, []).append(name)
    notes = [{"made_of": made_of, "results": list(dict.fromkeys(names))} for made_of, names in lines.items()]
    cut = (folder / SOURCES).is_file() and not (folder / SOURCES).read_bytes().endswith(b"\n")
    with open(folder / SOURCES, "a", encoding="utf-8") as file:
        file.write("\n" * cut + "".join(json.dumps(note) + "\n" for note in notes))
        file.flush()
        os.fsync(file.fileno())


def _taken(wanted: Mapping[str, tuple[str, tuple[str, ...]]], folder: Path) -> list[str]:
    """Which results would replace what is there and was made of something else."""
    if not folder.is_dir():
        return []
    made_of, faults = _sources(folder), {}
    for path in sorted(folder.iterdir()):
        folded = _folded(file_stem(path))
        if folded in wanted and made_of.get(folded) != (sources := wanted[folded][1]):
            origin = "+ ".join(made_of.get(folded, ("something unknown",)))
            faults[sources] = (
                f"{path} is there and was made of {printable(origin, 300)}, not of {', '.join(sources)}: "
                "give another output folder, rename the images, or remove what is there"
            )
    return list(faults.values())


def _sources(folder: Path) -> dict[str, tuple[str, ...]]:
    """Name, as it is compared -> what it was made of last."""
    found: dict[str, tuple[str, ...]] = {}
    try:
        lines = (folder / SOURCES).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return found
    for line in lines:
        try:
            note = json.loads(line)
            found |= {_folded(name): tuple(note["made_of"]) for name in note["results"]}
        except (ValueError, TypeError, KeyError):
            continue  # a line that was cut short says nothing, and what it was about counts as unknown
    return found


def _folded(name: str) -> str:
    """A name as file systems compare it that know no case, or have one form of accents."""
    return unicodedata.normalize("NFC", name).casefold()
