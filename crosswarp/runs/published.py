"""Files that a run publishes for its user, and what the user has changed in them since."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..files import replacing
from ..kept import known_json, read_json
from .bundle import INFERENCE, inference_config, json_text, write_json

logger = logging.getLogger(__name__)

RECORD = Path("published.json")  # in a folder: by file and id, digests of the values as they were written
ASIDE = ".previous"
WHOLE = "all of it"  # the one id of a file that is no JSON


def write_inference_config(template: Path, values: Mapping[str, Any], folder: Path) -> None:
    """Write a bundle's ``inference.json``, see ``inference_config``, but for what was edited there."""
    publish(folder, INFERENCE, inference_config(template, values))


def copy_bundle_files(bundle_root: Path, folder: Path) -> None:
    """Copy metadata, logging, licence and docs of a bundle in the library to a run's stage folder."""
    for name in ("configs/metadata.json", "configs/logging.conf", "LICENSE", "docs/README.md"):
        if (bundle_root / name).is_file():
            publish(folder, Path(name), {WHOLE: (bundle_root / name).read_text(encoding="utf-8")})


def publish(folder: Path, name: Path, content: Mapping[str, Any]) -> None:
    """Write a file, except for the ids that were edited there since it was last written.

    Edited values stay, added ids stay and removed ones stay away; a warning names them. A file of which
    there is no record, as in runs of earlier versions, is put aside where it says something else.

    Args:
        folder: of a run or of its stage.
        name: of the file, within the folder.
        content: what a JSON file holds by id; ``{WHOLE: text}`` for another file.

    Raises:
        ValueError: where a JSON file that is there is none any more.
    """
    path, record = folder / name, folder / RECORD
    files = known_json(record)
    written: dict[str, str] | None = files.get(str(name))
    before = path.read_text(encoding="utf-8") if path.is_file() else None
    result = dict(content)
    if before is not None and written is not None:
        found = {WHOLE: before} if WHOLE in content else _object(before, path)
        edited = _changed(found, written) - _unchanged(found, content)
        result = {key: value for key, value in result.items() if key not in edited}
        result |= {key: found[key] for key in found if key in edited}
        if edited:
            logger.warning(
                f"{path} was edited: {', '.join(sorted(edited))} stays as it is there. Remove the file to "
                "have it written anew."
            )
    text = result.get(WHOLE) or json_text(result)
    if before is not None and written is None and before != text:
        path.replace(path.with_name(path.name + ASIDE))
        logger.warning(f"{path} is written anew; the one before is {path.name}{ASIDE}.")
    if before != text:
        with replacing(path) as partial:
            partial.write_text(text, encoding="utf-8", errors="backslashreplace")
    if written != (digests := {key: _digest(value) for key, value in content.items()}):
        write_json(record, files | {str(name): digests})


def warn_of_edits(folder: Path, name: Path) -> None:
    """Say which ids of a published JSON file are not as they were written: edited on purpose, or damaged."""
    if found := edited(folder, name):
        logger.warning(
            f"{folder / name} is not as it was written: {', '.join(found)}. If nobody has edited it, it is "
            "damaged: remove it, and give the training's command again."
        )


def edited(folder: Path, name: Path) -> list[str]:
    """The ids of a published JSON file that are not as they were written; none where that is not known."""
    written = (read_json(folder / RECORD) if (folder / RECORD).is_file() else {}).get(str(name))
    if written is None:
        return []
    return sorted(_changed(_object((folder / name).read_text(encoding="utf-8"), folder / name), written))


def _changed(found: Mapping[str, Any], written: Mapping[str, str]) -> set[str]:
    """The ids whose values are others than those that were written, gone or new."""
    digests = {key: _digest(value) for key, value in found.items()}
    return {key for key in {*digests, *written} if digests.get(key) != written.get(key)}


def _unchanged(found: Mapping[str, Any], content: Mapping[str, Any]) -> set[str]:
    """The ids that a file has as it would be written, or has as little as that."""
    return {key for key in {*found, *content} if found.get(key) == content.get(key)}


def _object(text: str, path: Path) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is no JSON any more ({error}): correct it, or remove it.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no JSON object any more: correct it, or remove it.")
    return content


def _digest(value: Any) -> str:
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
