"""What is served of what lies in a folder; it needs no MONAI Label."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from apps.monailabel import serve
from apps.monailabel.serve import APPS, SERVED, newest
from tests.release.zips import write_dist


def test_the_highest_version_is_served(tmp_path: Path) -> None:
    for version in ("0.2.0", "0.10.0", "0.9.1"):
        (tmp_path / f"crosswarp_v{version}.zip").touch()
    assert newest(tmp_path, "crosswarp") == [tmp_path / "crosswarp_v0.10.0.zip"]
    assert newest(tmp_path, "domain_adaptation") == []


def test_a_bundle_is_installed_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (zipped,) = newest(write_dist(tmp_path), "source_segmentation")
    folder = tmp_path / "app"

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as before_its_training_takes_the_place:
        before_its_training_takes_the_place.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            serve.install(APPS["crosswarp"], [zipped], folder)
    assert not list(folder.rglob("train.json"))
    for _ in range(2):
        serve.install(APPS["crosswarp"], [zipped], folder)
    (bundle,) = (folder / "model").iterdir()
    trained = json.loads((bundle / "configs" / "train.json").read_text())
    assert "validate" in trained and "stage" not in trained
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_another_zip_than_the_one_unpacked_is_not_left_out_silently(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (zipped,) = newest(write_dist(tmp_path), "source_segmentation")
    folder = tmp_path / "app"
    for _ in range(2):
        serve.install(APPS["crosswarp"], [zipped], folder)
    assert not capsys.readouterr().err
    with zipped.open("ab") as file:
        file.write(b" ")
    serve.install(APPS["crosswarp"], [zipped], folder)
    said = capsys.readouterr().err
    assert str(zipped) in said and str(folder / "model" / "source_segmentation") in said


@pytest.mark.parametrize("app", ["monaibundle", "crosswarp"])
def test_the_guard_stands_before_either_app_on_this_machine_alone(
    app: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []
    monkeypatch.setenv("MONAI_LABEL_AUTO_UPDATE_SCORING", "false")
    monkeypatch.setattr(serve, "install", lambda app, zips, folder: folder)
    monkeypatch.setattr(serve.os, "execv", lambda program, command: started.append(command))
    for name in SERVED:
        (tmp_path / f"{name}_v0.1.0.zip").touch()

    def value(command: list[str], option: str) -> str:
        """Of several, MONAI Label takes the last one."""
        return command[len(command) - command[::-1].index(option)]

    places = ["--zips", str(tmp_path), "--studies", "images", "--folder", "served", "--app", app]
    unguarded = ["--uvicorn_app", "monailabel.app:app"]
    for arguments in ([], ["--port", "8001", *unguarded], ["--host", "0.0.0.0", "--allow_host", "gpu1"]):
        monkeypatch.setattr(sys, "argv", ["serve.py", *places, *arguments])
        serve.main()
        assert started[-1][1] == f"served/{app}/start.py"
        assert value(started[-1], "--uvicorn_app") == "guard.server:app"
        assert value(started[-1], "--host") == ("0.0.0.0" if "--host" in arguments else "127.0.0.1")
    hosts = [command[command.index("allowed_hosts") + 1].split(",") for command in started]
    assert hosts[:2] == [[""], [""]] and "gpu1" in hosts[2] and len(hosts[2]) == 3
