"""The figures of the documentation, from the synthetic cohort and a run that `make demo` trained on it.

    python -m docs.figures --run runs/demo

It also prints the verdicts on images that the run should not accept, as docs/explanation/what_to_expect.md
gives them.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import fire
import nibabel as nib
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from crosswarp import load
from crosswarp.commands.cohort import cohort
from crosswarp.inference.registrar import Registrar
from crosswarp.report.figures import checkerboard, grid, overlay, pair_figure
from crosswarp.spatial import identity_map, invert, resize_map, sample

FOLDER = Path(__file__).parent / "explanation" / "figures"
MOVING, FIXED = "dxa_0077", "xray_0082"
SIZE = 192  # of the pictures; the subjects are those of the run's own cohort
INK, SOURCE, TARGET, BOTH = "#1f2933", "#e69f00", "#56b4e9", "#00b884"


def image(folder: Path, name: str, kind: str = "images") -> np.ndarray:
    """An image or label of a cohort, `[X, Y]`."""
    return np.squeeze(np.asarray(nib.load(folder / kind / f"{name}.nii.gz").dataobj))


def save(figure: Figure, name: str, dpi: int = 110) -> None:
    """Write a figure; nothing in it depends on the day."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    metadata = {"Date" if name.endswith(".svg") else "Software": None}
    figure.savefig(FOLDER / name, dpi=dpi, metadata=metadata, facecolor="white")


def draw_cohort(data: Path) -> None:
    """Both modalities, the source with its labels."""
    datalist = json.loads((data / "datalist.json").read_text())
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    for axes, key in zip(figure.subplots(2, 5), ("source", "target"), strict=True):
        for ax, record in zip(axes, datalist[key]["test"], strict=False):
            label = image(data, record["subject"], "labels") if key == "source" else None
            overlay(ax, image(data, record["subject"]), label)
        axes[0].set_ylabel({"source": "source: DXA", "target": "target: X-ray"}[key], color=INK)
    save(figure, "cohort.png", 100)


def draw_stages() -> None:
    """What each stage takes and leaves."""
    figure = Figure(figsize=(9.6, 3.5))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, 96), ylim=(3, 38))
    ax.axis("off")

    def box(x: float, y: float, text: str, colour: str, width: float = 19, height: float = 6) -> None:
        ax.add_patch(
            FancyBboxPatch(
                (x, y), width, height, "round,pad=0.2,rounding_size=0.8", fc=colour, ec=INK, lw=0.8
            )
        )
        ax.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=8.5, color=INK)

    def arrow(start: tuple[float, float], end: tuple[float, float]) -> None:
        ax.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 1})

    light = {SOURCE: "#fdf0d5", TARGET: "#e2f2fb", BOTH: "#d8f3e8"}
    box(1, 31, "all source images", light[SOURCE])
    box(1, 20, "a few source labels", light[SOURCE])
    box(1, 9, "target images,\nno labels", light[TARGET])
    box(27, 31, "1  registration\nwithin the source", SOURCE)
    box(27, 20, "2  segmentation\nof the source", SOURCE)
    box(27, 9, "3  segmentation\nof the target", TARGET)
    box(53, 20, "label maps,\nmanual and predicted", light[BOTH])
    box(76, 20, "4  registration\nof label maps", BOTH)
    box(76, 4, "in use: segment both,\nregister, warp", "white")
    for start, end in (
        ((20.5, 34), (26.5, 34)),
        ((20.5, 23), (26.5, 23)),
        ((20.5, 12), (26.5, 12)),
        ((36.5, 30.5), (36.5, 26.5)),
        ((36.5, 19.5), (36.5, 15.5)),
        ((46.5, 23), (52.5, 23)),
        ((46.5, 12), (56, 19.5)),
        ((72.5, 23), (75.5, 23)),
        ((85.5, 19.5), (85.5, 10.5)),
    ):
        arrow(start, end)
    ax.text(37.5, 28.5, "labels warped onto unlabelled images", fontsize=7.5, color=INK, va="center")
    ax.text(37.5, 17.5, "its weights, labels", fontsize=7.5, color=INK, va="center")
    save(figure, "stages.svg")


