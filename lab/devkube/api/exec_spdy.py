# SPDX-License-Identifier: Apache-2.0
"""Exec over SPDY/3.1, as far as kubectl needs it: a connection is handed over after the HTTP upgrade.

The client opens its streams in a fixed order (error, stdin, stdout, stderr, resize; the query says which of them), so
header blocks need not be read. Replies carry an empty header block in a zlib stream without dictionary, which clients
accept. Flow-control windows are not used by either side.
"""

from __future__ import annotations

import asyncio
import struct
import zlib
from enum import StrEnum

import orjson

from lab.devkube.api.error import ApiError
from lab.devkube.api.exec import ExecCall, exit_status, failure_status
from lab.devkube.api.exec_websocket import resize, write_stdin
from lab.devkube.api.objects import Obj
from lab.devkube.api.runtime import ExecRequest, ExecSession, Runtime
from meshkit.task_group import TaskGroup

UPGRADE = b"spdy/3.1"
SUBPROTOCOL = "v4.channel.k8s.io"
_SYN_STREAM, _SYN_REPLY, _PING = 1, 2, 6
_CONTROL = 0x8003
_FIN = 1
_MAX_FRAME_BYTES = 1 << 20
_QUEUED_MESSAGES = 64
_GOODBYE_S = 5.0


class StreamRole(StrEnum):
    ERROR = "error"
    STDIN = "stdin"
    STDOUT = "stdout"
    STDERR = "stderr"
    RESIZE = "resize"


def stream_order(request: ExecRequest) -> list[StreamRole]:
    """The streams in the order in which a client opens them."""
    wanted = {
        StreamRole.ERROR: True,
        StreamRole.STDIN: request.stdin,
        StreamRole.STDOUT: request.stdout,
        StreamRole.STDERR: request.stderr and not request.tty,
        StreamRole.RESIZE: request.tty,
    }
    return [role for role, is_wanted in wanted.items() if is_wanted]


class SpdyExec(asyncio.Protocol):
    """One exec session on a connection that speaks SPDY from here on."""

    def __init__(self, runtime: Runtime, call: ExecCall, transport: asyncio.Transport) -> None:
        self._runtime, self._call, self._transport = runtime, call, transport
        self._expected = stream_order(call.request)
        self._roles: dict[int, StreamRole] = {}
        self._streams: dict[StreamRole, int] = {}
        self._buffer = bytearray()
        self._headers = zlib.compressobj()
        self._input: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._session: ExecSession | None = None
        self._early_size = b""
        self._writable = asyncio.Event()
        self._writable.set()
        self._lost = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= 8:
            first, second = struct.unpack_from("!II", self._buffer)
            flags, size = second >> 24, second & 0xFFFFFF
            if size > _MAX_FRAME_BYTES:
                self._transport.abort()
                return
            if len(self._buffer) < 8 + size:
                return
            payload = bytes(self._buffer[8 : 8 + size])
            del self._buffer[: 8 + size]
            if first >> 31:
                self._on_control(first & 0xFFFF, payload)
            else:
                self._on_data(first, flags, payload)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._lost.set()
        self._writable.set()
        if self._session is not None:
            self._session.kill()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _on_control(self, kind: int, payload: bytes) -> None:
        if kind == _SYN_STREAM and len(payload) >= 4:
            (stream,) = struct.unpack_from("!I", payload)
            if len(self._roles) < len(self._expected):
                role = self._expected[len(self._roles)]
                self._roles[stream], self._streams[role] = role, stream
            block = self._headers.compress(struct.pack("!I", 0)) + self._headers.flush(zlib.Z_SYNC_FLUSH)
            self._send_control(_SYN_REPLY, struct.pack("!I", stream) + block)
            if len(self._roles) == len(self._expected) and self._task is None:
                self._task = asyncio.get_running_loop().create_task(self._run(), name="exec over spdy")
        elif kind == _PING:
            self._send_control(_PING, payload)

    def _on_data(self, stream: int, flags: int, payload: bytes) -> None:
        role = self._roles.get(stream)
        if role is StreamRole.STDIN:
            if payload:
                self._input.put_nowait(payload)
            if flags & _FIN:
                self._input.put_nowait(None)
            if self._input.qsize() > _QUEUED_MESSAGES:
                self._transport.pause_reading()
        elif role is StreamRole.RESIZE and payload:
            if self._session is None:
                self._early_size = payload
            else:
                resize(self._session, payload)

    async def _run(self) -> None:
        try:
            await self._finish(await self._status())
            async with asyncio.timeout(_GOODBYE_S):
                await self._lost.wait()
        except TimeoutError:
            pass
        finally:
            self._transport.close()

    async def _status(self) -> Obj:
        stderr = StreamRole.STDERR if StreamRole.STDERR in self._streams else StreamRole.STDOUT
        try:
            session = await self._runtime.exec(
                self._call.pod, self._call.request,
                lambda data: self._send(StreamRole.STDOUT, data), lambda data: self._send(stderr, data),
            )  # fmt: skip
        except (ApiError, OSError) as exc:
            return failure_status(exc)
        self._session = session
        if self._early_size:
            resize(session, self._early_size)
        if self._lost.is_set():
            session.kill()
        async with TaskGroup() as group:
            feeder = group.create_task(self._feed(session), name="exec input")
            code = await session.wait()
            feeder.cancel()
        return exit_status(code)

    async def _feed(self, session: ExecSession) -> None:
        while True:
            data = await self._input.get()
            if self._input.qsize() <= _QUEUED_MESSAGES // 2 and not self._transport.is_closing():
                self._transport.resume_reading()
            await write_stdin(session, data)

    async def _finish(self, status: Obj) -> None:
        for role in (StreamRole.STDOUT, StreamRole.STDERR):
            await self._send(role, b"", fin=True)
        await self._send(StreamRole.ERROR, orjson.dumps(status), fin=True)

    async def _send(self, role: StreamRole, data: bytes, *, fin: bool = False) -> None:
        if role not in self._streams or not (data or fin):
            return
        for start in range(0, max(len(data), 1), _MAX_FRAME_BYTES):
            piece = data[start : start + _MAX_FRAME_BYTES]
            await self._writable.wait()
            if self._lost.is_set():
                return
            self._transport.write(
                struct.pack("!II", self._streams[role], (_FIN if fin else 0) << 24 | len(piece)) + piece
            )

    def _send_control(self, kind: int, payload: bytes) -> None:
        self._transport.write(struct.pack("!HHI", _CONTROL, kind, len(payload)) + payload)
