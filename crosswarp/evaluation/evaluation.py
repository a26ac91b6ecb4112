"""Evaluation of a trained run on the test records of its datalist: measurements, pictures and the report.

No package of training imports it: that does without the drawing that this needs.
"""

from __future__ import annotations

import json
import logging
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from monai.data import DataLoader, decollate_batch
from torch import Tensor
from tqdm import tqdm

from .. import __version__
from ..data import Datalist, Modality
from ..data.landmarks import read_landmarks
from ..files import file_digest
from ..finite import NonFiniteError, is_finite
from ..inference.pairs import spread_pairs
from ..metrics import (
    MeasuredImage,
    Row,
    aligned,
    compare_methods,
    comparison_table,
    format_table,
    registration_rows,
    representative_images,
    representative_pairs,
    segmentation_rows,
    summarise,
    warp_labels,
)
from ..networks import SegmentAndRegister
from ..report import Curves, write_csv, write_report
from ..runs.bundle import WEIGHTS, read_json, write_json
from ..runs.config import check_overrides, read_config, running_parser
from ..runs.stage import LOCATION_IDS, training_warnings
from ..spatial import sample
from ..spatial.grid import Grid
from .methods import LabelRegistration, RegistrationMethod, measured_cost

logger = logging.getLogger(__name__)

Pair = tuple[MeasuredImage, MeasuredImage]
Prepared = dict[str, tuple[Any, float]]
ROUNDING = 1e-6  # voxels beyond the outermost centres that a landmark may lie


def evaluated_records(modality: Modality) -> list[dict[str, str]]:
    """The test records with a label or landmarks; all where none has any, to be looked at if not measured."""
    return [record for record in modality.test if {"label", "landmarks"} & record.keys()] or modality.test


def training_curves(run_dir: Path, stages: Sequence[str]) -> Curves:
    """What the stages of a run recorded in training, by epoch."""
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for number, stage in enumerate(stages, 1):
        series = curves.setdefault(f"{number}. {stage.replace('_', ' ')}, by epoch", {})
        for entry in read_json(run_dir / stage / "checkpoints" / "history.json"):
            for name in entry.keys() - {"epoch"}:
                series.setdefault(name, []).append((entry["epoch"], entry[name]))
    return {stage: dict(sorted(series.items())) for stage, series in curves.items()}


