"""Zips made from a valid one in memory, and a guard that notes whatever they would have run."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import torch

from crosswarp.commands.package import package
from crosswarp.release.verify import inspect
from tests.cohorts import write_blob_cohort
from tests.trained_run import write_trained_run

Files = dict[str, bytes]
STAGE = "source_segmentation"

# what Python reports before it runs a program, connects, writes, or removes
EVENTS = (
    *("os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "subprocess.Popen", "pty.spawn"),
    *("socket.connect", "socket.bind", "urllib.Request", "os.remove", "os.rmdir", "shutil.rmtree"),
    *("os.rename", "os.mkdir", "os.symlink", "pickle.find_class", "sys.setprofile", "webbrowser.open"),
)
noted: list[str] | None = None


def _note(event: str, arguments: tuple) -> None:
    if noted is not None and (event in EVENTS or (event == "open" and str(arguments[1]).strip("rbtU"))):
        noted.append(f"{event} {arguments}")


sys.addaudithook(_note)


@contextmanager
def nothing_runs() -> Iterator[None]:
    """Fails where something is run, connected to, written or removed within."""
    global noted
    noted = []
    try:
        yield
        assert noted == [], noted
    finally:
        noted = None


def write_dist(folder: Path) -> Path:
    """The zips of a tiny trained run."""
    data = write_blob_cohort(folder / "data", num_classes=3, spatial_size=(16, 12))
    package(str(write_trained_run(folder / "run", data)), str(folder / "dist"))
    return folder / "dist"


def read_files(path: Path) -> Files:
    """The files of a zip, by path in its folder."""
    with zipfile.ZipFile(path) as archive:
        return {member.partition("/")[2]: archive.read(member) for member in archive.namelist()}


def summed(files: Files) -> Files:
    """With checksums that fit, as an attacker writes them."""
    info = json.loads(files["model_info.json"])
    info["checksums"] = {
        path: sha256(content).hexdigest() for path, content in files.items() if path != "model_info.json"
    }
    return files | {"model_info.json": json.dumps(info).encode()}


def changed(files: Files, path: str, change: Callable[[dict], object]) -> Files:
    """With a JSON file changed in place by a function."""
    content = json.loads(files[path])
    change(content)
    return summed(files | {path: json.dumps(content).encode()})


def stored(files: Files, folder: str = STAGE) -> bytes:
    """A zip, quickly."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, content in files.items():
            archive.writestr(f"{folder}/{path}", content)
    return buffer.getvalue()


def faults(files: Files, folder: str = STAGE) -> list[str]:
    """Why a bundle is refused."""
    with nothing_runs():
        return inspect(stored(files, folder), "a.zip").faults


def saved(content: object) -> bytes:
    """What `torch.save` writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()
