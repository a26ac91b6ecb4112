"""What is typed is checked before a command is called, and taken letter by letter where it is text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import fire
import pytest

from crosswarp.__main__ import main
from crosswarp.commands import COMMANDS
from crosswarp.commands.arguments import Arguments

TEXTS = [
    "2024_01_15",
    "1e3",
    "0x10",
    "None",
    "True",
    "'a'",
    '"a"',
    "{a: b}",
    "a #1",
    "$__import__('os')",
    "@a",
    "%a",
    "a=b",
    "-x",
    "-",
    "--",
    "",
    " a ",
    "größe",
    "(1, 2)",
]
CALLS: list[dict[str, Any]] = []


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    CALLS.clear()


def command(
    moving: str | Sequence[str],
    out: str | Path,
    name: str | None = None,
    dims: int | None = None,
    spacing: float | Sequence[float] | None = None,
    labels: Mapping[Any, str] | None = None,
    label: bool = False,
) -> None:
    CALLS.append(locals())


def changing(run: str, **overrides: Any) -> None:
    CALLS.append(locals())


def checking(*zips: str) -> None:
    CALLS.append(locals())


def call(function: Any, *words: str) -> dict[str, Any]:
    """What a function is called with, through fire."""
    name = function.__name__
    fire.Fire({name: function}, command=[name, *Arguments(name, function).checked(words)])
    return CALLS.pop()


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("form", ["--out={}", "--out {}", "positional"])
def test_text_is_taken_letter_by_letter(text: str, form: str) -> None:
    if form == "positional":
        words = ["--moving", "a", f"./{text}" if text[:1] == "-" else text]
    else:
        words = ["--moving", "a", *(word.replace("{}", text) for word in form.split(" "))]
    given = call(command, *words)
    assert given["out"] == words[-1].removeprefix("--out=") and given["name"] is None


def test_a_command_that_takes_any_number_takes_letters() -> None:
    texts = tuple(text for text in TEXTS if text[:1] != "-")
    assert call(checking, *texts) == {"zips": texts}
    with pytest.raises(ValueError, match=r"-x.zip is unknown; a path that begins with - is written \./-"):
        call(checking, "-x.zip")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.nii.gz", "a.nii.gz"),
        ("a.nii,1e3", ["a.nii", "1e3"]),
        ('["a,b.nii", "$c"]', ["a,b.nii", "$c"]),
        ("['a.nii', b #1.nii]", ["a.nii", "b #1.nii"]),
        ("[2024_01, None]", ["2024_01", "None"]),
        ("[1,2]", ["1", "2"]),
        ("x,y.nii", "x,y.nii"),  # there
        ("[1]", "[1]"),  # there
    ],
)
def test_lists_of_paths(
    text: str, expected: str | list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x,y.nii").touch()
    (tmp_path / "[1]").mkdir()
    assert call(command, "--moving", text, "--out", "o")["moving"] == expected


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        ("--dims 3", "dims", 3),
        ("--dims=-3", "dims", -3),
        ("--dims -3", "dims", -3),
        ("-d 3", "dims", 3),
        ("--spacing 0.5", "spacing", 0.5),
        ("--spacing 1,2", "spacing", [1.0, 2.0]),
        ("--spacing [1,2e-1]", "spacing", [1.0, 0.2]),
        ("--spacing (1)", "spacing", [1.0]),
        ("--label", "label", True),
        ("--label false", "label", False),
        ("--label=True", "label", True),
        ('--labels {"1":"None"}', "labels", {"1": "None"}),
        ("--labels {1:L#1,2:'1e3'}", "labels", {"1": "L#1", "2": "1e3"}),
        ("--labels 1:$x", "labels", {"1": "$x"}),
    ],
)
def test_numbers_flags_and_labels(words: str, name: str, value: Any) -> None:
    found = call(command, "a", "o", *words.split(" "))[name]
    assert found == value and type(found) is type(value)


def test_only_overrides_are_read_as_json_or_python() -> None:
    words = [
        "--a#b",
        "1e3",
        "--c=[1,x]",
        "--d",
        "$x",
        "--e",
        "--f=None",
        "--g",
        "null",
        "--h=false",
        "--i=NaN",
    ]
    overrides = {
        "a#b": 1e3,
        "c": [1, "x"],
        "d": "$x",
        "e": True,
        "f": None,
        "g": None,
        "h": False,
        "i": "NaN",
    }
    assert call(changing, "--run", "1e3", *words) == {"run": "1e3", "overrides": overrides}


@pytest.mark.parametrize(
    ("function", "words", "faults"),
    [
        (command, "a o --labl", [r"--labl is unknown \(did you mean --labels?\?\)"]),
        (command, "a o n 2 1 1:b true more", ["'more' is one argument too many"]),
        (
            command,
            "a o --dims 1e3 --spacing x",
            ["--dims: expected a whole number, got '1e3'", "--spacing: .*"],
        ),
        (command, "a o --dims 1_0", ["--dims: expected a whole number, got '1_0'"]),
        (command, "a o --spacing nan", ["--spacing: expected a number, or one for each axis, got 'nan'"]),
        (command, "a o --dims [2]", ["--dims: expected a whole number, got '\\[2\\]'"]),
        (command, "a o --label=maybe", ["--label: expected true or false, got 'maybe'"]),
        (command, "a o --labels bone", ["--labels: expected names by value.*got 'bone'"]),
        (command, "a o --labels 1:femur,1:tibia", ["--labels: expected each value once, got 1, 1"]),
        (command, 'a o --labels {"1":"a","1":"b"}', ["--labels: expected each value once, got 1, 1"]),
        (command, "--out --moving a", ["--out needs a value"]),
        (command, "--movin a --out b", ["--movin is unknown .did you mean --moving", "--moving is missing"]),
        (command, "--out a --out b c", ["--out is given twice"]),
        (changing, "--rum a", ["--run is missing; --rum is unknown"]),
        (changing, "a b", ["'b' is one argument too many"]),
    ],
)
def test_all_that_is_wrong_is_said_before_anything_is_called(
    function: Any, words: str, faults: list[str]
) -> None:
    with pytest.raises(ValueError, match="--help") as raised:
        call(function, *words.split(" "))
    lines = str(raised.value).splitlines()[1:]
    assert len(lines) == len(faults) and not CALLS
    for fault in faults:
        assert any(re.search(fault, line) for line in lines), lines


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_refuses_what_it_does_not_know(name: str) -> None:
    with pytest.raises(ValueError, match="is unknown|is missing|one argument too many"):
        Arguments(name, COMMANDS[name]).checked(["--no_such_argument", *"abcdefghijklmnopqrstuvwxyz"])


@pytest.mark.parametrize("before", [[], ["--moving", "a", "--out=b"]])
@pytest.mark.parametrize("name", COMMANDS)
def test_help_describes_a_command_and_calls_nothing(
    name: str, before: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also one that needs no argument, which fire would call, and one that has all it needs."""
    monkeypatch.setattr("sys.argv", ["crosswarp", name, *before, "--help"])
    with pytest.raises(SystemExit) as ended:
        main()
    said = "".join(capsys.readouterr())
    assert ended.value.code == 0 and f"crosswarp {name} - " in said and "SYNOPSIS" in said
    summary = (COMMANDS[name].__doc__ or "").splitlines()[0]
    assert summary[:60] in said


def test_help_of_no_command_names_those_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["crosswarp", "regster", "--help"])
    with pytest.raises(SystemExit, match=r"got 'regster' \(did you mean register\?\)"):
        main()
