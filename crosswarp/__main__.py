"""Command line: `python -m crosswarp COMMAND --help`. Thin: Python and MONAI bundles can do all of it."""

from __future__ import annotations

import sys

import fire

from .data.knee import write_knee_cohort
from .data.prepare import prepare

COMMANDS = {"prepare": prepare, "cohort": write_knee_cohort}


def main() -> None:
    """Run a command; what is wrong with its input is said without a traceback."""
    try:
        fire.Fire(COMMANDS, name="python -m crosswarp")
    except (ValueError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
