"""Commands of crosswarp in processes of their own, forked from this one, in which all is imported already."""

from __future__ import annotations

import os
import pkgutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import crosswarp

ROOT = Path(__file__).parents[2]
LONGEST = 900  # seconds, of a command
TRACEBACK = "Traceback (most recent call last)"


def warm_up() -> None:
    """Import what commands import, once; nothing is computed here, since threads do not outlive a fork."""
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    import torch

    torch.set_num_threads(1)
    heavy = ("torch._dynamo", "torch._decomp", "torch.utils.tensorboard", "matplotlib.pyplot", "SimpleITK")
    for name in ("monai.bundle", "scipy.ndimage", *heavy):
        import_module(name)
    for module in pkgutil.walk_packages(crosswarp.__path__, "crosswarp."):
        if (
            ".__main__" not in module.name
            and ".bundle." not in module.name
            and "baselines" not in module.name
        ):
            import_module(module.name)


@dataclass
class Ended:
    """How a command has ended.

    Attributes:
        code: its exit status; negative, the signal that it died of.
        output: what it printed.
    """

    code: int
    output: str

    @property
    def clear(self) -> bool:
        """Whether it was refused, or stopped, as a user should read it."""
        return self.code > 0 and TRACEBACK not in self.output and ("error: " in self.output or self.stopped)

    @property
    def stopped(self) -> bool:
        """Whether it says that it was stopped."""
        return "stopped" in self.output


class Command:
    """A command at work.

    Args:
        words: of the command line, after ``crosswarp``.
        log: where it prints to.
        prepare: called in the new process before it begins, such as to limit it.
    """

    def __init__(self, words: list[str], log: Path, prepare: Callable[[], None] | None = None) -> None:
        self.log, self.start = log, time.monotonic()
        with open(log, "wb") as file:  # by another process: limits are for what the command writes
            self.printer = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=file)
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._run(words, prepare)

    def _run(self, words: list[str], prepare: Callable[[], None] | None) -> None:
        """Be the command; never returns."""
        code = 1
        try:
            assert self.printer.stdin is not None
            for number in (1, 2):
                os.dup2(self.printer.stdin.fileno(), number)
            self.printer.stdin.close()
            for number in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            sys.argv = ["crosswarp", *words]
            if prepare is not None:
                prepare()
            from crosswarp.__main__ import main

            main()
            code = 0
        except SystemExit as error:
            if isinstance(error.code, str):
                print(error.code, file=sys.stderr)
            code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def wait(self, seconds: float = LONGEST) -> Ended | None:
        """Wait for its end; None where it takes longer."""
        until = time.monotonic() + seconds
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._print_all()
                return Ended(os.waitstatus_to_exitcode(status), self.log.read_text(errors="replace"))
            if time.monotonic() > until:
                return None
            time.sleep(0.005)

    def _print_all(self) -> None:
        """Wait until all is in the log; what outlives the command may hold it open."""
        assert self.printer.stdin is not None
        self.printer.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self.printer.wait(5)
        self.printer.kill()
        self.printer.wait()

    def end(self, number: int = signal.SIGKILL) -> Ended:
        """Send it a signal, and wait for its end; one that goes on is killed."""
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            pass
        found = self.wait(30)
        if found is None:
            os.kill(self.pid, signal.SIGKILL)
            found = self.wait()
        assert found is not None
        return found


def run(words: list[str], log: Path, prepare: Callable[[], None] | None = None) -> Ended:
    """Run a command to its end."""
    command = Command(words, log, prepare)
    return command.wait() or command.end()


def options(values: Mapping[str, object]) -> list[str]:
    """Values as a command line has them."""
    return [word for key, value in values.items() for word in (f"--{key}", str(value))]
