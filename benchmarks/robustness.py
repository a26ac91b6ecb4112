"""Pictures of the anatomy as they come: what is left of the accuracy, and can the verdict be believed?

    python benchmarks/robustness.py --run runs/demo --out robustness.json
    python benchmarks/robustness.py --run runs/demo --pose auto --images 20 --pairings 3

Of each pair of test images the fixed one is changed, with its manual label, in every way of `changes.py`, and
registered as a user does it: images in memory, with the header that they would come with. Both directions:
the changed image is one of the target, then one of the source. Dice, on the changed image's own grid:
*segmented*, the predicted label; *registered*, the manual label of the moving image, warped by the pair's
transform; where a turned or shifted picture is but continued, nothing is compared. */as it is* is the ratio
to the same pairs' unchanged ones. *Apart px* is how far the transform leads from where it led before, where
the image shows the same place in space: mean over points and pairs, in pixels of the fixed image. An `ok` is
wrong where the registered Dice, mean over classes, is below .8. Where the verdict expects an overlap, its
AUROC is for telling pairs of .8 from those below.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import fire
import itk
import numpy as np
import torch
from changes import CHANGES, SAME_PLACE, Picture, read_pictures
from common import Row, names, print_table, report
from scipy.stats import rankdata

from crosswarp import load
from crosswarp.data import load_datalist
from crosswarp.inference.registrar import Registrar
from crosswarp.inference.registration import Registration
from crosswarp.metrics import dice_per_class
from crosswarp.runs.bundle import INFERENCE
from crosswarp.runs.chain import data_of_run
from crosswarp.runs.config import UnknownIdError, check_ids, read_config
from crosswarp.spatial.itk import itk_image, resample, transform_points

RIGHT = 0.8  # Dice, mean over classes, that a pair which is `ok` must have
DIRECTIONS = (("source", "target"), ("target", "source"))
VERDICTS = ("ok", "check", "failed")
Array = np.ndarray[Any, Any]


def warped_label(moving: Picture, fixed: Picture, transform: Any, classes: int) -> Array:
    """The manual label of the moving picture on the grid of the fixed one, every class interpolated."""
    grid = moving.own_grid
    images = (itk_image(moving.label == k, grid) for k in range(1, classes))
    parts = [itk.array_from_image(resample(each, transform, fixed.own_grid)).T for each in images]
    return np.argmax([1 - sum(parts), *parts], 0)


def dice(predicted: Array, reference: Array, classes: int) -> list[float | None]:
    """Dice of each class; None for one that the reference lacks."""
    first, second = (torch.from_numpy(each.astype(np.int64))[None, None] for each in (predicted, reference))
    found = dice_per_class(first, second, classes)[0].tolist()
    return [None if np.isnan(value) else value for value in found]


def expected_overlap(quality: Mapping[str, Any]) -> tuple[float, float, float] | None:
    """The overlap expected of a pair, mean over classes, and its bounds; None where it is not said."""
    mean = (quality.get("expected_overlap") or {}).get("mean")
    return None if mean is None else (mean["value"], mean["low"], mean["high"])


def measured(pair: Registration, moving: Picture, fixed: Picture, classes: int) -> Row:
    """What is found of a registered pair."""
    quality, shown = pair.quality, True if fixed.shown is None else fixed.shown
    found = {
        "segmented": np.asarray(pair.fixed_label)[0],
        "registered": warped_label(moving, fixed, pair.transform, classes),
    }
    return {
        **{key: dice(label * shown, fixed.label * shown, classes) for key, label in found.items()},
        "verdict": quality["verdict"],
        "expected": expected_overlap(quality),
    }


def inner_points(picture: Picture, steps: int = 15) -> Array:
    """Points of the inner 80 % of a picture, mm in LPS."""
    axes = [np.linspace(0.1, 0.9, steps)] * picture.grid.dims
    return picture.grid.fractions_to_mm(np.stack(np.meshgrid(*axes), -1).reshape(-1, picture.grid.dims))


def partners(moving: int, fixed: int, seed: int) -> list[tuple[int, int]]:
    """A moving image for each fixed one: side by side, and with other seeds at random."""
    order = np.arange(moving) if seed == 0 else np.random.default_rng(seed).permutation(moving)
    return [(int(order[number % moving]), number) for number in range(fixed)]


def register_changed(
    trained: Registrar,
    pictures: Mapping[str, Sequence[Picture]],
    direction: tuple[str, str],
    changes: Sequence[str],
    seeds: int,
    classes: int,
    batch_size: int = 8,
) -> list[Row]:
    """Register the pairs of one direction, each change of the fixed images in turn; a row for each pair."""
    moving, fixed = (pictures[key] for key in direction)
    chosen = [(seed, m, f) for seed in range(seeds) for m, f in partners(len(moving), len(fixed), seed)]
    before: list[Array] = []
    rows: list[Row] = []
    for change in changes:
        start = time.perf_counter()
        changed = {
            number: CHANGES[change](picture, np.random.default_rng(number))
            for number, picture in enumerate(fixed)
        }
        pairs = [(moving[m], changed[f]) for _, m, f in chosen]
        given = {id(each): each.given() for pair in pairs for each in pair}
        results = trained.register_pairs(
            ((given[id(m)], given[id(f)]) for m, f in pairs), *direction, batch_size=batch_size
        )
        for number, ((seed, m, f), pair, result) in enumerate(zip(chosen, pairs, results, strict=True)):
            row: Row = {"direction": " to ".join(direction), "change": change}
            row |= {"seed": seed, "moving": m, "fixed": f}
            row |= measured(result, *pair, classes)
            original = fixed[f]
            if original.placed and (change == changes[0] or change in SAME_PLACE):
                found = transform_points(result.transform, inner_points(original))
                if change == changes[0]:
                    before.append(found)
                distance = np.linalg.norm(found - before[number], axis=1).mean()
                row["apart px"] = float(distance / original.grid.spacing.min())
            rows.append(row)
        print(f"{rows[-1]['direction']}, {change}: {time.perf_counter() - start:.1f} s", flush=True)
    return rows


def by_pair(rows: Sequence[Row], key: str) -> Array:
    """Dice of the classes, `[pairs, classes]`, NaN for one that a label lacks."""
    return np.array([row[key] for row in rows], np.float64)


def mean_dice(rows: Sequence[Row], key: str) -> Array:
    """Mean over classes, of every pair; 0 where the label shows none: such a pair is not right."""
    values = by_pair(rows, key)
    return np.nansum(values, 1) / np.maximum(np.isfinite(values).sum(1), 1)


def summarise(rows: Sequence[Row]) -> list[Row]:
    """The table: a row for each direction and change."""
    table: list[Row] = []
    for direction, change in dict.fromkeys((row["direction"], row["change"]) for row in rows):
        own = [row for row in rows if (row["direction"], row["change"]) == (direction, change)]
        line: Row = {"direction": direction, "change": change}
        for key in ("segmented", "registered"):
            line[key] = float(mean_dice(own, key).mean())
            as_it_is = next((each for each in table if each["direction"] == direction), line)
            line[f"{key[0]}/as it is"] = line[key] / as_it_is[key] if as_it_is[key] else None
            classes = [each[np.isfinite(each)] for each in by_pair(own, key).T]
            line[f"{key[0]}, each class"] = " ".join(
                f"{each.mean():.3f}" if len(each) else "-" for each in classes
            )
        verdicts = Counter(row["verdict"] for row in own)
        line["ok/check/failed"] = "/".join(str(verdicts[verdict]) for verdict in VERDICTS)
        line[f"ok < {RIGHT}"] = wrongly_ok(own)
        apart = [row["apart px"] for row in own if "apart px" in row]
        line["apart px"] = float(np.mean(apart)) if apart else None
        table.append(line)
    return table


def wrongly_ok(rows: Sequence[Row]) -> int:
    """How many pairs are ok that should not be."""
    found = zip(rows, mean_dice(rows, "registered"), strict=True)
    return sum(row["verdict"] == "ok" and bool(value < RIGHT) for row, value in found)


def auroc(scores: Sequence[float] | Array, positive: Sequence[bool] | Array) -> float | None:
    """How often a positive has a higher score than a negative, ties by half; None where one is missing."""
    chosen = np.asarray(positive, bool)
    first, second = int(chosen.sum()), int((~chosen).sum())
    if not first or not second:
        return None
    return float((rankdata(scores)[chosen].sum() - first * (first + 1) / 2) / (first * second))


def verdict_rows(rows: Sequence[Row]) -> list[Row]:
    """How far the verdicts can be believed, in each direction and in all."""
    lines = []
    for direction in [*dict.fromkeys(row["direction"] for row in rows), "both"]:
        own = [row for row in rows if direction in (row["direction"], "both")]
        right = (mean_dice(own, "registered") >= RIGHT).tolist()
        fine = [row for row, good in zip(own, right, strict=True) if good and row["change"] == "as it is"]
        line: Row = {"direction": direction, "pairs": len(own)}
        line |= {verdict: sum(row["verdict"] == verdict for row in own) for verdict in VERDICTS}
        line[f"ok < {RIGHT}"] = wrongly_ok(own)
        line[f"ok < {RIGHT}, of ok"] = wrongly_ok(own) / line["ok"] if line["ok"] else None
        line[f"ok, of those as they are >= {RIGHT}"] = (
            sum(row["verdict"] == "ok" for row in fine) / len(fine) if fine else None
        )
        said = [
            (*row["expected"], value)
            for row, value in zip(own, mean_dice(own, "registered"), strict=True)
            if row["expected"] is not None
        ]
        line["AUROC of the expected overlap"], line["in its interval"] = None, None
        if said:
            expected, low, high, found = np.array(said).T
            line["AUROC of the expected overlap"] = auroc(expected, found >= RIGHT)
            line["in its interval"] = float(np.mean((low <= found) & (found <= high)))
        lines.append(line)
    return lines


def known(run: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Those ids that the run's inference config has; the others are named, and left out."""
    path, found = Path(run) / INFERENCE, {}
    parser = read_config(path)
    for name, value in wanted.items():
        try:
            check_ids([name], parser, str(path))
            found[name] = value
        except UnknownIdError:
            print(f"{path} has no {name}: left out.")
    return found


