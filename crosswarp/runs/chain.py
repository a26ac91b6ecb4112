"""The chain: the stages of a run in order, each trained only when it has to be."""

from __future__ import annotations

import gc
import logging
import subprocess
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from torch import Tensor

from .. import processes
from ..data import Datalist, ReadOnce, load_datalist
from ..errors import input_error, plain_input_errors
from ..files import file_digest
from ..kept import DamagedError, is_kept, known_json, read_json, restore
from ..lock import Writer, one_writer
from ..networks import PoseNetwork
from ..terminal import show_messages, write_log
from ..training import PoseLearner, save_atomically
from ..training.adaptation import CHEAP_TERMS
from ..wording import shown
from .bundle import DATA_IDS, INFERENCE, WEIGHTS, inference_config, load_weights, write_json
from .config import (
    MULTI_GPU,
    check_ids,
    check_overrides,
    flatten,
    open_workflow,
    read_config,
    running_parser,
    verbatim,
)
from .expected_overlap import run_expectation
from .pose import run_pose
from .published import copy_bundle_files, write_inference_config
from .stage import LOG, MANIFEST, claim_run, package_versions, read_manifest, training_warnings
from .training_statistics import stage_statistics
from .values import check_values

logger = logging.getLogger(__name__)

# the parts of the meta bundle's network: the stage that trains each, and its module in ``SegmentAndRegister``
PARTS = {
    "source_segmentation": "source_segmentation",
    "target_segmentation": "domain_adaptation",
    "registration": "multimodal_registration",
}
MODULES = {
    "source_segmentation": "segmentation.source",
    "target_segmentation": "segmentation.target",
    "registration": "registration",
}

# networks of the stages that halve the grid, and the channels of their images
STRIDED = {
    "source_segmentation": {"network_def": "source_channels"},
    "domain_adaptation": {
        "network_def": "target_channels",
        "source_to_target": "source_channels",
        "target_to_source": "target_channels",
        "source_discriminator": "source_channels",
        "target_discriminator": "target_channels",
    },
}
UNUSED = STRIDED["domain_adaptation"].keys() - {"network_def"}  # where no term of learned translation counts


def git_commit(folder: Path) -> str | None:
    """The commit that is checked out in a folder; None where there is no repository."""
    command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


