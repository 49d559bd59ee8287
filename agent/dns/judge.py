# SPDX-License-Identifier: Apache-2.0
"""What becomes of one query: refused, or asked of the server, and told before the answer is released.

Nothing here knows whether it came by UDP or TCP.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from agent.answered_names import AnsweredAddress
from agent.dns.message import (
    REFUSED,
    DnsQuery,
    ForeignMessageError,
    MalformedMessageError,
    ServerAnswer,
    failure,
    format_error,
    read_answer,
    read_query,
)
from agent.dns.sockets import Place
from meshpolicy.dns_name import EVERY_NAME, DnsRules, allows_name

HOLD_S: Final = 0.1
"""How long an answer waits at most for policy entries."""
MOST_PENDING: Final = 2048
MOST_OF_A_CLIENT: Final = 256


class Count:
    """What is counted, by the reason."""

    REFUSED: Final = "refused"
    ALLOWED: Final = "allowed"
    MALFORMED_QUERY: Final = "malformed-query"
    MALFORMED_ANSWER: Final = "malformed-answer"
    FOREIGN_ANSWER: Final = "foreign-answer"
    UNANSWERED: Final = "unanswered"
    OVERLOADED: Final = "overloaded"
    UNSENT: Final = "unsent"
    LATE: Final = "released-before-installed"


class AskedQuestion(NamedTuple):
    """A query on its way: who asks whom, at which port of the proxy, by which protocol, since when (wall clock, ns)."""

    query: DnsQuery
    client: Place
    server: Place
    port: int
    protocol: str
    began_ns: int


class Audience(Protocol):
    """Who hears of queries and answers."""

    def tell(self, endpoint: str, name: str, addresses: Sequence[AnsweredAddress]) -> asyncio.Future[None] | None:
        """Done when the answer may be released; None if nobody is there to wait for."""
        ...

    def record(self, asked: AskedQuestion, answer: ServerAnswer | None, rcode: int) -> None:
        """A query was refused, or answered with this."""
        ...


class Judge:
    """Rules by port; how many queries are under way, of whom; and what was counted. `wall_ns` reads the clock."""

    def __init__(self, audience: Audience, wall_ns: Callable[[], int]) -> None:
        self._audience, self._wall_ns = audience, wall_ns
        self.rules: Mapping[int, DnsRules] = {}
        self.refusal = REFUSED
        self.counts: Counter[str] = Counter()
        self._pending: Counter[str] = Counter()
        self._all_pending = 0

    def read(self, data: bytes, client: Place, server: Place, port: int, protocol: str) -> AskedQuestion | bytes:
        """The query if it may be asked, else what is answered at once (empty: nothing)."""
        try:
            query = read_query(data)
        except MalformedMessageError:
            self.counts[Count.MALFORMED_QUERY] += 1
            return format_error(data)
        asked = AskedQuestion(query, client, server, port, protocol, self._wall_ns())
        rules = self.rules.get(port, frozenset())
        if EVERY_NAME not in rules and not allows_name(rules, query.name):
            self.counts[Count.REFUSED] += 1
            self._audience.record(asked, None, self.refusal)
            return failure(query, self.refusal)
        return asked

    def begin(self, asked: AskedQuestion) -> bool:
        """Whether there is room for it; `end` is due then."""
        if self._pending[asked.client[0]] >= MOST_OF_A_CLIENT or self._all_pending >= MOST_PENDING:
            self.counts[Count.OVERLOADED] += 1
            return False
        self._pending[asked.client[0]] += 1
        self._all_pending += 1
        self.counts[Count.ALLOWED] += 1
        return True

    def end(self, asked: AskedQuestion) -> None:
        """It is not under way any more."""
        self._all_pending -= 1
        self._pending[asked.client[0]] -= 1
        if not self._pending[asked.client[0]]:
            del self._pending[asked.client[0]]

    def hear(self, asked: AskedQuestion, ident: int, data: bytes) -> ServerAnswer | None:
        """What the server says to it; None for what answers another query. Raises: MalformedMessageError. Both are counted."""
        try:
            return read_answer(data, asked.query, ident)
        except ForeignMessageError:
            self.counts[Count.FOREIGN_ANSWER] += 1
            return None
        except MalformedMessageError:
            self.counts[Count.MALFORMED_ANSWER] += 1
            raise

    async def tell(self, asked: AskedQuestion, answer: ServerAnswer) -> None:
        """Returns when policy entries for the answered addresses are there, or would take too long."""
        self._audience.record(asked, answer, answer.rcode)
        if not answer.addresses:
            return
        told = self._audience.tell(asked.client[0], asked.query.name, answer.addresses)
        if told is not None and not (await asyncio.wait((told,), timeout=HOLD_S))[0]:
            self.counts[Count.LATE] += 1
