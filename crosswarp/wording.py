"""Words for messages: values from outside in one short line, and the name that was probably meant."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable

_SHORT = reprlib.Repr()
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = 10
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80


def printable(value: object, length: int = 80) -> str:
    """Text, or a value as Python writes it, in one line without control characters, cut after `length`."""
    text = value if isinstance(value, str) else _SHORT.repr(value)
    cut = text if len(text) <= length else f"{text[: length - 3]}..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


def shown(value: object, length: int = 120) -> str:
    """A value as Python writes it, without what is too long or too deep for a message."""
    return printable(_SHORT.repr(value), length)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that a misspelt one probably means; None where none is near.

    Names that differ in their digits alone are two names, such as `phase1` and `phase2`.
    """
    candidates = {each.casefold(): each for each in known}
    folded = name.strip().casefold()[:100]
    near = difflib.get_close_matches(folded, candidates, n=1, cutoff=0.7)
    if not near or (_without_digits(near[0]) == _without_digits(folded) and near[0] != folded):
        return None
    return candidates[near[0]]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` (did you mean X?)`, or nothing where no known name is near."""
    near = nearest(name, known)
    return f" (did you mean {near}?)" if near else ""


def _without_digits(text: str) -> str:
    return "".join(c for c in text if not c.isdigit())
