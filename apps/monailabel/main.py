"""MONAI Label's `monaibundle` app, with registration between images of the datastore.

Beside what that app does:

- ``moving`` names an image of the datastore; its final label, if it has one, is warped instead of the
  predicted one. The response's ``params`` have the verdict on the pair, and where to download the transform.
- Each segmentation learns from the labels of its own modality only. An image says its modality in its info,
  ``{"modality": "source"}``; one that does not is of the target. Source images of the run's datalist, and
  copies of them, are recognised by their content.
- With ``--conf run runs/demo``, training ``crosswarp`` repeats stage 4 of that run, with the target labels.
- The strategy ``epistemic`` offers the target image next that the network is least sure of.
- Requests hold known values of known types; of two at once, each has a folder of its own.
"""

from __future__ import annotations

import copy
import filecmp
import hashlib
import importlib
import json
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from guard.devices import known_devices
from guard.routes import infer_fields, train_fields
from guard.studies import Studies
from guard.values import Check, Refused, check_fields, plain_name
from monai.bundle import ConfigParser
from monailabel.config import settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.tasks.activelearning.epistemic import Epistemic
from monailabel.tasks.infer.bundle import BundleConstants, BundleInferTask
from monailabel.tasks.scoring.epistemic_v2 import EpistemicScoring
from monailabel.tasks.train.bundle import BundleTrainTask
from monailabel.utils.others.class_utils import module_from_file, unload_module
from monailabel.utils.others.generic import name_to_device

MONAIBUNDLE = Path(sys.prefix) / "monailabel" / "sample-apps" / "monaibundle" / "main.py"
MODALITIES = {"source_segmentation": "source", "domain_adaptation": "target"}
INFERENCE, WEIGHTS = "configs/inference.json", "models/model.pt"
CHAIN = "crosswarp"
REVERSED = "crosswarp_target_to_source"

# what the chain gives to every stage, and decides what becomes of it
GIVEN = ("seed", "deterministic", "spatial_size", "spacing")

# what MONAI Label itself adds to what a client says
ADDED = ("model", "image", "images", "label", "session", "bundle_path", "local_rank", "_id", "_image_id")
ADDED_TO_MANY = ("multi_gpu", "gpus", "max_workers", "max_batch_size")


def typed(request: Mapping[str, Any], fields: Mapping[str, Check], added: Sequence[str]) -> dict[str, Any]:
    """A request of which every value is known and of its type.

    Raises:
        HTTPException: naming everything that is not.
    """
    said = {key: value for key, value in request.items() if key not in added}
    try:
        return {key: request[key] for key in added if key in request} | check_fields(said, fields)
    except Refused as refused:
        raise HTTPException(refused.status, str(refused)) from None


def run_and_datalist(conf: Mapping[str, str]) -> tuple[Path, Path]:
    """The folder of the run that the server was started with, and its datalist."""
    run = Path(conf["run"]).resolve()
    return run, Path(json.loads((run / "run.json").read_text())["datalist"])


def as_trained(run: Path) -> dict[str, dict[str, Any]]:
    """What the stages of a run were given; with other values, such as the datalist's, they would be stale."""
    found: dict[str, dict[str, Any]] = {}
    values: dict[str, Any] = {}
    for name in json.loads((run / "provenance.json").read_text())["stages"]:
        config = run / name / "configs" / "train.json"
        if config.is_file():  # else its training was killed as it began: as the stage before
            trained = json.loads(config.read_text(encoding="utf-8"))
            values = {key: trained[key] for key in GIVEN if not isinstance(trained.get(key, ""), str)}
        found[name] = dict(values)
    return found


def source_images(datalist: Path) -> dict[str, list[Path]]:
    """The source images of a datalist, by their files' names."""
    files: dict[str, list[Path]] = {}
    for section in json.loads(datalist.read_text())["source"].values():
        for record in section if isinstance(section, list) else []:
            file = Path(os.path.normpath(datalist.parent / record["image"]))
            files.setdefault(file.name, []).append(file)
    return files


def is_one_of(image: Path, files: Sequence[Path]) -> bool:
    """Whether an image is one of some files, or a copy; others may have its name."""
    return any(file.is_file() and filecmp.cmp(image, file, shallow=False) for file in files)


def modality_of(image: str, datastore: Datastore) -> str:
    """``"source"`` or ``"target"``, as the image's info says."""
    return datastore.get_image_info(image).get("modality", "target")


def labelled_records(datastore: Datastore, modality: str) -> list[dict[str, str]]:
    """Image and final label, as paths, of the images of a modality that have one."""
    return [
        {
            "image": datastore.get_image_uri(image),
            "label": datastore.get_label_uri(image, DefaultLabelTag.FINAL),
        }
        for image in sorted(datastore.get_labeled_images())
        if modality_of(image, datastore) == modality
    ]


