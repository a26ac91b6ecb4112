"""Evaluation of a trained run on the test records of its datalist: measurements, pictures and the report."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Mapping, Sequence
from functools import partial
from math import nan
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.room import placed
from ..errors import SIZES
from ..files import file_digest
from ..kept import read_json, set_aside
from ..lock import one_writer
from ..metrics import OURS, Row, compare_methods, summarise
from ..report import write_csv, write_report
from ..report.printing import show
from ..report.tables import overview
from ..runs.config import check_overrides, running_parser
from ..runs.stage import training_warnings
from .expected import expectation_note, expected_rows
from .images import ByModality, EvaluatedImages, Pair
from .measure import Measure
from .methods import LabelRegistration, RegistrationMethod, TrainedRun
from .pictures import pictured_images, pictured_pairs, training_curves
from .remembered import Origin, keep, recall

logger = logging.getLogger(__name__)


class Evaluation:
    """Measures the trained networks of a run, and baselines, on the networks' own grid.

    Every image is segmented by the network of its modality; target images also by the source network as it
    is, where the modalities have equal channels. Pairs of a source and a target image are registered both
    ways, through the predicted labels. Baselines register the same pairs.

    `evaluation/manifest.json` records what was evaluated. As long as weights, data and config are the same,
    the stored summary is shown and nothing is computed; measurements of a baseline are kept by themselves.

    Args:
        run_dir: the run's folder.
        bundle_root: the bundle whose config runs.
        trained: the run; its networks are read only if there is something to compute.
        images: what to evaluate on.
        measure: how to measure.
        baselines: methods to compare with, by name; those that are not available are named and left out.
    """

    def __init__(
        self,
        run_dir: str,
        bundle_root: str,
        trained: TrainedRun,
        images: EvaluatedImages,
        measure: Measure,
        baselines: Mapping[str, RegistrationMethod] | None = None,
    ) -> None:
        self.run_dir, self.folder = Path(run_dir), Path(run_dir) / "evaluation"
        self.config_file = Path(bundle_root) / "configs" / "evaluate.json"
        self.trained, self.images, self.measure = trained, images, measure
        self.baselines = dict(baselines or {})
        self.parser = running_parser()  # of the config that makes it

    def check(self) -> None:
        """Check the config before anything is computed.

        Raises:
            ValueError: for a misspelt parameter, pairs of images that are not there, no test images,
                landmark files that cannot be read, or a baseline that is given the wrong data.
        """
        check_overrides(self.parser, self.config_file)
        SIZES.clear()
        SIZES["batch_size"] = self.measure.batch_size
        self.trained.check()
        self.images.check()
        for method in self.baselines.values():
            method.unavailable()

    def run(self) -> None:
        """Measure, write `evaluation/metrics.csv`, `report.html` and the manifest, and print the summary.

        With baselines also `evaluation/comparison.csv`; with an expectation, `evaluation/expected.csv`.
        """
        with one_writer(self.run_dir):
            self._run()

    def _run(self) -> None:
        files = [self.folder / "metrics.csv", self.run_dir / "report.html"]
        if self.baselines:
            files.insert(1, self.folder / "comparison.csv")
        origin = Origin(self.run_dir, self.parser, self.config_file)
        left_out = {name: reason for name, each in self.baselines.items() if (reason := each.unavailable())}
        provenance = read_json(self.run_dir / "provenance.json")
        warnings = training_warnings(self.run_dir, provenance["stages"])
        fingerprint = origin.of_all(left_out, warnings)
        path = self.folder / "manifest.json"
        manifest = recall(path, fingerprint)
        if manifest is not None and not self.changed(manifest.get("files", {}), files):
            logger.info(f"Evaluated on {manifest['date']}; nothing has changed since.")
        else:
            manifest = keep(path, fingerprint, self.evaluate(origin, left_out, provenance, warnings))
        notes = [f"Warning: training of {warning}." for warning in warnings] + manifest["notes"]
        print("", *notes, "", sep="\n")
        show(overview(_with_nan(manifest["summary"]), _with_nan(manifest["comparison"])))
        print(*files, sep="\n")

    def evaluate(
        self,
        origin: Origin,
        left_out: Mapping[str, str],
        provenance: Mapping[str, Any],
        warnings: Sequence[str],
    ) -> dict[str, Any]:
        """Measure, write the measurements and the report.

        Args:
            origin: what the measurements of baselines are known again by.
            left_out: the baselines that are not available, and why.
            provenance: what the run was made from.
            warnings: what its training warned of.

        Returns:
            what the manifest records of it.
        """
        own = LabelRegistration(self.trained)
        own.load()
        images, pairs = self.images.load(own.runner)
        rows, predicted, pictures, expected = self.measured(own, images, pairs)
        notes = self.images.notes(images) + expectation_note(expected)
        notes += [f"Baseline {name} was left out: {reason}." for name, reason in left_out.items()]
        for name in (name for name in self.baselines if pairs and name not in left_out):
            stored = self.baseline(name, origin, images, pairs)
            rows += stored["rows"]
            if stored["failures"]:
                notes.append(
                    f"Baseline {name} failed on {stored['failures']} of {2 * len(pairs)} maps; these count "
                    "as unregistered."
                )
        write_csv(rows, self.folder / "metrics.csv")
        if expected:
            write_csv(expected, self.folder / "expected.csv")
        comparison = compare_methods(rows) if self.baselines else []
        if self.baselines:
            write_csv(comparison, self.folder / "comparison.csv")
        date, data = time.strftime("%Y-%m-%d %H:%M %Z"), self.images.data
        write_report(
            self.run_dir / "report.html",
            f"{data.name}: {data.source.name} and {data.target.name}",
            rows,
            pictures,
            [picture for each in images.values() for picture in pictured_images(rows, each, predicted)],
            training_curves(self.run_dir, provenance["stages"]),
            {"device": _device_name(self.measure.device), "evaluated": date, **provenance},
            notes,
            comparison,
            warnings,
            expected,
        )
        found = {"summary": _without_nan(summarise(rows)), "comparison": _without_nan(comparison)}
        written = {"metrics.csv": True, "expected.csv": expected, "comparison.csv": self.baselines}
        for path in (self.folder / name for name, there in written.items() if not there):
            if path.exists():  # of an evaluation before, and of other networks perhaps
                path.replace(path.with_suffix(".previous.csv"))
        paths = [
            self.run_dir / "report.html",
            *(self.folder / name for name, there in written.items() if there),
        ]
        digests = {path.relative_to(self.run_dir).as_posix(): file_digest(path) for path in paths}
        told = {"date": date, "notes": notes, "left_out": dict(left_out)}
        return {"weights": origin.weights, **told, "files": digests, **found}

    def changed(self, digests: Mapping[str, str], files: Sequence[Path]) -> bool:
        """Whether a file is not what an evaluation wrote; one that is there is set aside.

        Args:
            digests: of all that it wrote, by path within the run.
            files: that have to be there.
        """
        found = False
        for path in dict.fromkeys([*files, *(self.run_dir / name for name in digests)]):
            digest = digests.get(path.relative_to(self.run_dir).as_posix())
            if not path.is_file() or (digest is not None and file_digest(path) != digest):
                logger.warning(f"{path} is missing, damaged, or was changed: the run is evaluated again.")
                set_aside(path)
                found = True
        return found

    def measured(
        self, own: LabelRegistration, images: ByModality, pairs: Sequence[Pair]
    ) -> tuple[list[Row], dict[str, Tensor], list[dict[str, Any]], list[Row]]:
        """Measure the run's own networks.

        Returns:
            the measurements; the predicted classes `[1, *spatial]` of each image, uint8; the pictured pairs;
            what was expected of the pairs.
        """
        measure, data = self.measure, self.images.data
        with measure.prepared(OURS, own, images) as prepared:
            predicted = {
                image.name: placed({"label": own.label(image, prepared[image.name][0]["probabilities"])})[
                    "label"
                ]
                for image in (*images["source"], *images["target"])
            }
            rows = measure.segmentations(images["source"], predicted, "source")
            if data.source.channels == data.target.channels:
                as_is = {
                    image.name: own.label(image, own.probabilities(image, "source"))
                    for image in images["target"]
                    if image.label is not None
                }
                rows += measure.segmentations(images["target"], as_is, "source as is")
            rows += measure.segmentations(images["target"], predicted, "target")
            rows += measure.registrations(OURS, own, prepared, pairs)[0]
            maps = partial(measure.maps, own, prepared)
            pictures = pictured_pairs(rows, pairs, predicted, maps, data.num_classes)
            return rows, predicted, pictures, expected_rows(own, prepared, pairs, measure)

    def baseline(
        self, name: str, origin: Origin, images: ByModality, pairs: Sequence[Pair]
    ) -> dict[str, Any]:
        """The measurements of a baseline (`rows`, `failures`), from its file where they are there already."""
        method, path = self.baselines[name], self.folder / "baselines" / f"{name}.json"
        method.load()
        fingerprint = origin.of_baseline(name, getattr(method, "digest", None))
        if (stored := recall(path, fingerprint)) is not None:
            return stored
        with self.measure.prepared(name, method, images) as prepared:
            rows, failures = self.measure.registrations(name, method, prepared, pairs)
        return keep(path, fingerprint, {"rows": rows, "failures": failures})


def _device_name(device: torch.device) -> str:
    return f"{device} ({torch.cuda.get_device_name(device) if device.type == 'cuda' else platform.machine()})"


def _without_nan(rows: Sequence[Row]) -> list[Row]:
    """JSON has no NaN."""
    return [{key: None if value != value else value for key, value in row.items()} for row in rows]


def _with_nan(rows: Sequence[Row]) -> list[Row]:
    return [{key: nan if value is None else value for key, value in row.items()} for row in rows]
