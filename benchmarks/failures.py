"""Do stages that were broken on purpose warn, and good ones not?

    python benchmarks/failures.py --folder runs/failures
    python benchmarks/failures.py --folder runs/failures --datalist lumbar.json --cases good

Every broken case takes the stages before it from the good run with seed 0 and trains its own stage, with what
is wrong with it. What the folder holds already is not trained again, only judged. Test labels are read for
the table alone: no check sees them.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import fire
import nibabel as nib
import numpy as np
import torch
from common import STAGES, TRANSLATION_ALONE, Row, names, report, stage_workflow
from monai.bundle import ConfigWorkflow

from crosswarp.commands.cohort import cohort
from crosswarp.data import load_datalist
from crosswarp.metrics import dice_per_class
from crosswarp.runs import load_network
from crosswarp.runs.stage import CHECK

WIDE = {"rotation": 35, "scaling": 0.5, "shift": 0.15}


@dataclass
class Case:
    """A training that goes wrong: its stage, what is changed there, and the data, which may be wrong, too."""

    stage: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    data: str = "good"
    before: str = "good_0"


def wide(*ids: str) -> dict[str, Any]:
    """Ranges of augmentations that no anatomy has."""
    return {f"{identifier}#{key}": value for identifier in ids for key, value in WIDE.items()}


_FIRST, _SECOND, _THIRD, _LAST = STAGES
_BOTH = wide("source_augmentation#transforms#0", "target_augmentation#transforms#0")
_ONLY_SELF = {
    "weights#mixed_segmentation": 0.0,
    "self_training_start": 0,
    "reliable_share": 1.0,
    "max_epochs": 8,
}
CASES = {
    "untrained 1": Case(_FIRST, {"learning_rate": 1e-9, "max_epochs": 2}),
    "rate 1 in 1": Case(_FIRST, {"learning_rate": 1.0, "max_epochs": 5}),
    "wrong sign in 1": Case(_FIRST, {"regularity_weight": -1.5, "max_epochs": 5}),
    "rate 10 in 2": Case(_SECOND, {"learning_rate": 10.0, "max_epochs": 4}),
    "others' labels in 2": Case(_SECOND, {"max_epochs": 8}, "shuffled"),
    "wide 2": Case(_SECOND, wide("augmentation#transforms#0")),
    "wide 2 and 3": Case(_THIRD, _BOTH, before="wide 2"),
    "wide, self-taught 3": Case(_THIRD, {**_BOTH, **_ONLY_SELF}, before="wide 2"),
    "rate 1000 in 3": Case(_THIRD, {"segmentation_learning_rate": 1000.0, "max_epochs": 8}),
    "translation alone in 3": Case(
        _THIRD,
        TRANSLATION_ALONE | {"max_epochs": 14, "translation_interval": 2},
    ),
    "upside down 3": Case(_THIRD, {"max_epochs": 14}, "upside"),
    "rate 1 in 4": Case(_LAST, {"learning_rate": 1.0, "max_epochs": 5}),
    "irregular 4": Case(_LAST, {"regularity_weight": 0.0, "max_epochs": 12}),
}


def shuffled(datalist: Path, folder: Path) -> Path:
    """The same data, each labelled training image with the label of the third one after it."""
    content = absolute(datalist)
    (folder / "shuffled").mkdir(parents=True, exist_ok=True)
    records = content["source"]["train_labelled"]
    labels = [nib.load(record["label"]) for record in records]
    for number, record in enumerate(records):
        other, own = labels[(number + 3) % len(labels)], labels[number]
        record["label"] = str(folder / "shuffled" / Path(record["label"]).name)
        nib.save(nib.Nifti1Image(np.asanyarray(other.dataobj), own.affine, own.header), record["label"])
    return written(content, folder / "shuffled.json")


def upside(datalist: Path, folder: Path) -> Path:
    """The same data, the target upside down."""
    content = absolute(datalist)
    (folder / "upside").mkdir(parents=True, exist_ok=True)
    for section in ("train_unlabelled", "val", "test"):
        for record in content["target"].get(section, []):
            for key in record.keys() & {"image", "label"}:
                image = nib.load(record[key])
                record[key] = str(folder / "upside" / f"{key}_{Path(record[key]).name}")
                nib.save(
                    nib.Nifti1Image(np.asanyarray(image.dataobj)[:, ::-1], image.affine, image.header),
                    record[key],
                )
    return written(content, folder / "upside.json")


DATA = {"good": lambda datalist, folder: datalist, "shuffled": shuffled, "upside": upside}


def absolute(datalist: Path) -> dict[str, Any]:
    """The content of a datalist with absolute paths."""
    content = json.loads(datalist.read_text(encoding="utf-8"))
    for modality in (content["source"], content["target"]):
        for record in (
            each for section in modality.values() if isinstance(section, list) for each in section
        ):
            record |= {key: str(datalist.parent / record[key]) for key in record.keys() & {"image", "label"}}
    return content


def written(content: Mapping[str, Any], path: Path) -> Path:
    """A datalist as a file."""
    path.write_text(json.dumps(content))
    return path


def judged(run: Path, datalist: Path, stage: str, **overrides: Any) -> ConfigWorkflow:
    """Train a stage, if the run does not hold it, and judge it by the checks of today."""
    trained = (run / stage / "manifest.json").is_file()
    workflow = stage_workflow(stage, run, datalist, "demo", initialise=not trained, **overrides)
    if not trained:
        workflow.run()
        workflow.finalize()
    else:
        parsed = workflow.parser.get_parsed_content
        parsed("stage").judge(parsed("result_check"), parsed("device"), workflow.parser)
    return workflow


def described(run: Path, datalist: Path, stage: str) -> Row:
    """What became of a stage, and what its check says of it."""
    measured = json.loads((run / stage / CHECK).read_text())["measured"]
    warnings = json.loads((run / stage / "manifest.json").read_text())["warnings"]
    row: Row = {"run": run.name, "stage": STAGES.index(stage) + 1}
    if stage == _THIRD:
        row |= {"dice": test_dice(run / _THIRD, datalist), "start": test_dice(run / _SECOND, datalist)}
        quantities = ("volume", "thickness", "edge_rank", "shape_fit", "stray", "self_agreement")
        row |= {key: values(measured["target"][key]) for key in quantities}
    else:
        start = measured.get("unregistered_dice", measured.get("guessed_dice"))
        row |= {"dice": average(measured["dice"]), "start": average(start)}
        row["folds %"] = measured.get("folds_percent")
    return row | {"warnings": len(warnings), "of": "; ".join(each[:40] for each in warnings)}


def average(values: Mapping[str, float | None]) -> float:
    """Mean of what was measured."""
    return mean(value or 0.0 for value in values.values())


def values(by_class: Mapping[str, float | None]) -> str:
    """The values of all classes, short."""
    return "/".join("-" if value is None else f"{value:.3g}" for value in by_class.values())


@torch.no_grad()
def test_dice(bundle: Path, datalist: Path) -> float:
    """Mean Dice of a segmentation bundle on the target's test images; they are for this table alone."""
    data = load_datalist(datalist)
    workflow = stage_workflow(_THIRD, bundle.parent, datalist, "demo", initialise=False)
    preprocessing = workflow.parser.get_parsed_content("preprocessing")
    network, found = load_network(bundle), []
    for record in data.target.test:
        sample = preprocessing({key: record[key] for key in ("image", "label")})
        predicted = network(sample["image"].as_tensor()[None]).argmax(1, keepdim=True)
        found.append(dice_per_class(predicted, sample["label"].as_tensor()[None].long(), data.num_classes))
    return torch.cat(found).nanmean(0).mean().item()


