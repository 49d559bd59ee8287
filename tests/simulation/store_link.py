# SPDX-License-Identifier: Apache-2.0
"""One process's connection to a cluster's store: the in-memory twin of etcd behind a wire that delays, cuts and loses answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from enum import Enum
from typing import Any, Final

from kvstore.errors import Denied, Unavailable
from kvstore.facade.grant import Grant
from kvstore.memory import MemoryStore
from kvstore.memoryserver import MemoryServer
from kvstore.options import Options
from kvstore.store import Changes, Entry, Page, prefix_end
from kvstore.watch import Message, Probe
from meshmodel.readers import agent_reads, peer_reads
from tests.simulation.loop import sleep
from tests.simulation.machine import Writes

DENIED: Final = "etcdserver: permission denied"


class Access(Enum):
    """Whose certificate a client shows."""

    PEER = 1
    AGENT = 2
    ADMINISTRATOR = 3


def grant_for(access: Access, cluster: str) -> Grant | None:
    """What a program may read through the facade of this cluster; None: it asks etcd itself."""
    match access:
        case Access.PEER:
            readable = peer_reads(cluster)
        case Access.AGENT:
            readable = agent_reads()
        case Access.ADMINISTRATOR:
            return None
    return Grant(access.name.lower(), readable.prefixes, readable.keys)


class StoreLink:
    """What a `MemoryStore` takes for its server: the server itself, as far as this wire lets it through.

    `grant` is what the facade lets its client read, None for who talks to etcd itself. `shake_hands` says why no new connection
    comes about; connections that stand go on.
    """

    def __init__(
        self,
        server: MemoryServer,
        delay: Callable[[], float],
        grant: Grant | None,
        writes: Writes,
        shake_hands: Callable[[], str] = str,
    ) -> None:
        self._server, self.delay, self._grant, self._writes = server, delay, grant, writes
        self._shake_hands, self._standing = shake_hands, -1
        self._is_link_up, self._cuts = True, 0
        self.lose_answers = 0
        self._wakers: dict[asyncio.Event, None] = {}
        self.commit, self.select, self.since = server.commit, server.select, server.since  # asked for often

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)

    @property
    def is_up(self) -> bool:
        return self._is_link_up and self._server.is_up

    @property
    def connections(self) -> int:
        return self._server.connections + self._cuts

    def enter(self, key: bytes = b"", *, is_write: bool = False) -> None:
        if not self._is_link_up:
            raise Unavailable("no route to the store")
        if self._standing != self.connections:
            if reason := self._shake_hands():
                self.note(f"handshake with a store: {reason}")
                raise Unavailable(reason)
            self._standing = self.connections
        if self._grant is not None and is_write:
            raise Denied(DENIED)
        if is_write and not self._writes.take():
            raise Unavailable("the process is gone")
        self._server.enter(key, is_write=is_write)

    def subscribe(self, waker: asyncio.Event, key: bytes, range_end: bytes) -> Callable[[], None]:
        unsubscribe = self._server.subscribe(waker, key, range_end)
        self._wakers[waker] = None

        def leave() -> None:
            self._wakers.pop(waker, None)
            unsubscribe()

        return leave

    def may_read(self, key: bytes, range_end: bytes) -> bool:
        """Whether the facade answers a question for this range."""
        if self._grant is None or self._grant.covers(key, range_end):
            return True
        self.note("read denied by the facade")
        return False

    def note(self, what: str) -> None:
        self._writes.reached[what] += 1

    def heal(self) -> None:
        self._is_link_up = True

    def cut(self, *, is_up: bool) -> None:
        """Open streams break; nothing gets through until the link is up."""
        self._is_link_up = is_up
        self._cuts += 1
        for waker in list(self._wakers):
            waker.set()


class LinkedStore(MemoryStore):
    """One client. Calls take the wire's time; an answer that is lost leaves done what was asked."""

    def __init__(self, link: StoreLink, options: Options) -> None:
        super().__init__(link, options)  # type: ignore[arg-type]  # a link stands for its server
        self._link = link

    async def get(self, key: bytes) -> Entry | None:
        self._check(key, b"")
        return await super().get(key)

    async def probe(self, key: bytes) -> Probe:
        self._check(key, b"")
        return await super().probe(key)

    async def changed_since(self, prefix: bytes, revision: int) -> Changes:
        self._check(prefix, prefix_end(prefix))
        return await super().changed_since(prefix, revision)

    async def list(self, prefix: bytes) -> AsyncGenerator[Page, None]:
        self._check(prefix, prefix_end(prefix))
        async for page in super().list(prefix):
            yield page

    async def put(self, key: bytes, value: bytes, *, lease: int = 0) -> int:
        revision = await super().put(key, value, lease=lease)
        self._lose("put")
        return revision

    async def apply(self, ops: Mapping[bytes, bytes | None], *, lease: int | Mapping[bytes, int] = 0) -> int:
        revision = await super().apply(ops, lease=lease)
        self._lose("apply")
        return revision

    async def watch(self, key: bytes, range_end: bytes, start_revision: int) -> AsyncGenerator[Message, None]:
        """Messages arrive in order, each some time after it was sent."""
        connections = self._link.connections
        if not self._link.may_read(key, range_end):
            await self._enter()
            yield self._answer(created=True, canceled=True, reason=DENIED)
            return
        async with aclosing(super().watch(key, range_end, start_revision)) as messages:
            async for message in messages:
                await sleep(self._link.delay())
                if not self._link.is_up or self._link.connections != connections:
                    raise Unavailable("watch stream ended")
                yield message

    def _check(self, key: bytes, range_end: bytes) -> None:
        if not self._link.may_read(key, range_end):
            raise Denied(DENIED)

    def _lose(self, what: str) -> None:
        if self._link.lose_answers:
            self._link.lose_answers -= 1
            self._link.note("answer of a store lost")
            raise Unavailable(f"{what}: connection reset before the answer")

    async def _enter(self, key: bytes = b"", *, is_write: bool = False) -> None:
        await sleep(self._link.delay())
        self._admit(key, is_write=is_write)
