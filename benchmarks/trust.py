"""Verdicts on pairs as they should be and as they should not, and how exact the exported transforms are.

    python benchmarks/trust.py --run runs/demo

The pairs are those of the test images, the first of one modality with the first of the other, of a 2D run
whose `inference.json` has `training_statistics`. `inverse mm` is the mean distance of where the transforms
lead there and back, over all voxels of the fixed image; `apart px` are distances of where a pair's transform
leads when its fixed image is stored otherwise, over points of the inner 80 %: their mean, and the largest.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fire
import nibabel as nib
import numpy as np
from common import Row, print_table, report
from scipy.ndimage import zoom

from crosswarp import load
from crosswarp.inference.registrar import Registrar
from crosswarp.runs.chain import data_of_run
from crosswarp.spatial.grid import Grid
from crosswarp.spatial.itk import transform_points

Array = np.ndarray[Any, Any]


def noise(rng: np.random.Generator, size: int) -> Array:
    """White noise."""
    return rng.normal(size=(size, size))


def smooth_noise(rng: np.random.Generator, size: int) -> Array:
    """Clouds."""
    return zoom(rng.normal(size=(8, 8)), size / 8, order=3)


def discs(rng: np.random.Generator, size: int) -> Array:
    """Another object: three discs that overlap, with a little noise."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    image = 0.1 * rng.normal(size=(size, size))
    for value in (1, 2, 3):
        (cx, cy), radius = rng.uniform(-0.6, 0.6, 2), rng.uniform(0.15, 0.45)
        image += value * ((x - cx) ** 2 + (y - cy) ** 2 < radius**2)
    return image


def empty(rng: np.random.Generator, size: int) -> Array:
    """No object: a faint ramp with noise."""
    return np.linspace(0, 0.04, size)[:, None] + 0.01 * rng.normal(size=(size, size))


STRANGERS = {
    "white noise": noise,
    "smooth noise": smooth_noise,
    "another object": discs,
    "an empty field": empty,
}
SPOILT: dict[str, Callable[[Array], Array]] = {
    "on its side": lambda array: array.T,
    "upside down": lambda array: array[:, ::-1],
    "with inverted grey values": lambda array: array.max() - array,
}


def resaved(path: str, target: Path, change: Callable[[Array], Array]) -> str:
    """An image with other voxels, in the same place."""
    image = nib.Nifti1Image.from_filename(path)
    nib.save(
        nib.Nifti1Image(change(np.asarray(image.dataobj, np.float32)).astype(np.float32), image.affine),
        target,
    )
    return str(target)


def stored_otherwise(path: str, folder: Path) -> dict[str, str]:
    """The same picture in space: axes reversed, also exchanged; sampled more finely and coarsely."""
    image = nib.Nifti1Image.from_filename(path)
    array, affine = np.asarray(image.dataobj, np.float32), image.affine
    back = np.diag([-1.0, -1, 1, 1])
    back[:2, 3] = np.array(array.shape[:2]) - 1
    stored = {"flipped": (array[::-1, ::-1], affine @ back)}
    stored["turned"] = array[::-1, ::-1].T, (affine @ back)[:, [1, 0, 2, 3]]
    for name, factor in (("finer", 2.0), ("coarser", 0.75)):
        shape = [round(factor * (size - 1)) + 1 for size in array.shape]
        steps = [(size - 1) / (new - 1) for size, new in zip(array.shape, shape, strict=True)]
        voxels = zoom(array, np.divide(shape, array.shape), order=1, grid_mode=False)
        stored[name] = voxels, affine @ np.diag([*steps, 1, 1])
    for name, (voxels, matrix) in stored.items():
        nib.save(nib.Nifti1Image(voxels, matrix), folder / f"{name}.nii.gz")
    return {name: str(folder / f"{name}.nii.gz") for name in stored}


