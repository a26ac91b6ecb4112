"""What one value of a request may be: each check takes what came, and gives what is passed on."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any

Check = Callable[[Any], Any]

NAME = r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,99}"
LONGEST_NAME, LONGEST_TEXT = 200, 1000
DEEPEST, MOST_LEVELS, MOST_ITEMS = 4, 20, 1000


class Refused(ValueError):
    """A request that is not let through.

    Args:
        message: what was expected, and what came.
        status: of HTTP, 400 to 499.
    """

    def __init__(self, message: str, status: int = 422) -> None:
        super().__init__(message)
        self.status = status


def shown(value: object) -> str:
    """A value in a message: without control characters, and not long."""
    text = ascii(value) if len(str(value)) < LONGEST_TEXT else ascii(str(value)[:LONGEST_TEXT])
    return text if len(text) <= 80 else f"{text[:77]}..."


def is_expression(text: str) -> bool:
    """Whether MONAI's configs would take a text for an expression, a reference or a macro.

    Spaces, quotes and invisible characters before it do not count, and a full-width ``$`` is one.
    """
    plain = unicodedata.normalize("NFKC", text)
    start = next((c for c in plain if unicodedata.category(c)[0] not in "CZ" and c not in "'\"`"), "")
    return start in ("$", "@", "%")


def expression_in(value: object) -> str | None:
    """The first expression in a value, its items and keys, or in JSON that a text of it holds."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            if is_expression(value):
                return value
            if value.lstrip()[:1] in ("{", "["):
                with suppress(ValueError, RecursionError):
                    waiting.append(json.loads(value))
        elif isinstance(value, Mapping):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list):
            waiting += value
    return None


def children(value: object) -> list[Any]:
    """What a list or the values of an object hold."""
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def whole(low: int, high: int) -> Check:
    """A whole number, both limits included."""

    def check(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise Refused(f"expected a whole number from {low} to {high}, got {shown(value)}")
        return value

    return check


def number(low: float, below: float) -> Check:
    """A finite number, the lower limit included."""

    def check(value: Any) -> float:
        if type(value) not in (int, float) or not low <= value < below:
            raise Refused(f"expected a number from {low:g} to below {below:g}, got {shown(value)}")
        return value

    return check


def flag(value: Any) -> bool:
    """True or false."""
    if type(value) is not bool:
        raise Refused(f"expected true or false, got {shown(value)}")
    return value


def one_of(*allowed: str) -> Check:
    """One of some texts."""

    def check(value: Any) -> str:
        if not isinstance(value, str) or value not in allowed:
            raise Refused(f"expected one of {', '.join(map(repr, allowed))}, got {shown(value)}")
        return value

    return check


def matching(pattern: str, what: str) -> Check:
    """A text of a form, all of it."""

    def check(value: Any) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value, re.ASCII):
            raise Refused(f"expected {what}, got {shown(value)}")
        return value

    return check


def device(known: Collection[str]) -> Check:
    """A device of this machine."""
    return one_of(*sorted(known))


def plain_name(value: Any) -> str:
    """A name that is one part of a path, and shows all that it is."""
    printable = isinstance(value, str) and value.isprintable() and 0 < len(value) <= LONGEST_NAME
    plain = unicodedata.normalize("NFKC", value) if printable else "/"
    if set(plain) & set("/\\") or plain[0] in ". " or plain[-1] in ". " or is_expression(plain):
        raise Refused(
            f"expected a name of up to {LONGEST_NAME} characters, without slashes and beginning with none of "
            f"'$', '@', '%' and '.', got {shown(value)}"
        )
    return value


def text(value: Any) -> str | None:
    """A text that is only stored and shown, or nothing."""
    if value is not None and (not isinstance(value, str) or len(value) > LONGEST_TEXT or "\0" in value):
        raise Refused(f"expected a text of up to {LONGEST_TEXT} characters, got {shown(value)}")
    return value


def secret(value: Any) -> str | None:
    """A text that may begin with anything."""
    return text(value)


def data(value: Any, depth: int = DEEPEST) -> Any:
    """JSON that is only stored: numbers, texts, and lists and objects of them."""
    if isinstance(value, (list, Mapping)):
        if depth == 0 or len(value) > MOST_ITEMS:
            raise Refused(f"expected at most {DEEPEST} levels of at most {MOST_ITEMS} items, got more")
        if not isinstance(value, Mapping):
            return [data(item, depth - 1) for item in value]
        for key in value:
            if not re.fullmatch(r"[A-Za-z0-9][\w .\-]{0,99}", key):
                raise Refused(f"expected keys of letters, digits, '_', '.', '-' and spaces, got {shown(key)}")
        return {key: data(item, depth - 1) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        raise Refused(f"expected a finite number, got {shown(value)}")
    return value if isinstance(value, (bool, int, float)) else text(value)


def in_query(check: Check) -> Check:
    """A flag or whole number that is written as a text."""

    def read(value: Any) -> Any:
        lowered = value.lower()
        if lowered in ("true", "false"):
            return check(lowered == "true")
        return check(int(value) if re.fullmatch(r"-?[0-9]{1,9}", value) else value)

    return read


def strict_json(content: str | bytes) -> Any:
    """What JSON says, if every reader of it would say the same.

    Raises:
        Refused: where it is none, a key stands twice, a number is not finite, or it is nested too deeply.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) < len(pairs):
            raise ValueError("a key stands twice")
        return result

    def constant(name: str) -> Any:
        raise ValueError(f"{name} is not a number")

    try:
        decoded = content.decode("utf-8") if isinstance(content, bytes) else content
        read = json.loads(decoded, object_pairs_hook=unique, parse_constant=constant)
        level = [read]
        for _ in range(MOST_LEVELS):
            level = [child for item in level for child in children(item)]
        if level:
            raise ValueError(f"it has more than {MOST_LEVELS} levels")
        return read
    except (ValueError, RecursionError) as error:
        raise Refused(f"expected JSON, got {shown(content)}: {error}", 400) from None


def json_object(fields: Mapping[str, Check]) -> Check:
    """An object with certain fields, as JSON in a text."""

    def check(value: Any) -> str:
        return json.dumps(check_fields(strict_json(value or "{}"), fields))

    return check


def json_data(value: Any) -> str:
    """An object of ``data``, as JSON in a text."""
    read = strict_json(value or "{}")
    if not isinstance(read, Mapping):
        raise Refused(f"expected a JSON object, got {shown(value)}")
    return json.dumps(data(read))


def check_fields(values: Any, fields: Mapping[str, Check]) -> dict[str, Any]:
    """What is passed on of some values, if each of them is known and what it may be.

    Args:
        values: by their names.
        fields: the check of each name that is known.

    Raises:
        Refused: naming everything that is not as it should be.
    """
    if not isinstance(values, Mapping):
        raise Refused(f"expected a JSON object, got {shown(values)}")
    understood, faults = {}, []
    for name, value in values.items():
        try:
            if name not in fields:
                raise Refused(f"is not known here; expected {' or '.join(fields) or 'nothing'}")
            if fields[name] is not secret and (found := expression_in(value)) is not None:
                raise Refused(f"expected a value, got the expression {shown(found)}")
            understood[name] = fields[name](value)
        except Refused as fault:
            faults.append((f"{shown(name)}: {fault}", fault.status))
    if faults:
        statuses = {status for _, status in faults}
        raise Refused(
            "; ".join(message for message, _ in faults), statuses.pop() if len(statuses) == 1 else 422
        )
    return understood
