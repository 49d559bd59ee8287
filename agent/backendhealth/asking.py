# SPDX-License-Identifier: Apache-2.0
"""One question to one pod: does it accept a connection, does it answer a GET with 200 to 399."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from meshmodel.address import place_of
from meshmodel.health_probe import HealthProbe

LIMIT_S: Final = 1.0
_STATUS_LINE: Final = 256


async def is_well(address: str, port: int, probe: HealthProbe) -> bool:
    """The answer, within LIMIT_S; none is no."""
    try:
        async with asyncio.timeout(LIMIT_S):
            return await _ask(address, port, probe)
    except (OSError, TimeoutError):
        return False


async def _ask(address: str, port: int, probe: HealthProbe) -> bool:
    reader, writer = await asyncio.open_connection(address, port, limit=_STATUS_LINE)
    try:
        if not probe.path:
            return True
        writer.write(
            f"GET {probe.path} HTTP/1.1\r\nHost: {place_of(address, port)}\r\nUser-Agent: clustermesh-agent\r\n"
            "Accept: */*\r\nConnection: close\r\n\r\n".encode()
        )
        try:
            line = await reader.readline()
        except ValueError:  # longer than any status line
            return False
        words = line.split(maxsplit=2)
        if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
            return False
        return 200 <= int(words[1]) < 400
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
