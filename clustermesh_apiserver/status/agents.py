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
from meshkit.http_get import http_get
from meshkit.refusal import read_refusal

LIMIT_S: Final = 2.0
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
            headers = {TOKEN_HEADER: token} if token else {}
            status, body = await http_get(address, port, "/v1/status", headers)
        if status != 200:
            return _silent(node, f"agent answered {status}: {read_refusal(body)}")
        return decode_agent(body)
    except TimeoutError:
        return _silent(node, f"agent did not answer in {limit_s:g} s")
    except (OSError, ValueError, EOFError) as exc:
        return _silent(node, f"agent not reached: {exc}"[:MAXIMUM_TEXT])


def _silent(node: NodeIntent, why: str) -> AgentStatus:
    return AgentStatus(node=node.name, ready=False, problems=[why])
