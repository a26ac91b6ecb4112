"""Command line: `python -m crosswarp COMMAND --help`. Thin: Python and MONAI bundles can do all of it."""

from __future__ import annotations

import os
import sys

import fire

from .commands import COMMANDS
from .commands.arguments import asks_for_help, command_line
from .errors import STOPPED, last_words

# Threads that wait should spin briefly, then sleep: without spinning small networks take twice as long, those
# that spin for long take the cores from each other when anything else runs. Torch reads it once, when loaded.
WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "10000"}


def main() -> None:
    """Run a command; what is wrong with its input is said without a traceback."""
    for name, value in WAITING.items():
        os.environ.setdefault(name, value)
    try:
        typed = command_line(sys.argv[1:], COMMANDS)
        if not asks_for_help(typed):
            from .terminal import show_messages  # rich, which help does without

            show_messages()
        fire.Fire(COMMANDS, command=typed, name="crosswarp")
    except (Exception, KeyboardInterrupt) as error:
        if (words := last_words(error)) is None and isinstance(error, KeyboardInterrupt):
            words = STOPPED
        if words is None:
            raise
        sys.exit(words or 1)


if __name__ == "__main__":
    main()
