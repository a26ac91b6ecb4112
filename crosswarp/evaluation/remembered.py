"""What was measured before: kept as JSON, and known again by all that it was made from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from .. import __version__
from ..files import file_digest
from ..kept import known_json, read_json
from ..runs.bundle import INFERENCE, WEIGHTS, write_json
from ..runs.config import read_config
from ..runs.stage import LOCATION_IDS

PACKAGES = (
    "antspyx",
    "convexadam",
    "fireants",
    "icon_registration",
    "itk",
    "itk-elastix",
    "picsl_greedy",
    "unigradicon",
)


def fingerprint(*content: Any) -> str:
    """A digest of what decides a result."""
    return sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def recall(path: Path, wanted: str) -> dict[str, Any] | None:
    """What a file keeps under a fingerprint; None where it has another, is damaged, or there is none."""
    stored = known_json(path)
    return stored if stored.get("fingerprint") == wanted else None


def keep(path: Path, known_as: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Write what :func:`recall` returns by the fingerprint; returns it."""
    stored = {"fingerprint": known_as, **values}
    write_json(path, stored)
    return stored


class Origin:
    """What an evaluation is made from: its config, the data, inference config and weights of the run.

    Args:
        run_dir: the run's folder.
        parser: the config of the evaluation.
        config_file: the bundle's own config of it, without what baselines bring along.
    """

    def __init__(self, run_dir: Path, parser: ConfigParser, config_file: Path) -> None:
        config = {key: value for key, value in parser.get().items() if key not in LOCATION_IDS}
        self.baselines = config.pop("baselines", None) or {}
        self.config, self.own = config, read_config(config_file).get().keys()
        self.weights = file_digest(run_dir / WEIGHTS)
        data, inference = read_json(run_dir / "run.json")["datalist_digest"], file_digest(run_dir / INFERENCE)
        device = parser.get_parsed_content("device", default=None)  # of which times and memory are
        self.made_of = [data, inference, self.weights, __version__, str(device)]

    def of_all(self, *circumstances: Any) -> str:
        """The fingerprint of the whole evaluation, in circumstances that its report names."""
        given = [_given(value) for value in self.config.values()]
        return fingerprint(
            self.config, given, self.made_of, self.baselines, baseline_versions(), *circumstances
        )

    def of_baseline(self, name: str, learnt: str | None) -> str:
        """The fingerprint of a baseline's measurements; what the configs of others bring along is none of it.

        Args:
            name: of the baseline.
            learnt: digest of its weights, where it has some.
        """
        config = {key: value for key, value in self.config.items() if key in self.own}
        return fingerprint(config, self.made_of, self.baselines.get(name), baseline_versions(), learnt)


def _given(value: Any) -> str | None:
    """The digest of a file that a config names, whose content may change."""
    is_file = isinstance(value, str) and not value.startswith(("$", "@", "%")) and Path(value).is_file()
    return file_digest(Path(value)) if is_file else None


def baseline_versions() -> dict[str, str]:
    """Versions of the packages of baselines, of those that are installed."""
    found = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
