"""Whether the overlap that a run expects of a pair is what is found, and verdicts are right.

    python benchmarks/verdicts.py --run runs/demo --pairs 2000

The pairs are of the run's test images, a source and a target image, both ways: as they are, at most a third
of `--pairs`, and worsened. What is done to an image is one of `crosswarp.training.worsened.IMAGES`, drawn
anew, on its own grid; in some the networks are spoilt, too. Every pair goes the way of a user's. `dice` is
the least of the registered manual label's and of both predicted labels', on the images' own grids, averaged
over classes. Test labels are for this table alone.
"""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import fire
import numpy as np
import torch
from common import Row, report
from monai.data import MetaTensor
from torch import Tensor

from crosswarp import load
from crosswarp.inference.registrar import Registrar
from crosswarp.inference.transforms import WarpMovingd
from crosswarp.metrics import dice_per_class
from crosswarp.metrics.reliability import auroc
from crosswarp.runs.chain import data_of_run
from crosswarp.spatial.grid import Grid
from crosswarp.training.worsened import IMAGES, Recipe, spoilt, worsen_images

Images = list[tuple[MetaTensor, Tensor]]  # each with its manual label, on its own grid
SPOILT = (0.05, 0.1, 0.2)


def read(registrar: Registrar, records: list[dict[str, str]], modality: str) -> Images:
    """Test images as the networks' axes have them, with their labels."""
    runner, found = registrar.runner(modality, modality), []
    for record in records:
        item = runner.preprocess({"moving": record["image"], "fixed": record["label"]})
        image, label = item["moving"], item["fixed"].round().long()
        found.append((image, label.as_subclass(Tensor)))
    return found


def changed(recipe: Recipe, image: MetaTensor, label: Tensor, style: Tensor) -> tuple[MetaTensor, Tensor]:
    """An image and its label as a recipe has them."""
    values = image.as_subclass(Tensor)[None].float()
    low, high = values.quantile(0.005), values.quantile(0.995)
    grid = Grid.of(image)
    lengths = (grid.spacing * (np.array(grid.shape) - 1)).tolist()
    scaled = ((values - low) / (high - low)).clamp(0, 1)
    found, moved = worsen_images(recipe, scaled, label[None], style, lengths)
    return MetaTensor(found[0], affine=image.affine, meta=dict(image.meta)), moved[0]


def measured(registrar: Registrar, pair: tuple[Any, Any], modalities: tuple[str, str], classes: int) -> Row:
    """What is expected of a pair, what is found, and the verdict."""
    (moving, moving_label), (fixed, fixed_label) = pair
    found = registrar.register(moving, fixed, *modalities)
    quality, item = found.quality, dict(found._item)
    own = item["moving"]
    item["manual"] = MetaTensor(moving_label.float(), affine=own.affine, meta=dict(own.meta))
    warped = WarpMovingd("manual", "nearest")(item)["warped_manual"].as_subclass(Tensor)
    predicted = [
        torch.as_tensor(np.asarray(each)).reshape(label.shape).long()
        for each, label in ((found.moving_label, moving_label), (found.fixed_label, fixed_label))
    ]
    dice = dice_per_class(warped[None].round(), fixed_label[None], classes)[0]
    segmented = [
        dice_per_class(each[None], label[None], classes)[0]
        for each, label in zip(predicted, (moving_label, fixed_label), strict=True)
    ]
    least = torch.fmin(torch.fmin(*segmented), dice).masked_fill(dice.isnan(), torch.nan)
    expected = quality.get("expected_overlap") or {}
    by_class = [expected.get(str(k)) for k in range(1, classes)]
    return {
        "verdict": quality["verdict"],
        "reasons": quality["reasons"],
        "dice": least.nanmean().item(),
        "registered": dice.nanmean().item(),
        "classes": least.tolist(),
        "expected": expected.get("mean"),
        "expected classes": by_class,
    }


