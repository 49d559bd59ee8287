# SPDX-License-Identifier: Apache-2.0
"""Liveness and readiness on a port of their own: cheap, and answered however many other clients hang on the program."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

MAX_OPEN: Final = 64
PATIENCE_S: Final = 2.0
MAX_LINE_BYTES: Final = 2048

Probe = Callable[[], tuple[int, str]]
"""HTTP status and text of one path."""


async def serve_probes(
    host: str, port: int, probes: Mapping[str, Probe], *, on_started: Callable[[int], None] | None = None
) -> None:
    """GET of each path is answered until cancelled. Raises: OSError when the address cannot be bound.

    Each connection carries one request and lasts PATIENCE_S seconds at most; when MAX_OPEN are open, the oldest one makes
    room for the next.
    """
    opened: dict[asyncio.StreamWriter, None] = {}

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while len(opened) >= MAX_OPEN:
            oldest = next(iter(opened))
            del opened[oldest]
            oldest.transport.abort()
        opened[writer] = None
        try:
            async with asyncio.timeout(PATIENCE_S):
                request = (await reader.readline()).decode("latin-1").split()
                while (await reader.readline()).strip():
                    continue
                writer.write(_answer(request, probes))
                await writer.drain()
        except (TimeoutError, OSError, ValueError):
            pass
        finally:
            opened.pop(writer, None)
            writer.close()

    server = await asyncio.start_server(handle, host, port, limit=MAX_LINE_BYTES)
    async with server:
        if on_started is not None:
            on_started(server.sockets[0].getsockname()[1])
        await server.serve_forever()


def _answer(request: list[str], probes: Mapping[str, Probe]) -> bytes:
    method, path = request[:2] if len(request) == 3 else ("", "")
    probe = probes.get(path.partition("?")[0]) if method in ("GET", "HEAD") else None
    status, text = probe() if probe is not None else (404, "there are: " + ", ".join(probes))
    body = f"{text}\n".encode()
    head = f"HTTP/1.1 {status} {'OK' if status == 200 else 'No'}\r\nContent-Type: text/plain\r\n"
    return f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + (
        b"" if method == "HEAD" else body
    )
