"""What the report of an evaluation shows: pairs and images to look at, curves of the training, provenance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..kept import read_json
from ..metrics import MeasuredImage, Row, representative_images, representative_pairs, warp_labels
from ..report import Curves
from ..spatial import sample
from .images import Pair

Maps = Callable[[Sequence[Pair]], tuple[Tensor, Tensor]]


def training_curves(run_dir: Path, stages: Sequence[str]) -> Curves:
    """What the stages of a run recorded in training, by epoch."""
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for number, stage in enumerate(stages, 1):
        series = curves.setdefault(f"{number}. {stage.replace('_', ' ')}, by epoch", {})
        for entry in read_json(run_dir / stage / "checkpoints" / "history.json"):
            for name in entry.keys() - {"epoch"}:
                series.setdefault(name, []).append((entry["epoch"], entry[name]))
    return {stage: dict(sorted(series.items())) for stage, series in curves.items()}


def pictured_pairs(
    rows: Sequence[Row], pairs: Sequence[Pair], predicted: Mapping[str, Tensor], maps: Maps, num_classes: int
) -> list[dict[str, Any]]:
    """The worst, median and best registration; where nothing was measured, the first three.

    Args:
        rows: the measurements.
        pairs: what was registered, both ways.
        predicted: classes `[1, *spatial]` by image, for those without a manual label.
        maps: registers pairs again, as they are given in `pairs`.
        num_classes: classes, background included.
    """
    both_ways = {(pair[i].name, pair[1 - i].name): (pair, i) for pair in pairs for i in (0, 1)}
    chosen = {
        (each["moving"], each["fixed"]): f"{each['rank'].capitalize()}, Dice {each['dice']:.3f}"
        for each in representative_pairs(rows)
    } or {(a.name, b.name): "Example" for a, b in pairs[:3]}
    pictures = []
    for names, title in chosen.items():
        pair, i = both_ways[names]
        moving, fixed = pair[i], pair[1 - i]
        both_maps = maps([pair])
        phi, phi_inverse = both_maps[i].cpu(), both_maps[1 - i].cpu()
        labels = [predicted[each.name] if each.label is None else each.label for each in (moving, fixed)]
        image = moving.image[None, :1]
        pictures.append(
            {
                "title": f"{title}: {moving.modality} to {fixed.modality}",
                "direction": f"{moving.modality}_to_{fixed.modality}",
                "moving_name": moving.name,
                "fixed_name": fixed.name,
                "moving": image[0, 0].numpy(),
                "fixed": fixed.image[0].numpy(),
                "warped": sample(image, phi)[0, 0].numpy(),
                "moving_label": labels[0][0].numpy(),
                "fixed_label": labels[1][0].numpy(),
                "warped_label": warp_labels(labels[0][None], phi, num_classes)[0, 0].numpy(),
                "phi": phi[0].numpy(),
                "phi_inverse": phi_inverse[0].numpy(),
                "spacing": fixed.grid.spacing,
            }
        )
    return pictures


def pictured_images(
    rows: Sequence[Row], images: Sequence[MeasuredImage], predicted: Mapping[str, Tensor]
) -> list[dict[str, Any]]:
    """The worst, median and best segmentation of a modality; where nothing was measured, the first three.

    Args:
        rows: the measurements.
        images: of the modality.
        predicted: classes `[1, *spatial]` by image.
    """
    by_name = {image.name: image for image in images}
    chosen = {
        each["image"]: f"{each['rank']}, Dice {each['dice']:.3f}"
        for each in representative_images(rows)
        if each["image"] in by_name
    } or {image.name: "example" for image in images[:3]}
    pictures = []
    for name, title in chosen.items():
        image = by_name[name]
        pictures.append(
            {
                "title": f"{image.modality}, {title}: {name}",
                "image": image.image[0].numpy(),
                "predicted": predicted[name][0].numpy(),
                "label": None if image.label is None else image.label[0].numpy(),
                "spacing": image.grid.spacing,
            }
        )
    return pictures
