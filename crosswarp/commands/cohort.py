"""The command `cohort`: the synthetic knees as files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import replacing

SMALLEST = 8  # points along an axis
COUNTED = (
    "seed",
    "train_labelled",
    "train_unlabelled",
    "val",
    "test",
    "target_train",
    "target_val",
    "target_test",
)
FRAME = 180  # mm that the networks see along each axis, as pictures show on average; shafts run on beyond


def cohort(
    folder: str | Path,
    size: int = 64,
    seed: int = 0,
    train_labelled: int = 10,
    train_unlabelled: int = 60,
    val: int = 6,
    test: int = 20,
    target_train: int = 70,
    target_val: int = 10,
    target_test: int = 20,
    source: str = "dxa",
    grid: int | None = None,
    as_they_come: bool = False,
    left: float | None = None,
    scaled: float | None = None,
    cropped: float | None = None,
    pixel_sizes: float | None = None,
    turned: float | None = None,
    inverted: float | None = None,
) -> Path:
    """Write a cohort of knees as NIfTI files and the datalist that names them.

    Writing again with the same arguments changes nothing.

    Args:
        folder: where to write; made if absent.
        size: image size in pixels, both axes.
        seed: one seed is one population of subjects; an image does not depend on how many others there are.
        train_labelled: labelled source images for training.
        train_unlabelled: unlabelled source images for training.
        val: labelled source images for validation.
        test: labelled source images for the report.
        target_train: target images for training, without labels.
        target_val: target images for validation, without labels.
        target_test: labelled target images for the report.
        source: the modality with the labels, ``"dxa"`` or ``"xray"``.
        grid: points of the networks' grid along both axes; by default as many as the images have pixels.
        as_they_come: pictures as real cohorts have them: a fair share of each of what follows, .2 to .5,
            unless it is given. Without, all are right knees, upright, on squares of size x size pixels.
        left: share of left knees, 0 to 1; records then say their ``side``. What is of the other side looks
            mirrored.
        scaled: share of people up to an eighth smaller or larger than others.
        cropped: share of images with another field of view: smaller, cut along one axis, or wider. They have
            other numbers of pixels.
        pixel_sizes: share of images with other pixels, half to 1.25 times as large, some of them not square.
        turned: share of the *test* images that are turned by 90, 180 or 270 degrees, or tilted by 10 to 25,
            while their headers say that they are upright.
        inverted: share of the *test* images in which bright and dark are exchanged.

    Returns:
        Path of ``datalist.json``.

    Raises:
        FileExistsError: when the folder holds another datalist.
        ValueError: for another source, too small a size, a negative number, or what is no share.
    """
    wanted = {key: value for key, value in locals().items() if key != "folder"} | {"kind": "knee"}

    from ..data.knee import LABELS, MODALITIES
    from ..data.views import AS_THEY_COME, check_shares

    _check_numbers(size, grid, {name: wanted[name] for name in COUNTED})
    shares = {
        name: (usual if wanted["as_they_come"] else 0.0) if wanted[name] is None else wanted[name]
        for name, usual in AS_THEY_COME.items()
    }
    check_shares(shares)
    wanted = {key: value for key, value in wanted.items() if key not in {"as_they_come", *shares}}
    wanted |= {name: share for name, share in shares.items() if share}  # the same cohorts as without shares
    if source not in MODALITIES:
        raise ValueError(f"Expected source in {MODALITIES}, got {source!r}.")
    for name, usual in (("source", MODALITIES[0]), ("grid", None)):
        if wanted[name] == usual:
            del wanted[name]  # cohorts of earlier versions are the same
    folder = Path(folder).absolute()
    path = folder / "datalist.json"
    if path.exists():
        found = _cohort_of(path)
        if found == wanted:
            return path
        raise FileExistsError(
            f"{path} holds another cohort ({found}), wanted {wanted}. Name another folder or remove this one."
        )
    counts = {  # section, number of images, labelled or not
        "source": [
            ("train_labelled", train_labelled, True),
            ("train_unlabelled", train_unlabelled, False),
            ("val", val, True),
            ("test", test, True),
        ],
        "target": [
            ("train_unlabelled", target_train, False),
            ("val", target_val, False),
            ("test", target_test, True),
        ],
    }
    content: dict[str, Any] = {
        "name": "knee",
        "spatial_dims": 2,
        "spatial_size": [grid or size] * 2,
        "spacing": [FRAME / (grid or size)] * 2,
        "labels": {str(value): name for value, name in enumerate(LABELS)},
    }
    target = next(each for each in MODALITIES if each != source)
    for key, modality in (("source", source), ("target", target)):
        content[key] = {"name": modality, "channels": 1} | {section: [] for section, _, _ in counts[key]}
    sections = [(key, *each) for key in counts for each in counts[key]]
    _write_knees(folder, content, sections, size, seed, shares)
    with replacing(path) as partial:
        partial.write_text(json.dumps(content | {"cohort": wanted}, indent=1))
    return path


def _check_numbers(size: int, grid: int | None, counts: Mapping[str, int]) -> None:
    """Refuse sizes that show nothing, and numbers of images that cannot be, naming all."""
    faults = [
        f"{name}: expected at least {SMALLEST}, got {value}"
        for name, value in {"size": size, "grid": grid}.items()
        if value is not None and value < SMALLEST
    ]
    faults += [f"{name}: expected 0 or more, got {value}" for name, value in counts.items() if value < 0]
    if faults:
        raise ValueError("\n- ".join(["No cohort can be drawn so:", *faults]))


def _cohort_of(path: Path) -> Any:
    """What a datalist says of the cohort that it names; None where it is none of ours."""
    try:
        return json.loads(path.read_text()).get("cohort")
    except (ValueError, AttributeError):
        return None


def _write_knees(
    folder: Path,
    content: Mapping[str, Any],
    sections: list[tuple[str, str, int, bool]],
    size: int,
    seed: int,
    shares: Mapping[str, float],
) -> None:
    """Draw the images and labels, and add their records to the datalist's content."""
    from ..data.knee import MODALITIES, draw_knee, save_picture
    from ..data.views import choose_view
    from ..terminal import LiveLine

    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    drawn = {"source": 0, "target": 0}
    with LiveLine("drawing knees", sum(count for _, _, count, _ in sections), delay=2) as line:
        for key, section, count, labelled in sections:
            modality = content[key]["name"]
            for _ in range(count):
                drawn[key] += 1
                subject = f"{modality}_{drawn[key]:04d}"
                number = (seed, MODALITIES.index(modality), drawn[key])
                view = choose_view(number, shares, section == "test")
                image, label, spacing = draw_knee(modality, drawn[key], size, seed, view)
                record = {"image": f"images/{subject}.nii.gz", "subject": subject}
                save_picture(image, spacing, folder / record["image"])
                if labelled:
                    record["label"] = f"labels/{subject}.nii.gz"
                    save_picture(label, spacing, folder / record["label"])
                if shares["left"]:
                    record["side"] = "left" if view.left else "right"
                content[key][section].append(record)
                line.advance()
