"""The house has one direction: a package looks only to those that stand above it in this list."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

LIBRARY = Path(__file__).parents[1] / "crosswarp"
LAYERS = (
    (
        "disk",
        "errors",
        "files",
        "finite",
        "kept",
        "lazy",
        "lock",
        "places",
        "processes",
        "terminal",
        "wording",
    ),
    ("spatial",),
    ("networks", "losses"),
    ("metrics",),
    ("data",),
    ("training",),
    ("runs",),
    ("release",),  # a zip is verified before inference loads it
    ("report",),
    ("inference",),
    ("evaluation",),
    ("commands",),
    ("__main__",),
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


def imports(path: Path) -> set[str]:
    """The packages of the library that a file imports at any place."""
    package = path.relative_to(LIBRARY).parent.parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            where = (*base, *(node.module.split(".") if node.module else ()))
            found |= {where[0]} if where else {alias.name for alias in node.names}
    return found & RANK.keys()


def test_every_package_has_its_place() -> None:
    names = {
        path.stem for path in LIBRARY.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert names - {"__init__"} == RANK.keys()


@pytest.mark.parametrize("path", sorted(LIBRARY.glob("*/**/*.py")), ids=lambda p: str(p.relative_to(LIBRARY)))
def test_a_package_looks_only_upwards(path: Path) -> None:
    own = path.relative_to(LIBRARY).parts[0]
    wrong = {name for name in imports(path) - {own} if RANK[name] >= RANK[own]}
    assert not wrong, f"{own} must not know of {', '.join(sorted(wrong))}"
