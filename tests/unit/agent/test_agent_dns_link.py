# SPDX-License-Identifier: Apache-2.0
"""What DNS proxy and agent say to each other, over a socket: whatever servers answer, and however slowly an agent hears."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from agent.answered_names import LONGEST_NAME, AnsweredAddress
from agent.dns.judge import AskedQuestion
from agent.dns.link import LONGEST_LINE, SOCKET, AgentLink
from agent.dns.message import DnsQuery, ServerAnswer
from agent.dns.proxy_link import ProxyLink

POD, QUESTIONS = "10.1.0.5", 300
QUERY = DnsQuery(1, 0, "shop.example.", 1, b"", b"", 512, ())
ASKED = AskedQuestion(QUERY, (POD, 40000), ("10.1.0.9", 53), 14053, "TCP", 0)


@contextlib.asynccontextmanager
async def _listening(directory: Path) -> AsyncIterator[AgentLink]:
    """The proxy's side of the link."""
    link = AgentLink(lambda: None, time.monotonic, time.time_ns)
    link.state = lambda: {"listening": [], "closed": {}, "counts": {}}
    server = await asyncio.start_unix_server(link.serve, directory / SOCKET, limit=LONGEST_LINE)
    flushing = asyncio.create_task(link.flush())
    try:
        yield link
    finally:
        flushing.cancel()
        server.close()


async def test_all_questions_are_told_however_much_servers_answer(tmp_path: Path) -> None:
    aliases = ("\\" * (LONGEST_NAME - 1) + ".",) * 200
    types = tuple(f"TYPE{number}" for number in range(5000))
    heard: list[Mapping[str, Any]] = []
    all_heard = asyncio.Event()

    def hear(records: Sequence[Mapping[str, Any]]) -> None:
        heard.extend(records)
        if len(heard) == QUESTIONS:
            all_heard.set()

    async with _listening(tmp_path) as proxy, asyncio.timeout(30):
        for _ in range(QUESTIONS):
            proxy.record(ASKED, ServerAnswer(0, (), aliases, types), 0)
        following = asyncio.create_task(ProxyLink(tmp_path, None, hear, lambda: None).run())
        waiting = asyncio.create_task(all_heard.wait())
        await asyncio.wait((following, waiting), return_when=asyncio.FIRST_COMPLETED)
        assert waiting.done(), following.exception()
        following.cancel()
    assert heard[0]["aliases"][0] == aliases[0]


async def test_an_agent_that_falls_behind_is_told_everything_once_it_hears_again(tmp_path: Path) -> None:
    addresses = [AnsweredAddress(f"198.51.{n // 250}.{n % 250}", 600) for n in range(2000)]
    async with _listening(tmp_path) as proxy:
        reader, writer = await asyncio.open_unix_connection(tmp_path / SOCKET, limit=LONGEST_LINE)
        await reader.readline()
        told = 0
        while proxy.tell(POD, f"{told}.example.", addresses) is not None:
            told += 1
        async with asyncio.timeout(30):
            names = set[str]()
            while len(names) <= told:
                said = orjson.loads(await reader.readline())
                names |= {said["name"]} if "answer" in said else set()
        assert f"{told}.example." in names
        writer.close()
