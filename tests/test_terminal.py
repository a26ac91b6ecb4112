"""What the terminal shows and the log holds; a terminal is made of text that says it is one."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
import warnings
from contextlib import redirect_stdout, suppress
from pathlib import Path

import pytest
from rich.text import Text

from crosswarp import terminal
from crosswarp.errors import Notice
from crosswarp.terminal import LiveLine, close_log, duration, show_messages, track, write_log

OURS, SCRIPTS, OTHERS = (logging.getLogger(name) for name in ("crosswarp.x", "scripts.y", "ignite.engine"))


class Screen(io.StringIO):
    """A terminal's output."""

    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        """All that was ever written to it, without what colours and moves."""
        return [Text.from_ansi(line).plain for line in self.getvalue().replace("\r", "\n").split("\n")]


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """Begin as a new process does, and leave logging and warnings of this one as they were."""
    root, show = logging.getLogger(), warnings.showwarning
    handlers, level = list(root.handlers), root.level
    verbose, shown = terminal.State.verbose, terminal.State.shown
    root.handlers.clear()
    terminal.State.verbose, terminal.State.shown = False, None
    monkeypatch.setenv("TERM", "xterm")
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    yield
    close_log()
    root.handlers[:], warnings.showwarning = handlers, show
    root.setLevel(level)
    terminal.State.verbose, terminal.State.shown = verbose, shown


@pytest.fixture(params=[80, 120])
def screen(request, monkeypatch) -> Screen:
    monkeypatch.setenv("COLUMNS", str(request.param))
    screen = Screen()
    screen.columns = request.param
    return screen


def test_own_messages_are_shown_and_all_are_logged(tmp_path, capsys):
    logging.getLogger().addHandler(logging.StreamHandler(sys.stdout))  # as a bundle's logging.conf does
    show_messages()
    write_log(tmp_path / "run" / "train.log")
    OURS.info("[1/4] one: trains")
    SCRIPTS.warning("two: folds")
    OTHERS.info("Engine run resuming from iteration 0")
    OTHERS.warning("Logging file is set to False")
    assert capsys.readouterr().out == "[1/4] one: trains\nwarning: two: folds\n"
    log = (tmp_path / "run" / "train.log").read_text().splitlines()
    assert [line.split(" - ", 1)[1] for line in log] == [
        "crosswarp.x - INFO - [1/4] one: trains",
        "scripts.y - WARNING - two: folds",
        "ignite.engine - INFO - Engine run resuming from iteration 0",
        "ignite.engine - WARNING - Logging file is set to False",
    ]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file that is always full")
def test_work_goes_on_where_nothing_can_be_shown(monkeypatch):
    full = open("/dev/full", "w")  # noqa: SIM115 # cannot be closed without an error
    monkeypatch.setattr(sys, "stdout", full)
    show_messages()
    OURS.warning("folds")
    with suppress(OSError):
        full.close()


def test_work_goes_on_where_nobody_reads_and_letters_are_missing(tmp_path):
    program = (
        "import logging, sys\n"
        "from crosswarp.terminal import show_messages\n"
        "show_messages()\n"
        "for number in range(20000):\n"
        "    logging.getLogger('crosswarp.x').info(f'{number} \\N{DEGREE SIGN}')\n"
        "print('done', file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", program]
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    assert process.stdout is not None and process.stdout.readline() == b"0 ?\n"
    process.stdout.close()
    assert process.stderr is not None and process.stderr.read().startswith(b"done")


def test_loggers_of_monai_with_handlers_of_their_own_are_quiet_too(capsys):
    logger = logging.getLogger("monai.some.module")
    logger.addHandler(logging.StreamHandler(sys.stdout))
    logger.propagate = False
    show_messages()
    logger.warning("nothing that a user has to know")
    assert capsys.readouterr().out == ""
    show_messages(verbose=True)
    logger.warning("once")
    assert capsys.readouterr().out.count("once") == 1


def test_everything_is_shown_when_asked_for(capsys):
    show_messages(verbose=True)
    OTHERS.info("Engine run")
    OURS.info("trains")
    shown = capsys.readouterr().out.splitlines()
    assert [line.split(" - ", 1)[1] for line in shown] == [
        "ignite.engine - INFO - Engine run",
        "crosswarp.x - INFO - trains",
    ]


def test_another_log_closes_the_one_before(tmp_path):
    show_messages()
    for name in ("a.log", "b.log"):
        write_log(tmp_path / name)
        OURS.info(name)
    assert all(len((tmp_path / name).read_text().splitlines()) == 1 for name in ("a.log", "b.log"))


def test_notices_are_for_the_user_other_warnings_for_the_log(tmp_path, capsys):
    show_messages()
    write_log(tmp_path / "train.log")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = terminal.show_warning
        warnings.warn("1 mm stands in", Notice, stacklevel=1)
        warnings.warn("deprecated", stacklevel=1)
    assert capsys.readouterr().out == "warning: 1 mm stands in\n"
    assert "UserWarning: deprecated" in (tmp_path / "train.log").read_text()


def test_long_messages_are_whole_where_there_is_no_terminal(capsys):
    show_messages()
    OURS.warning("word " * 100)
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_live_line_fits_the_terminal_and_vanishes(screen):
    with redirect_stdout(screen), LiveLine("", total=100) as line:
        line.said = "val_dice 0.9312 (epoch 105)  loss 0.1832"
        for step in range(100):
            line.drawn = -1.0
            line.advance(description=f"epoch {step}/100")
    drawn = [text for text in screen.lines() if "epoch" in text]
    assert len(drawn) > 90 and all(len(text.rstrip()) <= screen.columns for text in drawn)
    assert all("val_dice 0.9312 (epoch 105)  loss 0.1832" in text for text in drawn)
    assert "epoch 99/100" in drawn[-1] and "0:00 left" in drawn[-1]
    assert screen.getvalue().endswith("\x1b[2K")  # the line is gone
    assert terminal.State.line is None


def test_messages_stand_above_the_live_line(screen):
    show_messages()
    with redirect_stdout(screen), LiveLine("work", total=2) as line:
        line.advance()
        OURS.warning("halfway")
        line.drawn = -1.0
        line.advance()
    texts = [text.strip() for text in screen.lines()]
    assert texts.index("warning: halfway") > 0 and not any("work" in t and "halfway" in t for t in texts)


def test_time_left_counts_from_where_a_work_is_resumed(monkeypatch):
    now = iter([0.0, 100.0, 110.0])  # made, resumed, asked
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(now))
    line = LiveLine("", total=100)
    line.resume(80)  # at 100 s
    line.done = 90
    assert line.left() == "0:10 left"


def test_no_bar_where_there_is_no_terminal(capsys):
    assert list(track(range(5), "checking files", delay=0)) == [0, 1, 2, 3, 4]
    assert list(track(iter("ab"), "reading", total=2, delay=0)) == ["a", "b"]
    assert capsys.readouterr() == ("", "")


def test_a_bar_appears_after_a_while(screen):
    for delay, seen in ((60.0, False), (0.0, True)):
        with redirect_stdout(screen):
            list(track(range(3), "checking files", delay=delay))
        assert any("checking files" in text for text in screen.lines()) is seen


@pytest.mark.parametrize(("seconds", "text"), [(3.6, "0:04"), (62, "1:02"), (3723, "1:02:03")])
def test_durations_are_written_as_clocks_do(seconds, text):
    assert duration(seconds) == text
