"""Nothing asks for anything beyond this machine: the whole of it runs with sockets closed."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from crosswarp.commands import COMMANDS
from tests.cohorts import write_blob_cohort
from tests.runs.test_chain import train


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Sockets that reach no other machine; what was asked for is listed."""
    asked: list[Any] = []

    def refuse(*what: Any, **more: Any) -> None:
        asked.append(what[-1] if what else more)
        raise OSError("there is no network")

    for name in ("connect", "connect_ex", "sendto"):
        own = getattr(socket.socket, name)
        monkeypatch.setattr(
            socket.socket,
            name,
            lambda self, *a, own=own: own(self, *a) if self.family == socket.AF_UNIX else refuse(*a),
        )
    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    return asked


def test_nothing_is_asked_of_a_network(tmp_path: Path, no_network: list[Any]) -> None:
    with pytest.raises(OSError, match="no network"):
        socket.create_connection(("pypi.org", 443))
    no_network.clear()
    write_blob_cohort(tmp_path / "data", num_classes=3, spatial_size=(32, 24))
    run, images = tmp_path / "run", tmp_path / "data" / "images"
    train(run, device="cpu")
    pair = {"moving": str(images / "warmtest0.nii.gz"), "fixed": str(images / "coldtest1.nii.gz")}
    COMMANDS["register"](**pair, models=str(run), out=str(tmp_path / "out"))
    COMMANDS["evaluate"](run=str(run), device="cpu", max_pairs=2)
    COMMANDS["package"](run=str(run), out=str(tmp_path / "dist"))
    assert no_network == []
