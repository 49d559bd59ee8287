# SPDX-License-Identifier: Apache-2.0
"""Asking a node by TCP: whether it is there at all, and whether an agent of ours runs on it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from enum import Enum, auto
from typing import Final

ANSWER_WAIT_S: Final = 1.0
_QUESTION: Final = b"GET /v1/probes HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n"
_AGENTS_ANSWER: Final = b"HTTP/1.1 401 "
"""What an agent says to whoever has no token; nobody else has a reason to."""


class TcpAnswer(Enum):
    """Nothing came back; the node is there; our agent is there."""

    NONE = auto()
    NODE = auto()
    AGENT = auto()


def make_reach(port: int, timeout_s: float = ANSWER_WAIT_S) -> Callable[[str], Awaitable[TcpAnswer]]:
    """A probe of the port that an agent would listen on."""

    async def reach(address: str) -> TcpAnswer:
        found = TcpAnswer.NONE
        try:
            async with asyncio.timeout(timeout_s):
                reader, writer = await asyncio.open_connection(address, port)
                found = TcpAnswer.NODE
                try:
                    writer.write(_QUESTION)
                    if await reader.readexactly(len(_AGENTS_ANSWER)) == _AGENTS_ANSWER:
                        found = TcpAnswer.AGENT
                finally:
                    writer.transport.abort()
        except ConnectionRefusedError:
            return TcpAnswer.NODE
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            return found
        return found

    return reach
