"""What is typed on the command line: all of it checked before a command is called, each value by its type.

By itself fire takes a value for the Python that it looks like (``1e3`` for 1000.0, ``None`` for nothing),
calls a command with what it knows and complains of the rest afterwards.
"""

from __future__ import annotations

import difflib
import inspect
import json
import math
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from fire.decorators import SetParseFn, SetParseFns
from fire.parser import DefaultParseValue

FLAG = re.compile(r"--|-[A-Za-z]|-$")
FLAG_VALUES = {"true": True, "false": False}


def texts(text: str) -> str | list[str]:
    """One path or name, or several: ``["a","b"]``, ``[a,b]`` or ``a,b``; what exists by that name is that."""
    if os.path.exists(text):
        return text
    if text[:1] == "[" and text[-1:] == "]":
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        strings = isinstance(found, list) and all(isinstance(each, str) for each in found)
        return found if strings else [unquoted(part) for part in text[1:-1].split(",")]
    return text.split(",") if "," in text else text


def _once_each(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"expected each value once, got {', '.join(value for value, _ in pairs)}")
    return found


def named_labels(text: str) -> dict[str, str]:
    """Names by label value: a JSON object, or ``{1: femur, 2: tibia}``, with or without braces and quotes."""
    try:
        found = json.loads(text, object_pairs_hook=_once_each)
    except json.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        inside = text.strip().removeprefix("{").removesuffix("}")
        parts = [part.partition(":") for part in inside.split(",")]
        if not all(colon for _, colon, _ in parts):
            raise ValueError(f"expected names by value, such as '{{1: femur, 2: tibia}}', got {text!r}")
        pairs = [(unquoted(value), unquoted(name)) for value, _, name in parts]
        found = _once_each(pairs)
    return found


def flag(text: str) -> bool:
    """Whether a flag is set."""
    if text.lower() not in FLAG_VALUES:
        raise ValueError(f"expected true or false, got {text!r}")
    return FLAG_VALUES[text.lower()]


def numbers(text: str, kind: type[int] | type[float], several: bool) -> Any:
    """A number, or a list of them with or without brackets."""
    inside = re.fullmatch(r"\s*[\[(](.*)[\])]\s*", text)
    parts = [part for part in re.split(r"[,\s]+", (inside[1] if inside else text).strip()) if part]
    try:
        values = [kind(part) for part in parts]
        wrong = "_" in text or not values or not all(map(math.isfinite, values))
    except ValueError:
        wrong = True
    if wrong or (not several and (inside or len(values) > 1)):
        name = "a whole number" if kind is int else "a number"
        raise ValueError(f"expected {name}{', or one for each axis' * several}, got {text!r}")
    return values if inside or len(values) > 1 else values[0]


