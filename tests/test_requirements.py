"""The locked list of packages is that of the requirements, and each has the hash of its file."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
LINE = re.compile(r"(?P<name>[a-z0-9._-]+)==(?P<version>\S+) --hash=sha256:[0-9a-f]{64}")


def lines(name: str) -> list[str]:
    texts = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [text for text in texts if text and not text.startswith("#")]


def locked() -> dict[str, str]:
    found = [LINE.fullmatch(line) for line in lines("requirements.lock")]
    assert all(found), "a name, a version and a hash in each line"
    return {match["name"].replace("_", "-"): match["version"] for match in found if match}


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_each_requirement_is_locked_at_the_version_that_is_tested():
    versions = locked()
    for requirement in map(Requirement, lines("requirements.txt")):
        assert requirement.specifier.contains(versions[requirement.name.lower()]), requirement


def test_the_locked_versions_are_within_the_ranges_of_the_package():
    versions = locked()
    for requirement in map(Requirement, project()["dependencies"]):
        assert requirement.specifier.contains(versions[requirement.name.lower()]), requirement


def test_the_environment_of_monai_label_is_within_the_ranges_of_the_package():
    """It never installs crosswarp: nothing else sees whether `pip install "crosswarp[label]"` can be."""
    pinned = (text.partition("==") for text in lines("requirements-label.txt"))
    versions = {name.lower(): version for name, _, version in pinned}
    wanted = [*project()["dependencies"], *project()["optional-dependencies"]["label"]]
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(versions[requirement.name.lower()]), requirement
