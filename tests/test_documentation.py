"""The documentation: links that lead somewhere, and tables that say what the configs say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("bundles/*/docs/*.md")])
REFERENCE = ROOT / "docs" / "reference" / "configuration.md"


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
    default, demo = (json.loads((configs / name).read_text()) for name in ("train.json", "presets/demo.json"))
    section = re.split(r"^##+ ", REFERENCE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    (table,) = (part for part in section if part.split("\n")[0].endswith(f". {bundle}"))
    rows = [re.split(r" *\| ?", row)[1:5] for row in table.split("\n") if row.startswith("| `")]
    assert len(rows) > 5
    assert {row[0].strip("`").replace(".", "#") for row in rows} >= set(demo)
    for identifier, written, written_demo, _ in rows:
        keys = identifier.strip("`").split(".")
        value: Any = default
        for key in keys:
            value = value[key]
        changed = demo.get("#".join(keys), value)
        assert written == shown(value), identifier
        assert written_demo == (shown(changed) if changed != value else ""), identifier


def shown(value: Any) -> str:
    if isinstance(value, list) and isinstance(value[0], str):
        return f"{len(value)} × `{value[0]}`"
    return f"`{value}`" if isinstance(value, str) else str(value)
