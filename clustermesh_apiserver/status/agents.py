# SPDX-License-Identifier: Apache-2.0
"""What every node's agent says: all asked at once, each with the same short limit."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from kubeintent.rows import NodeIntent
from meshapi.agent import AgentStatus, decode_agent
from meshapi.installed import TOKEN_HEADER
from meshkit.errors import MAXIMUM_TEXT
from meshkit.refusal import read_refusal

LIMIT_S: Final = 2.0
MAX_BYTES: Final = 4 << 20
AT_ONCE: Final = 100


async def ask_agents(
    nodes: Iterable[NodeIntent], port: int, token: str, *, limit_s: float = LIMIT_S
) -> list[AgentStatus]:
    """One status per node, sorted by name; a node that does not answer in time says so. `token` is what agents admit."""
    room = asyncio.Semaphore(AT_ONCE)

    async def ask(node: NodeIntent) -> AgentStatus:
        async with room:
            return await _ask(node, port, token, limit_s)

    return list(await asyncio.gather(*(ask(node) for node in sorted(nodes, key=lambda node: node.name))))


async def _ask(node: NodeIntent, port: int, token: str, limit_s: float) -> AgentStatus:
    address = next((ip for kind, ip in node.addresses if kind == "InternalIP"), "")
    if not address:
        return _silent(node, "the node has no internal address")
    try:
        async with asyncio.timeout(limit_s):
            status, body = await _get(address, port, "/v1/status", token)
        if status != 200:
            return _silent(node, f"agent answered {status}: {read_refusal(body)}")
        return decode_agent(body)
    except TimeoutError:
        return _silent(node, f"agent did not answer in {limit_s:g} s")
    except (OSError, ValueError, EOFError) as exc:
        return _silent(node, f"agent not reached: {exc}"[:MAXIMUM_TEXT])


def _silent(node: NodeIntent, why: str) -> AgentStatus:
    return AgentStatus(node=node.name, ready=False, problems=[why])


async def _get(address: str, port: int, path: str, token: str) -> tuple[int, bytes]:
    """HTTP status and body; HTTP/1.0, so that the end of the connection is the end of the body."""
    reader, writer = await asyncio.open_connection(address, port, limit=MAX_BYTES)
    try:
        credentials = f"{TOKEN_HEADER}: {token}\r\n" if token else ""
        writer.write(
            f"GET {path} HTTP/1.0\r\nHost: {address}\r\nAccept: application/json\r\n{credentials}\r\n".encode()
        )
        await writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.read(MAX_BYTES)
        while chunk := await reader.read(MAX_BYTES):
            body += chunk
            if len(body) > MAX_BYTES:
                raise ValueError("answer is larger than 4 MiB")
        return int(head.split(b" ", 2)[1]), body
    finally:
        writer.close()
