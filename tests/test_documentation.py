"""The documentation: links that lead somewhere, and tables that say what the configs say."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from crosswarp.commands import COMMANDS
from crosswarp.commands.evaluate import baseline_configs
from crosswarp.runs.config import check_ids, read_config

from .cohorts import write_blob_cohort
from .trained_run import STAGES, write_trained_run

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "bundles/*/docs/*.md", "benchmarks/*.md")
    for path in ROOT.glob(pattern)
    if not any(part.startswith("_") for part in path.relative_to(ROOT).parts)  # what building the site made
)
PYTHON = ROOT / "docs" / "how_to" / "use_from_python.md"
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


def commands(page: Path, program: str) -> list[list[str]]:
    """The calls of a program in a page, each as its arguments."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    calls = re.findall(rf"python -m {re.escape(program)} ((?:'[^'\n]*'|\"[^\"\n]*\"|[^`\n'\"])*)", text)
    return [shlex.split(re.sub(r"\s#\s.*", "", call)) for call in calls]  # an id may hold a #


def identifiers(arguments: list[str]) -> list[str]:
    return [each[2:].split("=")[0] for each in arguments if each.startswith("--") and each != "--help"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_their_options_exist(page: Path) -> None:
    for name, *arguments in commands(page, "crosswarp"):
        if name.isupper():
            continue
        assert name in COMMANDS, name
        own = inspect.signature(COMMANDS[name]).parameters
        ids = [each for each in identifiers(arguments) if each.replace("-", "_") not in own]
        config = [ROOT / "configs" / f"{ {'register': 'inference'}.get(name, name) }.json"]
        config += baseline_configs("all") if name == "evaluate" else []
        for each in ids:
            stage, _, inner = each.partition("#")
            trained = [ROOT / "bundles" / stage / "configs" / "train.json"]
            within = read_config(*(trained if stage in STAGES and inner else config))
            check_ids([inner.replace(".", "#") if inner else each], within, str(page))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_calls_of_bundles_name_configs_and_ids_that_exist(page: Path) -> None:
    for call in commands(page, "monai.bundle"):
        text = " ".join(call)
        files = [
            path for path in re.findall(r"[\w./]+\.json", text.split("--datalist")[0]) if "..." not in path
        ]
        if call[0] == "run" and files and "my_overlay.json" not in files:
            ids = [each for each in identifiers(call) if each != "config_file"]
            # run from the root of the repository, or from a bundle
            folders = (ROOT, *(ROOT / "bundles").iterdir())
            found = [folder for folder in folders if all((folder / file).is_file() for file in files)]
            assert found, files
            check_ids(ids, read_config(*(found[0] / file for file in files)), str(page))


def test_the_python_of_the_how_to_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datalist = write_blob_cohort(tmp_path / "data", spatial_size=(24, 20))
    write_trained_run(tmp_path / "runs" / "mine", datalist)
    images = tmp_path / "data" / "images"
    (tmp_path / "images").mkdir()
    for name, image in (
        ("a", "warmtest0"),
        ("b", "coldtest0"),
        ("atlas", "coldtest1"),
        ("a_second_contrast", "warmtest0"),
        ("images/one", "warmtest0"),
        ("images/two", "warmtest1"),
    ):
        shutil.copyfile(images / f"{image}.nii.gz", tmp_path / f"{name}.nii.gz")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(
        r"^```python\n(.*?)^```", PYTHON.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    assert len(blocks) > 4
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, str(PYTHON), "exec"), names)
    assert names["shrinks"].shape == (1, 24, 20) and len(names["point_in_moving"]) == 2
    assert (tmp_path / "out" / "a_to_b_transform.h5").is_file()


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
    if isinstance(value, list) and value and isinstance(value[0], str):
        return f"{len(value)} × `{value[0]}`"
    return f"`{value}`" if isinstance(value, str) else str(value)
