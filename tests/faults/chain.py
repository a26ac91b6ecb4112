"""The miniature chain that is tormented, what it is to come to, and whether it did."""

from __future__ import annotations

import csv
import gzip
import json
import os
import shutil
import signal
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

from crosswarp.files import file_digest
from crosswarp.places import STAGES
from crosswarp.release.verify import inspect
from tests.cohorts import write_blob_cohort

from .process import ROOT, Ended, options, run

SHORT = {"max_epochs": 3, "steps_per_epoch": 1, "batch_size": 2, "val_interval": 1}
REGISTRATION = SHORT | {
    "displacement_network.down_channels": "[4,8]",
    "displacement_network.up_channels": "[4,8]",
}
UNET = {"channels": "[4,8]", "strides": "[2]"}
SEGMENTATION = SHORT | {f"network_def.{key}": value for key, value in (UNET | {"num_res_units": 1}).items()}
TRANSLATION = {
    f"{part}.{key}": value for part in ("source_to_target", "target_to_source") for key, value in UNET.items()
} | {
    f"{part}.{key}": value
    for part in ("source_discriminator", "target_discriminator")
    for key, value in {"channels": 4, "num_layers_d": 1}.items()
}
TINY = {
    "registration_augmentation": REGISTRATION,
    "source_segmentation": SEGMENTATION | {"max_augmented_pairs": 5},
    "domain_adaptation": {k: v for k, v in SEGMENTATION.items() if k != "val_interval"}
    | TRANSLATION
    | {"pool_size": 2},
    "multimodal_registration": REGISTRATION,
}
UNTIMED = ("seconds", "memory_mib")  # columns of measurements that differ from run to run
PAIR = ("images/warmtest0.nii.gz", "images/coldtest1.nii.gz")


class Chain:
    """A miniature chain, and snapshots of it to start from.

    Args:
        folder: for everything.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.datalist = write_blob_cohort(
            self.data, spatial_dims=2, num_classes=2, channels=1, spatial_size=(32, 24)
        )
        self.log = folder / "log.txt"
        self.snapshots: dict[str, Path] = {}
        self.expected: dict[str, object] = {}

    def words(self, command: str, run_dir: Path) -> list[str]:
        """The command line of a command on a run."""
        out = {"out": run_dir.with_name(f"{run_dir.name}_{command}")}
        if command == "train":
            tiny = {
                f"{stage}#{key}": value for stage, values in TINY.items() for key, value in values.items()
            }
            poses = {"pose_recognition#examples": 8, "pose_recognition#steps": 2}
            more = {"worsened_pairs": 0, "device": "cpu"} | poses | tiny
            return ["train", *options({"datalist": self.datalist, "run": run_dir} | more)]
        if command == "register":
            moving, fixed = (self.data / name for name in PAIR)
            pair = {"moving": moving, "fixed": fixed, "models": run_dir, "device": "cpu"} | out
            return ["register", *options(pair)]
        if command == "package":
            return ["package", *options({"run": run_dir} | out), "--overwrite"]
        return [command, *options({"run": run_dir, "device": "cpu", "max_pairs": 2})]

    def prepare(self, commands: Collection[str]) -> None:
        """Make the reference and the snapshots.

        Args:
            commands: what will be tried.

        Raises:
            RuntimeError: where the chain does not work without any faults.
        """
        for number, stage in enumerate(STAGES):
            place = self.folder / "snapshots" / f"in_{stage}"
            if number:
                shutil.copytree(self.snapshots[STAGES[number - 1]], place)
            self.snapshots[stage] = place
            ended = run(self.words("train", place), self.log, partial(killing_itself, stage))
            if ended.code != -signal.SIGKILL:
                raise RuntimeError(ended.output)
        place = self.folder / "snapshots" / "trained"
        shutil.copytree(self.snapshots[STAGES[-1]], place)
        self.snapshots["trained"] = place
        self._must(run(self.words("train", place), self.log))
        finished = self.folder / "snapshots" / "finished"
        shutil.copytree(place, finished)
        # the run stands elsewhere now: its record of being finished goes by places
        for command in dict.fromkeys(["train", *commands]):
            self._must(run(self.words(command, finished), self.log))
            self.expected[command] = self.result(command, finished)
        self.snapshots["finished"] = finished

    @staticmethod
    def _must(ended: Ended) -> None:
        if ended.code:
            raise RuntimeError(ended.output)

    def copy(self, snapshot: str, name: str = "run", place: Path | None = None) -> Path:
        """A fresh copy of a snapshot (none for ``"nothing"``); what commands wrote beside it is gone."""
        run_dir = (place or self.folder / "trial") / name
        shutil.rmtree(run_dir.parent, ignore_errors=True) if place is None else None
        run_dir.parent.mkdir(parents=True, exist_ok=True)
        if snapshot != "nothing":
            shutil.copytree(self.snapshots[snapshot], run_dir)
        return run_dir

    def result(self, command: str, run_dir: Path) -> object:
        """What a command has made, in a form that is equal where it did the same."""
        out = run_dir.with_name(f"{run_dir.name}_{command}")
        if command == "train":
            weights = [
                run_dir / "models" / "model.pt",
                *(run_dir / s / "models" / "model.pt" for s in STAGES),
            ]
            states = [json.loads((run_dir / name / "manifest.json").read_text())["state"] for name in STAGES]
            return [file_digest(path) for path in weights], states
        if command == "evaluate":
            whole = (run_dir / "report.html").read_text(encoding="utf-8").rstrip().endswith("</html>")
            rows = csv.DictReader((run_dir / "evaluation" / "metrics.csv").read_text().splitlines())
            return whole, [{k: v for k, v in row.items() if k not in UNTIMED} for row in rows]
        if command == "package":
            zips = sorted(out.glob("*.zip"))
            return [path.name for path in zips], [
                inspect(path.read_bytes(), path.name).faults for path in zips
            ]
        files = sorted(path for path in out.iterdir() if path.name.endswith((".nii.gz", ".json")))
        return {
            path.name: gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            for path in files
        }

    def right(self, command: str, run_dir: Path) -> bool:
        """Whether a command has made what it does without faults."""
        try:
            return self.result(command, run_dir) == self.expected[command]
        except (OSError, ValueError, KeyError):
            return False


def killing_itself(stage: str) -> None:
    """Have this process die in a stage, once its second state is written."""
    from crosswarp.training import Checkpoints

    save: Callable[..., None] = Checkpoints.save

    def last(self: Checkpoints, engine: object) -> None:
        save(self, engine)
        if self.folder.parent.name == stage and engine.state.epoch == 2:  # type: ignore[attr-defined]
            os.kill(os.getpid(), signal.SIGKILL)

    Checkpoints.save = last  # type: ignore[method-assign, assignment]


def kept_files(run_dir: Path) -> list[Path]:
    """The files of a run that anything reads later."""
    passing = ("tensorboard", "docs")
    return sorted(
        path
        for path in run_dir.rglob("*")
        if path.is_file() and path.name != "train.log" and not any(p in path.parts for p in passing)
    )


__all__ = ["ROOT", "Chain", "kept_files"]
