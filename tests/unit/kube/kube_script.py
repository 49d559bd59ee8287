# SPDX-License-Identifier: Apache-2.0
"""An HTTP server that does exactly what a test tells it, also what a good server never does; one step per request."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


Step = Callable[[Request, socket.socket], None]


@dataclass
class ScriptedServer:
    """Steps are used up in order, one per request; after the last one every further request is refused with 503."""

    steps: list[Step] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    tls: ssl.SSLContext | None = None
    connections: int = 0

    def __enter__(self) -> ScriptedServer:
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError):
            if self.tls is not None:
                connection = self.tls.wrap_socket(connection, server_side=True)
                self._open.append(connection)
            self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as reader:
            while True:
                request = _read(reader)
                if request is None:
                    return
                with self._lock:
                    self.requests.append(request)
                    step = self.steps.pop(0) if self.steps else status(503, "ServiceUnavailable")
                step(request, connection)


def _read(reader: Any) -> Request | None:
    line = reader.readline().decode()
    if not line:
        return None
    method, target, _ = line.split(" ")
    headers: dict[str, str] = {}
    while (header := reader.readline().decode().strip()) != "":
        name, _, value = header.partition(":")
        headers[name.lower()] = value.strip()
    body = reader.read(int(headers.get("content-length", 0)))
    parts = urlsplit(target)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    return Request(method, parts.path, query, headers, body)


def document(value: object, code: int = 200) -> Step:
    def step(request: Request, connection: socket.socket) -> None:
        body = orjson.dumps(value)
        connection.sendall(
            f"HTTP/1.1 {code} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )

    return step


def status(code: int, reason: str, message: str = "") -> Step:
    return document({"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}, code)


def listing(*objects: object, version: str, token: str = "") -> Step:
    return document({"items": list(objects), "metadata": {"resourceVersion": version, "continue": token}})


def watch(*events: object, end: str = "close", split: int = 0) -> Step:
    """A stream of events; end: close (cleanly), cut or reset (in mid-line), hold (silence)."""

    def step(request: Request, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        data = b"".join(orjson.dumps(event) + b"\n" for event in events)
        size = split or max(1, len(data))
        for start in range(0, len(data), size):
            _chunk(connection, data[start : start + size])
        if end == "close":
            connection.sendall(b"0\r\n\r\n")
        elif end in ("cut", "reset"):
            _chunk(connection, b'{"type":"ADDED","obj')
            if end == "reset":  # what the reader has not read yet is lost
                linger = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            connection.close()
            raise ConnectionAbortedError

    return step


def vanish(how: str) -> Step:
    """No answer: the connection is closed, or reset, or closed in the middle of the first line (half)."""

    def step(request: Request, connection: socket.socket) -> None:
        if how == "half":
            connection.sendall(b"HTTP/1.1 2")
        if how == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
        else:
            connection.shutdown(socket.SHUT_RDWR)
        raise ConnectionAbortedError

    return step


def _chunk(connection: socket.socket, data: bytes) -> None:
    connection.sendall(f"{len(data):x}\r\n".encode() + data + b"\r\n")


def service(name: str, version: int, **extra: object) -> dict[str, Any]:
    return {"metadata": {"namespace": "shop", "name": name, "resourceVersion": str(version), **extra}}


def event(kind: str, obj: object) -> dict[str, object]:
    return {"type": kind, "object": obj}


def bookmark(version: int) -> dict[str, object]:
    return event("BOOKMARK", {"metadata": {"resourceVersion": str(version)}})


def failure(code: int, reason: str) -> dict[str, object]:
    return event("ERROR", {"kind": "Status", "code": code, "reason": reason, "message": reason})
