"""Tiny cohorts of blobs, for tests of everything that reads a datalist."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np


def write_blob_cohort(
    folder: str | Path,
    spatial_dims: int = 2,
    num_classes: int = 4,
    channels: int = 1,
    spatial_size: Sequence[int] = (24, 20),
    train_labelled: int = 3,
    train_unlabelled: int = 4,
    val: int = 2,
    test: int = 2,
    target: int = 4,
    seed: int = 0,
) -> Path:
    """Write images with one blob per foreground class on a ring, as NIfTI with spacing, and a datalist.

    Classes differ in place and intensity; the target ("cold") has the contrast of the source ("warm")
    turned round. Each image is of another subject. In 3D a `spatial_size` of two repeats its last.

    Args:
        folder: where to write.
        spatial_dims: 2 or 3.
        num_classes: 2 to 6, background included.
        channels: channels of the images of both modalities.
        spatial_size: size of all images and of the network's grid.
        train_labelled: labelled source images for training.
        train_unlabelled: unlabelled source images for training.
        val: labelled source images for validation; as many unlabelled target images.
        test: labelled images for the test, of each modality.
        target: unlabelled target images for training.
        seed: of everything random.

    Returns:
        Path of `datalist.json`.
    """
    folder = Path(folder)
    size = [*spatial_size, *spatial_size[-1:]][:spatial_dims]
    rng = np.random.default_rng(seed)
    content: dict = {
        "name": "blobs",
        "spatial_dims": spatial_dims,
        "spatial_size": size,
        "labels": {str(k): f"blob {k}" if k else "background" for k in range(num_classes)},
    }
    sections = {
        "source": {
            "train_labelled": train_labelled,
            "train_unlabelled": train_unlabelled,
            "val": val,
            "test": test,
        },
        "target": {"train_unlabelled": target, "val": val, "test": test},
    }
    unlabelled = {("source", "train_unlabelled"), ("target", "train_unlabelled"), ("target", "val")}
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "labels").mkdir(exist_ok=True)
    for key, modality in (("source", "warm"), ("target", "cold")):
        content[key] = {"name": modality, "channels": channels}
        for section, count in sections[key].items():
            records = content[key][section] = []
            for number in range(count):
                subject = f"{modality}{section.replace('_', '')}{number}"
                record = {"image": f"images/{subject}.nii.gz", "subject": subject}
                image, label = _draw_blobs(rng, size, num_classes, channels, inverted=modality == "cold")
                _save(image, folder / record["image"], spatial_dims)
                if (key, section) not in unlabelled:
                    record["label"] = f"labels/{subject}.nii.gz"
                    _save(label, folder / record["label"], spatial_dims)
                records.append(record)
    path = folder / "datalist.json"
    path.write_text(json.dumps(content, indent=1))
    return path


def _draw_blobs(
    rng: np.random.Generator, size: list[int], num_classes: int, channels: int, inverted: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Image `[*size]` or `[*size, channels]` in about [0, 1], and label `[*size]`."""
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in size), indexing="ij"), -1)
    middle, shortest = (np.array(size) - 1) / 2, min(size)
    label = np.zeros(size, np.uint8)
    for value in range(1, num_classes):
        angle = 2 * np.pi * value / (num_classes - 1)
        centre = middle.copy()
        centre[:2] += 0.29 * shortest * np.array([np.cos(angle), np.sin(angle)])
        centre += rng.uniform(-0.05, 0.05, len(size)) * shortest
        radii = rng.uniform(0.13, 0.18, len(size)) * shortest
        label[(((grid - centre) / radii) ** 2).sum(-1) < 1] = value
    image = np.linspace(0.1, 0.9, num_classes)[label]
    image = (1 - image if inverted else image) + rng.normal(0, 0.03, size)
    scales = 1 - 0.2 * np.arange(channels)
    return (image if channels == 1 else image[..., None] * scales).astype(np.float32), label


def _save(array: np.ndarray, path: Path, spatial_dims: int) -> None:
    if array.ndim > spatial_dims == 2:
        array = array[:, :, None]  # NIfTI has channels on its fourth axis
    nib.save(nib.Nifti1Image(array, np.diag([-0.8, -0.9, 1.1, 1])), path)
