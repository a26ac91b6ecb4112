"""What is read later is known to be what was written."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from crosswarp.kept import (
    TABLE,
    DamagedError,
    GoneError,
    check,
    copy_to_twin,
    fault,
    keeping,
    known_json,
    read_json,
    restore,
    whole,
)


def keep(path: Path, text: str, previous: Path | None = None) -> None:
    with keeping(path, previous) as partial:
        partial.write_text(text)


def flip(path: Path, place: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_the_table_is_one_that_sha256sum_takes(tmp_path):
    for text in ("one", "two"):
        keep(tmp_path / "a.json", text)
        keep(tmp_path / "b.json", text)
    done = subprocess.run(["sha256sum", "-c", TABLE], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "a.json: OK\nb.json: OK\n"


@pytest.mark.parametrize("place", [0, 3])
def test_a_flipped_bit_a_cut_and_a_missing_file_are_seen(tmp_path, place):
    path = tmp_path / "file"
    keep(path, "1234")
    assert check(path) == path and whole(path)
    flip(path, place)
    with pytest.raises(DamagedError, match="file is damaged, or was changed: restore it") as caught:
        check(path)
    assert caught.value.path == path
    assert not whole(path) and (tmp_path / "file.damaged").stat().st_size == 4 and not path.exists()
    with pytest.raises(GoneError, match="file is missing"):
        check(path)
    keep(path, "1234")
    path.write_text("12")
    assert fault(path)


def test_a_writer_that_is_killed_leaves_the_old_file_or_the_new(tmp_path, monkeypatch):
    path = tmp_path / "file"
    keep(path, "old")
    monkeypatch.setattr("crosswarp.files.os.replace", lambda *_: 1 / 0 if _[1] == path else shutil.move(*_))
    with pytest.raises(ZeroDivisionError):  # between table and file
        keep(path, "new")
    assert path.read_text() == "old" and not fault(path)
    path.write_text("new")
    assert not fault(path)
    path.write_text("else")
    assert fault(path)


def test_the_generation_before_is_known_too(tmp_path):
    path, previous = tmp_path / "last", tmp_path / "previous"
    for text in ("1", "2", "3"):
        keep(path, text, previous)
    assert (path.read_text(), previous.read_text()) == ("3", "2")
    assert not fault(path) and not fault(previous)
    flip(previous)
    assert fault(previous) and not fault(path)


def test_writers_that_are_killed_one_after_the_other_condemn_nothing(tmp_path, monkeypatch):
    path = tmp_path / "last"
    keep(path, "1")

    def killed(*_):
        raise KeyboardInterrupt

    for text in ("2", "3", "4"):
        with monkeypatch.context() as end, pytest.raises(KeyboardInterrupt):
            end.setattr("crosswarp.files.os.replace", only_the_table(killed))
            keep(path, text)
        assert path.read_text() == "1" and not fault(path)
    keep(path, "5")
    assert path.read_text() == "5" and not fault(path)


def only_the_table(otherwise):
    replace = os.replace
    return lambda old, new: replace(old, new) if Path(new).name == TABLE else otherwise()


def test_a_damaged_table_is_set_aside_and_written_anew(tmp_path, caplog):
    keep(tmp_path / "a", "1")
    flip(tmp_path / TABLE, 90)
    for _ in range(2):
        assert not fault(tmp_path / "a")  # nothing says that it is not
    assert caplog.text.count("read without being checked") == 1
    keep(tmp_path / "b", "2")
    assert "is damaged: it is written anew" in caplog.text and (tmp_path / f"{TABLE}.damaged").exists()
    flip(tmp_path / "b")
    assert fault(tmp_path / "b")


def test_json_comes_from_its_copy(tmp_path, caplog):
    path = tmp_path / "m.json"
    keep(path, '{"a": 1}')
    copy_to_twin(path)
    flip(path, 6)
    assert read_json(path) == {"a": 1} and "what its copy m.json.copy says is used" in caplog.text
    restore(path)
    assert path.read_text() == '{"a": 1}' and not fault(path) and (tmp_path / "m.json.damaged").exists()
    path.unlink()
    restore(path)
    assert path.read_text() == '{"a": 1}'
    flip(path, 6)
    flip(tmp_path / "m.json.copy", 6)
    with pytest.raises(DamagedError, match="m.json.copy is damaged, or was changed: call us"):
        read_json(path, "call us")


@pytest.mark.parametrize("content", ["{", "[1]", "\udcff"])
def test_json_that_can_be_made_again_is_forgotten(tmp_path, content):
    path = tmp_path / "m.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    assert known_json(path) == {} and (tmp_path / "m.json.damaged").exists()
    assert known_json(path) == {}
