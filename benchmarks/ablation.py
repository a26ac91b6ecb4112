"""What each accuracy measure of stage 3 buys, over several seeds.

    python benchmarks/ablation.py --size 64 --preset demo --seeds 3

For each seed, stages 1 and 2 are trained once; from them stage 3 is trained in each variant. After every
epoch the averaged network, the one that would be kept, is measured on the target *test* images: the labels
measure, they choose nothing, neither here nor in the stage.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import fire
import torch
from chain import train
from common import STAGES, TRANSLATION, TRANSLATION_ALONE, Row, report, spread, stage_workflow
from ignite.engine import Events
from monai.metrics import DiceMetric
from monai.networks.utils import one_hot
from torch import nn

from crosswarp.commands.cohort import cohort
from crosswarp.data import SharedDataset, stack_samples

STYLES = [
    {"_target_": "scripts.training.RandomSpectrum", "probability": 0.7},
    {"_target_": "scripts.training.RandomOverlay", "probability": 0.5},
]
CLASS_CURVES = {
    "_target_": "scripts.training.RandomCurve",
    "strength": 0.7,
    "probability": 0.5,
    "label_key": "label",
    "num_classes": "@num_classes",
}
CONVOLUTION = {"_target_": "scripts.training.RandomConvolution", "probability": 0.5, "pointwise": 0.75}
VARIANTS: dict[str, dict[str, Any]] = {
    "full": {},
    "no style mixing": {"weights#mixed_segmentation": 0.0},
    "no self-training": {"weights#self_training": 0.0},
    "translation": TRANSLATION,
    "translation alone": TRANSLATION_ALONE,
    "paper's weights": TRANSLATION_ALONE
    | dict.fromkeys(("weights#translated_segmentation", "weights#agreement", "weights#cycle_agreement"), 5.0),
    "no random convolution": {"style_mixing#transforms": STYLES},
    "class curves": {"style_mixing#transforms": [CLASS_CURVES, CONVOLUTION, *STYLES]},
    "class curves, no random convolution": {"style_mixing#transforms": [CLASS_CURVES, *STYLES]},
    "fewer random convolutions": {"style_mixing#transforms": [CONVOLUTION | {"probability": 0.25}, *STYLES]},
    "blended convolutions": {"style_mixing#transforms": [CONVOLUTION | {"control_points": 4}, *STYLES]},
    "half of the kernels of 3": {"style_mixing#transforms": [CONVOLUTION | {"pointwise": 0.5}, *STYLES]},
    "no kernels of 3": {"style_mixing#transforms": [CONVOLUTION | {"pointwise": 1.0}, *STYLES]},
    "no guided filter": {"train#pseudo_labels#refinement": None},
    "masked": {"self_training_augmentation#transforms": [{"_target_": "scripts.training.RandomMask"}]},
    "label prior": {
        "train#pseudo_labels#prior": {
            "_target_": "scripts.training.LabelPrior",
            "labels": "$@train#source_dataset.originals('label')",
            "num_classes": "@num_classes",
        }
    },
    "no crops": {
        "source_augmentation#transforms#1#probability": 0.0,
        "target_augmentation#transforms#1#probability": 0.0,
    },
    "no views": {"train#pseudo_labels#num_views": 0},
    "all pieces": {"train#pseudo_labels#reference_labels": None},
    "Dice on own labels": {"train#self_training_loss#lambda_dice": 1.0},
}


class TargetDice:
    """Dice of a segmentation network on the labelled target test images, by class."""

    def __init__(self, workflow: Any) -> None:
        data, preprocessing = (workflow.parser.get_parsed_content(key) for key in ("data", "preprocessing"))
        records = [record for record in data.target.test if "label" in record]
        samples: Any = SharedDataset(records, preprocessing)
        test = stack_samples(samples, ["image", "label"])
        self.images, self.classes = test["image"].float(), data.num_classes
        self.labels = one_hot(test["label"], self.classes)
        self.names = data.label_names[1:]

    @torch.no_grad()
    def __call__(self, network: nn.Module) -> dict[str, float]:
        training = network.training
        network.eval()
        device = next(network.parameters()).device
        found = [network(part.to(device)).argmax(1, keepdim=True).cpu() for part in self.images.split(16)]
        network.train(training)
        dice: Any = DiceMetric(include_background=False)(one_hot(torch.cat(found), self.classes), self.labels)
        values = dict(zip(self.names, dice.nanmean(0).tolist(), strict=True))
        return values | {"mean": mean(values.values())}


def adapt(
    run: Path, folder: Path, datalist: Path, preset: str, overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """Train stage 3 from the first two stages of a run; the Dice before and after each epoch."""
    folder.mkdir(parents=True)
    for stage in STAGES[:2]:
        (folder / stage).symlink_to((run / stage).resolve())
    workflow = stage_workflow("domain_adaptation", folder, datalist, preset, **overrides)
    logging.getLogger("ignite").setLevel(logging.WARNING)
    measure = TargetDice(workflow)
    parser = workflow.parser
    averaged = parser.get_parsed_content("checkpoints").network
    before = measure(parser.get_parsed_content("source_segmentation"))
    curve: list[dict[str, float]] = []
    trainer = parser.get_parsed_content("train#trainer")
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: curve.append(measure(averaged)))
    workflow.run()
    return {"as is": before, "curve": curve}


def summarise(variant: str, results: list[dict[str, Any]]) -> Row:
    """A row: final Dice, how far the last epoch is behind the best, the smallest gain of a class."""
    final = [result["curve"][-1] for result in results]
    gains = [
        last[name] - result["as is"][name]
        for last, result in zip(final, results, strict=True)
        for name in last
        if name != "mean"
    ]
    behind = [max(e["mean"] for e in result["curve"]) - result["curve"][-1]["mean"] for result in results]
    row: Row = {"variant": variant, "as is": spread([result["as is"]["mean"] for result in results])}
    row |= {name: spread([last[name] for last in final]) for name in final[0]}
    return row | {"best − last, largest": max(behind), "smallest gain of a class": min(gains)}


def main(
    size: int = 64,
    preset: str = "demo",
    seeds: int | tuple[int, ...] = 3,
    variants: str | tuple[str, ...] = tuple(VARIANTS),
    datalist: str | None = None,
    cohort_seed: int = 0,
    folder: str | None = None,
    out: str | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """Train each variant with each seed.

    Args:
        size: of the synthetic knees.
        preset: `demo`, `default` or `paper`.
        seeds: how many, 0, 1, ...; or which, such as `1,4`.
        variants: names, separated by commas; several at once are joined by ``+``.
        datalist: other data than the synthetic knees, with labels of the target's test images.
        cohort_seed: which knees.
        folder: where runs are kept and, if there, taken from: `<folder>/seed_<n>` with stages 1 and 2, as
            benchmarks/chain.py leaves them; a temporary one otherwise.
        out: file for the figures as JSON.
        overrides: ids of stage 3's config.
    """
    arguments = locals().copy()
    names = [name.strip() for name in variants.split(",")] if isinstance(variants, str) else list(variants)
    parts = {name: name.split("+") for name in names}
    unknown = sorted({part for some in parts.values() for part in some} - set(VARIANTS))
    if unknown:
        raise SystemExit(f"Expected variants of {list(VARIANTS)}, got {unknown}.")
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(folder or temporary).resolve()
        data = Path(datalist) if datalist else cohort(place / "data", size, cohort_seed)
        results: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for seed in range(seeds) if isinstance(seeds, int) else seeds:
            run = place / f"seed_{seed}"
            if not (run / "source_segmentation" / "manifest.json").is_file():
                short = {f"{stage}#max_epochs": 1 for stage in STAGES[2:]}
                train(data, run, preset, {**short, "seed": seed})
            for name in names:
                with tempfile.TemporaryDirectory() as scratch:
                    changes = {key: value for part in parts[name] for key, value in VARIANTS[part].items()}
                    chosen = {**overrides, **changes, "seed": seed}
                    results[name].append(adapt(run, Path(scratch) / "run", data, preset, chosen))
                print(summarise(f"{name}, seed {seed}", results[name][-1:]), flush=True)
    rows = [summarise(name, values) for name, values in results.items()]
    return report("ablation", arguments, rows, out, results=results)


if __name__ == "__main__":
    fire.Fire(main, serialize=lambda _: None)
