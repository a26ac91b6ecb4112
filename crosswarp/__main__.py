"""Command line: `python -m crosswarp COMMAND --help`. Thin: Python and MONAI bundles can do all of it."""

from __future__ import annotations

import sys

import fire

from .commands import COMMANDS
from .commands.arguments import command_line
from .errors import last_words


def main() -> None:
    """Run a command; what is wrong with its input is said without a traceback."""
    try:
        fire.Fire(COMMANDS, command=command_line(sys.argv[1:], COMMANDS), name="crosswarp")
    except (Exception, KeyboardInterrupt) as error:
        if (words := last_words(error)) is None:
            raise
        sys.exit(words)


if __name__ == "__main__":
    main()
