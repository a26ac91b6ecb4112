"""The guard before an app that says what it got; no MONAI Label is started."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="needs the environment of requirements-label.txt")

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from apps.monailabel.guard import middleware
from apps.monailabel.guard.middleware import Guard
from apps.monailabel.guard.routes import routes
from apps.monailabel.guard.studies import Studies

pytestmark = pytest.mark.label

HOST = {"host": "127.0.0.1:8000"}
JSON = HOST | {"content-type": "application/json"}
FORM = HOST | {"content-type": "application/x-www-form-urlencoded"}
PARTS = HOST | {"content-type": "multipart/form-data; boundary=x"}
UTF7 = HOST | {"content-type": "multipart/form-data; boundary=x; charset=utf-7"}
DICOM = bytes(128) + b"DICM"
GZIP = b"\x1f\x8b"
NRRD = b"NRRD0004\n\n\r\n--y\0"
CODE = "$__import__('os').system('touch x')"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the request, as MONAI Label's framework reads it."""
    request = Request(scope, receive)
    said: dict[str, Any] = {"path": scope["path"], "query": request.query_params.multi_items()}
    said["headers"] = sorted(request.headers)
    if request.headers.get("content-type", "").startswith("multipart/"):
        said["form"] = {}
        for key, value in (await request.form()).multi_items():
            if isinstance(value, UploadFile):
                value = [value.filename, (await value.read()).decode("latin-1")]
            said["form"].setdefault(key, []).append(value)
    else:
        said["body"] = (await request.body()).decode()
    await JSONResponse(said, headers={"access-control-allow-origin": "*"})(scope, receive, send)


@pytest.fixture
def guard(tmp_path: Path) -> Guard:
    for name in ("knee", "ray 2"):
        (tmp_path / f"{name}.nii.gz").touch()
    return Guard(echo, routes(Studies(tmp_path), ["cpu"]), ["gpu1.example.org"])


def ask(
    guard: Guard,
    method: str,
    path: str,
    headers: dict[str, str] | list[tuple[str, str]] = HOST,
    body: bytes | Iterable[bytes] = b"",
    server: str = "127.0.0.1",
) -> tuple[int, Any, dict[str, str]]:
    """Status, JSON and headers of the answer to a request whose path is given as on the wire."""
    from urllib.parse import unquote

    raw, _, query = path.partition("?")
    pairs = headers.items() if isinstance(headers, dict) else headers
    scope = {
        "type": "http",
        "http_version": "1.1",
        "scheme": "http",
        "method": method,
        "path": unquote(raw),
        "raw_path": raw.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(key.encode(), value.encode("latin-1")) for key, value in pairs],
        "server": (server, 8000),
        "client": ("127.0.0.1", 1234),
    }
    parts = [body] if isinstance(body, bytes) else list(body)
    incoming = [
        {"type": "http.request", "body": part, "more_body": index + 1 < len(parts)}
        for index, part in enumerate(parts)
    ]
    sent: list[Message] = []

    async def receive() -> Message:
        if not incoming and not parts:  # more was announced, and never comes
            await asyncio.sleep(60)
        assert incoming, "more was read than had been sent"
        return incoming.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(guard(scope, receive, send))
    answer = b"".join(message.get("body", b"") for message in sent[1:])
    received = {key.decode(): value.decode() for key, value in sent[0]["headers"]}
    return sent[0]["status"], json.loads(answer), received


def multipart(*parts: tuple[str, bytes], end: bytes = b"--x--\r\n") -> bytes:
    return b"".join(b"--x\r\n" + head.encode() + b"\r\n\r\n" + body + b"\r\n" for head, body in parts) + end


def field(name: str, value: str) -> tuple[str, bytes]:
    return f'Content-Disposition: form-data; name="{name}"', value.encode()


def file(name: str, filename: str, content: bytes = GZIP) -> tuple[str, bytes]:
    return f'Content-Disposition: form-data; name="{name}"; filename="{filename}"', content


def test_json_is_passed_on_as_it_was_understood(guard: Guard) -> None:
    body = [b'{"max_epochs": 3,', b' "device": "cpu", "client_id": "a\\u0062"}']
    status, said, headers = ask(guard, "POST", "/train/x?run_sync=True", JSON, body)
    assert status == 200 and said["path"] == "/train/x" and said["query"] == [["run_sync", "true"]]
    assert json.loads(said["body"]) == {"max_epochs": 3, "device": "cpu", "client_id": "ab"}
    assert "access-control-allow-origin" not in headers
    assert headers["cross-origin-resource-policy"] == "same-origin"


