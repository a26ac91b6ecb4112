"""Command line: `python -m crosswarp COMMAND --help`. Thin: Python and MONAI bundles can do all of it."""

from __future__ import annotations

import sys

import fire

from .commands import COMMANDS
from .commands.arguments import command_line
from .errors import input_error, message


def main() -> None:
    """Run a command; what is wrong with its input is said without a traceback."""
    try:
        fire.Fire(COMMANDS, command=command_line(sys.argv[1:], COMMANDS), name="crosswarp")
    except Exception as error:
        if (cause := input_error(error)) is None:
            raise
        sys.exit(f"\nerror: {message(cause)}")


if __name__ == "__main__":
    main()
