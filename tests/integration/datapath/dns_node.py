# SPDX-License-Identifier: Apache-2.0
"""The DNS proxy of a node as its keeper and its agent have it: the process itself, its rules, and what it tells."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dnslib import EDNS0, DNSRecord

from agent.answered_names import AnsweredAddress
from agent.datapath.layout import Direction, EndpointFlag, PolicyKey, PolicyValue
from agent.datapath.proxy_routes import prepare_stack
from agent.dns.message import REFUSED
from agent.dns.proxy_link import LinkError, ProxyLink
from agent.dns.rule_file import RuleFile, encode_rules
from agent.proxy_files import RULES
from agent.proxykeeper.dns import DnsProgram
from agent.proxykeeper.kept_process import KeptProcess
from agent.shared_directory import make_enterable
from meshkit.atomic import write_atomic
from meshpolicy.dns_name import DnsRules, dns_rule
from tests.integration.datapath.datapath_topology import Node, Pod
from tests.integration.datapath.kept_proxy import kept
from tests.packet.datapath_host import inside
from tests.support.name_server import Forgery, NameServer

PORT = 14053
TCP, UDP = 6, 17
NAMES = frozenset((dns_rule("google.com"), dns_rule(match_pattern="*.example.com")))


def wait_until(what: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """It is so, or the test fails."""
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def redirect(node: Node, pod: Pod) -> None:
    entries = [
        (PolicyKey(pod.endpoint_id, Direction.EGRESS, 0), PolicyValue(False, 1, 1)),
        *(
            (PolicyKey(pod.endpoint_id, Direction.EGRESS, 0, protocol, 53, 16), PolicyValue(False, 2, 2, PORT))
            for protocol in (TCP, UDP)
        ),
    ]
    node.maps.policy.update(entries)
    node.endpoint(pod, EndpointFlag.ENFORCE_EGRESS)
    with inside(node.namespace):
        assert prepare_stack() == ""


@contextlib.contextmanager
def served(pod: Pod, forgery: Forgery = Forgery.NONE) -> Iterator[NameServer]:
    with inside(pod.namespace):
        server = NameServer(forgery)
    with server.running():
        yield server


def ask_for(pod: Pod, server: str, name: str, kind: str = "A", timeout_s: float = 3.0, size: int = 0) -> DNSRecord:
    question = DNSRecord.question(name, kind)
    if size:
        question.add_ar(EDNS0(udp_len=size))
    with pod.datagram(timeout_s) as made:
        made.connect((server, 53))
        made.send(question.pack())
        answer = DNSRecord.parse(made.recv(65535))
    assert answer.header.id == question.header.id
    return answer


def is_answered(pod: Pod, server: str) -> bool:
    try:
        return addresses_in(ask_for(pod, server, "google.com", timeout_s=0.5)) == ["203.0.113.7"]
    except TimeoutError:
        return False


def addresses_in(answer: DNSRecord) -> list[str]:
    return [str(record.rdata) for record in answer.rr if record.rtype in (1, 28)]


class DnsNode:
    """What keeper and agent do for the DNS proxy of a node: the process is kept, and heard."""

    def __init__(self, node: Node, directory: Path) -> None:
        self._node, self._directory = node, directory
        make_enterable(directory)
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

    def forget_rules(self) -> None:
        """Nobody wants the process any more."""
        (self._directory / RULES).unlink()

    @contextlib.contextmanager
    def running(self) -> Iterator[KeptProcess]:
        """As long as it is kept."""
        with kept(DnsProgram(self._directory), self._node.namespace) as process:
            yield process