def test_no_training_runs_beside_another(guard: Guard) -> None:
    for query, expected in (("run_sync=true", 200), ("enqueue=1", 422), ("enqueue=true", 200)):
        assert ask(guard, "POST", f"/train/x?{query}", JSON, b"{}")[0] == expected
    status, said, _ = ask(guard, "POST", "/train/x?run_sync=true&enqueue=true", JSON, b"{}")
    assert status == 422 and "run_sync or enqueue" in said["detail"]


@pytest.mark.parametrize("body", [b"", b"params=%7B%22moving%22%3A+%22knee%22%7D"])
def test_forms_are_passed_on_with_their_fields(guard: Guard, body: bytes) -> None:
    """As curl sends them, and as 3D Slicer does: with a path for the file's name."""
    status, said, _ = ask(guard, "POST", "/infer/x?image=ray+2&output=all", FORM, body)
    assert status == 200 and said["query"] == [["image", "ray 2"], ["output", "all"]]
    assert said["form"] == ({"params": ['{"moving": "knee"}']} if body else {})
    label = multipart(field("params", '{"label_info": []}'), file("label", "/tmp/S/ab.seg.nrrd", NRRD))
    status, said, _ = ask(guard, "PUT", "/datastore/label?image=knee&tag=", PARTS, [label[:60], label[60:]])
    assert status == 200 and said["query"] == [["image", "knee"]]
    assert said["form"] == {"params": ['{"label_info": []}'], "label": [["00000.seg.nrrd", NRRD.decode()]]}


def test_an_uploaded_image_gets_its_name_in_the_address(guard: Guard) -> None:
    status, said, _ = ask(guard, "PUT", "/datastore/image", PARTS, multipart(file("file", "new.nii.gz")))
    assert status == 200 and said["query"] == [["image", "new"]]
    assert said["form"]["file"] == [["00000.nii.gz", "\x1f\x8b"]]


def test_a_session_needs_no_image(guard: Guard) -> None:
    session = "0d2e1c1e-99b5-11f0-9a2e-0242ac110002"
    status, said, _ = ask(guard, "POST", f"/infer/x?image=MR+Head&session_id={session}")
    assert status == 200 and said["query"] == [["session_id", session]]
    parts = multipart(
        file("files", "../../x.dcm", DICOM), file("files", "b.dcm", DICOM), field("client_id", "me")
    )
    status, said, _ = ask(guard, "PUT", "/session/", PARTS, parts)
    assert status == 200 and [name for name, _ in said["form"]["files"]] == ["00000.dcm", "00001.dcm"]


@pytest.mark.parametrize(
    ("host", "server", "status"),
    [
        ("localhost", "127.0.0.1", 200),
        ("LOCALHOST:9000", "127.0.0.1", 200),
        ("[::1]:8000", "::1", 200),
        ("192.168.7.2:8000", "192.168.7.2", 200),
        ("gpu1.example.org", "192.168.7.2", 200),
        ("evil.example.org:8000", "127.0.0.1", 403),
        ("localhost.", "127.0.0.1", 403),
        ("localhost.evil.example.org", "127.0.0.1", 403),
        ("127.0.0.1.nip.io", "127.0.0.1", 403),
        ("localhost:8000@evil.example.org", "127.0.0.1", 403),
        ("192.168.7.3", "192.168.7.2", 403),
        ("0x7f000001", "127.0.0.1", 403),
        ("", "127.0.0.1", 403),
    ],
)
def test_the_host_is_this_machine(guard: Guard, host: str, server: str, status: int) -> None:
    assert ask(guard, "GET", "/info/", {"host": host}, server=server)[0] == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://127.0.0.1:8000", "sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"origin": "https://evil.example.org"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:8001"}, 403),
        ({"origin": "http://localhost:8000"}, 403),
        ({"origin": "http://127.0.0.1:8000.evil.example.org"}, 403),
        ({"Origin": "https://evil.example.org"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
    ],
)
def test_pages_from_elsewhere_are_refused(guard: Guard, headers: dict[str, str], status: int) -> None:
    answer, _, received = ask(guard, "POST", "/train/x", JSON | headers, b"{}")
    assert answer == status and not [name for name in received if name.startswith("access-control")]
    preflight = HOST | headers | {"access-control-request-method": "POST"}
    assert ask(guard, "OPTIONS", "/train/x", preflight)[0] == (405 if status == 200 else 403)


