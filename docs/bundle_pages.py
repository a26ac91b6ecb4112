"""A Sphinx extension: a reference page for each bundle, made from its configs when the site is built.

A page lists every id of ``train.json`` and ``inference.json`` that can be changed, with its value and, where
they differ, those of the presets ``demo`` and ``paper``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config

from crosswarp.files import replacing
from crosswarp.runs.config import read_config

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "reference" / "_bundles"
PRESETS = ("demo", "paper")


def entries(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Ids and values of a config: an object is taken apart, a list is one value."""
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from entries(value, f"{prefix}{key}#")
        elif key not in ("_meta_", "imports"):
            yield f"{prefix}{key}", value


def cell(value: Any) -> str:
    """A value as inline code, short enough for a table; of transforms and handlers their names."""
    if isinstance(value, list) and any(isinstance(each, dict) and "_target_" in each for each in value):
        names = [each["_target_"].split(".")[-1] if isinstance(each, dict) else each for each in value]
        return "list of " + ", ".join(f"`{name}`" for name in names)
    text = json.dumps(value, ensure_ascii=False).strip('"').replace("|", "\\|")
    return f"`{text}`"


def table(config: Path, presets: list[Path]) -> list[str]:
    """The rows of a config, with a column for each preset."""
    default = dict(entries(read_config(config).get()))
    changed = [dict(entries(read_config(config, preset).get())) for preset in presets]
    names = [preset.stem for preset in presets]
    rows = [f"| {' | '.join(['id', 'value', *names])} |", "|---|---|" + "---|" * len(names)]
    for identifier in dict.fromkeys([*default, *(key for each in changed for key in each)]):
        value = default.get(identifier, "")
        cells = [cell(value) if identifier in default else ""]
        for each in changed:
            differs = identifier in each and (identifier not in default or each[identifier] != value)
            cells.append(cell(each[identifier]) if differs else "")
        rows.append(f"| `{identifier}` | {' | '.join(cells)} |")
    return rows


def page(bundle: Path, name: str) -> str:
    """The page of a bundle, as Markdown."""
    configs = bundle / "configs"
    metadata = json.loads((configs / "metadata.json").read_text(encoding="utf-8"))
    presets = [configs / "presets" / f"{preset}.json" for preset in PRESETS]
    lines = [
        f"# Ids of {name}",
        "",
        f"{metadata['description']} Version {metadata['version']}.",
        "",
        "Made from the bundle's configs when this site was built. `@id` refers to another id, `%id` repeats "
        "it, and what begins with `$` is a Python expression.",
    ]
    whole = [("evaluate", [])] if bundle == ROOT else []  # those of the stages are laid over train.json
    for config, overlays in [("train", presets), *whole, ("inference", [])]:
        lines += ["", f"## {config}.json", "", *table(configs / f"{config}.json", overlays)]
    return "\n".join(lines) + "\n"


def write_pages(app: Sphinx, config: Config) -> None:
    """Write the pages of all bundles; one that stays as it was is left alone, and so not built again."""
    bundles = {"the chain": ROOT} | {path.name: path for path in sorted((ROOT / "bundles").iterdir())}
    for name, bundle in bundles.items():
        text = page(bundle, name)
        path = FOLDER / f"{name.replace(' ', '_')}.md"
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            with replacing(path) as partial:
                partial.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    app.connect("config-inited", write_pages)
    return {"parallel_read_safe": True}