class Evaluation:
    """Measures the trained networks of a run, and baselines, on the networks' own grid.

    Every image is segmented by the network of its modality; target images also by the source network as it
    is, where the modalities have equal channels. Pairs of a source and a target image are registered both
    ways, through the predicted labels; overlap is that of the *manual* labels, warped one-hot. Baselines
    register the same pairs and are measured by the same code. Lengths are in mm: the spacing of the grid
    follows from where the image lies in space.

    `evaluation/manifest.json` records what was evaluated. As long as weights, data and config are the same,
    the stored summary is shown and nothing is computed; measurements of a baseline are kept by themselves.

    Args:
        run_dir: the run's folder.
        bundle_root: the bundle whose config runs.
        data: the datalist of the run.
        network: returns the network; called only if there is something to compute.
        source: single images of the source modality, `image` `[1, C, *spatial]` and, where there are labels,
            integer `label` `[1, 1, *spatial]`, in the order of the records `dataset.data`.
        target: images of the target modality.
        device: where to compute.
        batch_size: pairs in a batch.
        max_pairs: most pairs to register, spread evenly over the images; None for all.
        pairs: the pairs to register instead, `[source image, target image]` each, named as in the datalist.
        baselines: methods to compare with, by name; those that are not available are named and left out.
    """

    def __init__(
        self,
        run_dir: str,
        bundle_root: str,
        data: Datalist,
        network: Callable[[], SegmentAndRegister],
        source: DataLoader,
        target: DataLoader,
        device: torch.device | str = "cpu",
        batch_size: int = 16,
        max_pairs: int | None = 200,
        pairs: Sequence[Sequence[str]] | None = None,
        baselines: Mapping[str, RegistrationMethod] | None = None,
    ) -> None:
        self.run_dir, self.bundle_root = Path(run_dir), Path(bundle_root)
        self.data, self.network, self.device = data, network, torch.device(device)
        self.modalities = {"source": data.source, "target": data.target}
        self.loaders = {"source": source, "target": target}
        self.records: dict[str, list[dict[str, str]]] = {
            "source": source.dataset.data,  # type: ignore[attr-defined]
            "target": target.dataset.data,  # type: ignore[attr-defined]
        }
        self.names = {key: self.image_names(records) for key, records in self.records.items()}
        self.batch_size, self.max_pairs, self.named_pairs = batch_size, max_pairs, pairs
        self.baselines = dict(baselines or {})

    def image_names(self, records: Sequence[Mapping[str, str]]) -> list[str]:
        """The images of records, named as in the datalist."""
        folder = self.data.path.parent
        paths = [Path(record["image"]) for record in records]
        return [
            (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix() for path in paths
        ]

    def check(self) -> None:
        """Check the config before anything is computed.

        Raises:
            ValueError: for a misspelt parameter, pairs of images that are not there, no test images,
                landmark files that cannot be read, or a baseline that is given the wrong data.
        """
        check_overrides(running_parser(), self.bundle_root / "configs" / "evaluate.json")
        if not any(self.names.values()):
            raise ValueError(f"Expected test records in {self.data.path}, but neither modality has any.")
        self.pairs()
        for method in self.baselines.values():
            method.unavailable()
        faults = []
        for record in (record for records in self.records.values() for record in records):
            try:
                self.landmarks(record)
            except ValueError as error:
                faults.append(str(error))
        if faults:
            raise ValueError("\n".join(faults))

    def pairs(self) -> list[tuple[int, int]]:
        """The pairs to register, as numbers of the source and of the target image.

        Raises:
            ValueError: when `pairs` names other images than those that are evaluated.
        """
        sources, targets = self.names["source"], self.names["target"]
        if self.named_pairs is None:
            return spread_pairs(len(sources), len(targets), self.max_pairs)
        known = set(product(sources, targets))
        wrong = [pair for pair in self.named_pairs if tuple(pair) not in known]
        if wrong:
            raise ValueError(
                f"Expected pairs [source image, target image] of test images, named as in {self.data.path} "
                f"(such as {sources[:1] + targets[:1]}), got {wrong}."
            )
        return [(sources.index(source), targets.index(target)) for source, target in self.named_pairs]

    def run(self) -> None:
        """Measure, write `evaluation/metrics.csv`, `report.html` and the manifest, and print the summary.

        With baselines also `evaluation/comparison.csv`.
        """
        folder = self.run_dir / "evaluation"
        files = [folder / "metrics.csv", self.run_dir / "report.html"]
        if self.baselines:
            files.insert(1, folder / "comparison.csv")
        parser = running_parser()
        config = {key: value for key, value in parser.get().items() if key not in LOCATION_IDS}
        baselines = config.pop("baselines", None) or {}
        digests = [
            read_json(self.run_dir / "run.json")["datalist_digest"],
            file_digest(self.run_dir / WEIGHTS),
        ]
        left_out = {name: reason for name, each in self.baselines.items() if (reason := each.unavailable())}
        content: list[Any] = [config, digests, __version__]
        warnings = self.training_warnings()
        fingerprint = _digest([*content, baselines, left_out, warnings])
        manifest = read_json(folder / "manifest.json") if (folder / "manifest.json").is_file() else {}
        if manifest.get("fingerprint") == fingerprint and all(file.is_file() for file in files):
            logger.info(f"Evaluated on {manifest['date']}; nothing has changed since.")
        else:
            # ids that the configs of other baselines bring along do not count
            own = read_config(self.bundle_root / "configs" / "evaluate.json").get()
            content[0] = {key: value for key, value in config.items() if key in own}
            prints = {name: _digest([*content, baselines.get(name)]) for name in self.baselines}
            manifest = {"fingerprint": fingerprint, "weights": digests[1]}
            manifest |= self.evaluate(folder, left_out, prints)
            write_json(folder / "manifest.json", manifest)
        warned = [f"Warning: training of {warning}." for warning in warnings]
        print("", *warned, *manifest["notes"], "", *manifest["table"], *files, sep="\n")

    def training_warnings(self) -> list[str]:
        """What the stages of the run warn of."""
        return training_warnings(self.run_dir, read_json(self.run_dir / "provenance.json")["stages"])

    def evaluate(
        self, folder: Path, left_out: Mapping[str, str], fingerprints: Mapping[str, str]
    ) -> dict[str, Any]:
        """Measure, write the measurements and the report.

        Args:
            folder: where measurements are written.
            left_out: the baselines that are not available, and why.
            fingerprints: of each baseline, by which its measurements are known again.

        Returns:
            what the manifest records of it.
        """
        folder.mkdir(parents=True, exist_ok=True)
        images = {key: self.load(key) for key in self.modalities}
        pairs = [(images["source"][i], images["target"][j]) for i, j in self.pairs()]
        with (
            self.scratch() as scratch,
            torch.inference_mode(),
        ):
            network = self.network()
            own = LabelRegistration(network)
            prepared = self.prepare("crosswarp", own, images, Path(scratch))
            predicted = {
                name: value.argmax(0, keepdim=True).to(torch.uint8) for name, (value, _) in prepared.items()
            }
            rows = self.segmentation(images["source"], predicted, "source")
            if self.data.source.channels == self.data.target.channels:
                as_is = LabelRegistration(network, target="source")
                classes = {
                    image.name: as_is.prepare(image, "target").argmax(0, keepdim=True)
                    for image in images["target"]
                    if image.label is not None
                }
                rows += self.segmentation(images["target"], classes, "source as is")
            rows += self.segmentation(images["target"], predicted, "target")
            if pairs:
                self.maps(own, prepared, pairs[:1])  # what only the first call takes is not timed
            rows += self.register("crosswarp", own, prepared, pairs)
            pictures = self.pictured_pairs(own, prepared, predicted, pairs, rows)
        remarks = [f"Baseline {name} was left out: {reason}." for name, reason in left_out.items()]
        for name in (name for name in self.baselines if pairs and name not in left_out):
            path = folder / "baselines" / f"{name}.json"
            stored = self.stored_rows(path, fingerprints[name], name, images, pairs)
            rows += stored["rows"]
            if stored["failures"]:
                remarks.append(
                    f"Baseline {name} failed on {stored['failures']} of {2 * len(pairs)} maps; these count "
                    "as unregistered."
                )
        write_csv(rows, folder / "metrics.csv")
        summary = summarise(rows)
        table = format_table(summary).split("\n")
        comparison = compare_methods(rows) if self.baselines else []
        if self.baselines:
            write_csv(comparison, folder / "comparison.csv")
            table += ["Comparison: Dice, mean over the classes", *aligned(comparison_table(comparison)), ""]
        notes, date = [*self.notes(images, len(pairs)), *remarks], time.strftime("%Y-%m-%d %H:%M %Z")
        self.write_report(images, predicted, rows, pictures, notes, date, comparison)
        # JSON has no NaN
        values = [{key: None if value != value else value for key, value in row.items()} for row in summary]
        return {"date": date, "notes": notes, "table": table, "summary": values}

    def write_report(
        self,
        images: Mapping[str, Sequence[MeasuredImage]],
        predicted: Mapping[str, Tensor],
        rows: Sequence[Row],
        pictures: Sequence[Mapping[str, Any]],
        notes: Sequence[str],
        date: str,
        comparison: Sequence[Row],
    ) -> None:
        """Write `report.html`."""
        hardware = (
            torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else platform.machine()
        )
        provenance = read_json(self.run_dir / "provenance.json")
        write_report(
            self.run_dir / "report.html",
            f"{self.data.name}: {self.data.source.name} and {self.data.target.name}",
            rows,
            pictures,
            [picture for each in images.values() for picture in pictured_images(each, predicted, rows)],
            training_curves(self.run_dir, provenance["stages"]),
            {"device": f"{self.device} ({hardware})", "evaluated": date} | provenance,
            notes,
            comparison,
            self.training_warnings(),
        )

    def notes(self, images: Mapping[str, Sequence[MeasuredImage]], count: int) -> list[str]:
        """What the numbers, with `count` registered pairs, stand on, in sentences."""
        grid = " × ".join(map(str, self.data.spatial_size))
        tested = " and ".join(f"{len(self.names[key])} {each.name}" for key, each in self.modalities.items())
        total = len(self.names["source"]) * len(self.names["target"])
        notes = [
            f"Measured on the networks' grid of {grid} points, on {tested} test images; {count} of their "
            f"{total} pairs were registered, each in both directions."
        ]
        for modality in self.modalities.values():
            missing = sum("label" not in record for record in modality.test)
            if missing == len(modality.test):
                notes.append(f"No {modality.name} test image has a label: no overlap can be measured there.")
            elif missing:
                notes.append(f"{missing} {modality.name} test images without a label were left out.")
        for key, records in self.records.items():
            for image, record in zip(images[key], records, strict=True):
                if outside := self.landmarks(record).keys() - image.landmarks.keys():
                    notes.append(
                        f"Landmarks outside {image.name} were left out: {', '.join(sorted(outside))}."
                    )
        return notes

    def landmarks(self, record: Mapping[str, str]) -> dict[str, Any]:
        """The landmarks of an image, mm in LPS, by name; none where there is no file."""
        path = record.get("landmarks")
        return {} if path is None else read_landmarks(path, self.data.spatial_dims)

    def load(self, modality: str) -> list[MeasuredImage]:
        """The test images of a modality on the networks' grid, with what they are measured by."""
        images = []
        samples = (each for batch in self.loaders[modality] for each in decollate_batch(batch))
        for name, record, tensors in zip(self.names[modality], self.records[modality], samples, strict=True):
            image = tensors["image"]
            grid = Grid.of(image)
            points = self.landmarks(record)
            images.append(
                MeasuredImage(
                    name,
                    record["subject"],
                    self.modalities[modality].name,
                    image.as_tensor(),
                    grid,
                    tensors["label"].as_tensor() if "label" in tensors else None,
                    {key: point for key, point in points.items() if grid.contains(point, ROUNDING)},
                )
            )
        return images

    def scratch(self) -> TemporaryDirectory[str]:
        """A folder beside the run for what methods prepare; on Windows mapped files may outlive it."""
        return TemporaryDirectory(dir=self.run_dir, prefix=".prepared-", ignore_cleanup_errors=True)

    def prepare(
        self,
        name: str,
        method: RegistrationMethod,
        images: Mapping[str, Sequence[MeasuredImage]],
        scratch: Path,
    ) -> Prepared:
        """What a method needs of each image, and the seconds that it took.

        Tensors are kept on disk and mapped into memory: class probabilities of many volumes are large.
        """
        prepared: Prepared = {}
        every = [(key, image) for key, each in images.items() for image in each]
        for number, (key, image) in enumerate(tqdm(every, desc=f"{name}: images", unit="image")):
            with measured_cost(getattr(method, "device", self.device)) as cost:
                value = method.prepare(image, key)
            if isinstance(value, Tensor):
                file = scratch / f"{number}.npy"
                np.save(file, value.numpy())
                value = torch.from_numpy(np.load(file, mmap_mode="c"))
            prepared[image.name] = value, cost.seconds
        return prepared

    def segmentation(
        self, images: Sequence[MeasuredImage], classes: Mapping[str, Tensor], network: str
    ) -> list[Row]:
        """Measure segmentations of the images that have a label."""
        return [
            row
            for image in images
            if image.label is not None
            for row in segmentation_rows(classes[image.name], image, network, self.data.label_names)
        ]

    def register(
        self, name: str, method: RegistrationMethod, prepared: Prepared, pairs: Sequence[Pair]
    ) -> list[Row]:
        """Register pairs both ways, and measure."""
        rows: list[Row] = []
        for start in tqdm(range(0, len(pairs), self.batch_size), desc=f"{name}: pairs", unit="batch"):
            batch = pairs[start : start + self.batch_size]
            with measured_cost(getattr(method, "device", self.device)) as cost:
                both_ways = self.maps(method, prepared, batch)
            for images, *maps in zip(batch, *(phi.split(1) for phi in both_ways), strict=True):
                seconds = sum(prepared[image.name][1] for image in images)
                seconds += cost.seconds / (2 * len(batch))
                for m, f in ((0, 1), (1, 0)):
                    rows += registration_rows(
                        images[m],
                        images[f],
                        maps[m],
                        maps[f],
                        self.data.label_names,
                        name,
                        seconds,
                        cost.memory_mib,
                    )
        return rows

    def maps(
        self, method: RegistrationMethod, prepared: Prepared, pairs: Sequence[Pair]
    ) -> tuple[Tensor, Tensor]:
        """The maps first_to_second and second_to_first of pairs, each `[B, D, *spatial]`.

        Raises:
            NonFiniteError: naming the pairs, where a map holds NaN or infinity.
        """
        first, second = ([prepared[image.name][0] for image in each] for each in zip(*pairs, strict=True))
        maps = method.register(first, second)
        if not all(map(is_finite, maps)):
            names = ", ".join(" and ".join(image.name for image in pair) for pair in pairs)
            raise NonFiniteError(
                f"Expected maps of finite coordinates from {type(method).__name__}, got NaN or infinity for "
                f"some of {names}: its network has diverged."
            )
        return maps

    def stored_rows(
        self,
        path: Path,
        fingerprint: str,
        name: str,
        images: Mapping[str, Sequence[MeasuredImage]],
        pairs: Sequence[Pair],
    ) -> dict[str, Any]:
        """The measurements of a baseline (`rows`, `failures`), from its file where they are there already."""
        method = self.baselines[name]
        method.load()
        fingerprint = _digest([fingerprint, getattr(method, "digest", None)])
        stored = read_json(path) if path.is_file() else {}
        if stored.get("fingerprint") != fingerprint:
            with (
                self.scratch() as scratch,
                torch.inference_mode(),
            ):
                prepared = self.prepare(name, method, images, Path(scratch))
                self.maps(method, prepared, pairs[:1])  # what only the first call takes is not timed
                before = getattr(method, "failures", 0)
                rows = self.register(name, method, prepared, pairs)
            failures = getattr(method, "failures", 0) - before
            stored = {"fingerprint": fingerprint, "rows": rows, "failures": failures}
            write_json(path, stored)
        return stored

    def pictured_pairs(
        self,
        method: RegistrationMethod,
        prepared: Prepared,
        predicted: Mapping[str, Tensor],
        pairs: Sequence[Pair],
        rows: Sequence[Row],
    ) -> list[dict[str, Any]]:
        """The worst, median and best registration; where nothing was measured, the first three."""
        both_ways = {(a.name, b.name): (a, b) for pair in pairs for a, b in (pair, pair[::-1])}
        chosen = {
            (each["moving"], each["fixed"]): f"{each['rank'].capitalize()}, Dice {each['dice']:.3f}"
            for each in representative_pairs(rows)
        } or {(a.name, b.name): "Example" for a, b in pairs[:3]}
        pictures = []
        for names, title in chosen.items():
            moving, fixed = pair = both_ways[names]
            phi, phi_inverse = (each.cpu() for each in self.maps(method, prepared, [pair]))
            labels = [predicted[each.name] if each.label is None else each.label for each in pair]
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
                    "warped_label": warp_labels(labels[0][None], phi, self.data.num_classes)[0, 0].numpy(),
                    "phi": phi[0].numpy(),
                    "phi_inverse": phi_inverse[0].numpy(),
                }
            )
        return pictures


def pictured_images(
    images: Sequence[MeasuredImage], predicted: Mapping[str, Tensor], rows: Sequence[Row]
) -> list[dict[str, Any]]:
    """The worst, median and best segmentation of a modality; where nothing was measured, the first three."""
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
            }
        )
    return pictures


def _digest(content: Any) -> str:
    return sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
