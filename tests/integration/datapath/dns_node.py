# SPDX-License-Identifier: Apache-2.0
"""The DNS proxy of a node as its agent keeps it: the process itself, its rules, and what it tells."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.answered_names import AnsweredAddress
from agent.dns.message import REFUSED
from agent.dns.process import DnsProcess
from agent.dns.proxy_link import LinkError, ProxyLink
from agent.dns.rule_file import RULES, RuleFile, encode_rules
from agent.lasting_process import ProcessEndedError
from meshkit.atomic import write_atomic
from meshpolicy.dns_name import DnsRules, dns_rule
from tests.integration.datapath.datapath_topology import Node
from tests.packet.datapath_host import inside

PORT = 14053
NAMES = frozenset((dns_rule("google.com"), dns_rule(match_pattern="*.example.com")))


def wait_until(what: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """It is so, or the test fails."""
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class DnsNode:
    """What an agent does for the DNS proxy of a node: it keeps the process, and hears what that tells."""

    def __init__(self, node: Node, directory: Path) -> None:
        self._node, self._directory = node, directory
        self.process = DnsProcess(directory)
        self.answers: list[tuple[str, str, tuple[AnsweredAddress, ...]]] = []
        self.questions: list[Mapping[str, Any]] = []
        self.delay_s = 0.0
        self.link = ProxyLink(directory, self, self.questions.extend, lambda: None)

    async def learn(self, endpoint: str, name: str, addresses: Sequence[AnsweredAddress]) -> None:
        self.answers.append((endpoint, name, tuple(addresses)))
        await asyncio.sleep(self.delay_s)

    def write(self, names: DnsRules = NAMES, refusal: int = REFUSED) -> None:
        write_atomic(self._directory / RULES, encode_rules(RuleFile({PORT: names}, refusal)), 0o644)

    @contextlib.contextmanager
    def linked(self) -> Iterator[None]:
        """As long as an agent runs."""
        loop = asyncio.new_event_loop()

        async def follow() -> None:
            while True:
                with contextlib.suppress(OSError, LinkError):
                    await self.link.run()
                await asyncio.sleep(0.02)

        task = loop.create_task(follow())

        def run() -> None:
            with contextlib.suppress(asyncio.CancelledError):
                loop.run_until_complete(task)
            for left in asyncio.all_tasks(loop):
                left.cancel()
            loop.run_until_complete(asyncio.sleep(0))

        thread = threading.Thread(target=run)
        thread.start()
        try:
            wait_until(lambda: PORT in self.link.said.listening)
            yield
        finally:
            loop.call_soon_threadsafe(task.cancel)
            thread.join(5)
            loop.close()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """As long as the process runs."""

        def run() -> None:
            with inside(self._node.namespace), contextlib.suppress(ProcessEndedError):
                asyncio.run(self.process.run())

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            self.process.end()
            thread.join(10)
