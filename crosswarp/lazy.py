"""Packages that import what they export once it is asked for: a name costs what it needs itself, no more."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def lazily(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Give a package the names that its ``__init__`` imports under ``if TYPE_CHECKING:`` (PEP 562).

    People, editors and mypy read these imports as they are; Python passes over them.

    Args:
        package: its ``__name__``.
        file: its ``__file__``.

    Returns:
        the package's ``__getattr__`` and ``__dir__``.
    """
    tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    homes = {
        alias.name: f".{node.module}"
        for branch in tree.body
        if isinstance(branch, ast.If)
        for node in branch.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(homes[name], package), name)
        setattr(sys.modules[package], name, value)
        return value

    return get, lambda: sorted({*vars(sys.modules[package]), *homes})