def main(
    run: str,
    datalist: str | None = None,
    images: int = 10,
    pairings: int = 1,
    changes: str | Sequence[str] = "all",
    pose: str | None = None,
    device: str | None = None,
    out: str | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """Measure a trained run on changed test images.

    Args:
        run: its folder.
        datalist: other data than the run's; its labels in the same order.
        images: most test images of each modality, the first ones.
        pairings: so many moving images for each fixed one: side by side, then at random.
        changes: names of `changes.py`, separated by commas; all by default. `as it is` is always among them.
        pose: as the run's config takes it, such as auto; left out for a run whose config has no `pose`.
        device: such as cuda.
        out: file for the figures as JSON, those of every pair among them.
        overrides: ids of the run's `inference.json`.
    """
    arguments = {**locals()}
    chosen = list(CHANGES) if changes == "all" else list(dict.fromkeys(["as it is", *names(changes)]))
    if unknown := [name for name in chosen if name not in CHANGES]:
        raise SystemExit(f"Expected changes of {list(CHANGES)}, got {unknown}.")
    if given := {"moving_spacing", "fixed_spacing"} & overrides.keys():
        raise SystemExit(f"Expected images that state their spacing, or none at all, got {sorted(given)}.")
    data = data_of_run(run) if datalist is None else load_datalist(datalist)
    records = {key: getattr(data, key).labelled("test")[:images] for key in ("source", "target")}
    if missing := [key for key, each in records.items() if not each]:
        raise SystemExit(f"Expected test images with labels in {data.path}, got none of the {missing}.")
    trained = load(run, device, **known(run, {} if pose is None else {"pose": pose}), **overrides)
    pictures = {key: read_pictures(each, data.spatial_dims) for key, each in records.items()}
    rows = []
    for direction in DIRECTIONS:
        placed = all(picture.placed for picture in pictures[direction[1]])
        possible = [name for name in chosen if placed or not name.startswith("oblique")]
        rows += register_changed(trained, pictures, direction, possible, pairings, data.num_classes)
    verdicts = verdict_rows(rows)
    classes = data.label_names[1:]
    print(f"\ns: segmented, r: registered, each class: {', '.join(classes)}")
    result = report(
        "robustness", arguments, summarise(rows), out, classes=classes, verdicts=verdicts, pairs=rows
    )
    print()
    print_table(verdicts)
    return result


if __name__ == "__main__":
    fire.Fire(main, serialize=lambda _: None)
