# SPDX-License-Identifier: Apache-2.0
"""A gRPC client made of frames, for what no proper client does: asking and never reading, knocking and never calling."""

from __future__ import annotations

import asyncio
import ssl
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, GOAWAY = 0, 1, 4, 7
END_STREAM, END_HEADERS, ACK = 1, 4, 1


class BareClient:
    """One connection; `seen` holds the types of the frames that came."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._next_stream = 1
        self.seen: list[int] = []
        self.data_bytes = 0
        self._task = asyncio.create_task(self._read())

    @classmethod
    async def connect(cls, port: int, context: ssl.SSLContext, name: str = "north.mesh.cilium.io") -> BareClient:
        """A connection that has shaken hands; its window for answers is 64 KiB in all and never grows."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
        client = cls(reader, writer)
        writer.write(PREFACE + _frame(SETTINGS, 0, 0, b""))
        return client

    def call(self, method: str, message: bytes) -> None:
        """A call with one message is sent; nobody waits for its answer."""
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        fields = {
            b":method": b"POST",
            b":scheme": b"https",
            b":path": f"/etcdserverpb.{method}".encode(),
            b":authority": b"north.mesh.cilium.io",
            b"te": b"trailers",
            b"content-type": b"application/grpc",
        }
        block = b"".join(b"\0" + _text(name) + _text(value) for name, value in fields.items())
        body = b"\0" + len(message).to_bytes(4, "big") + message
        self._writer.write(_frame(HEADERS, END_HEADERS, stream, block) + _frame(DATA, END_STREAM, stream, body))

    @property
    def is_over(self) -> bool:
        """Whether the server ended the connection or said that it will."""
        return GOAWAY in self.seen or self._task.done()

    def close(self) -> None:
        self._writer.transport.abort()
        self._task.cancel()

    async def _read(self) -> None:
        while True:
            try:
                head = await self._reader.readexactly(9)
                body = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
            except (asyncio.IncompleteReadError, OSError):
                return
            self.seen.append(head[3])
            if head[3] == DATA:
                self.data_bytes += len(body)
            if head[3] == SETTINGS and not head[4] & ACK:
                self._writer.write(_frame(SETTINGS, ACK, 0, b""))


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return len(body).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + body


def _text(value: bytes) -> bytes:
    assert len(value) < 127, "one byte tells the length"
    return bytes((len(value),)) + value
