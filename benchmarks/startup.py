"""What the commands cost beside their work: CPU seconds of the whole process, with tiny networks.

    python benchmarks/startup.py                   # this checkout
    python benchmarks/startup.py --before ../old   # beside another one, in turns

Wall-clock seconds depend on what else the machine does; those of the processor hardly do.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import fire
from common import ROOT, Row, print_table

COHORT = {"size": 64, "train_labelled": 4, "train_unlabelled": 2, "val": 2, "test": 2}
COHORT |= {"target_train": 4, "target_val": 2, "target_test": 2}
SHORT = {"max_epochs": 1, "steps_per_epoch": 1, "batch_size": 2}
SEGMENTATION = SHORT | {"network_def.channels": [4, 8], "network_def.strides": [2]}
REGISTRATION = SHORT | {f"displacement_network.{part}_channels": [4, 8, 8, 8, 8] for part in ("down", "up")}
TINY = {
    "registration_augmentation": REGISTRATION,
    "source_segmentation": SEGMENTATION | {"max_augmented_pairs": 5},
    "domain_adaptation": SEGMENTATION,
    "multimodal_registration": REGISTRATION,
}


def cpu_seconds(checkout: Path, folder: Path, *words: object) -> float:
    """CPU seconds of Python, called with some words in a folder, with the library of a checkout."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_WAIT_POLICY": "PASSIVE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, *map(str, words)], cwd=folder, env=environment, check=True, capture_output=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def prepared(checkout: Path, folder: Path) -> dict[str, list[object]]:
    """What is measured of a checkout, once there is a trained run of it."""
    cohort = [f"--{key}={value}" for key, value in COHORT.items()]
    tiny = [f"--{stage}#{key}={value}" for stage, each in TINY.items() for key, value in each.items()]
    train = ["-m", "crosswarp", "train", "--datalist=data/datalist.json", "--run=run", "--device=cpu", *tiny]
    cpu_seconds(checkout, folder, "-m", "crosswarp", "cohort", "--folder=data", *cohort)
    cpu_seconds(checkout, folder, *train)
    moving = [f"data/images/dxa_{number:04d}.nii.gz" for number in (1, 2)]
    register = ["-m", "crosswarp", "register", "--fixed=data/images/xray_0001.nii.gz", "--models=run"]
    return {
        "import crosswarp": ["-c", "import crosswarp"],
        "crosswarp --help": ["-m", "crosswarp", "--help"],
        "register a pair": [*register, f"--moving={moving[0]}", "--out=one"],
        "register two pairs": [*register, f"--moving={','.join(moving)}", "--out=two"],
        "train, finished": train,
    }


def main(before: str | None = None, rounds: int = 3) -> None:
    """Print CPU seconds of the commands, the fewest of some rounds.

    Args:
        before: another checkout, measured in turns with this one.
        rounds: how often.
    """
    checkouts = ({"before": Path(before).resolve()} if before else {}) | {"now": ROOT}
    with TemporaryDirectory() as place:
        folders = {name: Path(place) / name for name in checkouts}
        calls = {}
        for name, folder in folders.items():
            folder.mkdir()
            calls[name] = prepared(checkouts[name], folder)
        rows: list[Row] = []
        for call in calls["now"]:
            row: Row = {"CPU seconds": call} | dict.fromkeys(checkouts, float("inf"))
            for name in list(checkouts) * rounds:
                row[name] = min(row[name], cpu_seconds(checkouts[name], folders[name], *calls[name][call]))
            rows.append(row)
    second = {name: rows[3][name] - rows[2][name] for name in checkouts}
    rows[3] = {"CPU seconds": "a second pair in the same call"} | second
    print_table(rows)


if __name__ == "__main__":
    fire.Fire(main)
