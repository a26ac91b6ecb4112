"""What the configs of a bundle call, evaluate, import and refer to: held to a list of what is allowed.

A config may be laid over another, and an id be given from elsewhere, so a rule on an argument holds wherever
a key of its name stands.
"""

from __future__ import annotations

import ast
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from monai.bundle import ConfigParser

from ..errors import reason
from ..runs.config import SIGNS
from ..wording import printable
from .allowed import check_argument, check_target, is_function, resolve
from .expressions import Expression, check_import, imported, leads_outside

DEEPEST = 40  # levels of lists and objects
MAX_VALUES = 100_000  # in one JSON file
MAX_NAMED = 4000  # components and expressions in a zip

ID = re.compile(r"\w+(::\w+)*", re.ASCII)
# arguments and ids that are places, by how they are called
PLACE = re.compile(
    r".*(dir|path|file|folder)s?|(.*_)?(dirname|filename|root|postfix|prefix|suffix|ext|ur[il]|bundles?|overlays"
    r"|checkpoint|save_handler|like)"
)

Entry = tuple[str, Any]


def read_object(content: bytes) -> dict[str, Any]:
    """A JSON object, read as MONAI reads it.

    Raises:
        ValueError: when it is none, has a key twice, or is too deep or large to be a config.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) < len(pairs):
            raise ValueError("a key stands twice in one object")
        return found

    found = json.loads(content.decode(), object_pairs_hook=once)
    if not isinstance(found, dict):
        raise ValueError(f"expected a JSON object, got {type(found).__name__}")
    for number, _ in enumerate(entries(found)):
        if number > MAX_VALUES:
            raise ValueError(f"more than {MAX_VALUES} values")
    return found


def entries(content: Mapping[str, Any]) -> Iterator[Entry]:
    """Every value in a JSON object with the key that it stands under; the items of a list share its key.

    Raises:
        ValueError: for what is nested deeper than ``DEEPEST``.
    """
    waiting: list[tuple[str, Any, int]] = [("", content, 0)]
    while waiting:
        key, value, depth = waiting.pop()
        if depth > DEEPEST:
            raise ValueError(f"nested more than {DEEPEST} levels deep")
        yield key, value
        if isinstance(value, Mapping):
            waiting += [(name, item, depth + 1) for name, item in value.items()]
        elif isinstance(value, list):
            waiting += [(key.lstrip("+~"), item, depth + 1) for item in value]


def last_name(key: str) -> str:
    """The name that a key or id gives its value: ``+a#b`` and ``a.b`` stand for ``b`` in what they change."""
    names = [name.lstrip("+~") for name in re.split(r"#|::|\.", key) if not name.isdecimal()]
    return names[-1] if names else ""


def check_plain(content: Mapping[str, Any]) -> None:
    """Check a JSON file that is no config: MONAI must find nothing in it to call or evaluate.

    Raises:
        ValueError: naming what it would.
    """
    for key, value in entries(content):
        if last_name(key) == "_target_":
            raise ValueError("has a _target_, which only configs may")
        evaluated = isinstance(value, str) and re.search(r"^[%$]|\$[\w(@['\"]", value)
        if evaluated and not is_text(value):
            raise ValueError(f"has text that MONAI would evaluate: {value!r}")


def is_text(expression: str) -> bool:
    """Whether an expression is a string literal and nothing else, as ``verbatim`` writes names."""
    if not expression.startswith("$") or SIGNS.search(expression[1:]):
        return False
    try:
        return isinstance(ast.literal_eval(expression[1:]), str)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False