@contextmanager
def own_code(bundle: str) -> Iterator[None]:
    """A bundle's own ``scripts``, for as long as the context lasts."""
    sys.path.insert(0, bundle)
    unload_module("scripts")
    try:
        yield
    finally:
        sys.path.remove(bundle)


def verbatim(bundle: str, value: Any) -> Any:
    """Paths as they have to stand in a config to be taken letter by letter, by a bundle's own code."""
    with own_code(bundle):
        return importlib.import_module("scripts.runs.config").verbatim(value)


class WholeNetwork(BundleConstants):
    """The ids of a bundle; its network is taken as inference has it, down to its layout in memory."""

    def key_network_def(self) -> str:
        """The id of the network."""
        return "network"


class RegistrationInferTask(BundleInferTask):
    """The whole chain on a pair; writes the transforms and judges the pair beside returning the label.

    They are written to the folder ``results`` of the request.
    """

    def __init__(self, path: str, conf: dict[str, str], moving: str, fixed: str) -> None:
        self.modalities = {"moving_modality": moving, "fixed_modality": fixed}
        super().__init__(path, conf, WholeNetwork())

    def _load_bundle_config(self, path: str, config: str) -> ConfigParser:
        self.read = Path(config).stat().st_mtime_ns
        parser = super()._load_bundle_config(path, config)
        parser.config |= self.modalities
        return parser

    def __call__(self, request: dict[str, Any], callbacks: Any = None) -> Any:
        """Infer; what training, which is a process of its own, wrote for verdicts is read again."""
        if Path(self.bundle_config_path).stat().st_mtime_ns != self.read:
            self.bundle_config = self._load_bundle_config(self.bundle_path, self.bundle_config_path)
        return super().__call__(request, callbacks)

    def run_inferer(
        self, data: dict[str, Any], convert_to_batch: bool = True, device: str = "cuda"
    ) -> dict[str, Any]:
        """Predict as `crosswarp register` does; MONAI Label would leave out where the images lie in space."""
        network = self._get_network(device, data)
        with own_code(self.bundle_path):
            self._update_device(data)
            predict = importlib.import_module("scripts.inference.runner").predict
            data[self.output_label_key] = predict(self.bundle_config, network, [data], device)[0]
        return data

    def post_transforms(self, data: Any = None) -> Sequence[Callable]:
        """The bundle's own writers of transforms and quality come first."""
        transforms = super().post_transforms(data)
        kept = []
        for each in self.bundle_config.get_parsed_content("postprocessing").transforms:
            if type(each).__name__ in ("SaveTransformsd", "SaveQualityd"):
                kept.append(copy.copy(each))  # the parser keeps its own for all requests
                kept[-1].output_dir = Path(data["results"])
        return [*kept, *transforms]

    def writer(self, data: dict[str, Any], extension: Any = None, dtype: Any = None) -> tuple[Any, Any]:
        """Add the verdict to the response."""
        label, params = super().writer(data, extension, dtype)
        return label, {**params, "quality": data["quality"]}


class SerialScoring(EpistemicScoring):
    """Scores target images one by one: threads would unload a bundle's modules under each other."""

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Score what has no label and no score of the present weights."""
        return super().__call__({**request, "max_workers": 1}, datastore)

    def run_scoring(self, image_id: str, simulation_size: int, model_ts: int, datastore: Datastore) -> None:
        """Write an image's score into its info, if it is of the target."""
        if modality_of(image_id, datastore) == "target":
            super().run_scoring(image_id, simulation_size, model_ts, datastore)


class ModalityTrainTask(BundleTrainTask):
    """Fine-tunes a segmentation with the labels of one modality, on one device."""

    def __init__(self, path: str, conf: dict[str, str], modality: str) -> None:
        super().__init__(path, conf)
        self.modality = modality

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Train; the bundles have no configuration for several devices."""
        return super().__call__({**request, "multi_gpu": False}, datastore)

    def _fetch_datalist(self, request: Mapping[str, Any], datastore: Datastore) -> list[dict[str, str]]:
        return verbatim(self.bundle_path, labelled_records(datastore, self.modality))


class RefreshTask(BundleTrainTask):
    """Trains stage 4 of a run again, with the final labels of target images in its pool of label maps."""

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Run the chain, of which only what is stale is trained, and serve what came of it."""
        run, datalist = run_and_datalist(self.conf)
        records = labelled_records(datastore, "target")
        for record in records:  # a label that was corrected again has the same name
            record["sha256"] = hashlib.sha256(Path(record["label"]).read_bytes()).hexdigest()
        stages = as_trained(run)
        stages["multimodal_registration"]["corrected"] = records
        if "max_epochs" in request:
            stages["multimodal_registration"]["max_epochs"] = request["max_epochs"]
        overrides = {
            "bundle_root": self.bundle_path,
            "run_dir": str(run),
            "datalist": str(datalist),
            "device": name_to_device(request.get("device", "cuda")),
            **stages,
        }
        overrides = verbatim(self.bundle_path, overrides)
        with own_code(self.bundle_path):
            self.run_single_gpu({}, overrides)
            learned = importlib.import_module("scripts.release.package").LEARNED_IDS
        served = Path(self.bundle_path)
        config, trained = (
            json.loads((folder / INFERENCE).read_text(encoding="utf-8")) for folder in (served, run)
        )
        config |= {key: trained[key] for key in learned if key in trained}
        for file, content in {
            INFERENCE: json.dumps(config, indent=2).encode(),
            WEIGHTS: (run / WEIGHTS).read_bytes(),
        }.items():
            partial = (served / file).with_suffix(".partial")
            partial.write_bytes(content)
            partial.replace(served / file)
        return {"corrected": len(records)}


