# SPDX-License-Identifier: Apache-2.0
"""Requests and answers as the handlers see them, with the ASGI protocol kept out of sight."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

import orjson

from lab.devkube.api.accounts import Account
from lab.devkube.api.error import ApiError, bad_request
from lab.devkube.api.objects import Obj
from lab.devkube.api.protobuf_bodies import PROTOBUF_TYPE, decode_body
from meshkit.yamltext import YamlTextError, load_documents

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

JSON_TYPE = "application/json"
MAX_BODY_BYTES = 16 * 1024 * 1024


@dataclass(slots=True)
class Request:
    """One HTTP request of a known user. `headers` have lower-case names."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: bytes = b""
    raw_query: str = ""
    user: Account = field(default_factory=lambda: Account("system:anonymous", ("system:unauthenticated",)))

    @property
    def accept(self) -> str:
        return self.headers.get("accept", "")

    @property
    def content_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip()

    @property
    def is_dry_run(self) -> bool:
        return self.text("dryRun") == "All"

    def text(self, name: str, default: str = "") -> str:
        values = self.query.get(name)
        return values[-1] if values else default

    def flag(self, name: str) -> bool:
        return self.text(name).lower() in ("true", "1")

    def number(self, name: str) -> int | None:
        """None if it is not given. Raises ApiError 400 for what is no number."""
        text = self.text(name)
        if not text:
            return None
        try:
            return int(text)
        except ValueError:
            raise bad_request(f'invalid value for {name}: "{text}"') from None

    def document(self) -> Any:
        """The body, whatever it is written in; an empty object if there is none. Raises ApiError if it is unreadable."""
        if not self.body:
            return {}
        try:
            if self.content_type == PROTOBUF_TYPE:
                return decode_body(self.body)
            if "yaml" in self.content_type:
                return next(iter(load_documents(self.body.decode())), None)
            return orjson.loads(self.body)
        except (orjson.JSONDecodeError, YamlTextError, UnicodeDecodeError) as exc:
            raise bad_request(f"the body of the request cannot be read: {str(exc)[:256]}") from exc

    def object(self) -> Obj:
        document = self.document()
        if not isinstance(document, dict):
            raise bad_request("the body of the request is not an object")
        return document


@dataclass(slots=True)
class Response:
    """A complete answer."""

    status: int
    body: bytes
    content_type: str = JSON_TYPE
    headers: list[tuple[str, str]] = field(default_factory=list)


@dataclass(slots=True)
class Stream:
    """An answer that goes on until it ends by itself or the client leaves."""

    chunks: AsyncIterator[bytes]
    content_type: str = JSON_TYPE
    status: int = 200
    headers: list[tuple[str, str]] = field(default_factory=list)


def json_response(status: int, document: Any, warnings: list[str] | None = None) -> Response:
    headers = [("warning", f'299 - "{_quoted(text)}"') for text in warnings or ()]
    return Response(status, orjson.dumps(document), headers=headers)


def error_response(error: ApiError) -> Response:
    return json_response(error.code, error.status())


def headers_of(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def query_of(scope: Scope) -> dict[str, list[str]]:
    return parse_qs(scope.get("query_string", b"").decode(), keep_blank_values=True)


async def read_body(receive: Receive) -> bytes:
    """Raises ApiError 413 for a body larger than the server takes."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BODY_BYTES:
            raise ApiError(413, "RequestEntityTooLarge", f"limit is {MAX_BODY_BYTES} bytes")
        if not message.get("more_body"):
            return b"".join(parts)


async def send_response(send: Send, response: Response) -> None:
    headers = [("content-type", response.content_type), ("content-length", str(len(response.body)))]
    await send(_start(response.status, headers + response.headers))
    await send({"type": "http.response.body", "body": response.body})


async def send_stream(receive: Receive, send: Send, stream: Stream) -> None:
    """Send chunks as they come; a client that leaves ends the stream's source."""
    await send(_start(stream.status, [("content-type", stream.content_type), *stream.headers]))
    pump = asyncio.create_task(_pump(send, stream), name="response stream")
    gone = asyncio.create_task(_wait_for_disconnect(receive), name="response disconnect")
    try:
        await asyncio.wait({pump, gone}, return_when=asyncio.FIRST_COMPLETED)
        if pump.done():
            pump.result()
            await send({"type": "http.response.body", "body": b""})
    finally:
        for task in (pump, gone):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def _pump(send: Send, stream: Stream) -> None:
    async with contextlib.aclosing(_as_generator(stream.chunks)) as chunks:
        async for chunk in chunks:
            if chunk:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})


async def _as_generator(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Closes the source with itself, if the source can be closed."""
    try:
        async for chunk in chunks:
            yield chunk
    finally:
        if (close := getattr(chunks, "aclose", None)) is not None:
            await close()


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _start(status: int, headers: list[tuple[str, str]]) -> Message:
    encoded = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers]
    return {"type": "http.response.start", "status": status, "headers": encoded}


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
