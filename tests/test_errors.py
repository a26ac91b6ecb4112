"""Faults of the input end with their message; faults of the program keep their traceback."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from crosswarp import errors, terminal
from crosswarp.errors import input_error, last_words, plain_input_errors
from tests.trained_run import ROOT


def parsed(error: BaseException) -> None:
    """Raise an error in an expression, two levels down in a config."""

    def check() -> None:
        raise error

    ConfigParser({"inner": "$check()", "outer": "$@inner"}, globals={"check": check}).get_parsed_content(
        "outer"
    )


@pytest.mark.parametrize("error", [ValueError("wrong number"), FileNotFoundError("no such file")])
def test_an_input_error_within_a_config_is_raised_as_it_is(error: Exception) -> None:
    with pytest.raises(RuntimeError) as wrapped:
        parsed(error)
    assert input_error(wrapped.value) is error
    with pytest.raises(type(error)) as plain, plain_input_errors():
        parsed(error)
    assert plain.value is error


@pytest.mark.parametrize("error", [KeyError("ours"), TypeError("ours"), RuntimeError("ours")])
def test_faults_of_the_program_stay_wrapped(error: Exception) -> None:
    with pytest.raises(RuntimeError), plain_input_errors():
        parsed(error)


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt()])
def test_what_is_nobodys_fault_is_not_taken_for_one(error: BaseException) -> None:
    with pytest.raises((RuntimeError, type(error))) as raised, plain_input_errors():
        parsed(error)
    assert input_error(raised.value) is None


def test_the_reason_is_what_the_library_says_not_what_made_it_say_so() -> None:
    with pytest.raises(ValueError) as raised:
        try:
            json.loads("{")
        except ValueError as error:
            raise ValueError("my.json is not a JSON file") from error
    assert str(input_error(raised.value)) == "my.json is not a JSON file"


@pytest.mark.parametrize(
    ("options", "ending"),
    [
        (["--datalist", "nowhere.json"], "\nerror: Expected a datalist at "),
        (["--device", "$1 + None"], "Traceback"),
    ],
)
def test_monais_command_line_says_what_is_wrong_in_one_line(
    options: list[str], ending: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/train.json"]
    command += ["--run_dir", str(tmp_path / "run"), *options]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 1 and ending in run.stderr
    assert ("Traceback" in run.stderr) == (ending == "Traceback"), run.stderr


def failed_component() -> RuntimeError:
    """What MONAI raises where a class of a config cannot be made."""
    try:
        try:
            try:
                json.loads(1 // 0)
            except ZeroDivisionError as error:
                raise RuntimeError(
                    "Failed to instantiate component 'torch.optim.Adam' with keywords: lr"
                ) from error
        except RuntimeError as error:
            raise RuntimeError("Failed to evaluate '$@train#trainer.run()'") from error
    except RuntimeError as error:
        return error


@pytest.fixture
def log(tmp_path):
    terminal.show_messages()
    terminal.write_log(tmp_path / "train.log")
    yield tmp_path / "train.log"
    terminal.close_log()
    logging.getLogger().removeHandler(terminal.State.shown)


def test_a_fault_in_a_training_is_one_line_and_the_log_has_the_traceback(log):
    assert last_words(failed_component()) == (
        "\nerror: torch.optim.Adam: ZeroDivisionError: integer division or modulo by zero. Correct what was "
        f"given for it, or report it with {log}"
    )
    assert "Traceback" in log.read_text() and "1 // 0" in log.read_text()
    assert last_words(KeyboardInterrupt()) == "\nstopped; the same command goes on where it was"
    assert last_words(ValueError("of the input")) == "\nerror: of the input"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...\nMore"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes."),
        MemoryError(),
    ],
)
def test_where_memory_is_short_the_ids_to_lower_are_named_in_one_line(error, log, monkeypatch):
    monkeypatch.setattr(errors, "SIZES", {"batch_size": 8, "spatial_size": [64, 64], "pool_size": 50})
    wrapped = RuntimeError("Failed to instantiate component 'train::dataset'")
    wrapped.__cause__ = error
    remedy = "Lower batch_size (now 8), spatial_size (now [64, 64]) or pool_size (now 50), or leave"
    for each in (error, wrapped):
        words = last_words(each)
        assert remedy in words and words.count("\n") == 1 and str(log) in words
    terminal.close_log()
    assert remedy in last_words(error)
    monkeypatch.setattr(errors, "SIZES", {})
    assert "such as --device cpu." in last_words(error)


def test_an_operation_that_is_not_deterministic_is_told_what_to_do(log):
    error = RuntimeError("avg_pool3d_backward_cuda does not have a deterministic implementation, but you set")
    assert "or set deterministic to false; the rest is in" in last_words(error)


def test_without_a_log_and_with_everything_shown_there_is_a_traceback(log, monkeypatch):
    monkeypatch.setattr(terminal.State, "verbose", True)
    assert last_words(failed_component()) is None
    terminal.close_log()
    monkeypatch.setattr(terminal.State, "verbose", False)
    assert last_words(failed_component()) is None
    assert last_words(KeyboardInterrupt()) is None
