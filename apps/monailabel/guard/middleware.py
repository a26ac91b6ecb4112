"""The guard as ASGI middleware: reads a request, holds it to the list, and passes on what it understood.

What is passed on is written anew from what was understood. So however a request is encoded, what MONAI Label
reads is what was checked.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .routes import Route, Understood, Upload
from .studies import check_content, suffix_of
from .values import Check, Refused, check_fields, shown, strict_json

logger = logging.getLogger(__name__)

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
PASSED_ON = (b"accept", b"accept-encoding", b"authorization", b"host", b"user-agent")
MOST_TEXT, MOST_BYTES, MOST_DRAINED, CHUNK = 1 << 16, 1 << 30, 1 << 26, 1 << 20
MOST_FILES, SECONDS_DRAINED = 10_000, 2
FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")


def header(scope: Scope, name: bytes) -> str:
    """The value of a header that stands at most once, or an empty text."""
    values = [value for key, value in scope["headers"] if key.lower() == name]
    if len(values) > 1:
        raise Refused(f"expected the header {name.decode()} once, got it {len(values)} times", 400)
    return values[0].decode("latin-1").strip() if values else ""


def check_asker(scope: Scope, hosts: Collection[str]) -> None:
    """Refuse what a web page from elsewhere asks, also under a name of its own for this machine."""
    host = header(scope, b"host").lower()
    match = re.fullmatch(r"(\[[0-9a-f:.]+\]|[a-z0-9_.\-]+)(:[0-9]{1,5})?", host)
    address = (scope.get("server") or ("",))[0]
    known = {*LOOPBACK, *(name.lower() for name in hosts), f"[{address}]" if ":" in address else address}
    if match is None or match[1] not in known:
        raise Refused(
            f"expected a request to {', '.join(sorted(known))}, got one to {shown(host)}; "
            "name further hosts with --allow_host",
            403,
        )
    origin, site = header(scope, b"origin").lower(), header(scope, b"sec-fetch-site").lower()
    if origin not in ("", f"http://{host}", f"https://{host}") or site not in ("", "none", "same-origin"):
        raise Refused(
            f"expected no request of a page from elsewhere, got one of {shown(origin or site)}", 403
        )


def find(routes: Sequence[Route], scope: Scope) -> tuple[Route, str]:
    """The route of a request, and its path as it is passed on."""
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    found = [(route, known) for route in routes if (known := route.understand(path)) is not None]
    if not found:
        raise Refused(f"expected one of the paths that are let through, got {shown(path)}", 404)
    for route, known in found:
        if route.method == scope["method"]:
            return route, known
    methods = ", ".join(sorted({route.method for route, _ in found}))
    raise Refused(f"expected {methods} of {shown(path)}, got {shown(scope['method'])}", 405)


def once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Fields by their names, each of which stands once."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise Refused(f"expected each of {', '.join(map(shown, fields))} once, got {len(pairs)} fields", 400)
    return fields


def read_query(scope: Scope, known: Mapping[str, Check] | None) -> dict[str, Any]:
    """The fields of the address."""
    if known is None:
        return {}
    try:
        text = scope["query_string"].decode("ascii")
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text), errors="strict")
    except ValueError as error:
        raise Refused(f"expected fields as name=value after the '?': {error}", 400) from None
    return check_fields({key: value for key, value in once(pairs).items() if value}, known)


class Body:
    """The body of a request as it comes in.

    Args:
        receive: ASGI's.
    """

    def __init__(self, receive: Receive) -> None:
        self.receive, self.limit, self.size, self.ended = receive, MOST_TEXT, 0, False

    async def __call__(self) -> Message:
        """The next part, unless there have been too many bytes."""
        message = await self.receive()
        self.size += len(message.get("body", b""))
        self.ended = not message.get("more_body", False)
        if self.size > self.limit:
            raise Refused(f"expected a body of at most {self.limit} bytes, got more", 413)
        return message

    async def drain(self) -> None:
        """Read on for a while, so that who is still sending reads the answer."""
        self.limit = self.size + MOST_DRAINED
        with suppress(Refused, asyncio.TimeoutError):
            while not self.ended:
                await asyncio.wait_for(self(), SECONDS_DRAINED)


async def read_form(route: Route, request: Request) -> tuple[dict[str, Any], list[Upload]]:
    """The fields and files of a form."""
    try:
        form = await request.form(
            max_files=MOST_FILES if route.several else len(route.files),
            max_fields=len(route.form or {}) + 1,
            max_part_size=MOST_TEXT,
        )
    except Refused:
        raise
    except (HTTPException, MultiPartException, LookupError, ValueError) as error:
        message = getattr(error, "detail", None) or getattr(error, "message", None) or error
        raise Refused(
            f"expected a form of {', '.join((*(route.form or ()), *route.files))}: {message}", 400
        ) from None
    items = form.multi_items()
    texts = once([(key, value) for key, value in items if isinstance(value, str)])
    sent = [(key, value) for key, value in items if isinstance(value, UploadFile)]
    if not route.several:
        once(sent)
    uploads = []
    for key, value in sent:
        if key not in route.files:
            raise Refused(f"{shown(key)}: expected a file as one of {', '.join(route.files)}")
        check_content(value.file, suffix_of(value.filename or "", route.files[key]))
        uploads.append(Upload(key, value.filename or "", value.file))
    return check_fields(texts, route.form or {}), uploads


async def understand(
    scope: Scope, body: Body, routes: Sequence[Route], hosts: Collection[str]
) -> tuple[Route, Understood]:
    """What a request asks for.

    Raises:
        Refused: if it is not on the list.
    """
    check_asker(scope, hosts)
    route, path = find(routes, scope)
    if header(scope, b"content-encoding") not in ("", "identity"):
        raise Refused("expected a body that is not compressed", 415)
    understood = Understood(path, read_query(scope, route.query))
    kind = header(scope, b"content-type").partition(";")[0].strip().lower()
    size = header(scope, b"content-length")
    body.limit = MOST_BYTES if route.files and kind == FORMS[0] else MOST_TEXT
    if size and (not re.fullmatch("[0-9]{1,15}", size) or int(size) > body.limit):
        raise Refused(f"expected a body of at most {body.limit} bytes, got {shown(size)}", 413)
    request = Request(scope, body)
    if route.form is not None and kind in FORMS:
        understood.body, understood.files = await read_form(route, request)
    elif route.form is not None or route.body is not None:
        content = await request.body()
        if content and (route.body is None or kind != "application/json"):
            expected = " or ".join(FORMS) if route.body is None else "application/json"
            raise Refused(f"expected a body of {expected}, got {shown(kind)}", 415)
        understood.body = check_fields(strict_json(content), route.body or {}) if content else {}
    missing = set(route.files) - {upload.field for upload in understood.files}
    if missing and route.method == "PUT":
        raise Refused(f"expected a file as {', '.join(missing)}, got none")
    if route.also is not None:
        route.also(understood)
    return route, understood


def form_data(understood: Understood, route: Route, boundary: str) -> Iterator[bytes]:
    """A form, written anew; a file is called by its number and suffix alone."""
    for key, value in understood.body.items():
        if value is not None:
            yield f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
    for index, upload in enumerate(understood.files):
        filename = f"{index:05d}{suffix_of(upload.filename, route.files[upload.field])}"
        yield (
            f"--{boundary}\r\n"
            f'Content-Disposition: form-data; name="{upload.field}"; filename="{filename}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode()
        while chunk := upload.content.read(CHUNK):
            yield chunk
        yield b"\r\n"
    yield f"--{boundary}--\r\n".encode()


def written_anew(scope: Scope, route: Route, understood: Understood) -> tuple[Scope, Iterator[bytes]]:
    """The request that MONAI Label gets, and its body in parts."""
    headers = [(key, value) for key, value in scope["headers"] if key in PASSED_ON]
    parts: Iterator[bytes] = iter(())
    if route.form is not None:
        boundary = secrets.token_hex(16)
        parts = form_data(understood, route, boundary)
        headers += [(b"content-type", f"multipart/form-data; boundary={boundary}".encode())]
    elif understood.body:
        content = json.dumps(understood.body).encode()
        parts = iter([content])
        headers += [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    query = {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in understood.query.items()
    }
    path = scope.get("root_path", "") + understood.path
    return scope | {
        "path": path,
        "raw_path": quote(path).encode(),
        "query_string": urlencode(query).encode(),
        "headers": headers,
    }, parts


class Guard:
    """Lets through to an app what is on a list.

    Args:
        app: MONAI Label's.
        routes: the list.
        hosts: names of this machine, beside loopback and the address that a request came to.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[Route], hosts: Collection[str] = ()) -> None:
        self.app, self.routes, self.hosts = app, routes, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer why not."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] == "http":
            await self.answer(scope, receive, send)

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer an HTTP request."""
        incoming = Body(receive)
        try:
            route, understood = await understand(scope, incoming, self.routes, self.hosts)
        except Refused as refused:
            logger.warning("refused %s %s: %s", shown(scope["method"]), shown(scope["path"]), refused)
            await incoming.drain()
            await JSONResponse({"detail": str(refused)}, refused.status)(scope, receive, send)
            return
        except ClientDisconnect:
            return
        passed_on, parts = written_anew(scope, route, understood)

        async def body() -> Message:
            part = next(parts, None)
            if part is None and ended:
                return await receive()
            if part is None:
                ended.append(True)
            return {"type": "http.request", "body": part or b"", "more_body": part is not None}

        ended: list[bool] = []
        try:
            await self.app(passed_on, body, without_cors(send))
        finally:
            for upload in understood.files:
                upload.content.close()


def without_cors(send: Send) -> Send:
    """Answers that no page from elsewhere may read."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [
                (key, value) for key, value in message["headers"] if not key.startswith(b"access-control-")
            ]
            message = message | {"headers": [*kept, (b"cross-origin-resource-policy", b"same-origin")]}
        await send(message)

    return sent