class Chain:
    """Trains the stages one after the other in one process; each is a bundle's ``train.json``.

    Overrides are values. Text that looks like an expression is not evaluated in the stage: where it stood in
    a config, it has been evaluated there.

    Args:
        stages: the overrides of each stage, by its name, in order of training.
        common: overrides for every stage (run folder, datalist, device, seed).
        bundles: folder of the stages' bundles.
        bundle_root: the meta bundle.
        run_dir: the run's folder; becomes a trained meta bundle.
        datalist: the data.
        preset: name of the overlay ``configs/presets/<preset>.json`` of each bundle; None for the defaults.
        worsened_pairs: how many, to learn of them what overlap to expect; None for as many as the grid
            allows, 0 to learn nothing.
        pose_recognition: learns to tell how images lie; None to learn nothing of it.
        multi_gpu: whether several processes train together, as each bundle's ``multi_gpu_train.json`` says.
    """

    def __init__(
        self,
        stages: Mapping[str, Mapping[str, Any]],
        common: Mapping[str, Any],
        bundles: str,
        bundle_root: str,
        run_dir: str,
        datalist: Datalist,
        preset: str | None = None,
        worsened_pairs: int | None = None,
        pose_recognition: PoseLearner | None = None,
        multi_gpu: bool = False,
    ) -> None:
        self.stages = {name: flatten(overrides) for name, overrides in stages.items()}
        self.common = dict(common)
        self.bundles, self.bundle_root, self.run_dir = Path(bundles), Path(bundle_root), Path(run_dir)
        self.datalist = datalist
        self.preset, self.worsened_pairs, self.multi_gpu = preset, worsened_pairs, multi_gpu
        self.pose_recognition = pose_recognition
        self.pose_config: Any = None  # of `pose_recognition`, where a config makes the chain
        self.memory = ReadOnce()
        self.writer: Writer | None = None  # from the check to the end

    def config_files(self, name: str) -> list[Path]:
        """The config files of a stage: its own, the preset's, and that for several processes.

        Raises:
            FileNotFoundError: when no bundle has the preset.
        """
        configs = self.bundles / name / "configs"
        files = [configs / "train.json"]
        if self.preset is not None:
            presets = {path.stem: path for path in sorted((configs / "presets").glob("*.json"))}
            if self.preset not in presets:
                raise FileNotFoundError(
                    f"No preset {shown(self.preset)} for {name}: expected one of {list(presets)}."
                )
            files.append(presets[self.preset])
        return [*files, configs / MULTI_GPU] if self.multi_gpu else files

    @plain_input_errors()
    def check(self) -> None:
        """Check every parameter and all the data before anything is trained.

        Raises:
            ValueError: for unknown parameters of the chain or of a stage, networks that cannot take the
                images' size, faults of the data (all of them), or a run folder with a run of other data.
            FileNotFoundError: for a preset that there is not.
            BusyError: where another process trains in the run's folder.
        """
        show_messages(verbose=bool(self.common.get("verbose")))
        processes.agreed(self._check)

    def _check(self) -> None:
        parser = running_parser()
        check_overrides(parser, self.bundle_root / "configs" / "train.json")
        self.pose_config = parser.get("pose_recognition")
        for name, overrides in self.stages.items():
            check_ids(overrides, read_config(*self.config_files(name)), f"Stage {name}")
        check_values(*(self.workflow(name).parser for name in self.stages))
        self.check_agreement()
        self.check_sizes()
        claim_run(self.run_dir, self.datalist)
        self.writer = Writer(self.run_dir)
        write_log(self.run_dir / LOG)

    def check_agreement(self) -> None:
        """Check that the networks that are put together at the end see images in one frame.

        Raises:
            ValueError: naming every id of the data of which two stages have different values.
        """
        parsers = {name: self.workflow(name).parser for name in PARTS.values()}
        faults = []
        for key in DATA_IDS:
            own = {name: p.get_parsed_content(key) for name, p in parsers.items() if key in p}
            if any(value != next(iter(own.values())) for value in own.values()):
                told = ", ".join(f"{shown(value)} in {name}" for name, value in own.items())
                faults.append(f"- {key}: {told}")
        if faults:
            raise ValueError(
                "\n".join(["Expected one value for all stages (--<id>, without a stage):", *faults])
            )

    def check_sizes(self) -> None:
        """Try the networks that cannot take every image size, without computing anything.

        Raises:
            ValueError: naming every network that the spatial_size does not fit.
        """
        faults = []
        for name, networks in STRIDED.items():
            parser = self.workflow(name).parser
            parser.parse()
            size = parser.get_parsed_content("spatial_size")
            weights = parser.get_parsed_content("weights", default={})
            unused = set() if any(weights[term] for term in weights.keys() - CHEAP_TERMS) else UNUSED
            for identifier, channels in networks.items():
                if identifier in unused:
                    continue
                image = torch.zeros(2, parser.get_parsed_content(channels), *size, device="meta")
                with torch.device("meta"):
                    network = parser.get_parsed_content(identifier)
                try:
                    output = network(image)
                    if isinstance(output, Tensor) and output.shape[2:] != image.shape[2:]:
                        raise ValueError(f"its output has the size {list(output.shape[2:])}")
                except (RuntimeError, ValueError) as error:
                    reason = str(error).splitlines()[0]
                    faults.append(f"- {identifier} of stage {name} cannot take {list(size)}: {reason}")
        if faults:
            advice = (
                "choose a spatial_size of multiples of 16, at least 32 in 2D, or networks with fewer strides"
            )
            raise ValueError("\n".join([f"Images do not fit; {advice}:", *faults]))

    def workflow(self, name: str) -> ConfigWorkflow:
        """The training workflow of a stage with all overrides; nothing is evaluated yet."""
        root = self.bundles / name
        place = f"[{list(self.stages).index(name) + 1}/{len(self.stages)}]"
        return open_workflow(
            self.config_files(name),
            meta_file=str(root / "configs" / "metadata.json"),
            logging_file=False,
            workflow_type="train",
            **verbatim({"bundle_root": str(root), "stage#place": place, **self.common, **self.stages[name]}),
        )

    @plain_input_errors()
    def run(self) -> None:
        """Train what is not done.

        A file that a stage finds damaged is made again by the stage that it is of.

        Raises:
            ValueError: for faults of the data, as the stages find them.
            FileNotFoundError: naming what is missing.
        """
        with one_writer(self.run_dir) if processes.is_first() else nullcontext():
            digest, again = processes.agreed(self.claim), dict[Path, str]()
            while True:
                try:
                    self.train(digest, set(again.values()))
                    break
                except (OSError, ValueError, RuntimeError) as error:
                    cause = input_error(error)
                    if not isinstance(cause, DamagedError) or cause.path in again:
                        raise
                    owner = next(
                        (name for name in self.stages if self.run_dir / name in cause.path.parents), ""
                    )
                    again[cause.path] = owner
                    logger.warning(f"{str(cause).partition(': ')[0]}: it is made again.")
        if self.writer is not None:
            self.writer.release()
        self.memory.forget()
        logger.info(f"The run is in {self.run_dir}; what was said meanwhile, in {self.run_dir / LOG}")
        if warnings := training_warnings(self.run_dir, self.stages):
            lines = [f"- {warning}." for warning in warnings]
            logger.warning("\n".join(["The run is trained, but not all is well with it:", *lines]))

    def claim(self) -> str:
        """Claim the run's folder, and make whole what says how far it is; returns the data's digest."""
        digest = claim_run(self.run_dir, self.datalist)
        for path in (self.run_dir / "run.json", *(self.run_dir / name / MANIFEST for name in self.stages)):
            restore(path)
        return digest

    def train(self, digest: str, again: Collection[str] = ()) -> None:
        """Train the stages that are not done, and publish the run.

        Args:
            digest: of the data.
            again: stages that go on even if they are done, since a file of theirs has to be made again.
        """
        for name in self.stages:
            workflow = self.workflow(name)
            workflow.parser.parse()
            stage = workflow.parser.get_parsed_content("stage")
            state = processes.agreed(partial(stage.state_of, workflow.parser, digest))
            if state == "done" and name not in again:
                stage.announce(state)
                if processes.is_first() and not stage.judged(workflow.parser):
                    check = workflow.parser.get_parsed_content("result_check", default=None)
                    stage.judge(check, workflow.parser.get_parsed_content("device"), workflow.parser)
                continue
            workflow.initialize()
            workflow.run()
            workflow.finalize()
            del workflow, stage
            gc.collect()  # engines and handlers are cycles, and hold the networks and images of the stage
        processes.agreed(self.publish)

    def publish(self) -> None:
        """Make the run folder a trained meta bundle: one network that segments and registers."""
        template = self.bundle_root / INFERENCE
        inputs = [template, *(self.run_dir / name / INFERENCE for name in PARTS.values())]
        claim = read_json(self.run_dir / "run.json")
        provenance = claim | {
            "versions": package_versions(),
            "git_commit": git_commit(self.bundle_root),
            "seed": self.common.get("seed"),
            "preset": self.preset,
            "pose_recognition": self.pose_recognition
            and {"config": self.pose_config, "settings": self.pose_recognition.settings()},
            "worsened_pairs": self.worsened_pairs,
            "configs": [file_digest(path) for path in inputs],
            "stages": {name: read_manifest(self.run_dir / name) for name in self.stages},
        }
        files = [self.run_dir / name for name in ("provenance.json", WEIGHTS, INFERENCE)]
        if all(path.is_file() for path in files):
            if known_json(files[0]) == provenance | {"weights": file_digest(files[1])}:
                return  # it is one already, of these very parts
        parts = {name: read_config(self.run_dir / name / INFERENCE) for name in PARTS.values()}
        ids = (*DATA_IDS, "displacement_network")
        values = {key: parser[key] for parser in parts.values() for key in ids if key in parser}
        values |= {f"{part}_def": parts[name]["network_def"] for part, name in PARTS.items()}
        values["training_statistics"] = {
            key: stage_statistics(
                self.run_dir / PARTS[f"{key}_segmentation"],
                modality.records("train_labelled", "train_unlabelled", "val"),
                claim["datalist_digest"],
                self.common.get("device", "cpu"),
            )
            for key, modality in (("source", self.datalist.source), ("target", self.datalist.target))
        }
        bundles = {part: self.run_dir / name for part, name in PARTS.items()}
        of = self.datalist, claim["datalist_digest"], self.common.get("device", "cpu")
        pose = self.learn_pose(inference_config(template, values), bundles, *of)
        if pose is None:
            values["pose_network"] = None
        else:
            for key, least in pose[1].items():
                values["training_statistics"][key]["pose"] = least
        values["expected_overlap"] = run_expectation(
            self.run_dir, bundles, values["training_statistics"], *of, self.worsened_pairs
        )
        values["training_warnings"] = verbatim(training_warnings(self.run_dir, self.stages))
        write_inference_config(template, values, self.run_dir)
        copy_bundle_files(self.bundle_root, self.run_dir)
        network = read_config(self.run_dir / INFERENCE).get_parsed_content("network_def")
        for part, name in PARTS.items():
            load_weights(
                network.get_submodule(MODULES[part]),
                self.run_dir / name / WEIGHTS,
                self.run_dir / name / INFERENCE,
            )
        if pose is not None:
            network.pose.load_state_dict(pose[0].state_dict())
        save_atomically(network.state_dict(), self.run_dir / WEIGHTS)
        provenance["weights"] = file_digest(self.run_dir / WEIGHTS)
        write_json(self.run_dir / "provenance.json", provenance, twin=True)

    def learn_pose(
        self, config: dict[str, Any], bundles: Mapping[str, Path], data: Datalist, digest: str, device: str
    ) -> tuple[PoseNetwork, dict[str, float]] | None:
        """What :func:`~.pose.run_pose` returns, of the network that a config defines; None if not wanted."""
        if self.pose_recognition is None or self.pose_recognition.examples == 0:
            return None
        network = ConfigParser(config).get_parsed_content("pose_network")
        if network is None:
            return None
        return run_pose(self.run_dir, bundles, data, digest, network, self.pose_recognition, device)


