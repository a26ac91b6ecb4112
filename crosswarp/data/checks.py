"""Checks of the files that a datalist names: all that is wrong is said at once, before training starts."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from monai.data.utils import is_no_channel
from nibabel.orientations import apply_orientation, io_orientation

from ..errors import Notice
from ..spatial.grid import Grid
from ..terminal import track
from .datalist import Datalist, DatalistError, Modality
from .dicom import patient_of
from .extents import canonical_extent, in_mm, is_plausible, typical_extent
from .landmarks import read_landmarks
from .people import Appearance, Person, appearances, people_faults
from .readers import UnfitFileError, read_image

READERS = 4  # images that are checked at a time, each of which may take twice its size as float64


@dataclass(frozen=True)
class FileFacts:
    """What reading a file has shown.

    Attributes:
        grid: where the voxels lie.
        channels: number of channels.
        spacing_known: whether the file states how far apart they are.
        place_known: whether the file states where it lies.
        finite: no NaN and no infinity.
        constant: all voxels equal.
        values: the values that occur where all are integers within ±1000 (labels), else None.
        content: a digest of shape and values, equal for two files of one picture, whatever their types of
            numbers and order of axes.
        side: `left` or `right` where the file states the side of the body.
        patient: a digest of the PatientID of a DICOM header, or "".
    """

    grid: Grid
    channels: int
    spacing_known: bool
    place_known: bool
    finite: bool
    constant: bool
    values: tuple[int, ...] | None
    content: str
    side: str | None = None
    patient: str = ""


TRAINING = ("train_labelled", "train_unlabelled")
Facts = Mapping[str, "FileFacts | str"]


def check_datalist(datalist: Datalist) -> None:
    """Check the files and splits of a datalist; labels of the target's `val` are left out.

    Warns, once each, when files do not state their pixel spacing, of labels that lack classes, and of
    patients in several splits by the headers of DICOM images.

    Args:
        datalist: what `load_datalist` returned.

    Raises:
        DatalistError: (a `ValueError`) naming every fault: files missing or unreadable; mixed dimensions;
            wrong number of channels; NaN, infinity or constant images; labels that are not integers, not of a
            declared class, not on the grid of their image, those of somebody else, or the image itself; a
            spacing that makes an image many times as large as the training images of its modality; landmarks
            that cannot be read; a subject in two splits, in whichever modality, or with a name in two
            spellings; a picture under two subjects, in two splits or in two modalities; an image listed
            twice; no labelled image for training or validation, no target image; a class in no training
            label.
    """
    facts = read_facts(files_to_check(datalist))
    if faults := find_faults(datalist, facts):
        raise DatalistError(datalist.path, faults)
    warn_of_doubts(datalist, facts)


def files_to_check(datalist: Datalist) -> list[str]:
    """Images, and the labels that are ever read."""
    records = datalist.source.records() + datalist.target.records()
    labelled = datalist.source.records() + datalist.target.records("test")
    return [record["image"] for record in records] + [r["label"] for r in labelled if "label" in r]


def read_facts(
    paths: Iterable[str], spacing: float | Sequence[float] | None = None
) -> dict[str, FileFacts | str]:
    """Read files, several at a time and with a progress bar.

    Args:
        paths: files of any format that `AnyFormatReader` reads, or DICOM folders.
        spacing: in mm, for files that do not state theirs; see `AnyFormatReader`.

    Returns:
        by path: facts, or in words why there are none.
    """
    unique = sorted(set(paths))
    with ThreadPoolExecutor(min(READERS, os.cpu_count() or 1)) as pool:
        results = pool.map(partial(_read, spacing=spacing), unique)
        facts = list(track(results, "checking files", len(unique)))
    return dict(zip(unique, facts, strict=True))


def find_faults(datalist: Datalist, facts: Facts) -> list[str]:
    """All faults of a datalist, one line each.

    Args:
        datalist: what to check.
        facts: of all `files_to_check`.
    """
    faults = [f"{path}: {reason}" for path, reason in facts.items() if isinstance(reason, str)]
    faults += people_faults(datalist) + _picture_faults(datalist, facts) + _copy_faults(datalist, facts)
    for modality, labelled in (
        (datalist.source, datalist.source.records()),
        (datalist.target, datalist.target.records("test")),
    ):
        faults += _repetition_faults(modality)
        for record in modality.records():
            faults += image_faults(record, modality.channels, datalist.spatial_dims, facts)
            faults += _landmark_faults(record, datalist.spatial_dims)
        for record in labelled:
            faults += label_faults(record, datalist.num_classes, facts)
    faults += _section_faults(datalist) + _extent_faults(datalist, facts)
    return faults + _class_faults(datalist, facts)


def warn_of_missing_spacing(facts: Facts) -> None:
    """One warning for all files that do not state their pixel spacing."""
    silent = [path for path, fact in facts.items() if isinstance(fact, FileFacts) and not fact.spacing_known]
    if silent:
        warnings.warn(
            f"{len(silent)} of {len(facts)} files do not state their pixel spacing (the first: {silent[0]}): "
            "1 mm stands in, so lengths there are in pixels. NIfTI, MHA and DICOM store spacing.",
            Notice,
            stacklevel=3,
        )


def warn_of_doubts(datalist: Datalist, facts: Facts) -> None:
    """Warn of what may be wrong and is no fault: spacing, classes and patients in two splits."""
    warn_of_missing_spacing(facts)
    for note in [*_class_notes(datalist, facts), *_patient_notes(datalist, facts)]:
        warnings.warn(note, Notice, stacklevel=3)


def _class_notes(datalist: Datalist, facts: Facts) -> Iterator[str]:
    """Classes that no label to validate on has, and labels that have none."""
    name = datalist.source.name
    values = {r["label"]: facts[r["label"]] for r in datalist.source.records("train_labelled", "val")}
    shown = {path: set(fact.values or ()) for path, fact in values.items() if isinstance(fact, FileFacts)}
    validated = set().union(*(shown.get(r["label"], set()) for r in datalist.source.val))
    if unseen := [n for value, n in enumerate(datalist.label_names) if value and value not in validated]:
        yield (
            f"No validation label of {name} has {', '.join(unseen)}: nothing will show whether the networks "
            "have learnt that. Choose people for val who have it."
        )
    if empty := [path for path, found in shown.items() if found == {0}]:
        yield (
            f"{len(empty)} of {len(shown)} labels of {name} hold the background alone (the first: "
            f"{empty[0]}): the networks learn that nothing is there. See that they are finished."
        )


def _patient_notes(datalist: Datalist, facts: Facts) -> Iterator[str]:
    """Patients by DICOM headers whose images stand under subjects of several splits; one for all is none."""
    found: dict[str, dict[str, Appearance]] = defaultdict(dict)
    for records in appearances(datalist).values():
        for each in records:
            image = facts[each.record["image"]]
            if isinstance(image, FileFacts) and image.patient:
                found[image.patient].setdefault(each.split, each)
    apart = [list(of_split.values()) for of_split in found.values() if len(of_split) > 1]
    if apart and len(found) > 1:
        first, other = (
            f"{each.record['image']}, subject {each.record['subject']!r} in {each.place}"
            for each in apart[0][:2]
        )
        yield (
            f"{len(apart)} of {len(found)} patients, by the PatientID of their DICOM headers, are in several "
            f"splits (the first: {first}, and {other}): what is measured there is not of new people. Give "
            "each patient one subject, in a table or by --subject-pattern."
        )


def _read(path: str, spacing: float | Sequence[float] | None) -> FileFacts | str:
    if not os.path.exists(path):
        return "missing; correct the path or bring the file"
    if not (os.path.isfile(path) or os.path.isdir(path)):
        return "is a device or a pipe; name an image"
    try:
        array, meta = read_image(path, spacing)
    except UnfitFileError as error:
        return str(error).removeprefix(f"{path}: ")
    finite = bool(np.isfinite(array).all())
    low, high = array.min(), array.max()
    values = None
    if finite and -1000 <= low and high <= 1000 and np.array_equal(array, np.rint(array)):
        values = tuple(np.unique(array).astype(int).tolist())
    return FileFacts(
        grid=Grid.from_ras(meta["affine"], meta["spatial_shape"]),
        channels=1 if is_no_channel(meta["original_channel_dim"]) else array.shape[-1],
        spacing_known=meta["spacing_known"],
        place_known=meta["place_known"],
        finite=finite,
        constant=bool(low == high),
        values=values,
        content=_content_digest(array, meta["affine"]),
        side=meta.get("side"),
        patient=patient_of(Path(path)),
    )


def _content_digest(array: np.ndarray, affine: np.ndarray) -> str:
    """A digest of the values as numbers, whatever their type, along the axes of the body."""
    lying = apply_orientation(array, io_orientation(affine))
    with np.errstate(over="ignore"):
        values = np.add(lying, 0.0, dtype=np.float32, order="C")  # which makes 0 of -0
    digest = hashlib.sha256(repr(values.shape).encode())
    digest.update(values.data)
    return digest.hexdigest()


def _repetition_faults(modality: Modality) -> list[str]:
    times = Counter(record["image"] for record in modality.records())
    return [
        f"{image}: listed {count} times in {modality.name}; list it once"
        for image, count in times.items()
        if count > 1
    ]


def _picture_faults(datalist: Datalist, facts: Facts) -> list[str]:
    """Pictures that stand, in several files, under two subjects, in two splits or in two modalities."""
    found: dict[str, dict[tuple[str, str], tuple[Person, Appearance]]] = defaultdict(dict)
    for person, records in appearances(datalist).items():
        for each in records:
            image = facts[each.record["image"]]
            if isinstance(image, FileFacts) and not image.constant:
                found[image.content][each.modality, each.record["image"]] = person, each
    faults = []
    for alike in found.values():
        (first_person, first), *others = alike.values()
        for person, other in others:
            if (person, other.place) != (first_person, first.place):
                faults.append(
                    f"{other.record['image']}: subject {other.record['subject']!r} in {other.place} has the "
                    f"same picture as {first.record['image']}, subject {first.record['subject']!r} in "
                    f"{first.place}; remove one, or correct the path"
                )
    return faults


def _copy_faults(datalist: Datalist, facts: Facts) -> list[str]:
    """Labels that are those of another person, or the very image that they should be of."""
    faults, found = [], dict[str, tuple[Person, Appearance]]()
    for person, records in appearances(datalist).items():
        for each in records:
            path = each.record.get("label", "")
            label, image = facts.get(path), facts[each.record["image"]]
            if not isinstance(label, FileFacts) or label.constant:
                continue
            first_person, first = found.setdefault(label.content, (person, each))
            if isinstance(image, FileFacts) and image.content == label.content:
                faults.append(f"{path}: is its image {each.record['image']} itself; correct the path of one")
            elif person != first_person:
                faults.append(
                    f"{path}: label of subject {each.record['subject']!r} is that of "
                    f"{first.record['label']}, subject {first.record['subject']!r}; correct the path"
                )
    return faults


def _landmark_faults(record: Mapping[str, str], spatial_dims: int) -> list[str]:
    path = record.get("landmarks")
    if path is None:
        return []
    if not os.path.isfile(path):
        return [f"{path}: missing; correct the path or bring the file"]
    try:
        read_landmarks(path, spatial_dims)
    except (ValueError, OSError) as error:
        return [str(error).replace("\n- ", " ")]
    return []


def image_faults(record: Mapping[str, str], channels: int, spatial_dims: int, facts: Facts) -> list[str]:
    """What keeps an image from going into a network; nothing for one that could not even be read.

    Args:
        record: `image`.
        channels: those of its modality.
        spatial_dims: of the networks, 2 or 3.
        facts: of the image.
    """
    path, image = record["image"], facts[record["image"]]
    if isinstance(image, str):
        return []
    faults = []
    if image.grid.dims != spatial_dims:
        found = f"{image.grid.dims}D {image.grid.shape}"
        faults.append(f"{path}: is {found}, the networks are {spatial_dims}D; keep to one")
    if image.channels != channels:
        faults.append(f"{path}: has {image.channels} channels, its modality {channels}; convert it")
    if not image.finite:
        faults.append(f"{path}: has NaN or infinite voxels; replace them")
    elif image.constant:
        faults.append(f"{path}: all voxels are equal; remove or replace this empty image")
    return faults


def label_faults(record: Mapping[str, str], num_classes: int, facts: Facts) -> list[str]:
    """What keeps a label from being used with its image; nothing for one that could not even be read.

    Args:
        record: `image` and perhaps `label`.
        num_classes: classes, background included.
        facts: of both.
    """
    path = record.get("label", "")
    label, image = facts.get(path, ""), facts[record["image"]]
    if isinstance(label, str):
        return []
    faults = []
    if label.channels != 1:
        faults.append(f"{path}: has {label.channels} channels; store one, with the number of the class")
    if label.values is None:
        faults.append(f"{path}: has values that are no class numbers; store 0 to {num_classes - 1}")
    elif unknown := sorted(set(label.values) - set(range(num_classes))):
        declared = f"declared are 0 to {num_classes - 1}"
        more = " and more" if len(unknown) > 10 else ""
        faults.append(f"{path}: has the values {unknown[:10]}{more}, {declared}; declare them or relabel")
    if isinstance(image, str):
        return faults
    where = f"its image {record['image']}"
    if label.grid.shape != image.grid.shape:
        faults.append(f"{path}: has shape {label.grid.shape}, {where} {image.grid.shape}; resample the label")
    elif image.place_known and label.place_known and not image.grid.same_place(label.grid):
        faults.append(
            f"{path}: by its header (spacing, direction, origin) lies elsewhere than {where}; "
            "resample the label or copy the image's header"
        )
    return faults


def stated_extents(
    records: Iterable[Mapping[str, str]], spatial_dims: int, facts: Facts
) -> dict[str, np.ndarray]:
    """How large images are, of those that state their spacing.

    Args:
        records: with `image` each.
        spatial_dims: 2 or 3; images of other dimensions are left out.
        facts: of the images.

    Returns:
        by path: in mm along the axes of the networks, ``[D]``.
    """
    images = {record["image"]: facts[record["image"]] for record in records}
    return {
        path: canonical_extent(image.grid)
        for path, image in images.items()
        if isinstance(image, FileFacts) and image.spacing_known and image.grid.dims == spatial_dims
    }


def _extent_faults(datalist: Datalist, facts: Facts) -> list[str]:
    """Spacings that contradict those of the training images: of micrometres for millimetres, for instance."""
    faults, typical = [], {}
    for modality in (datalist.source, datalist.target):
        name = modality.name
        training = stated_extents(modality.records(*TRAINING), datalist.spatial_dims, facts)
        if not training:
            continue
        usual = typical[name] = typical_extent(list(training.values()))
        faults += [
            f"{path}: by its spacing is {in_mm(extent)} large, the median of the training images of {name} "
            f"{in_mm(usual)}; correct its spacing, which has to be in mm, or remove it"
            for path, extent in stated_extents(modality.records(), datalist.spatial_dims, facts).items()
            if not is_plausible(extent, usual)
        ]
    if not faults and datalist.spacing is not None and len(typical) == 2:
        (source, of_source), (target, of_target) = typical.items()
        if not is_plausible(of_source, of_target):
            faults.append(
                f"spacing: the training images of {source} are {in_mm(of_source)} large in the median, those "
                f"of {target} {in_mm(of_target)}, so one spacing cannot serve both; correct the spacing of "
                "the files, which has to be in mm, or leave this one out (prepare: --spacing extent)"
            )
    return faults


def _section_faults(datalist: Datalist) -> list[str]:
    needed = (
        ("source", datalist.source, "train_labelled", "a labelled image to train on"),
        ("source", datalist.source, "val", "a labelled image to choose the network by"),
        ("target", datalist.target, "train_unlabelled", "images to adapt to"),
    )
    return [
        f"{key}.{section} ({modality.name}) is empty; give {purpose}"
        for key, modality, section, purpose in needed
        if not modality.records(section)
    ]


def _class_faults(datalist: Datalist, facts: Facts) -> list[str]:
    labels = [facts[record["label"]] for record in datalist.source.records("train_labelled")]
    readable = [label.values or () for label in labels if isinstance(label, FileFacts)]
    seen = set().union(*readable)
    name = datalist.source.name
    return [
        f"class {value} ({label_name}) is in no training label of {name}; label it or do not declare it"
        for value, label_name in enumerate(datalist.label_names)
        if readable and value not in seen
    ]