def summary(name: str, rows: list[Row]) -> Row:
    """Coverage, AUROC and verdicts of some pairs."""
    rows = [row for row in rows if row["dice"] == row["dice"]]
    dice = np.array([row["dice"] for row in rows])
    verdicts = [row["verdict"] for row in rows]
    known = [row for row in rows if row["expected"]]
    bounds = np.array([[row["expected"][key] for key in ("value", "low", "high")] for row in known])
    found = np.array([row["dice"] for row in known])
    inside = (found >= bounds[:, 1]) & (found <= bounds[:, 2]) if known else np.array([])
    ok = [row for row in rows if row["verdict"] == "ok"]
    return {
        "pairs": name,
        "n": len(rows),
        "dice": float(dice.mean()) if len(rows) else None,
        "ok": verdicts.count("ok"),
        "check": verdicts.count("check"),
        "failed": verdicts.count("failed"),
        "ok < .8": sum(row["dice"] < 0.8 for row in ok),
        "ok, registered < .8": sum(row["registered"] < 0.8 for row in ok),
        "failed > .8": sum(row["dice"] > 0.8 for row in rows if row["verdict"] == "failed"),
        "coverage": float(inside.mean()) if known else None,
        "below": float((found < bounds[:, 1]).mean()) if known else None,
        "error": float(np.abs(found - bounds[:, 0]).mean()) if known else None,
        "AUROC": auroc(bounds[:, 0], found < 0.8) if known else None,
    }


def main(
    run: str, pairs: int = 2000, seed: int = 0, out: str | None = None, **overrides: Any
) -> dict[str, Any]:
    """Measure a trained run on its test images.

    Args:
        run: its folder.
        pairs: in all, as they are and worsened.
        seed: of what is done to them.
        out: file for the figures as JSON.
        overrides: ids of the run's inference config.
    """
    arguments = locals().copy()
    data = data_of_run(run)
    registrar = load(run, training_warnings=[], **overrides)
    images = {
        key: read(registrar, [each for each in modality.test if "label" in each], key)
        for key, modality in (("source", data.source), ("target", data.target))
    }
    spoiled = [registrar]
    for number, strength in enumerate(SPOILT):
        other = copy.copy(registrar)
        other._runners = {}
        for modalities in (("source", "target"), ("target", "source")):
            runner = copy.copy(registrar.runner(*modalities))
            runner.network = spoilt(runner.network, strength, seed + number).eval()
            other._runners[modalities] = runner
        spoiled.append(other)
    chance, rows = random.Random(seed), []
    names = list(images)
    every = [(i, j) for i in range(len(images["source"])) for j in range(len(images["target"]))]
    chance.shuffle(every)
    for number in range(pairs):
        as_is = number < min(2 * len(every), pairs // 3)
        i, j = every[(number // 2) % len(every)] if as_is else chance.choice(every)
        direction = number % 2
        kinds = ["as it is", "as it is"]
        which, network = chance.choice(["moving", "fixed", "both"]), 0
        if not as_is:
            kind = chance.choice([name for name in IMAGES if name != "as it is"])
            network = chance.choice([0, 0, 0, 1, 2, 3])
            kinds = [kind if which in (side, "both") else "as it is" for side in ("moving", "fixed")]
        pair = [images["source"][i], images["target"][j]]
        modalities = names
        if direction:
            pair, modalities = pair[::-1], names[::-1]
        draw = chance.randrange(2**31)
        for side in (0, 1):
            if kinds[side] != "as it is":
                style = images["target"][chance.randrange(len(images["target"]))][0].as_subclass(Tensor)
                size = pair[side][0].shape[1:]
                style = torch.nn.functional.interpolate(style[None].float(), size)
                style = (style - style.min()) / (style.max() - style.min())
                pair[side] = changed(Recipe(kinds[side], 0, "nothing", draw), *pair[side], style)
        row = measured(spoiled[network], (pair[0], pair[1]), (modalities[0], modalities[1]), data.num_classes)
        kind = next((each for each in kinds if each != "as it is"), "as it is")
        rows.append(
            {"kind": kind, "which": which, "network": network, "direction": " to ".join(modalities)} | row
        )
        if number % 100 == 99:
            print(number + 1, flush=True)
    own = [row for row in rows if row["network"] == 0]
    table = [summary(kind, [row for row in own if row["kind"] == kind]) for kind in IMAGES]
    table += [
        summary(f"network spoilt by {strength}", [row for row in rows if row["network"] == number])
        for number, strength in enumerate(SPOILT, 1)
    ]
    table.append(summary("all", rows))
    result = report("verdicts", arguments, table, None)
    if out:
        Path(out).write_text(json.dumps(result | {"measured": rows}, indent=1) + "\n")
    return result


if __name__ == "__main__":
    fire.Fire(main, serialize=lambda _: None)
