"""The command `cohort`: the synthetic knees as files."""

from __future__ import annotations

import json
from pathlib import Path


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

    Returns:
        Path of ``datalist.json``.

    Raises:
        FileExistsError: when the folder holds another datalist.
        ValueError: for another source.
    """
    wanted = {key: value for key, value in locals().items() if key != "folder"} | {"kind": "knee"}

    from ..data.knee import LABELS, MODALITIES, draw_knee, save_picture
    from ..terminal import LiveLine

    if source not in MODALITIES:
        raise ValueError(f"Expected source in {MODALITIES}, got {source!r}.")
    if source == MODALITIES[0]:
        del wanted["source"]  # cohorts of earlier versions are the same
    folder = Path(folder).absolute()
    path = folder / "datalist.json"
    if path.exists():
        found = json.loads(path.read_text()).get("cohort")
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
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    content: dict = {
        "name": "knee",
        "spatial_dims": 2,
        "spatial_size": [size, size],
        "labels": {str(value): name for value, name in enumerate(LABELS)},
    }
    total = sum(count for sections in counts.values() for _, count, _ in sections)
    with LiveLine("drawing knees", total, delay=2) as line:
        target = next(each for each in MODALITIES if each != source)
        for key, modality in (("source", source), ("target", target)):
            content[key] = {"name": modality, "channels": 1}
            index = 0
            for section, count, labelled in counts[key]:
                records = content[key][section] = []
                for _ in range(count):
                    index += 1
                    subject = f"{modality}_{index:04d}"
                    image, label, spacing = draw_knee(modality, index, size, seed)
                    record = {"image": f"images/{subject}.nii.gz", "subject": subject}
                    save_picture(image, spacing, folder / record["image"])
                    if labelled:
                        record["label"] = f"labels/{subject}.nii.gz"
                        save_picture(label, spacing, folder / record["label"])
                    records.append(record)
                    line.advance()
    path.write_text(json.dumps(content | {"cohort": wanted}, indent=1))
    return path
