# SPDX-License-Identifier: Apache-2.0
"""What agent and DNS proxy say to each other, a line of JSON each, over a socket that the proxy listens on.

Shapes. To the agent: {"answer": number, "endpoint": address, "name": name, "addresses": [[address, seconds], ...]},
{"flows": [record, ...], "counts": {reason: number}, "closed": {port: reason}}. To the proxy: {"installed": number} when the
policy entries for that answer are there, {"read": true} when the file of rules is another. Only processes of the proxy's
own first user can open the socket.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson

from agent.answered_names import AnsweredAddress
from agent.dns.judge import AskedQuestion
from agent.dns.message import ServerAnswer

SOCKET: Final = "link.sock"
LONGEST_LINE: Final = 4 << 20
MOST_KEPT: Final = 10_000
"""Addresses of names that are kept for the agent while it is away, or does not take what it is sent."""
MOST_RECORDS: Final = 4096
_MOST_ADDRESSES: Final = 64
_MOST_ALIASES: Final = 16
_RECORDS_OF_A_LINE: Final = 128
"""Each is at most 24 KB, since of an answer it has so many addresses, aliases and types only, whatever a server says."""
_MOST_UNSENT_BYTES: Final = 4 << 20
_FLUSH_S: Final = 0.05
_SURE_S: Final = 1.0
"""Of the time that an address still has, so that nothing is counted on that ends at the same moment."""


class _Told(NamedTuple):
    """What an agent was told, until when the addresses last (monotonic clock), and whether it has installed them."""

    done: asyncio.Future[None]
    until_s: Mapping[tuple[str, str, str], float]


class AgentLink:
    """The proxy's side. `changed`: called when the file of rules is another; `monotonic` and `wall_ns` read the clocks."""

    def __init__(self, changed: Callable[[], None], monotonic: Callable[[], float], wall_ns: Callable[[], int]) -> None:
        self._changed, self._monotonic, self._wall_ns = changed, monotonic, wall_ns
        self._agent: asyncio.StreamWriter | None = None
        self._waiting: dict[int, _Told] = {}
        self._installed: dict[tuple[str, str, str], float] = {}
        self._number = 0
        self._kept: dict[tuple[str, str, str], float] = {}
        self._records: deque[Mapping[str, Any]] = deque(maxlen=MOST_RECORDS)
        self.state: Callable[[], Mapping[str, Any]] = dict
        self._told: Mapping[str, Any] = {}

    def tell(self, endpoint: str, name: str, addresses: Sequence[AnsweredAddress]) -> asyncio.Future[None] | None:
        """Done when the agent has installed what follows. None if there is nothing to wait for: this agent installed it before,
        and its time has not passed; or no agent hears it, and it is kept until one does.
        """
        if not self._is_heard():
            self._keep(endpoint, name, addresses)
            return None
        self._number += 1
        now = self._monotonic()
        until = {(endpoint, name, found.address): now + found.ttl_s for found in addresses}
        self._send({"answer": self._number, "endpoint": endpoint, "name": name, "addresses": addresses})
        if all(self._installed.get(key, 0.0) > now + _SURE_S for key in until):
            self._installed.update(until)
            return None
        told = self._waiting[self._number] = _Told(asyncio.get_running_loop().create_future(), until)
        return told.done

    def record(self, asked: AskedQuestion, answer: ServerAnswer | None, rcode: int) -> None:
        """A query was refused, or answered with this."""
        query = asked.query
        self._records.append(
            {
                "began_ns": asked.began_ns,
                "latency_ns": self._wall_ns() - asked.began_ns,
                "client": asked.client,
                "server": asked.server,
                "port": asked.port,
                "protocol": asked.protocol,
                "name": query.name,
                "type": query.type_text,
                "refused": answer is None,
                "rcode": rcode,
                "addresses": [a.address for a in answer.addresses[:_MOST_ADDRESSES]] if answer else [],
                "ttl_s": min((a.ttl_s for a in answer.addresses), default=0) if answer else 0,
                "aliases": answer.aliases[:_MOST_ALIASES] if answer else [],
                "types": answer.types[:_MOST_ALIASES] if answer else [],
            }
        )

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """An agent is there: the last one that came is the one that is told."""
        if self._agent is not None:
            self._agent.close()
        self._agent, self._told = writer, {}
        self._stop_waiting()
        try:
            while line := await reader.readline():
                self._hear(orjson.loads(line))
        except (OSError, ValueError):
            pass
        finally:
            writer.close()
            if self._agent is writer:
                self._agent = None
                self._stop_waiting()

    async def flush(self) -> None:
        """Sends what was kept, records and state as they come, until cancelled."""
        while True:
            await asyncio.sleep(_FLUSH_S)
            if self._kept and self._is_heard():
                self._send_kept()
            while self._is_heard() and (self._records or self.state() != self._told):
                flows = [self._records.popleft() for _ in range(min(len(self._records), _RECORDS_OF_A_LINE))]
                self._told = self.state()
                self._send({"flows": flows, **self._told})

    def _is_heard(self) -> bool:
        """Whether an agent is there that takes what it is sent."""
        return self._agent is not None and self._agent.transport.get_write_buffer_size() <= _MOST_UNSENT_BYTES

    def _hear(self, said: Mapping[str, Any]) -> None:
        if said.get("read"):
            self._changed()
        told = self._waiting.pop(said.get("installed", 0), None)
        if told is None:
            return
        if not told.done.done():
            told.done.set_result(None)
        for key, until_s in told.until_s.items():
            self._installed.pop(key, None)  # the newest are at the end
            self._installed[key] = until_s
        while len(self._installed) > MOST_KEPT:
            del self._installed[next(iter(self._installed))]

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._agent is not None
        self._agent.write(orjson.dumps(message, option=orjson.OPT_PASSTHROUGH_SUBCLASS, default=list) + b"\n")

    def _stop_waiting(self) -> None:
        """What this agent was told it will not answer any more, and what it installed another one may not know."""
        for told in self._waiting.values():
            if not told.done.done():
                told.done.set_result(None)
        self._waiting.clear()
        self._installed.clear()

    def _keep(self, endpoint: str, name: str, addresses: Sequence[AnsweredAddress]) -> None:
        now = self._monotonic()
        for found in addresses:
            key = (endpoint, name, found.address)
            self._kept.pop(key, None)
            self._kept[key] = now + found.ttl_s
        while len(self._kept) > MOST_KEPT:
            del self._kept[next(iter(self._kept))]

    def _send_kept(self) -> None:
        now = self._monotonic()
        kept, self._kept = self._kept, {}
        by_answer: dict[tuple[str, str], list[AnsweredAddress]] = {}
        for (endpoint, name, address), until in kept.items():
            by_answer.setdefault((endpoint, name), []).append(AnsweredAddress(address, max(0, int(until - now))))
        for (endpoint, name), addresses in by_answer.items():
            self.tell(endpoint, name, addresses)
