"""One stage of a run: its folder, its manifest, and whether it is done, stale or interrupted."""

from __future__ import annotations

import json
import logging
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from hashlib import sha256
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

import monai
import numpy
import torch
from monai.bundle import ConfigParser
from torch import nn

from .. import __version__, errors, processes
from ..data import Datalist, check_datalist, check_people, datalist_digest
from ..data.room import limit_memory
from ..files import file_digest
from ..kept import check, fault, is_kept, keeping, known_json, read_json, restore
from ..lock import Writer, one_writer
from ..terminal import show_messages, write_log
from ..training import LAST_EPOCH, Checkpoints, choose_threads
from ..training.handlers import save_atomically
from .bundle import DATA_IDS, INFERENCE, WEIGHTS, is_like, load_network, run_values, write_json
from .config import check_overrides, in_one_process, running_parser
from .origin import check_origin
from .published import copy_bundle_files, write_inference_config
from .values import check_values

logger = logging.getLogger(__name__)

LOG = Path("train.log")  # in a run's folder: what was said while it was trained, by this and other libraries
MANIFEST = "manifest.json"
CONFIG = Path("configs") / "train.json"  # as run
HISTORY = Path("checkpoints") / "history.json"
TRAINED = Path("checkpoints") / "best.pt"  # what was trained, also where something else is published
CHECK = Path("check.json")  # in a stage's folder: what its check measured, and the check's own config

# where a run stands and on what it runs does not change what it computes
LOCATION_IDS = {
    "bundle_root",
    "run_dir",
    "datalist",
    "device",
    "is_writer",
    "num_workers",
    "memory_gib",
    "_meta_",
}
# on these depends how much memory a stage takes
MEMORY_IDS = ("batch_size", "label_batch_size", "spatial_size", "pool_size")
# nor does what judges the result or shows it; what a stage uses counts by its weights
UNDECISIVE_IDS = {*LOCATION_IDS, "result_check", "stage", "verbose"}


def package_versions() -> dict[str, str]:
    """Versions of all that computes."""
    return {
        "crosswarp": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "monai": monai.__version__,
        "numpy": numpy.__version__,
        "pytorch-ignite": version("pytorch-ignite"),
    }


def claim_run(run_dir: str | Path, datalist: Datalist) -> str:
    """Check a run folder and a datalist against each other, once, before anything is trained.

    A new folder is claimed for the datalist. For another datalist, or changed files, it is refused.

    Returns:
        the datalist's digest.

    Raises:
        DatalistError: naming every fault of the data.
        ValueError: when the folder holds a run of other data, or of another version of the library.
    """
    path = Path(run_dir) / "run.json"
    claimed_before = is_kept(path)
    for config in (path.with_name("configs"), *path.parent.glob("*/configs")):
        for file in sorted(config.glob("*.json")):
            with suppress(
                *[ValueError] if fault(file) else []
            ):  # a damaged one is made again, or named later
                check_origin(file)
    (check_people if claimed_before else check_datalist)(datalist)
    digest = datalist_digest(datalist)
    if claimed_before:
        claimed = read_json(path, f"restore it, or remove it and {path.name}.copy: it is written anew")
        if claimed["datalist_digest"] != digest:
            raise ValueError(
                f"Expected a run of {datalist.path} in {run_dir}, but the folder holds a run of "
                f"{claimed['datalist']} (digest {claimed['datalist_digest'][:12]}, now {digest[:12]}): "
                "another datalist, or its files changed. Choose another run_dir; nothing was overwritten."
            )
    else:
        with one_writer(run_dir):
            claim = {"name": datalist.name, "datalist": str(datalist.path), "datalist_digest": digest}
            write_json(path, claim, twin=True)
    return digest