class CrosswarpApp(module_from_file("monaibundle", str(MONAIBUNDLE)).MyApp, MONAILabelApp):
    """Segmentation of both modalities, registration both ways, and training of each."""

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        super().__init__(app_dir, studies, conf)
        self._bundle_in_use = threading.Lock()  # MONAI Label unloads a bundle's modules for the next one
        if "run" not in conf:
            return
        source = source_images(run_and_datalist(conf)[1])
        for image in self.datastore().list_images():
            path = Path(self.datastore().get_image_uri(image))
            unknown = "modality" not in self.datastore().get_image_info(image)
            if unknown and is_one_of(path, source.get(path.name, ())):
                self.datastore().update_image_info(image, {"modality": "source"})

    def init_infers(self) -> dict[str, InferTask]:
        """The bundles' tasks; registration in either direction."""
        infers = super().init_infers()
        path = self.models[CHAIN]
        infers[CHAIN] = RegistrationInferTask(path, self.conf, "source", "target")
        infers[REVERSED] = RegistrationInferTask(path, self.conf, "target", "source")
        return infers

    def init_trainers(self) -> dict[str, TrainTask]:
        """Fine-tuning of the segmentations, and of the registration where its run is given."""
        trainers: dict[str, TrainTask] = {
            name: ModalityTrainTask(self.models[name], self.conf, modality)
            for name, modality in MODALITIES.items()
            if name in self.models
        }
        if "run" in self.conf:
            trainers[CHAIN] = RefreshTask(self.models[CHAIN], self.conf)
        return trainers

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        """The bundles' own, one image after the other."""
        methods = super().init_scoring_methods()
        return {
            name: SerialScoring(each.infer_task, each.max_samples, each.simulation_size)
            for name, each in methods.items()
        }

    def init_strategies(self) -> dict[str, Strategy]:
        """Random, first and epistemic."""
        return super().init_strategies() | {"epistemic": Epistemic()}

    def train(self, request: dict[str, Any]) -> dict[str, Any]:
        """Train with values of known types."""
        fields = train_fields(known_devices(), settings.MONAI_LABEL_TRACKING_URI)
        return super().train(typed(request, fields, ADDED))

    def infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Infer with values of known types; for a registration, from and to images of the datastore."""
        # a path that the request itself names as the label is not read
        request = {key: value for key, value in request.items() if key != "moving_label"}
        fields = infer_fields(known_devices(), Studies(self.studies)) | {"moving": plain_name}
        request = typed(request, fields, ADDED + ADDED_TO_MANY)
        if request.get("model") not in (CHAIN, REVERSED):
            with self._bundle_in_use:
                return super().infer(request, datastore)
        datastore = datastore or self.datastore()
        fixed, moving = request["image"], request.get("moving")
        known = datastore.list_images()
        if fixed not in known or moving not in known:
            raise HTTPException(
                status_code=404,
                detail="Expected two images of the datastore, 'image' and in params 'moving', got "
                f"{fixed!r} and {moving!r}; it has {', '.join(sorted(known))}.",
            )
        request["moving"] = datastore.get_image_uri(moving)
        if label := datastore.get_label_uri(moving, DefaultLabelTag.FINAL):
            request["moving_label"] = label
        with tempfile.TemporaryDirectory() as results:
            with self._bundle_in_use:
                result = super().infer(request | {"results": results}, datastore)
            for kind in ("transform", "inverse"):
                (file,) = Path(results).glob(f"*_{kind}.h5")
                tag = f"{kind}_from_{moving}"
                datastore.save_label(fixed, str(file), tag, {"moving": moving})
                result["params"][kind] = {"label": fixed, "tag": tag}
        return result