def grid_points(path: str, steps: int | None = None) -> tuple[Array, float]:
    """All voxels in mm and LPS, or so many points along each axis of the inner 80 %; the spacing."""
    image = nib.Nifti1Image.from_filename(path)
    size = np.array(image.shape[:2])
    axes = [np.arange(n) if steps is None else np.linspace(0.1, 0.9, steps) * (n - 1) for n in size]
    grid = Grid.from_ras(image.affine, image.shape[:2])
    index = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    return grid.to_mm(index), float(grid.spacing[0])


def verdict_rows(trained: Registrar, source: list[str], target: list[str], folder: Path) -> list[Row]:
    """How many pairs of each case are ok, to check and failed."""
    right, rng, size = (
        ("source", "target"),
        np.random.default_rng(7),
        nib.Nifti1Image.from_filename(source[0]).shape[0],
    )
    cases = {
        "source to target": (source, target, right),
        "target to source": (target, source, right[::-1]),
        "modalities exchanged": (source, target, right[::-1]),
        "fixed image of the source modality": (source, source[1:] + source[:1], right),
        "moving image of the target modality": (target, target[1:] + target[:1], right),
    }
    changes: dict[str, Callable[[Array], Array]] = {
        name: lambda _, draw=draw: draw(rng, size)  # type: ignore[misc]
        for name, draw in STRANGERS.items()
    }
    for name, change in {**changes, **SPOILT}.items():
        stem = name.replace(" ", "_")
        files = [
            [resaved(path, folder / f"{stem}_{key}{i}.nii.gz", change) for i, path in enumerate(paths)]
            for key, paths in (("a", source), ("b", target))
        ]
        cases[f"moving image {name}"] = files[0], target, right
        cases[f"fixed image {name}"] = source, files[1], right
    rows = []
    for case, (moving, fixed, modalities) in cases.items():
        verdicts = Counter(
            trained.register(m, f, *modalities).verdict for m, f in zip(moving, fixed, strict=True)
        )
        rows.append({"case": case, **{verdict: verdicts[verdict] for verdict in ("ok", "check", "failed")}})
    return rows


def exactness_rows(trained: Registrar, source: list[str], target: list[str], folder: Path) -> list[Row]:
    """Error of the exported inverse, and what it changes to store the fixed image otherwise."""
    rows = []
    right = ("source", "target")
    for modalities, moving, fixed in ((right, source, target), (right[::-1], target, source)):
        errors: list[float] = []
        apart: dict[str, list[Array]] = {}
        for m, f in zip(moving, fixed, strict=True):
            pair = trained.register(m, f, *modalities)
            points, _ = grid_points(f)
            there_and_back = transform_points(pair.inverse, transform_points(pair.transform, points))
            errors.append(float(np.linalg.norm(there_and_back - points, axis=1).mean()))
            points, spacing = grid_points(f, 20)
            expected = transform_points(pair.transform, points)
            for name, path in stored_otherwise(f, folder).items():
                found = transform_points(trained.register(m, path, *modalities).transform, points)
                apart.setdefault(name, []).append(np.linalg.norm(found - expected, axis=1) / spacing)
        row: Row = {"direction": " to ".join(modalities), "inverse mm": float(np.mean(errors))}
        rows.append(
            row | {f"{name}, apart px": f"{np.mean(d):.3f}, {np.max(d):.3f}" for name, d in apart.items()}
        )
    return rows


def main(run: str, out: str | None = None) -> dict[str, Any]:
    """Measure a trained 2D run on its test images.

    Args:
        run: its folder.
        out: file for the figures as JSON.
    """
    arguments = locals().copy()
    data, trained = data_of_run(run), load(run, training_warnings=[])
    source, target = ([record["image"] for record in each.test] for each in (data.source, data.target))
    count = min(len(source), len(target))
    with tempfile.TemporaryDirectory() as temporary:
        files = source[:count], target[:count], Path(temporary)
        verdicts, exactness = verdict_rows(trained, *files), exactness_rows(trained, *files)
    print_table(exactness)
    return report("trust", arguments, verdicts, out, exactness=exactness)


if __name__ == "__main__":
    fire.Fire(main, serialize=lambda _: None)
