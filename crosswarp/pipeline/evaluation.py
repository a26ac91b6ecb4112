"""Evaluation of a trained run on the test records of its datalist: measurements, pictures and the report.

The package `pipeline` does not import it: training does without the drawing that this needs.
"""

from __future__ import annotations

import json
import logging
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

import torch
from monai.data import DataLoader
from torch import Tensor
from tqdm import tqdm

from .. import __version__
from ..data import Datalist, Modality, load_datalist
from ..data.pairs import spread_pairs
from ..metrics import (
    Row,
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
from ..spatial import sample
from .bundle import INFERENCE, WEIGHTS, file_digest, read_json, write_json
from .chain import PARTS
from .config import check_overrides, exits_with_message, read_config, running_parser
from .stage import LOCATION_IDS, claim_run

logger = logging.getLogger(__name__)


@exits_with_message
def data_of_run(run_dir: str | Path, datalist: str | Path | None = None) -> Datalist:
    """The data of a run, once it is certain that all its stages are trained, and on these very data.

    Args:
        run_dir: the run's folder.
        datalist: the datalist's file; None for the one that the run recorded.

    Returns:
        the datalist, its `spatial_size` that of the run's networks.

    Raises:
        SystemExit: where there is no run, its data have changed or are others, or a stage is not trained.
    """
    run_dir = Path(run_dir)
    if not (run_dir / "run.json").is_file():
        raise FileNotFoundError(
            f"Expected a run in {run_dir}, but there is no run.json: correct run_dir, or train with "
            "configs/train.json."
        )
    recorded = read_json(run_dir / "run.json")["datalist"]
    if datalist is None and not Path(recorded).is_file():
        raise FileNotFoundError(
            f"The run's datalist {recorded} is not there any more: give its new place as datalist."
        )
    data = load_datalist(datalist or recorded)
    claim_run(run_dir, data)
    manifests = {name: run_dir / name / "manifest.json" for name in PARTS.values()}
    trained = {name: read_json(path) for name, path in manifests.items() if path.is_file()}
    unfinished = [name for name in PARTS.values() if trained.get(name, {}).get("state") != "done"]
    if unfinished:
        raise ValueError(
            f"Expected a finished run in {run_dir}, but not trained yet: {', '.join(unfinished)}. Go on with "
            "configs/train.json."
        )
    provenance = run_dir / "provenance.json"
    published = read_json(provenance)["stages"] if provenance.is_file() else {}
    if any(
        published.get(name, {}).get("weights") != manifest["weights"] for name, manifest in trained.items()
    ):
        raise ValueError(
            f"Expected the networks of the run's stages in {run_dir / WEIGHTS}, but a stage was trained by "
            "itself since: run configs/train.json, which puts them together and trains nothing that is done."
        )
    return replace(data, spatial_size=read_config(run_dir / INFERENCE)["spatial_size"])


def evaluated_records(modality: Modality) -> list[dict[str, str]]:
    """The test records with a label; all of them where none has one, to be looked at if not measured."""
    return [record for record in modality.test if "label" in record] or modality.test


def training_curves(run_dir: Path, stages: Sequence[str]) -> Curves:
    """What the stages of a run recorded in training, by epoch."""
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for number, stage in enumerate(stages, 1):
        series = curves.setdefault(f"{number}. {stage.replace('_', ' ')}, by epoch", {})
        for entry in read_json(run_dir / stage / "checkpoints" / "history.json"):
            for name in entry.keys() - {"epoch"}:
                series.setdefault(name, []).append((entry["epoch"], entry[name]))
    return {stage: dict(sorted(series.items())) for stage, series in curves.items()}


@dataclass
class SegmentedImage:
    """A test image as the evaluation keeps it, on the CPU.

    Attributes:
        name: the image as its datalist names it.
        modality: name of its modality.
        image: its first channel, `[*spatial]`.
        probabilities: `[K, *spatial]`, of each class, from the network of its modality.
        label: the manual label `[1, *spatial]`, uint8; None where there is none.
    """

    name: str
    modality: str
    image: Tensor
    probabilities: Tensor
    label: Tensor | None

    @property
    def predicted(self) -> Tensor:
        """The likeliest class of every point, `[1, *spatial]`, uint8."""
        return self.probabilities.argmax(0, keepdim=True).to(torch.uint8)

    @property
    def outlines(self) -> Tensor:
        """What to show of it, `[1, *spatial]`, uint8: the manual label or, without one, the predicted."""
        return self.predicted if self.label is None else self.label


class Evaluation:
    """Measures the trained networks of a run on the networks' own grid.

    Every image is segmented once by the network of its modality; target images also by the source network as
    it is, where the modalities have equal channels. Pairs of a source and a target image are registered both
    ways in one batch, through the predicted labels; overlap is that of the *manual* labels, warped one-hot.

    `evaluation/manifest.json` records what was evaluated. As long as weights, data and config are the same,
    the stored summary is shown and nothing is computed.

    Args:
        run_dir: the run's folder.
        bundle_root: the bundle whose config runs.
        data: the datalist of the run.
        network: returns the network; called only if there is something to compute.
        source: batches of the source modality with `image` `[B, C, *spatial]` and, where there are labels,
            integer `label` `[B, 1, *spatial]`, in the order of the records `dataset.data`.
        target: batches of the target modality.
        device: where to compute.
        batch_size: pairs in a batch.
        max_pairs: most pairs to register, spread evenly over the images; None for all.
        pairs: the pairs to register instead, `[source image, target image]` each, named as in the datalist.
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
    ) -> None:
        self.run_dir, self.bundle_root = Path(run_dir), Path(bundle_root)
        self.data, self.network, self.device = data, network, torch.device(device)
        self.modalities = {"source": data.source, "target": data.target}
        self.loaders = {"source": source, "target": target}
        self.names = {key: self.image_names(loader.dataset) for key, loader in self.loaders.items()}
        self.batch_size, self.max_pairs, self.named_pairs = batch_size, max_pairs, pairs

    def image_names(self, dataset: Any) -> list[str]:
        """The images of a data set's records `dataset.data`, named as in the datalist."""
        folder = self.data.path.parent
        paths = [Path(record["image"]) for record in dataset.data]
        return [
            (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix() for path in paths
        ]

    @exits_with_message
    def check(self) -> None:
        """Check the config before anything is computed.

        Raises:
            SystemExit: for a misspelt parameter, pairs of images that are not there, or no test images.
        """
        check_overrides(running_parser(), self.bundle_root / "configs" / "evaluate.json")
        if not any(self.names.values()):
            raise ValueError(f"Expected test records in {self.data.path}, but neither modality has any.")
        self.pairs()

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
        """Measure, write `evaluation/metrics.csv`, `report.html` and the manifest, and print the summary."""
        folder = self.run_dir / "evaluation"
        files = [folder / "metrics.csv", self.run_dir / "report.html"]
        config = {key: value for key, value in running_parser().get().items() if key not in LOCATION_IDS}
        digests = [
            read_json(self.run_dir / "run.json")["datalist_digest"],
            file_digest(self.run_dir / WEIGHTS),
        ]
        content = json.dumps([config, digests, __version__], sort_keys=True, default=str)
        fingerprint = sha256(content.encode()).hexdigest()
        manifest = read_json(folder / "manifest.json") if (folder / "manifest.json").is_file() else {}
        if manifest.get("fingerprint") == fingerprint and all(file.is_file() for file in files):
            logger.info(f"Evaluated on {manifest['date']}; nothing has changed since.")
        else:
            manifest = {"fingerprint": fingerprint} | self.evaluate(*files)
            write_json(folder / "manifest.json", manifest)
        print("", *manifest["notes"], "", *manifest["table"], *files, sep="\n")

    @torch.inference_mode()
    def evaluate(self, csv: Path, report: Path) -> dict[str, Any]:
        """Measure, write the measurements and the report; returns what the manifest records of it."""
        network, pairs = self.network(), self.pairs()
        source, source_rows = self.segment(network, "source")
        target, target_rows = self.segment(network, "target")
        registered = [(source[i], target[j]) for i, j in pairs]
        rows = [*source_rows, *target_rows, *self.register(network, registered)]
        write_csv(rows, csv)
        notes, date = self.notes(len(pairs)), time.strftime("%Y-%m-%d %H:%M %Z")
        hardware = (
            torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else platform.machine()
        )
        provenance = read_json(self.run_dir / "provenance.json")
        write_report(
            report,
            f"{self.data.name}: {self.data.source.name} and {self.data.target.name}",
            rows,
            self.pictured_pairs(network, registered, rows),
            [*pictured_images(source, rows), *pictured_images(target, rows)],
            training_curves(self.run_dir, provenance["stages"]),
            {"device": f"{self.device} ({hardware})", "evaluated": date} | provenance,
            notes,
        )
        summary = summarise(rows)
        # JSON has no NaN
        values = [{key: None if value != value else value for key, value in row.items()} for row in summary]
        return {"date": date, "notes": notes, "table": format_table(summary).split("\n"), "summary": values}

    def notes(self, count: int) -> list[str]:
        """What the numbers, with `count` registered pairs, stand on, in sentences."""
        grid = " × ".join(map(str, self.data.spatial_size))
        images = " and ".join(f"{len(self.names[key])} {each.name}" for key, each in self.modalities.items())
        total = len(self.names["source"]) * len(self.names["target"])
        notes = [
            f"Measured on the networks' grid of {grid} points, on {images} test images; {count} of their "
            f"{total} pairs were registered, each in both directions."
        ]
        for modality in self.modalities.values():
            missing = sum("label" not in record for record in modality.test)
            if missing == len(modality.test):
                notes.append(f"No {modality.name} test image has a label: no overlap can be measured there.")
            elif missing:
                notes.append(f"{missing} {modality.name} test images without a label were left out.")
        return notes

    def segment(self, network: SegmentAndRegister, modality: str) -> tuple[list[SegmentedImage], list[Row]]:
        """Segment the images of a modality, and measure where there are labels."""
        name, label_names = self.modalities[modality].name, self.data.label_names
        networks = {modality: modality}
        if modality == "target" and self.data.source.channels == self.data.target.channels:
            networks = {"source as is": "source"} | networks
        segmented: list[SegmentedImage] = []
        rows: list[Row] = []
        for batch in tqdm(self.loaders[modality], desc=f"segmenting {name}", unit="batch"):
            images = batch["image"].as_subclass(Tensor).to(self.device)
            labels = batch["label"].as_subclass(Tensor) if "label" in batch else [None] * len(images)
            predicted = {title: network.segment(images, key).cpu() for title, key in networks.items()}
            for i, label in enumerate(labels):
                image = self.names[modality][len(segmented)]
                segmented.append(
                    SegmentedImage(image, name, images[i, 0].cpu(), predicted[modality][i], label)
                )
                for title in networks if label is not None else ():
                    classes = predicted[title][i].argmax(0)[None, None]
                    rows += segmentation_rows(classes, label[None], image, name, title, label_names)
        return segmented, rows

    def register(
        self, network: SegmentAndRegister, pairs: Sequence[tuple[SegmentedImage, SegmentedImage]]
    ) -> list[Row]:
        """Register pairs both ways, and measure; without labels on both sides the overlap is NaN."""
        rows: list[Row] = []
        unlabelled = torch.zeros(1, 1, *self.data.spatial_size, dtype=torch.uint8)
        for start in tqdm(range(0, len(pairs), self.batch_size), desc="registering", unit="batch"):
            batch = pairs[start : start + self.batch_size]
            both_ways = [phi.split(1) for phi in self.maps(network, batch)]
            for images, *maps in zip(batch, *both_ways, strict=True):
                measurable = all(image.label is not None for image in images)
                labels = [
                    (image.label[None] if measurable else unlabelled).to(self.device) for image in images
                ]
                for m, f in ((0, 1), (1, 0)):
                    rows += registration_rows(
                        labels[m],
                        labels[f],
                        maps[m],
                        maps[f],
                        images[m].name,
                        images[f].name,
                        f"{images[m].modality}_to_{images[f].modality}",
                        self.data.label_names,
                    )
        return rows

    def maps(
        self, network: SegmentAndRegister, pairs: Sequence[tuple[SegmentedImage, SegmentedImage]]
    ) -> tuple[Tensor, Tensor]:
        """The maps first_to_second and second_to_first of pairs, each `[B, D, *spatial]`."""
        first, second = (
            torch.stack([image.probabilities for image in images]) for images in zip(*pairs, strict=True)
        )
        return network.register(first.to(self.device), second.to(self.device))

    def pictured_pairs(
        self,
        network: SegmentAndRegister,
        pairs: Sequence[tuple[SegmentedImage, SegmentedImage]],
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
            phi, phi_inverse = (each.cpu() for each in self.maps(network, [pair]))
            label = moving.outlines[None]
            pictures.append(
                {
                    "title": f"{title}: {moving.modality} to {fixed.modality}",
                    "direction": f"{moving.modality}_to_{fixed.modality}",
                    "moving_name": moving.name,
                    "fixed_name": fixed.name,
                    "moving": moving.image.numpy(),
                    "fixed": fixed.image.numpy(),
                    "warped": sample(moving.image[None, None], phi)[0, 0].numpy(),
                    "moving_label": label[0, 0].numpy(),
                    "fixed_label": fixed.outlines[0].numpy(),
                    "warped_label": warp_labels(label, phi, self.data.num_classes)[0, 0].numpy(),
                    "phi": phi[0].numpy(),
                    "phi_inverse": phi_inverse[0].numpy(),
                }
            )
        return pictures


def pictured_images(images: Sequence[SegmentedImage], rows: Sequence[Row]) -> list[dict[str, Any]]:
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
                "image": image.image.numpy(),
                "predicted": image.predicted[0].numpy(),
                "label": None if image.label is None else image.label[0].numpy(),
            }
        )
    return pictures
