"""The documentation: links that lead somewhere, and tables that say what the configs say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from crosswarp.pipeline.config import read_config

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("bundles/*/docs/*.md")])
REFERENCE = ROOT / "docs" / "reference" / "configuration.md"
AUGMENTATIONS = ("augmentation", "source_augmentation", "target_augmentation")


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    for link in (link for link in links if "://" not in link):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("bundle", sorted(path.name for path in (ROOT / "bundles").iterdir()))
def test_the_reference_gives_the_values_of_the_configs(bundle: str) -> None:
    configs = ROOT / "bundles" / bundle / "configs"
    presets = [configs / "presets" / f"{name}.json" for name in ("demo", "paper")]
    default = read_config(configs / "train.json")
    changed = [read_config(configs / "train.json", preset) for preset in presets]
    section = re.split(r"^##+ ", REFERENCE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    (table,) = (part for part in section if part.split("\n")[0].endswith(f". {bundle}"))
    rows = [re.split(r" *\| ?", row)[1:6] for row in table.split("\n") if row.startswith("| `")]
    assert len(rows) > 5
    identifiers = [row[0].strip("`").replace(".", "#") for row in rows]
    for preset in presets:
        overlay = {
            key for key, value in json.loads(preset.read_text()).items() if not isinstance(value, dict)
        }
        parts = ("train#", "+train#", "checkpoints#", *AUGMENTATIONS)  # named in the text, not in the tables
        assert {key for key in overlay if not key.startswith(parts)} <= set(identifiers)
    for identifier, (_, written, *written_presets, _) in zip(identifiers, rows, strict=True):
        assert written == shown(default[identifier]), identifier
        for parser, cell in zip(changed, written_presets, strict=True):
            value = parser[identifier] if identifier in parser else None
            assert cell == ("" if value == default[identifier] else shown(value)), identifier


def shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list) and isinstance(value[0], str):
        return f"{len(value)} × `{value[0]}`"
    return f"`{value}`" if isinstance(value, str) else str(value)