class Configs:
    """The configs of a bundle, which may be laid over each other.

    Args:
        contents: by path in the bundle.

    Attributes:
        faults: what is not allowed in them.
        listed: by path, the expressions and the names of components.
    """

    def __init__(self, contents: Mapping[str, Mapping[str, Any]]) -> None:
        self.entries = {path: list(entries(content)) for path, content in contents.items()}
        self.faults: list[str] = []
        self.listed = {path: listed(found) for path, found in self.entries.items()}
        self.names: dict[str, Any] = {}
        self.by_name: dict[str, list[tuple[str, Any]]] = defaultdict(list)
        for path, found in self.entries.items():
            for key, value in found:
                self.by_name[last_name(key)].append((path, value))
        # ids of which places are made
        self.waiting: set[str] = set()

    def check(self) -> None:
        """Note every fault."""
        named = [
            1
            for found in self.entries.values()
            for key, value in found
            if last_name(key) == "_target_" or (isinstance(value, str) and value[:1] in ("$", "%"))
        ]
        if len(named) > MAX_NAMED:
            self.faults.append(f"its configs have more than {MAX_NAMED} components, expressions and macros")
            return
        for path, found in self.entries.items():
            for key, value in found:
                if isinstance(value, str) and value.startswith("$") and imported(value[1:]):
                    self.note(path, key, value, self.check_import, value[1:])
        for path, found in self.entries.items():
            for key, value in found:
                self.note(path, key, value, self.check_entry, key, value)
        self.check_places()
        self.faults = list(dict.fromkeys(self.faults))

    def note(self, path: str, key: str, value: Any, check: Any, *arguments: Any) -> None:
        """Run a check and note its fault."""
        try:
            check(*arguments)
        except Exception as error:  # there is no telling what the names and syntax of others lead to
            where = f"{key}: {value}" if isinstance(value, str) else key
            self.faults.append(f"{path}: {printable(where, 120)}: {reason(error)}")

    def check_import(self, text: str) -> None:
        """Note the name that an import gives to all expressions."""
        name, thing = check_import(text)
        if self.names.setdefault(name, thing) is not thing and self.names[name] != thing:
            raise ValueError(f"imports another {name} than elsewhere in the bundle")

    def check_entry(self, key: str, value: Any) -> None:
        """Check one value and what it stands under."""
        name = last_name(key)
        if name == "_target_":
            check_target(value)
        check_argument(name, value)
        if isinstance(value, Mapping):
            check_mode(key, value)
        # what is laid over a component would get arguments, or a way of being made, that suited another one
        if key != name and (name == "_mode_" or (name == "_target_" and not str(value).startswith("torch."))):
            raise ValueError("laid over a component; write the whole component instead")
        if isinstance(value, Mapping) and (wrong := [key for key in value if re.search(r"[$@%]", key)]):
            raise ValueError(f"the key {wrong[0]!r}")
        if not isinstance(value, str) or name == "_target_":
            return
        if re.search("[@%](#|::)", value):
            raise ValueError("an id that is relative to where it stands; write it out")
        if re.search("^[@%]_|^[@%].*(#|::)_", value):
            raise ValueError("a reference to what is not the config's own")
        if value.startswith("$"):
            if not imported(value[1:]):
                self.waiting |= Expression(value[1:], self.names).path_ids
        elif value.startswith("%"):
            self.check_macro(value)
        elif "$" in value or re.fullmatch(r"_\w*_", value):
            raise ValueError("text that might be taken for an expression or key")
        elif leads_outside(value):
            raise ValueError("leads to a fixed place outside of the bundle: expected a relative path")

    def check_macro(self, value: str) -> str:
        """Check a macro: only a config of the bundle may be taken from.

        Returns:
            the id that it stands for.
        """
        path, identifier = ConfigParser.split_path_id(value[1:])
        if path and path not in self.entries:
            raise ValueError(f"a macro of {path!r}, which is no config of the bundle")
        if not ID.fullmatch(identifier):
            raise ValueError("expected a macro of an id")
        return identifier

    def check_places(self) -> None:
        """Check what places are made of: references and relative paths, nothing computed."""
        done: set[str] = set()
        for name in list(self.by_name):
            if PLACE.fullmatch(name):
                self.check_place(name, made_of=False)
        while self.waiting:
            name = last_name(self.waiting.pop())
            if name not in done:
                done.add(name)
                self.check_place(name, made_of=True)

    def check_place(self, name: str, made_of: bool) -> None:
        """Check all values of a name; ``made_of``: whether longer paths begin with it."""

        def check(value: Any) -> None:
            if isinstance(value, Mapping) and "_target_" in value:
                raise ValueError("expected a path, got a component")
            if not isinstance(value, str):
                return
            if made_of and not value.strip():
                raise ValueError("an empty path")
            if value.startswith("$"):
                self.waiting.update(Expression(value[1:], self.names, is_path=True).path_ids)
            elif value.startswith("%"):
                self.waiting.add(self.check_macro(value))
            elif ID.fullmatch(value.replace("#", "::")[1:]) and value.startswith("@"):
                self.waiting.add(value[1:])

        for path, value in self.by_name[name]:
            self.note(path, name, value, check, value)


def check_mode(key: str, component: Mapping[str, Any]) -> None:
    """Check that only functions are given away uncalled: classes would be made with whatever they are called.

    Raises:
        ValueError: for a component of another kind.
    """
    if key.startswith("+") and "_target_" in component:
        raise ValueError("laid over a component; write the whole component instead")
    if component.get("_mode_", "default") != "default" and not all(
        map(is_function, resolve(str(component.get("_target_"))))
    ):
        raise ValueError("expected a _mode_ other than default for listed functions only")


def listed(found: list[Entry]) -> list[str]:
    """The expressions of a config, and the components that it makes."""
    expressions = [value for _, value in found if isinstance(value, str) and value.startswith("$")]
    targets = {str(value) for key, value in found if last_name(key) == "_target_"}
    return [*dict.fromkeys(expressions), *(f"_target_ {name}" for name in sorted(targets))]