def override(text: str) -> Any:
    """The value of a config's id: JSON (``null``, ``true``), or what fire takes for Python, or text."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)  # NaN, which is a name as well

    try:
        return json.loads(text, parse_constant=refuse)
    except ValueError:
        return DefaultParseValue(text)


def unquoted(text: str) -> str:
    """Text without the spaces and one pair of quotes around it."""
    text = text.strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def parse_function(annotation: Any) -> Callable[[str], Any]:
    """What makes a parameter's value of what is typed: text that is to be a path or a name stays what it is.

    Raises:
        TypeError: for a type that no command has had so far.
    """
    kinds = set(get_args(annotation)) if get_origin(annotation) in (Union, UnionType) else {annotation}
    several = {get_args(kind)[0] for kind in kinds if get_origin(kind) is Sequence}
    if kinds & {str, Path}:
        return texts if several else str
    if bool in kinds:
        return flag
    if any(get_origin(kind) is Mapping for kind in kinds):
        return named_labels
    if kinds & {int, float}:
        return partial(numbers, kind=int if int in kinds else float, several=bool(several))
    raise TypeError(f"Expected a parameter of text, numbers, a flag or names of labels, got {annotation}.")


def asks_for_help(words: list[str]) -> bool:
    """Whether fire says what there is, and no command runs."""
    return not words or bool({"-h", "--help"} & set(words))


def command_line(words: list[str], commands: Mapping[str, Callable[..., Any]]) -> list[str]:
    """What is typed, checked; where `--help` is among it, what lets fire describe a command and not call it.

    Args:
        words: what is typed.
        commands: by name.

    Raises:
        ValueError: for an unknown command, or naming all that is wrong with its arguments.
    """
    if not words or asks_for_help(words[:1]):
        return words
    name, *arguments = words
    if name not in commands:
        near = difflib.get_close_matches(name, commands, n=1)
        suggestion = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"Expected one of {', '.join(commands)}, got {name!r}{suggestion}.")
    if asks_for_help(words):
        return [name, "--", "--help"]
    return [name, *Arguments(name, commands[name]).checked(arguments)]


class Arguments:
    """The arguments of a command, as its signature describes them.

    Args:
        name: of the command.
        command: a function. What it takes as ``**overrides`` are ids of a config.
    """

    def __init__(self, name: str, command: Callable[..., Any]) -> None:
        self.name = name
        parameters = inspect.signature(command).parameters.values()
        kinds = {parameter.kind for parameter in parameters}
        self.takes_overrides = inspect.Parameter.VAR_KEYWORD in kinds
        self.takes_any_number = inspect.Parameter.VAR_POSITIONAL in kinds
        named = [parameter for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
        hints = get_type_hints(command)
        self.parse = {parameter.name: parse_function(hints[parameter.name]) for parameter in named}
        self.required = [parameter.name for parameter in named if parameter.default is parameter.empty]
        SetParseFns(**self.parse)(command)
        SetParseFn(override if self.takes_overrides else str)(command)

    def checked(self, typed: Iterable[str]) -> list[str]:
        """The arguments as fire understands them without guessing, ``--name=value`` each.

        Args:
            typed: the words behind the command.

        Raises:
            ValueError: naming all that is unknown, surplus, missing, given twice or of the wrong type.
        """
        words, loose, faults = deque(typed), [], []
        given: dict[str, str | None] = {}
        while words:
            word = words.popleft()
            if not FLAG.match(word):
                loose.append(word)
                continue
            name = self._name(word)
            value = self._value(word, name, words)
            if name not in self.parse and not self.takes_overrides:
                faults.append(f"{word.partition('=')[0]} is unknown{self._advice(name)}")
            elif name in given:
                faults.append(f"--{name} is given twice")
            else:
                given[name] = value
        if not self.takes_any_number:
            free = [name for name in self.parse if name not in given]
            given |= zip(free, loose, strict=False)
            faults += [f"{word!r} is one argument too many" for word in loose[len(free) :]]
            loose = []
        faults += self._faults(given)
        if faults:
            hint = f"see `python -m crosswarp {self.name} --help`"
            raise ValueError("\n- ".join([f"Expected other arguments ({hint}):", *faults]))
        return [*(f"--{name}={value}" for name, value in given.items()), *loose]

    def _faults(self, given: Mapping[str, str | None]) -> list[str]:
        """What is missing, and what has no value or one of the wrong type."""
        faults = []
        for name, parse in self.parse.items():
            if name not in given and name in self.required:
                near = difflib.get_close_matches(name, given.keys() - self.parse.keys(), n=1)
                faults.append(f"--{name} is missing" + (f"; --{near[0]} is unknown" if near else ""))
            elif name in given and given[name] is None:
                faults.append(f"--{name} needs a value")
            elif name in given:
                try:
                    parse(str(given[name]))
                except ValueError as error:
                    faults.append(f"--{name}: {error}")
        return faults

    def _name(self, word: str) -> str:
        """Name of an argument; one letter is enough where only one begins with it."""
        name = word.lstrip("-").partition("=")[0].replace("-", "_")
        begin = [each for each in self.parse if each.startswith(name)]
        return begin[0] if len(name) == len(begin) == 1 else name

    def _value(self, word: str, name: str, following: deque[str]) -> str | None:
        """Value of an argument, taken from the next word where it is that; None where there is none."""
        after = following[0] if following else None
        if "=" in word:
            return word.partition("=")[2]
        if self.parse.get(name) is flag:
            return following.popleft() if after and after.lower() in FLAG_VALUES else "True"
        if name not in self.parse:
            return "True" if after is None or FLAG.match(after) else following.popleft()
        if after is None or (after.startswith("--") and self._name(after) in self.parse):
            return None
        return following.popleft()

    def _advice(self, name: str) -> str:
        if near := difflib.get_close_matches(name, self.parse, n=1):
            return f" (did you mean --{near[0]}?)"
        return "; a path that begins with - is written ./-" if self.takes_any_number else ""
