"""Trained runs as zips of MONAI bundles: one for each stage, and the meta bundle that holds the four.

A zip has one folder, named as the bundle, and needs nothing but it: configs with the run's values, weights,
the library as ``scripts``, docs and licence. The same run gives the same bytes.
"""

from __future__ import annotations

import io
import json
import logging
import re
import zipfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from .. import __version__
from ..data import Datalist, Modality
from ..data.checks import FileFacts, read_facts
from ..files import file_digest
from ..kept import read_json
from ..places import META, ROOT, STAGES
from ..runs.bundle import DATA_IDS, INFERENCE, NETWORK_IDS, WEIGHTS, inference_config, json_text
from ..runs.chain import PARTS
from ..runs.config import INTERPRETED, SIGNS, read_config, verbatim
from ..runs.published import edited
from ..runs.shared import MONAI_LABEL, with_shared
from ..runs.stage import LOCATION_IDS, training_warnings
from .contents import MODEL_INFO, library_files

logger = logging.getLogger(__name__)

# what of a training config names places on the machine that trained; the library's own values stand instead
PLACES = {*LOCATION_IDS, "corrected"}

EVALUATED = re.compile(rf"\$|{INTERPRETED.pattern}")  # text that MONAI or `verify` takes for more than that

# what the chain puts into a trained run's inference config, for its verdicts
LEARNED_IDS = ("training_statistics", "expected_overlap", "training_warnings")
# what a zip's inference config takes from the run's; the rest is the library's
TAKEN = {*DATA_IDS, *NETWORK_IDS, *(f"{part}_def" for part in PARTS), "pose_network", *LEARNED_IDS}

# what a bundle of the library gives to its zip; docs also bring their pictures
COPIED = ("LICENSE", "configs/logging.conf", "configs/*.json", "configs/presets/*.json")
DOCUMENTS = (".md", ".png", ".svg")

Files = dict[str, bytes]


def check_run(run_dir: Path, provenance: Mapping[str, Any]) -> None:
    """Check that all stages are there as they were published, by this version of the library.

    Raises:
        ValueError: naming all that is not.
    """
    faults = []
    for name, manifest in provenance["stages"].items():
        weights = run_dir / name / WEIGHTS
        if not weights.is_file() or file_digest(weights) != manifest["weights"]:
            faults.append(f"- {weights} is not there or not what the stage was trained to: train it again")
    if not (run_dir / WEIGHTS).is_file() or file_digest(run_dir / WEIGHTS) != provenance["weights"]:
        faults.append(f"- {run_dir / WEIGHTS} is not there or was changed: run configs/train.json again")
    if missing := sorted(set(STAGES) - set(provenance["stages"])):
        faults.append(f"- not trained: {', '.join(missing)}")
    trained_by = provenance["versions"]["crosswarp"]
    if trained_by != __version__:
        faults.append(f"- trained by crosswarp {trained_by}, this is {__version__}: package it with that one")
    if faults:
        raise ValueError("\n".join([f"Expected a finished run in {run_dir}:", *faults]))


def warn_of_edits_left_out(run_dir: Path) -> None:
    """Say which ids were edited in a run's inference configs and are the library's in its zips."""
    for folder in (run_dir, *(run_dir / name for name in STAGES)):
        if left := [key for key in edited(folder, INFERENCE) if key not in TAKEN]:
            logger.warning(
                f"{folder / INFERENCE} was edited: {', '.join(left)}. The zips have the library's own "
                "instead: edit them again where a zip is unpacked, or give them when it is used."
            )