def main(
    folder: str | None = None,
    datalist: str | None = None,
    size: int = 64,
    seeds: int = 3,
    cases: str | Sequence[str] = "all",
    out: str | None = None,
) -> dict[str, Any]:
    """Train what is not there, judge everything, print the table.

    Args:
        folder: where the runs are kept; a temporary one otherwise.
        datalist: other data than the synthetic knees.
        size: of the synthetic knees.
        seeds: of good trainings; 0, 1, ....
        cases: broken ones, separated by commas; ``all``, or ``good`` for none.
        out: file for the figures as JSON.
    """
    arguments = locals().copy()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(folder or temporary).resolve()
        place.mkdir(parents=True, exist_ok=True)
        good = Path(datalist).resolve() if datalist else cohort(place / "data", size)
        for seed in range(seeds):
            run = place / f"good_{seed}"
            for stage in STAGES:
                judged(run, good, stage, seed=seed)
                rows.append(described(run, good, stage))
                print(rows[-1], flush=True)
        chosen = [] if cases == "good" else list(CASES) if cases == "all" else names(cases)
        for name in chosen:
            case, run = CASES[name], place / name
            for stage in STAGES[: STAGES.index(case.stage)]:
                earlier = next(
                    each for each in (place / case.before, place / "good_0") if (each / stage).is_dir()
                )
                if not (run / stage).is_dir():
                    shutil.copytree(earlier / stage, run / stage)
            data = DATA[case.data](good, place)
            judged(run, data, case.stage, **case.overrides)
            rows.append(described(run, data, case.stage))
            print(rows[-1], flush=True)
    for stage in (False, True):
        own = [row for row in rows if (row["stage"] == 3) is stage]
        if own:
            result = report("failures", arguments, own, None)
    result["rows"] = rows
    if out:
        Path(out).write_text(json.dumps(result, indent=1) + "\n")
    return result


if __name__ == "__main__":
    fire.Fire(main, serialize=lambda _: None)
