"""What a user edits in a published file stays; what nobody edited follows the run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crosswarp.runs.published import WHOLE, copy_bundle_files, publish

NAME = Path("configs") / "inference.json"
FIRST = {"size": [64, 64], "inferer": {"_target_": "SimpleInferer"}, "limits": {"a": 1}, "device": "cpu"}
SECOND = FIRST | {"size": [32, 32], "limits": {"a": 2}}


def edit(folder: Path, **values) -> dict:
    content = json.loads((folder / NAME).read_text()) | values
    (folder / NAME).write_text(json.dumps(content))
    return content


def test_without_edits_the_file_is_what_is_published(tmp_path, caplog):
    for content in (FIRST, SECOND, {"other": 1}):
        publish(tmp_path, NAME, content)
        assert json.loads((tmp_path / NAME).read_text()) == content
    assert not caplog.messages


def test_edited_added_and_removed_ids_stay_and_are_named_the_others_follow(tmp_path, caplog):
    publish(tmp_path, NAME, FIRST)
    content = edit(tmp_path, limits={"a": 9}, mine="kept")
    del content["device"]
    (tmp_path / NAME).write_text(json.dumps(content))
    for _ in range(2):  # they are still edits the next time
        caplog.clear()
        publish(tmp_path, NAME, SECOND)
        kept = {"limits": {"a": 9}, "mine": "kept", "size": [32, 32], "inferer": FIRST["inferer"]}
        assert json.loads((tmp_path / NAME).read_text()) == kept
        (said,) = caplog.messages
        assert "inference.json was edited: device, limits, mine stays as it is there. Remove the file" in said
    (tmp_path / NAME).unlink()
    publish(tmp_path, NAME, SECOND)
    assert json.loads((tmp_path / NAME).read_text()) == SECOND


def test_an_edit_that_the_run_would_make_itself_is_none(tmp_path, caplog):
    publish(tmp_path, NAME, FIRST)
    edit(tmp_path, size=[32, 32])
    publish(tmp_path, NAME, SECOND)
    assert json.loads((tmp_path / NAME).read_text()) == SECOND and not caplog.messages


def test_a_file_without_a_record_is_put_aside(tmp_path, caplog):
    (tmp_path / "configs").mkdir()
    (tmp_path / NAME).write_text(json.dumps(SECOND))
    publish(tmp_path, NAME, FIRST)
    assert json.loads((tmp_path / NAME).read_text()) == FIRST
    assert json.loads((tmp_path / "configs" / "inference.json.previous").read_text()) == SECOND
    assert "is written anew; the one before is inference.json.previous" in caplog.text


def test_a_file_that_says_the_same_is_not_touched(tmp_path):
    publish(tmp_path, NAME, FIRST)
    before = [path.stat().st_mtime_ns for path in (tmp_path / NAME, tmp_path / "published.json")]
    publish(tmp_path, NAME, FIRST)
    assert before == [path.stat().st_mtime_ns for path in (tmp_path / NAME, tmp_path / "published.json")]


@pytest.mark.parametrize(
    ("text", "fault"), [("{", "is no JSON any more"), ("[1]", "is no JSON object any more")]
)
def test_a_broken_edit_is_named(tmp_path, text, fault):
    publish(tmp_path, NAME, FIRST)
    (tmp_path / NAME).write_text(text)
    with pytest.raises(ValueError, match=f"inference.json {fault}.*correct it, or remove it"):
        publish(tmp_path, NAME, SECOND)


def test_files_of_a_bundle_are_copied_as_far_as_there_are_any_and_not_over_edits(tmp_path, caplog):
    bundle, run = tmp_path / "bundle", tmp_path / "run"
    (bundle / "docs").mkdir(parents=True)
    for name in ("LICENSE", "docs/README.md", "docs/data.md"):
        (bundle / name).write_text(name)
    copy_bundle_files(bundle, run)
    assert {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()} == {
        "LICENSE",
        "docs/README.md",
        "published.json",
        "SHA256SUMS",
    }
    (run / "docs" / "README.md").write_text("our own words")
    (bundle / "LICENSE").write_text("new")
    (bundle / "docs" / "README.md").write_text("new")
    copy_bundle_files(bundle, run)
    assert (run / "docs" / "README.md").read_text() == "our own words" and (
        run / "LICENSE"
    ).read_text() == "new"
    assert [f"README.md was edited: {WHOLE} stays" in message for message in caplog.messages] == [True]
