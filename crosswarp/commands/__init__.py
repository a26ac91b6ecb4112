"""The command line, one file a command: what it is called with, and whom it calls.

What a command needs is imported within its function, when it is called: `--help` and the checks of arguments
need neither torch nor MONAI, and answer at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .cohort import cohort
from .evaluate import evaluate
from .package import package
from .prepare import prepare
from .register import register
from .train import train
from .verify import verify
from .warp import warp

# in the order of a run's life
COMMANDS: dict[str, Callable[..., Any]] = {
    command.__name__: command
    for command in (cohort, prepare, train, evaluate, register, warp, package, verify)
}