class Release:
    """The files of the bundles of a run.

    Args:
        run_dir: the run.
        data: its data.
        provenance: what the run recorded.
        version: of the release.
        changes: what is new in it.
    """

    def __init__(
        self, run_dir: Path, data: Datalist, provenance: Mapping[str, Any], version: str, changes: str | None
    ) -> None:
        self.run_dir, self.data, self.provenance, self.version = run_dir, data, provenance, version
        trained = max(stage["time"] for stage in provenance["stages"].values())[:10]
        names = f"{data.source.name} and {data.target.name}"
        self.changes = changes or f"trained on {data.name} ({names}), {trained}"
        self.spacing = {each.name: median_spacing(each) for each in (data.source, data.target)}
        self.metrics = measured(run_dir, data, provenance)

    def stage(self, name: str) -> Files:
        """All files of a stage's bundle; it evaluates its own weights, on any data that fit them."""
        files = self.configs(name)
        evaluate = json.loads(files["configs/evaluate.json"])
        evaluate["+imports"] = [
            *evaluate.get("+imports", []),
            "$from scripts.runs.bundle import check_data_fit",
        ]
        evaluate |= {"stage_dir": "@bundle_root", "initialize": ["$check_data_fit(@stage_dir, @data)"]}
        files["configs/evaluate.json"] = json_text(evaluate).encode()
        return self.complete(name, files, self.run_dir / name)

    def chain(self) -> Files:
        """All files of the meta bundle; the stages' bundles in it share its code and have no weights."""
        files = copied(ROOT)
        train = json.loads(files["configs/train.json"]) | {"seed": self.provenance["seed"] or 0}
        # what the chain learns beside the stages, as it did; earlier versions did not record all of it
        train["worsened_pairs"] = self.provenance.get("worsened_pairs")
        poses = self.provenance.get("pose_recognition", "")
        if poses is None or (isinstance(poses, Mapping) and poses["config"]):
            train["pose_recognition"] = poses and with_shared(poses["config"])
        files["configs/train.json"] = json_text(train).encode()
        files |= self.filled(META, ROOT, self.run_dir)
        for name in STAGES:
            files |= {f"bundles/{name}/{path}": content for path, content in self.configs(name).items()}
        return self.complete(META, files, self.run_dir)

    def configs(self, name: str) -> Files:
        """Configs, docs and licence of a stage: ``train.json`` is that which trained it."""
        library = ROOT / "bundles" / name
        files = copied(library) | self.filled(name, library, self.run_dir / name)
        own = json.loads(files["configs/train.json"])
        config = read_json(self.run_dir / name / "configs" / "train.json")
        config |= {key: own[key] for key in PLACES if key in own}
        files["configs/train.json"] = json_text(config).encode()
        if name in (PARTS["source_segmentation"], PARTS["target_segmentation"]):
            files["configs/monai_label.json"] = standing_alone(MONAI_LABEL)
        return files

    def filled(self, name: str, library: Path, trained: Path) -> Files:
        """The configs that take the run's values."""
        config = read_config(trained / INFERENCE).get()
        values = {key: value for key, value in config.items() if key in TAKEN}
        if (
            "training_warnings" in values
        ):  # sentences with names of labels; a zip's configs have no $ in a text
            values["training_warnings"] = [
                SIGNS.sub(lambda sign: f"\\x{ord(sign[0]):x}", text) if EVALUATED.search(text) else text
                for text in training_warnings(self.run_dir, STAGES)
            ]
        return {
            "configs/inference.json": json_text(inference_config(library / INFERENCE, values)).encode(),
            "configs/metadata.json": json_text(
                self.metadata(name, read_json(library / "configs" / "metadata.json"))
            ).encode(),
        }

    def complete(self, name: str, files: Files, trained: Path) -> Files:
        """The files with weights, code and checksums added."""
        files = files | {WEIGHTS.as_posix(): (trained / WEIGHTS).read_bytes()} | library_files()
        training = {key: self.provenance[key] for key in ("datalist_digest", "git_commit", "seed", "preset")}
        info = {
            "name": name,
            "version": self.version,
            "training": training | {"versions": self.provenance["versions"]},
            "checksums": {path: sha256(files[path]).hexdigest() for path in sorted(files)},
        }
        return files | {MODEL_INFO: json_text(info).encode()}

    def metadata(self, name: str, template: Mapping[str, Any]) -> dict[str, Any]:
        """The metadata of a bundle of the library, with what is known of the run and its data."""
        data, versions = self.data, self.provenance["versions"]
        classes = ", ".join(f"{value} {label}" for value, label in enumerate(data.label_names))
        modalities = (data.source, data.target)
        content = dict(template) | {
            "version": self.version,
            "changelog": template["changelog"] | {self.version: self.changes},
            "monai_version": versions["monai"],
            "pytorch_version": versions["torch"].partition("+")[0],
            "numpy_version": versions["numpy"],
            "data_source": f"{data.name}: " + "; ".join(map(described, modalities)),
            "image_classes": ", ".join(f"{each.name}, {each.channels} channel(s)" for each in modalities)
            + "; intensities from 0 to 1",
            "label_classes": classes,
            "pred_classes": classes,
            "spacing": self.spacing,
        }
        if warnings := training_warnings(self.run_dir, STAGES if name == META else [name]):
            content["training_warnings"] = warnings
        if self.metrics[name]:
            content["eval_metrics"] = self.metrics[name]
        formats = template["network_data_format"]
        inputs, outputs = channel_names(name, data)
        names = {"pred": outputs, "label": data.label_names}
        content["network_data_format"] = {
            "inputs": {"image": formats["inputs"]["image"] | self.channels(inputs)},
            "outputs": {
                key: tensor | self.channels(names[key]) for key, tensor in formats["outputs"].items()
            },
        }
        # names and changes are the user's, and MONAI parses metadata
        return verbatim(content, EVALUATED)

    def channels(self, names: list[str]) -> dict[str, Any]:
        """What the metadata say of a tensor with these channels."""
        return {
            "num_channels": len(names),
            "spatial_shape": self.data.spatial_size,
            "channel_def": {str(channel): name for channel, name in enumerate(names)},
        }


