"""A MONAI Label server in a process of its own, and what a client asks of it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from requests_toolbelt.multipart.decoder import MultipartDecoder

from apps.monailabel.serve import SERVED, start_command

START_SECONDS, REQUEST_SECONDS = 180, 600


class Client:
    """Talks to a server; whatever it refuses is an error with the end of the server's log."""

    def __init__(self, url: str, log: Path) -> None:
        self.url, self.log = url, log

    def request(self, method: str, path: str, **arguments: Any) -> requests.Response:
        response = requests.request(method, f"{self.url}/{path}", timeout=REQUEST_SECONDS, **arguments)
        if not response.ok:
            raise RuntimeError(f"{response.status_code} {response.text}\n{self.log.read_text()[-3000:]}")
        return response

    def info(self) -> dict[str, Any]:
        return self.request("GET", "info/").json()

    def infer(self, model: str, image: str, folder: Path, **params: Any) -> tuple[Path, dict[str, Any]]:
        """The returned label's file, in the folder, and the returned parameters."""
        response = self.request(
            "POST",
            f"infer/{model}",
            params={"image": image, "output": "all"},
            data={"params": json.dumps(params)},
        )
        file, values = None, {}
        for part in MultipartDecoder.from_response(response).parts:
            disposition = part.headers[b"Content-Disposition"].decode()
            if 'name="params"' in disposition:
                values = json.loads(part.text)
            else:
                name = disposition.split('filename="')[1].rstrip('"')
                file = folder / f"{model}_{image}.{name.partition('.')[2]}"
                file.write_bytes(part.content)
        assert file is not None
        return file, values

    def save_label(self, image: str, file: Path) -> None:
        with file.open("rb") as content:
            files = {"label": (file.name, content)}
            self.request("PUT", "datastore/label", params={"image": image, "tag": "final"}, files=files)

    def train(self, model: str, **params: Any) -> Any:
        return self.request("POST", f"train/{model}", params={"run_sync": True}, json=params).json()

    def train_in_the_background(self, model: str, **params: Any) -> dict[str, Any]:
        """What the server says of the training when it has ended."""
        self.request("POST", f"train/{model}", json=params)
        end = time.monotonic() + REQUEST_SECONDS
        while time.monotonic() < end:
            status = self.request("GET", "train/").json()
            if status["status"] not in ("SUBMITTED", "RUNNING"):
                return status
            time.sleep(1)
        raise TimeoutError(self.log.read_text()[-3000:])


@contextmanager
def serving(app: Path, studies: Path, models: Iterable[str] = SERVED, *arguments: str) -> Iterator[Client]:
    """A server that is ready; it ends with the block, whatever happens in it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = app.parent / f"{app.name}.log"
    command = start_command(app, studies, models, "--host", "127.0.0.1", "--port", str(port), *arguments)
    # Scores only when asked for: each scoring starts another process. No watching of the studies' folder:
    # what the watcher's thread reads again may replace what a request has just noted.
    settings = ("MONAI_LABEL_AUTO_UPDATE_SCORING", "MONAI_LABEL_DATASTORE_AUTO_RELOAD")
    environment = os.environ | dict.fromkeys(settings, "false")
    with log.open("w") as output:
        server = subprocess.Popen(
            command, stdout=output, stderr=output, env=environment, cwd=app.parent, start_new_session=True
        )
    client = Client(f"http://127.0.0.1:{port}", log)
    try:
        wait_until_ready(server, client)
        yield client
    finally:
        stop(server)


def wait_until_ready(server: subprocess.Popen, client: Client) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and server.poll() is None:
        try:
            client.info()
            return
        except requests.ConnectionError:
            time.sleep(0.5)
    raise RuntimeError(f"The server did not start:\n{client.log.read_text()[-5000:]}")


def stop(server: subprocess.Popen) -> None:
    """End the server and the trainings that it has started."""
    for end in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, end)
        except ProcessLookupError:
            return
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            continue