def test_headers_that_change_a_request_are_left_out(guard: Guard) -> None:
    odd = {
        "x-http-method-override": "DELETE",
        "x-original-url": "/reload",
        "range": "bytes=0-",
        "cookie": "a",
    }
    _, said, _ = ask(guard, "GET", "/info/", HOST | odd | {"authorization": "Bearer x"})
    assert said["headers"] == ["authorization", "host"]


def test_headers_that_contradict_each_other_are_refused(guard: Guard) -> None:
    for name, values in {
        "host": ("localhost", "evil"),
        "content-type": ("application/json", "text/plain"),
    }.items():
        twice = [*(pair for pair in JSON.items() if pair[0] != name), *((name, value) for value in values)]
        status, said, _ = ask(guard, "POST", "/train/x", twice, b"{}")
        assert status == 400 and f"header {name} once" in said["detail"]


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("image=knee&image=ray+2", 400),
        ("image=../knee", 422),
        ("image=%2e%2e%2fknee", 422),
        ("image=%252e%252e%252fknee", 422),
        ("image=/etc/passwd", 422),
        ("image=knee%00", 422),
        ("image=%C0%AE%C0%AE/knee", 400),
        ("image=%uff0fknee", 422),
        ("image=knee;output=image", 404),
        ("image=nobody", 404),
        ("image=knee&Image=x", 422),
        ("image=knee&output=$1", 422),
        ("image=knee&output=dicom_seg", 422),
        ("image=knee&model=x", 422),
        ("image", 400),
        ("image=$knee", 422),
        ("session_id=../..", 422),
        ("", 422),
    ],
)
def test_the_address_has_known_fields_once(guard: Guard, query: str, status: int) -> None:
    answer, said, _ = ask(guard, "POST", f"/infer/x?{query}")
    assert answer == status and said["detail"].isascii()


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        (JSON, json.dumps({"max_epochs": CODE}).encode(), 422),
        (JSON, json.dumps({"device": CODE}).encode(), 422),
        (JSON, json.dumps({CODE: 1}).encode(), 422),
        (JSON, b'{"max_epochs": 1, "max_epochs": "$1"}', 400),
        (JSON, b'{"device": "\\u0024x"}', 422),
        (JSON, b'{"bundle_path": "/tmp"}', 422),
        (JSON, b"[]", 422),
        (JSON, b'"$1"', 422),
        (JSON, b"{", 400),
        (JSON, '{"device": "$x"}'.encode("utf-16"), 400),
        (JSON, b"\xef\xbb\xbf{}", 400),
        (JSON | {"content-encoding": "gzip"}, b"{}", 415),
        (JSON | {"content-length": str(1 << 20)}, b"{}", 413),
        (JSON | {"content-length": "-1"}, b"{}", 413),
        (JSON, b" " * (1 << 17), 413),
        (HOST | {"content-type": "text/plain"}, b'{"max_epochs": 1}', 415),
        (HOST | {"content-type": "application/vnd.api+json"}, b'{"max_epochs": 1}', 415),
        (HOST, b'{"max_epochs": 1}', 415),
        (FORM, b"max_epochs=$1", 415),
        (PARTS, multipart(field("max_epochs", CODE)), 415),
    ],
)
def test_a_body_is_json_of_known_fields(
    guard: Guard, headers: dict[str, str], body: bytes, status: int
) -> None:
    answer, said, _ = ask(guard, "POST", "/train/x", headers, body)
    assert answer == status and "expected" in said["detail"] and said["detail"].isascii()


