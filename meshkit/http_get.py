# SPDX-License-Identifier: Apache-2.0
"""One GET of another program of the mesh, from an event loop."""

from __future__ import annotations

import asyncio
from typing import Final

MOST_BYTES: Final = 4 << 20


async def http_get(
    host: str, port: int, path: str, headers: dict[str, str], most: int = MOST_BYTES
) -> tuple[int, bytes]:
    """HTTP status and body; HTTP/1.0, so that the end of the connection is the end of the body. The caller bounds the time.

    Raises: OSError, EOFError, ValueError for what is no answer or is longer than `most` bytes.
    """
    reader, writer = await asyncio.open_connection(host, port, limit=most)
    try:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(f"GET {path} HTTP/1.0\r\nHost: {host}\r\nAccept: application/json\r\n{lines}\r\n".encode())
        await writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
        body = b""
        while chunk := await reader.read(most):
            body += chunk
            if len(body) > most:
                raise ValueError(f"answer is larger than {most >> 20} MiB")
        return int(head.split(b" ", 2)[1]), body
    finally:
        writer.close()
