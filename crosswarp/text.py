"""Text that comes from outside, made fit to be printed."""

from __future__ import annotations


def printable(text: object, longest: int = 500) -> str:
    r"""Text on one line, without characters that a terminal obeys or that hide or turn what stands there.

    Control characters, line breaks, escape sequences, marks that change the direction of writing and those
    without width are written as in Python, ``\x1b``.

    Args:
        text: from outside: a name, an expression, another library's message.
        longest: characters to keep of it.
    """
    shown = "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in str(text)[: longest + 1]
    )
    return shown if len(shown) <= longest else f"{shown[:longest]}…"


def reason(error: BaseException) -> str:
    """The first line of an error's message, printable; its kind where there is none."""
    return printable(next(iter(str(error).splitlines()), "")) or type(error).__name__
