"""What a user sees while something runs: the library's own messages and one live line; a log has the rest.

Other libraries' messages are written to the run's log file, with their times. In a terminal a live line shows
how far a work is and vanishes when it is done; where the output is no terminal there are neither bars nor
colours, and of a training a plain line every tenth of its epochs.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from .disk import explained
from .errors import Notice

Item = TypeVar("Item")
OWN = tuple(f"{name}." for name in ("crosswarp", "scripts"))  # the library's two names
FORMAT = "%(asctime)s - %(name)s - %(levelname)s - %(message)s"
PLAIN_LINES = 10  # of a training, where there is no terminal
LOGGER = logging.getLogger(f"{__package__}.terminal")


class State:
    """What shows and writes messages at present; a process has one terminal."""

    verbose = False
    silent = False  # of several processes that train together all but the first are
    shown: logging.Handler | None = None
    log: logging.FileHandler | None = None
    line: LiveLine | None = None


def console() -> Console:
    """The terminal, or what stands in its place; while a live line is drawn the console that has it."""
    if State.line is not None:
        return State.line.progress.console
    if State.silent:
        return Console(quiet=True)
    return Console(highlight=False, soft_wrap=not sys.stdout.isatty(), markup=False, emoji=False)


def say(text: str, style: str | None = None) -> None:
    """Print a line on the terminal; where nothing can be shown, as when its disk is full, work goes on."""
    with suppress(OSError, SystemExit):  # rich ends the process where nobody reads what it writes
        console().print(text, style=style)


class OwnMessages(logging.Handler):
    """Shows the library's own messages; warnings and errors are marked as such."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a message on the terminal."""
        if not f"{record.name}.".startswith(OWN):
            return
        marks = {logging.INFO: ("", None), logging.WARNING: ("warning: ", "yellow")}
        mark, style = marks.get(record.levelno, ("error: ", "red"))
        say(f"{mark}{record.getMessage()}", style)


class LogFile(logging.FileHandler):
    """A log that nothing fails for: what a full disk does to results is said where these are written."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Leave the message out."""


def show_messages(verbose: bool = False) -> None:
    """Show the library's own messages on the terminal, and nothing else; end the log that is written.

    Args:
        verbose: show everything, with times, as Python's logging does.
    """
    close_log()
    stop_on_signals()
    if State.shown is not None:
        logging.getLogger().removeHandler(State.shown)
    State.verbose, State.shown = verbose, logging.StreamHandler(sys.stdout) if verbose else OwnMessages()
    if State.silent:
        State.shown = logging.NullHandler()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # what it has no letter for is shown as a question mark
            stream.reconfigure(errors="replace")
    _add(State.shown)
    silence_others()
    warnings.showwarning = show_warning  # type: ignore[assignment] # what else is given is not used


def silence_others() -> None:
    """Take away what other libraries print with, where messages are shown.

    Modules of MONAI bring handlers of their own: those that are imported later have to be silenced again.
    """
    if State.shown is None:
        return
    root = logging.getLogger()
    noisy = [name for name in root.manager.loggerDict if name.startswith("monai")]
    for logger in (root, *map(logging.getLogger, noisy)):
        for handler in list(logger.handlers):
            own = handler is State.shown
            if not own and getattr(handler, "stream", None) in (sys.stdout, sys.stderr):
                logger.removeHandler(handler)
        logger.propagate = True


def write_log(path: Path) -> None:
    """Write all messages to a file, which is made or continued; the one before is closed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    close_log()
    with explained(path):
        State.log = LogFile(path, encoding="utf-8", errors="backslashreplace")
    _add(State.log)


def stop_on_signals() -> None:
    """End as Ctrl-C does it on what schedulers and closing terminals send: files whole, said in one line."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) == signal.SIG_DFL:
                signal.signal(number, signal.default_int_handler)


def close_log() -> None:
    """Write no more messages to the log file."""
    if State.log is not None:
        logging.getLogger().removeHandler(State.log)
        State.log.close()
        State.log = None


def _add(handler: logging.Handler) -> None:
    root = logging.getLogger()
    handler.setLevel(logging.INFO)
    handler.setFormatter(logging.Formatter(FORMAT))
    root.addHandler(handler)
    if root.level not in range(1, logging.INFO + 1):
        root.setLevel(logging.INFO)


def show_warning(message: Any, category: type[Warning], filename: str, line: int, *_: Any) -> None:
    """A ``warnings.showwarning``: notices are for the user, other warnings for the log."""
    if issubclass(category, Notice):
        LOGGER.warning(str(message))
    else:
        logging.getLogger("py.warnings").warning(f"{filename}:{line}: {category.__name__}: {message}")


def track(
    items: Iterable[Item], description: str, total: int | None = None, delay: float = 2
) -> Iterator[Item]:
    """Iterate, with a bar in the terminal if it takes a while; it vanishes at the end.

    Args:
        items: what to iterate over.
        description: what stands before the bar.
        total: number of items, where they have no length.
        delay: seconds before the bar appears.
    """
    count = len(items) if total is None else total  # type: ignore[arg-type]
    with LiveLine(description, count, delay) as line:
        for item in items:
            yield item
            line.advance()


def end_line() -> None:
    """Take the live line away, if there is one: something else ends the work."""
    if State.line is not None:
        State.line.stop()


def end(error: BaseException) -> str | None:
    """End what is shown with an error; returns the log file, which has its traceback, if there is one."""
    end_line()
    if State.log is None:
        return None
    logging.getLogger("traceback").error("The training ended.", exc_info=error)
    return State.log.baseFilename


class LiveLine:
    """One line in the terminal that fits it: what is done, a bar, and how long it will take.

    Args:
        description: what stands before the bar.
        total: steps until the end.
        delay: seconds before the line appears.
    """

    def __init__(self, description: str, total: int, delay: float = 0) -> None:
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[said]}"),
            TextColumn("{task.fields[left]}"),
        )
        self.total, self.done, self.said, self.delay = total, 0, "", delay
        self.begin = self.start = time.monotonic()
        self.before, self.drawn = 0, 0.0
        self.progress = Progress(*columns, console=console(), expand=True, transient=True, auto_refresh=False)
        self.task: TaskID = self.progress.add_task(description, total=total, said="", left="")
        self.live = self.progress.console.is_terminal and not State.verbose

    def __enter__(self) -> LiveLine:
        State.line = self
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def resume(self, done: int) -> None:
        """Begin with some steps done already, which tell nothing of how long the others take."""
        self.done = self.before = done
        self.start = time.monotonic()

    def advance(self, steps: int = 1, description: str | None = None) -> None:
        """Go on by some steps; drawn twice a second at most."""
        self.done += steps
        now = time.monotonic()
        if not self.live or now - self.begin < self.delay or now - self.drawn < 0.5:
            return
        self.progress.update(
            self.task, completed=self.done, description=description, said=self.said, left=self.left()
        )
        self.progress.start()
        self.progress.refresh()
        self.drawn = now

    def left(self) -> str:
        """How long the rest will take, such as ``1:02 left``."""
        new = self.done - self.before
        if new <= 0:
            return ""
        return f"{duration((time.monotonic() - self.start) / new * (self.total - self.done))} left"

    def stop(self) -> None:
        """Take the line away."""
        if self.progress.live.is_started:
            self.progress.stop()
        State.line = None


def duration(seconds: float) -> str:
    """Time as ``0:42``, ``12:05`` or ``1:02:03``."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