def data_of_run(run_dir: str | Path, datalist: str | Path | None = None) -> Datalist:
    """The data of a run, once it is certain that all its stages are trained, and on these very data.

    Args:
        run_dir: the run's folder.
        datalist: the datalist's file; None for the one that the run recorded.

    Returns:
        the datalist, its `spatial_size` and `spacing` those of the run's networks.

    Raises:
        FileNotFoundError: where there is no run, or its datalist is gone.
        ValueError: where its data have changed or are others, or a stage is not trained.
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
    manifests = {name: read_manifest(run_dir / name) for name in PARTS.values()}
    trained = {name: manifest for name, manifest in manifests.items() if manifest is not None}
    unfinished = [name for name in PARTS.values() if trained.get(name, {}).get("state") != "done"]
    if unfinished:
        raise ValueError(
            f"Expected a finished run in {run_dir}, but not trained yet: {', '.join(unfinished)}. Go on with "
            "configs/train.json."
        )
    provenance = run_dir / "provenance.json"
    published = read_json(provenance)["stages"] if is_kept(provenance) else {}
    if any(
        published.get(name, {}).get("weights") != manifest["weights"] for name, manifest in trained.items()
    ):
        raise ValueError(
            f"Expected the networks of the run's stages in {run_dir / WEIGHTS}, but a stage was trained by "
            "itself since: run configs/train.json, which puts them together and trains nothing that is done."
        )
    trained_config = read_config(run_dir / INFERENCE)
    return replace(data, **{key: trained_config[key] for key in ("spatial_size", "spacing")})