def training_warnings(run_dir: str | Path, stages: Iterable[str]) -> list[str]:
    """What the stages of a run warn of, ``"<stage>: <warning>"``; nothing for those never judged."""
    manifests = {name: read_manifest(Path(run_dir) / name) or {} for name in stages}
    return [
        f"{name}: {each}" for name, manifest in manifests.items() for each in manifest.get("warnings", [])
    ]


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What the manifest of a stage's folder says; None without one.

    Raises:
        DamagedError: where neither it nor its copy is what was written.
    """
    path = folder / MANIFEST
    if not is_kept(path):
        return None
    return read_json(path, f"restore it, or move {folder} away: the stage is then trained anew")


class Stage:
    """A stage's folder ``run_dir/name``: a bundle in the making, with a manifest that says how far it is.

    The fingerprint is a digest of all that decides the result: the stage's config with its overrides, the
    data, the weights of the stages before it and the library's version. A manifest with this fingerprint
    means done or interrupted (to be resumed); with another, stale: what it holds is moved to
    ``run_dir/previous/``, never deleted.

    Args:
        name: the stage, also the name of its folder.
        bundle_root: the bundle whose config runs.
        run_dir: the run's folder.
        datalist: the data.
        inputs: earlier stages whose weights this one uses.
        place: in a chain, for its heading, such as ``[2/4]``.
        start_file: weights of another bundle that the training starts from, which decide the result as well.
    """

    def __init__(
        self,
        name: str,
        bundle_root: str,
        run_dir: str,
        datalist: Datalist,
        inputs: list[str] | None = None,
        place: str = "",
        start_file: str | None = None,
    ):
        self.name, self.place = name, place
        self.bundle_root = Path(bundle_root)
        self.run_dir = Path(run_dir)
        self.folder = self.run_dir / name
        self.datalist = datalist
        self.inputs = list(inputs or ())
        self.start_file = start_file
        self._fingerprint, self._started, self._seconds, self._threads = "", 0.0, 0.0, 0
        self._writer: Writer | None = None

    @property
    def manifest(self) -> dict[str, Any] | None:
        """What the folder's manifest says; None without one."""
        return read_manifest(self.folder)

    def input_digests(self) -> dict[str, str]:
        """Digest of the weights of each stage that this one uses.

        Raises:
            FileNotFoundError: naming every stage that has not been trained.
            DamagedError: for weights that are not what that stage was trained to.
        """
        missing = [name for name in self.inputs if not (self.run_dir / name / WEIGHTS).is_file()]
        if missing:
            raise FileNotFoundError(
                f"Stage {self.name} needs the trained stages {missing} in {self.run_dir}: run them first, or "
                "the whole chain with configs/train.json."
            )
        again = "run that stage again, or the whole chain with configs/train.json, which makes it anew"
        return {name: file_digest(check(self.run_dir / name / WEIGHTS, again)) for name in self.inputs}

    def fingerprint(self, parser: ConfigParser, data_digest: str) -> str:
        """Digest of all that decides the stage's result."""
        config = in_one_process(parser.get(), self.bundle_root)
        config = {key: value for key, value in config.items() if key not in UNDECISIVE_IDS}
        # given by the chain or taken from the datalist: what counts is the value
        config |= {key: parser.get_parsed_content(key) for key in DATA_IDS if key in config}
        content = [config, data_digest, self.input_digests(), __version__]
        content += [] if self.start_file is None else [file_digest(Path(self.start_file))]
        return sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()

    def state(self, fingerprint: str) -> str:
        """``"done"``, ``"interrupted"``, ``"stale"`` or ``"new"``."""
        manifest = self.manifest
        if manifest is None:
            return "new"
        if manifest.get("fingerprint") != fingerprint:
            return "stale"
        return "done" if manifest["state"] == "done" and not self.damage(manifest) else "interrupted"

    def damage(self, manifest: Mapping[str, Any]) -> list[str]:
        """What is wrong with the files of a finished stage that are read later, in words."""
        found = {str(name): fault(self.folder / name) for name in (WEIGHTS, CONFIG, HISTORY)}
        weights = self.folder / WEIGHTS
        if not weights.is_file():
            found[str(WEIGHTS)] = "is missing"
        elif not found[str(WEIGHTS)] and file_digest(weights) != manifest["weights"]:
            found[str(WEIGHTS)] = "is not what the stage was trained to"
        return [f"{name} {wrong}" for name, wrong in found.items() if wrong]

    def state_of(self, parser: ConfigParser, data_digest: str) -> str:
        """The :meth:`state` of a config and data."""
        return self.state(self.fingerprint(parser, data_digest))

    def announce(self, state: str) -> None:
        """Say what happens to the stage, by its :meth:`state`."""
        manifest = self.manifest or {}
        damage = self.damage(manifest) if state == "interrupted" and manifest.get("state") == "done" else []
        explanation = {
            "new": "trains",
            "done": "done, its inputs are unchanged",
            "stale": f"trains again, its inputs have changed (the old one is in {self.run_dir}/previous)",
            "interrupted": f"is made again from its checkpoints: {', '.join(damage)}"
            if damage
            else "goes on where it was interrupted",
        }[state]
        logger.info(f"{self.place} {self.name}: {explanation}".strip())

    def begin(self) -> None:
        """Check the config and the data, put a stale stage aside, and record what is about to run.

        Of several processes the first does it, and the others begin when it is done.

        Raises:
            ValueError: for a misspelt parameter, faults of the data (all of them), or a run folder that holds
                a run of other data.
            FileNotFoundError: naming every stage that is missing.
            BusyError: where another process trains in the run's folder.
        """
        show_messages(verbose=bool(running_parser().get("verbose")))
        errors.SIZES.clear()
        errors.SIZES.update(self.sizes(running_parser()))
        limit_memory(running_parser().get_parsed_content("memory_gib", default=8), self.run_dir)
        self._threads = processes.agreed(self._begin)
        if not processes.is_first():
            choose_threads(self._threads)

    def _begin(self) -> int:
        """Begin in one process; returns its number of threads."""
        parser = running_parser()
        check_overrides(parser, self.bundle_root / "configs" / "train.json")
        check_values(parser)
        self._fingerprint = self.fingerprint(parser, claim_run(self.run_dir, self.datalist))
        self._writer = Writer(self.run_dir)
        write_log(self.run_dir / LOG)
        restore(self.run_dir / "run.json")
        restore(self.folder / MANIFEST)
        state = self.state(self._fingerprint)
        self.announce("interrupted" if state == "done" else state)
        if state == "stale" or (self.folder.exists() and self.manifest is None):
            self._put_aside()
        self._seconds = (self.manifest or {}).get("seconds", 0.0)
        config = in_one_process(parser.get(), self.bundle_root)
        config = {key: value for key, value in config.items() if key != "_meta_"}
        write_json(self.folder / CONFIG, config)
        copy_bundle_files(self.bundle_root, self.folder)
        write_inference_config(self.bundle_root / INFERENCE, run_values(parser), self.folder)
        self._threads = choose_threads((self.manifest or {}).get("threads"))
        self._write_manifest(state="running", seconds=self._seconds)
        self._started = time.monotonic()
        return self._threads

    def sizes(self, parser: ConfigParser) -> dict[str, Any]:
        """What can be lowered where memory is short, as the command line calls it, with its present value."""
        found = {key: parser.get_parsed_content(key) for key in MEMORY_IDS if key in parser}
        return {
            key if key in DATA_IDS or not self.place else f"{self.name}#{key}": value
            for key, value in found.items()
        }

    def check_trained(self) -> None:
        """Check the config, and that the stage is trained on these data, before it is evaluated.

        Raises:
            ValueError: for a misspelt parameter, or data that are not the run's.
            FileNotFoundError: for a stage that is not trained.
        """
        check_overrides(running_parser(), self.bundle_root / "configs" / "train.json")
        if self.manifest is None or self.manifest["state"] != "done":
            raise FileNotFoundError(
                f"Expected the trained stage {self.name} in {self.run_dir}: train it first."
            )
        claim_run(self.run_dir, self.datalist)

    def finish(self, checkpoints: Checkpoints) -> None:
        """Publish the chosen weights as ``models/model.pt`` and mark the stage as done, in the first process.

        Args:
            checkpoints: knows the weights that were chosen, by what, and its value.
        """
        if not processes.is_first():
            return
        chosen = checkpoints.chosen
        weights = self._publish(chosen.pop("weights"))
        seconds = round(self._seconds + time.monotonic() - self._started, 1)
        self._write_manifest(state="done", weights=weights, seconds=seconds, **chosen)
        by = "loss" if chosen["criterion"] == LAST_EPOCH else chosen["criterion"]
        logger.info(f"  {by} {chosen['value']:.4f} in epoch {chosen['epoch']}, after {seconds:g} s")

    def judge(
        self,
        check: Callable[[nn.Module], tuple[dict[str, Any], list[str]]] | None,
        device: torch.device | str = "cpu",
        parser: ConfigParser | None = None,
    ) -> None:
        """Compare the trained network with what the stage started from, and warn of what got worse.

        The warnings stand in the manifest, what was measured in ``check.json``. Nothing else changes, and the
        stage is done, unless the check measures that the network is ``worse_than_start``, and in what, and
        has a ``fallback`` of the same architecture: then that is published, with the warnings that it
        deserves, and the manifest says ``fell_back``.
        What was trained stays in ``checkpoints/``; it is judged again where the check changes, and published
        where that lets it pass. Of several processes the first does it.

        Args:
            check: called with the network, returns what it measured and warnings, as those of
                :mod:`~.result_checks`; None for no check.
            device: where to run the network.
            parser: the stage's config; by default the running one.
        """
        if not processes.is_first():
            return
        parser = parser or running_parser()
        manifest = dict(self.manifest or {})
        if manifest.pop("fell_back", False):
            manifest["weights"] = self._publish(self.folder / TRAINED)
        with processes.alone():
            network = load_network(self.folder, device)
            measured, warnings = check(network) if check else ({}, [])
        fallback: nn.Module | None = getattr(check, "fallback", None)
        if measured.get("worse_than_start") and fallback is not None and is_like(fallback, network):
            save_atomically(fallback.state_dict(), self.folder / WEIGHTS)
            manifest |= {"weights": file_digest(self.folder / WEIGHTS), "fell_back": True}
            with processes.alone():  # what is published is warned of
                warnings = check(fallback)[1] if check else []
            warnings.append(
                f"what it started from is published, since the trained network, which is in {TRAINED}, fits "
                f"worse: {measured['worse_than_start']}"
            )
        write_json(self.folder / MANIFEST, manifest | {"warnings": warnings}, twin=True)
        write_json(self.folder / CHECK, {"by": parser.get("result_check"), "measured": measured})
        for warning in warnings:
            logger.warning(f"{self.name}: {warning}.")
        if self._writer is not None:
            self._writer.release()

    def _publish(self, trained: Path) -> str:
        """Make of trained weights those of the bundle; returns their digest."""
        content = check(trained).read_bytes()
        with keeping(self.folder / WEIGHTS, size=len(content)) as partial:
            partial.write_bytes(content)
        return file_digest(self.folder / WEIGHTS)

    def judged(self, parser: ConfigParser) -> bool:
        """Whether the stage was judged, by the very check of a config."""
        by = known_json(self.folder / CHECK).get("by")
        return "warnings" in (self.manifest or {}) and by == parser.get("result_check")

    def _write_manifest(self, **content: Any) -> None:
        common: Mapping[str, Any] = {
            "stage": self.name,
            "fingerprint": self._fingerprint,
            "threads": self._threads,
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "inputs": self.input_digests(),
            "versions": package_versions(),
        }
        write_json(self.folder / MANIFEST, {**content, **common}, twin=True)

    def _put_aside(self) -> None:
        previous = self.run_dir / "previous"
        previous.mkdir(exist_ok=True)
        places = (previous / f"{self.name}-{number}" for number in count(1))
        self.folder.rename(next(place for place in places if not place.exists()))