@pytest.mark.parametrize(
    ("path", "headers", "body", "status"),
    [
        (path, PARTS, multipart(*parts), status)
        for path, status, *parts in [
            ("/infer/x?image=knee", 400, field("params", "{}"), field("params", '{"device": "$1"}')),
            ("/infer/x?image=knee", 422, field("params", json.dumps({"device": CODE}))),
            ("/infer/x?image=knee", 422, field("params", json.dumps({"image": "/etc/passwd"}))),
            ("/infer/x?image=knee", 422, field("params", json.dumps({"image": "knee"}))),
            ("/infer/x?image=knee", 403, field("params", json.dumps({"moving": "/etc/passwd"}))),
            ("/infer/x?image=knee", 403, field("params", json.dumps({"moving_label": "/etc/x.png"}))),
            ("/infer/x?image=knee", 422, field("params", json.dumps({"session": {"image": "/etc/passwd"}}))),
            ("/infer/x?image=knee", 422, field("params", json.dumps({"result_extension": "/../../x.nii"}))),
            ("/infer/x?image=knee", 422, field("params", json.dumps({"label_tag": "../../x"}))),
            ("/infer/x?image=knee", 422, field("params", json.dumps({"skip_writer": True}))),
            ("/infer/x?image=knee", 422, field("params", '"$1"')),
            ("/infer/x?image=knee", 422, field("model", "other")),
            ("/infer/x?image=knee", 422, field("file", "/etc/passwd")),
            ("/infer/x", 422, field("image", "knee")),
            ("/infer/x", 415, file("file", "x.npy", b"\x93NUMPY")),
            ("/infer/x", 415, file("file", "x.nii.gz/../../x.pkl")),
            ("/infer/x", 415, file("file", "")),
            ("/infer/x", 403, file("file", "x.nrrd", b"NRRD0004\ndata file: /etc/passwd\n\n")),
            ("/infer/x", 422, file("label", "x.nii.gz")),
            ("/infer/x", 400, file("file", "x.nii.gz"), file("file", "y.nii.gz")),
            ("/datastore/label?image=knee&tag=../..", 422, file("label", "x.nii.gz")),
            ("/datastore/label?image=../x", 422, file("label", "x.nii.gz")),
            ("/datastore/label", 422, file("label", "x.nii.gz")),
            ("/datastore/label?image=knee", 422, field("params", "{}")),
            ("/datastore/label?image=knee", 415, file("label", "x.pt")),
            ("/datastore/label?image=knee", 422, field("params", '{"a": "%x"}'), file("label", "x.nii.gz")),
            ("/datastore/image?image=../x", 422, file("file", "x.nii.gz")),
            ("/datastore/image?image=labels/final/knee", 422, file("file", "x.nii.gz")),
            ("/datastore/image", 422, file("file", "..\\x.nii.gz")),
            ("/datastore/image", 422, file("file", "$x.nii.gz")),
            ("/datastore/?image=datastore_v2", 415, file("file", "x.json")),
            ("/session/?uncompress=true", 422, file("files", "x.nii.gz")),
            ("/session/", 415, file("files", "meta.info")),
            ("/datastore/image/info?image=knee", 422, field("info", '{"modality": "$1"}')),
        ]
    ]
    + [
        ("/infer/x?image=knee", PARTS, b"garbage", 400),
        ("/infer/x?image=knee", HOST | {"content-type": "multipart/form-data"}, b"--x--", 400),
        ("/infer/x?image=knee", UTF7, multipart(field("params", '{"device": "+ACQ-1"}')), 422),
        ("/infer/x?image=knee", FORM, b"params=%7B%7D&params=%7B%22device%22%3A%22%241%22%7D", 400),
        ("/infer/x?image=knee", FORM, b"params=%7B%22device%22%3A%22%241%22%7D", 422),
        ("/infer/x?image=knee", JSON, b'{"params": "{}"}', 415),
        ("/infer/x?image=knee", PARTS, multipart(field("params", " " * (1 << 17))), 400),
    ],
)
def test_a_form_has_known_fields(
    guard: Guard, path: str, headers: dict[str, str], body: bytes, status: int
) -> None:
    answer, said, _ = ask(guard, "PUT" if path[1] in "ds" else "POST", path, headers, body)
    assert answer == status and said["detail"].isascii(), said


def test_more_bytes_than_a_file_may_have_are_refused(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "MOST_BYTES", 1000)
    large = multipart(file("file", "new.nii.gz", GZIP + bytes(2000)))
    status, said, _ = ask(
        guard, "PUT", "/datastore/image", PARTS, [large[:900], large[900:1500], large[1500:]]
    )
    assert status == 413 and "at most 1000 bytes" in said["detail"]


def test_who_announces_too_much_is_answered_before_it_is_sent(
    guard: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(middleware, "SECONDS_DRAINED", 0.01)
    headers = PARTS | {"content-length": str(1 << 40)}
    status, said, _ = ask(guard, "PUT", "/datastore/image", headers, body=[])
    assert status == 413 and "at most 1073741824 bytes" in said["detail"]


def test_other_protocols_are_refused(guard: Guard) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(guard({"type": "websocket", "path": "/info/"}, None, send))  # type: ignore[arg-type]
    assert sent == [{"type": "websocket.close", "code": 1008}]