def channel_names(name: str, data: Datalist) -> tuple[list[str], list[str]]:
    """Names of the channels that the network of a bundle takes and returns."""

    def image(title: str, modality: Modality) -> list[str]:
        numbers = range(modality.channels)
        return [title] if modality.channels == 1 else [f"{title} channel {number}" for number in numbers]

    def labels(title: str) -> list[str]:
        return [f"{title} {label}" for label in data.label_names]

    def axes(title: str) -> list[str]:
        return [f"{title} axis {axis}" for axis in range(data.spatial_dims)]

    source, target = data.source, data.target
    both = labels("moving") + labels("fixed")
    return {
        "registration_augmentation": (
            image("moving", source) + image("fixed", source),
            axes("moving_to_fixed"),
        ),
        "source_segmentation": (image("image", source), data.label_names),
        "domain_adaptation": (image("image", target), data.label_names),
        "multimodal_registration": (both, axes("moving_to_fixed")),
        META: (
            image("moving", source) + image("fixed", target),
            axes("moving_to_fixed") + axes("fixed_to_moving") + both,
        ),
    }[name]


def described(modality: Modality) -> str:
    """How many images of a modality there are, for the metadata."""
    counts = {
        "labelled": len(modality.train_labelled),
        "unlabelled": len(modality.train_unlabelled),
        "for validation": len(modality.val),
        "for the test": len(modality.test),
    }
    return f"{modality.name}: " + ", ".join(f"{count} {title}" for title, count in counts.items() if count)


def median_spacing(modality: Modality) -> list[float] | None:
    """Median spacing of the training images in mm, along the axes of space; None where none states it."""
    records = modality.records("train_labelled", "train_unlabelled")
    found = []
    for fact in read_facts(record["image"] for record in records).values():
        if isinstance(fact, FileFacts) and fact.spacing_known:
            axes = nib.orientations.io_orientation(fact.grid.affine)[:, 0].astype(int)
            found.append(fact.grid.spacing[np.argsort(axes)])
    return np.median(found, axis=0).round(4).tolist() if found else None


def measured(run_dir: Path, data: Datalist, provenance: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """What was measured of each bundle: in validation, and on the test images if these weights were."""
    metrics: dict[str, dict[str, float]] = {META: {}}
    for name, manifest in provenance["stages"].items():
        validated = str(manifest.get("criterion", "")).startswith("val_")
        metrics[name] = {manifest["criterion"]: round(manifest["value"], 4)} if validated else {}
    manifest_file = run_dir / "evaluation" / "manifest.json"
    evaluation = read_json(manifest_file) if manifest_file.is_file() else {}
    if evaluation.get("weights") != provenance["weights"]:
        return metrics
    networks = {
        (data.source.name, "source"): "source_segmentation",
        (data.target.name, "target"): "domain_adaptation",
    }
    for row in evaluation["summary"]:
        if row["kind"] == "registration":
            name, group = "multimodal_registration", row["direction"]
        elif (row["modality"], row["network"]) in networks:
            name, group = networks[row["modality"], row["network"]], row["modality"]
        else:
            continue
        means = {key.removesuffix("_mean"): value for key, value in row.items() if key.endswith("_mean")}
        values = {
            f"test_{group}_{key}_{row['class']}": round(value, 4)
            for key, value in means.items()
            if value is not None and (key == "dice" or row["class"] == "mean")
        }
        metrics[name] |= values
        metrics[META] |= values
    return metrics


def copied(library: Path) -> Files:
    """The files that a bundle of the library gives to its zip; its configs stand alone there."""
    paths = [path for pattern in COPIED for path in library.glob(pattern)]
    documents = (path for path in library.glob("docs/**/*") if path.suffix in DOCUMENTS)
    # what building the site leaves behind lies in folders such as _build and _bundles
    paths += [
        path
        for path in documents
        if not any(part.startswith("_") for part in path.relative_to(library).parts)
    ]
    configs = library / "configs"
    return {
        path.relative_to(library).as_posix(): standing_alone(path)
        if configs in path.parents
        else path.read_bytes()
        for path in paths
    }


def standing_alone(config: Path) -> bytes:
    """The content of a config, with what it shares with others in its place."""
    content = config.read_bytes()
    if config.suffix != ".json" or (whole := with_shared(parts := json.loads(content))) == parts:
        return content
    return json_text(whole).encode()


def zipped(folder: str, files: Files) -> bytes:
    """A zip with one folder, of the same bytes whenever and wherever the same zlib makes it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted(files):
            member = zipfile.ZipInfo(f"{folder}/{path}", date_time=(1980, 1, 1, 0, 0, 0))
            member.create_system, member.external_attr = 3, 0o100644 << 16  # a plain file, as on Unix
            member.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(member, files[path], compresslevel=9)
    return buffer.getvalue()
