# SPDX-License-Identifier: Apache-2.0
"""Exec over WebSocket: binary messages whose first byte is a channel number.

Source: subprotocols v5.channel.k8s.io and v4.channel.k8s.io; v5 adds channel 255 to close another one.
"""

from __future__ import annotations

import contextlib

import orjson

from lab.devkube.api.error import ApiError
from lab.devkube.api.exec import ExecCall, exit_status, failure_status
from lab.devkube.api.http import Receive, Response, Send
from lab.devkube.api.objects import Obj
from lab.devkube.api.runtime import ExecSession, Runtime
from meshkit.task_group import TaskGroup

STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255
SUBPROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
_NORMAL_CLOSURE = 1000


async def serve_websocket(runtime: Runtime, call: ExecCall, subprotocol: str, receive: Receive, send: Send) -> None:
    """Run the command until it ends or the client leaves."""
    await send({"type": "websocket.accept", "subprotocol": subprotocol})

    async def write(channel: int, data: bytes) -> None:
        if data:
            with contextlib.suppress(OSError):  # the client has left, which ends the session by another way
                await send({"type": "websocket.send", "bytes": bytes([channel]) + data})

    try:
        session = await runtime.exec(call.pod, call.request, lambda d: write(STDOUT, d), lambda d: write(STDERR, d))
    except (ApiError, OSError) as exc:
        status: Obj = failure_status(exc)
    else:
        async with TaskGroup() as group:
            feeder = group.create_task(_feed(session, receive, accepts_stdin=call.request.stdin), name="exec input")
            status = exit_status(await session.wait())
            feeder.cancel()
    await write(ERROR, orjson.dumps(status))
    with contextlib.suppress(OSError):
        await send({"type": "websocket.close", "code": _NORMAL_CLOSURE})


async def refuse_websocket(send: Send, response: Response) -> None:
    """Answer the handshake with an ordinary HTTP response, so that the client can show why."""
    headers = [(b"content-type", response.content_type.encode())]
    await send({"type": "websocket.http.response.start", "status": response.status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": response.body})


async def _feed(session: ExecSession, receive: Receive, *, accepts_stdin: bool) -> None:
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            session.kill()
            return
        data: bytes = message.get("bytes") or (message.get("text") or "").encode()
        if not data:
            continue
        match data[0]:
            case 0 if accepts_stdin and len(data) > 1:
                await write_stdin(session, data[1:])
            case 255 if data[1:] == bytes([STDIN]):
                await write_stdin(session, None)
            case 4:
                resize(session, data[1:])


async def write_stdin(session: ExecSession, data: bytes | None) -> None:
    """Pass data on, or the end of it; a command that no longer reads its input misses nothing."""
    with contextlib.suppress(OSError):
        if data is None:
            await session.close_stdin()
        else:
            await session.write(data)


def resize(session: ExecSession, message: bytes) -> None:
    """Take over a terminal size; what cannot be read is ignored."""
    try:
        size = orjson.loads(message)
        session.resize(int(size["Width"]), int(size["Height"]))
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return
