"""Which crosswarp made a run or a bundle, and whether this one has all that it names."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from .. import __version__
from ..places import CODE
from ..wording import printable

NAMED = re.compile(
    r"\bfrom scripts(?P<module>[\w.]*) import (?P<name>\w+)|\bscripts(?P<path>(?:\.[A-Za-z]\w*)+)"
)
# what records the version, for a run and its stages, and for an unpacked zip
RECORDS = ("provenance.json", "../provenance.json", "manifest.json", "model_info.json")


def check_origin(config: str | Path) -> None:
    """Refuse a config that an older or newer crosswarp wrote, with names that this one does not have.

    Args:
        config: a config of a run, a trained bundle, or the library; YAML or JSON.

    Raises:
        ValueError: naming the folder, the version that made it where that is recorded, and what to do.
    """
    config = Path(config)
    if names := missing_names(config.read_text(encoding="utf-8", errors="replace")):
        folder = config.parent.parent
        records = (folder / record for record in RECORDS)
        made = (_made_by(record) for record in records if record.is_file())
        raise ValueError(explanation(f"{folder} ({config.name})", names, next(filter(None, made), "")))


def _made_by(record: Path) -> str:
    """The version that a record names; empty where it is damaged."""
    try:
        return version(json.loads(record.read_text(encoding="utf-8")))
    except (ValueError, AttributeError, TypeError):
        return ""


def missing_names(text: str) -> list[str]:
    """The modules and what is of them that a config takes from ``scripts`` and this library does not have."""
    found = [match["path"] or f"{match['module']}.{match['name']}" for match in NAMED.finditer(text)]
    return [f"scripts{name}" for name in dict.fromkeys(found) if not _is_there(name)]


def version(record: Mapping[str, Any]) -> str:
    """The version, and if known the commit, that a record of a run or a zip names; empty for none."""
    record = record | record.get("training", {})
    number, commit = record.get("versions", {}).get("crosswarp"), record.get("git_commit")
    return printable(f"{number} (commit {commit})" if number and commit else str(number or ""), 100)


def explanation(what: str, names: list[str], made_by: str) -> str:
    """Say that something is of another version, and what can be done."""
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return (
        f"{what} was made by crosswarp {made_by or 'of another version'}, with modules that this one, "
        f"{__version__}, does not have: {shown}. Train it again with this one, in a new folder, or use the "
        "one that made it."
    )


@lru_cache(maxsize=1000)
def _is_there(name: str) -> bool:
    """Whether the library has a name, such as ``.runs.chain.Chain``; nothing is imported."""
    parts, place = name.strip(".").split("."), CODE
    while parts and (place / parts[0] / "__init__.py").is_file():
        place /= parts.pop(0)
    module = place / "__init__.py"
    if parts and (place / f"{parts[0]}.py").is_file():
        module = place / f"{parts.pop(0)}.py"
    return not parts or re.search(rf"\b{parts[0]}\b", module.read_text(encoding="utf-8")) is not None