def draw_pair(data: Path, trained: Registrar) -> None:
    """A registered pair of test images."""
    moving, fixed = image(data, MOVING), image(data, FIXED)
    pair = trained.register(moving, fixed)
    figure = Figure(figsize=(13, 2.9), layout="constrained")
    axes = figure.subplots(1, 5)
    titles = ("moving", "fixed", "warped, warped label", "both, in tiles", "deformation")
    for ax, title in zip(axes, titles, strict=True):
        ax.set_title(title, fontsize=10, color=INK)
    overlay(axes[0], moving, pair.moving_label)
    overlay(axes[1], fixed)
    overlay(axes[2], pair.warped, pair.warped_label)
    checkerboard(axes[3], pair.warped, fixed)
    grid(axes[4], resize_map(pair.moving_to_fixed, fixed.shape)[0].numpy())
    save(figure, "pair.png", 90)
    with TemporaryDirectory() as folder:
        pair.save(folder)
        (FOLDER / "pair_quality.png").write_bytes(next(Path(folder).glob("*_quality.png")).read_bytes())


def draw_volume() -> None:
    """Three planes of a pair of drawn volumes in RAS: blocks in a row, and a map that is made up."""
    shape, spacing = (24, 64, 64), (3.2, 3.5, 3.5)
    x, y, z = np.indices(shape)
    bend = 6 * np.cos((z - 32) / 20)  # the row curves forwards
    label = np.zeros(shape, np.uint8)
    for level, middle in enumerate((54, 43, 32, 21, 10), 1):
        inside = ((x - 12) / 6) ** 4 + ((y - 26 - bend) / 5) ** 4 + ((z - middle) / 4) ** 4 < 1
        label[inside] = level
    tissue = np.random.default_rng(0).normal(0.35 + 0.1 * np.sin(y / 5 + x / 9), 0.03)
    fixed = np.where(label > 0, 0.8, tissue)
    points = identity_map(shape)
    phi = points.clone()
    phi[:, 1] += 0.05 * torch.sin(3 * points[:, 2])
    phi[:, 2] += 0.03 * torch.cos(4 * points[:, 1])
    phi_inverse = invert(phi)
    images = {"moving": sample(torch.from_numpy(fixed)[None, None], phi_inverse)}
    labels = {"moving": sample(torch.from_numpy(label)[None, None], phi_inverse, "nearest")}
    images["warped"] = sample(images["moving"], phi)
    labels["warped"] = sample(labels["moving"], phi, "nearest")
    pair = {key: value[0, 0].numpy() for key, value in images.items()} | {"fixed": fixed}
    pair |= {f"{key}_label": value[0, 0].numpy() for key, value in labels.items()} | {"fixed_label": label}
    maps = {"phi": phi[0].numpy(), "phi_inverse": phi_inverse[0].numpy(), "spacing": spacing}
    save(pair_figure(pair | maps), "volume.png", 75)


def draw_failures(data: Path, trained: Registrar) -> None:
    """The same moving image registered to what it should not be, with the verdicts."""
    moving, fixed = image(data, MOVING), image(data, FIXED)
    cases = {
        "as it should be": fixed,
        "upside down": fixed[:, ::-1].copy(),
        "on its side": fixed.T.copy(),
        "the other leg": fixed[::-1].copy(),
        "upper half only": fixed[:, : SIZE // 2].copy(),
        "a DXA, not an X-ray": image(data, "dxa_0078"),
        "noise": np.random.default_rng(0).normal(size=fixed.shape),
    }
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots(2, 4).ravel()
    axes[0].set_title("moving", fontsize=10, color=INK)
    overlay(axes[0], moving, trained.segment(moving, "source").label)
    for ax, (name, case) in zip(axes[1:], cases.items(), strict=True):
        pair = trained.register(moving, case)
        overlay(ax, case, pair.fixed_label)
        ax.set_title(f"{name}: {pair.verdict}", fontsize=10, color=INK)
        print(f"{name}: {pair.verdict}: {'; '.join(pair.quality['reasons'])}")
    save(figure, "failures.png", 90)


def figures(run: str = "runs/demo") -> None:
    """Draw all figures.

    Args:
        run: what `make demo` trained.
    """
    trained = load(run, device="cpu")
    with TemporaryDirectory() as folder:
        data = cohort(folder, SIZE).parent
        draw_cohort(data)
        draw_pair(data, trained)
        draw_failures(data, trained)
    draw_stages()
    draw_volume()


if __name__ == "__main__":
    fire.Fire(figures)
