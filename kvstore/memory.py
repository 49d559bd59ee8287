# SPDX-License-Identifier: Apache-2.0
"""The in-memory twin of the etcd client: the same contract tests run on both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Final

from kvstore.errors import Compacted, Denied, Rejected, StoreChanged, Unavailable
from kvstore.memoryserver import MemoryServer, is_inside
from kvstore.options import Options
from kvstore.store import MAX_TXN_OPS, Batch, ChangeKind, Changes, Entry, Event, Page, Phase, Status, prefix_end
from kvstore.watch import Listed, Message, PrefixFollower, Probe

EVENTS_PER_MESSAGE: Final = 1000


class MemoryStore:
    """One client of a MemoryServer (a server of its own if none is given)."""

    def __init__(self, server: MemoryServer | None = None, options: Options | None = None) -> None:
        self.server = server or MemoryServer()
        self.options = options or Options()
        self.on_store_change: list[Callable[[], None]] = []
        self.on_break: list[Callable[[], None]] = []
        self._cluster_id = 0
        self._is_closed = False

    @property
    def cluster_id(self) -> int:
        """The id of the store that answered last, 0 before the first answer."""
        return self._cluster_id

    async def close(self) -> None:
        """No call is under way and none can be made."""
        self._is_closed = True
        self.server.wake()

    # ---- keys

    async def get(self, key: bytes) -> Entry | None:
        """The key as it is now, None if it does not exist."""
        await self._enter(key)
        return self.server.entries.get(key)

    async def put(self, key: bytes, value: bytes, *, lease: int = 0) -> int:
        """The key has the value; returns the revision."""
        await self._enter(key, is_write=True)
        return self.server.commit({key: value}, lease)

    async def create(self, key: bytes, value: bytes, *, lease: int = 0) -> bool:
        """True if the key did not exist and now has the value."""
        await self._enter(key, is_write=True)
        if key in self.server.entries:
            return False
        self.server.commit({key: value}, lease)
        return True

    async def replace(self, key: bytes, value: bytes, *, mod_revision: int, lease: int = 0) -> bool:
        """True if the key was last changed at `mod_revision` and now has the value."""
        await self._enter(key, is_write=True)
        entry = self.server.entries.get(key)
        if (entry.revision if entry else 0) != mod_revision:
            return False
        self.server.commit({key: value}, lease)
        return True

    async def apply(self, ops: Mapping[bytes, bytes | None], *, lease: int | Mapping[bytes, int] = 0) -> int:
        """All of up to 128 puts and deletes (None) happened at the returned revision, or none did."""
        if len(ops) > MAX_TXN_OPS:
            raise Rejected(f"{len(ops)} operations in one transaction, {MAX_TXN_OPS} are allowed")
        for key in ops:
            self.server.enter(key)
        await self._enter(is_write=True)
        return self.server.commit(ops, lease)

    async def delete_prefix(self, prefix: bytes) -> int:
        """No key begins with the prefix; returns how many did."""
        await self._enter(prefix, is_write=True)
        keys = [entry.key for entry in self.server.select(prefix, prefix_end(prefix))]
        self.server.commit(dict.fromkeys(keys), 0)
        return len(keys)

    async def changed_since(self, prefix: bytes, revision: int) -> Changes:
        """How many keys begin with the prefix, and up to a page of those last changed after the revision."""
        await self._enter(prefix)
        found = self.server.select(prefix, prefix_end(prefix))
        changed, size = [entry for entry in found if entry.revision > revision], self.options.page_size
        return Changes(len(found), changed[:size], self.server.revision, len(changed) <= size)

    async def list(self, prefix: bytes) -> AsyncGenerator[Page, None]:
        """Every key that begins with the prefix, in order, as of one revision."""
        await self._enter(prefix)
        server, size = self.server, self.options.page_size
        entries, revision, connections = server.select(prefix, prefix_end(prefix)), server.revision, server.connections
        for start in range(0, max(1, len(entries)), size):
            if start:
                await self._enter(prefix)
                if server.connections != connections and server.revision < revision:
                    raise Compacted
                server.check_history(revision)
            yield Page(entries[start : start + size], revision, server.cluster_id)

    async def list_and_watch(self, prefix: bytes, *, canary: bytes | None = None) -> AsyncGenerator[Batch, None]:
        """Everything under the prefix and every change to it, for ever; raises Denied only."""
        follower = PrefixFollower(self, prefix, canary, self.options, clock=self.server.clock)
        async for batch in follower.run():
            if batch.phase is Phase.INTERRUPTED:
                for callback in self.on_break:
                    callback()
            yield batch

    async def status(self) -> Status:
        """The store about itself."""
        await self._enter()
        size = sum(len(entry.key) + len(entry.value) for entry in self.server.entries.values())
        return Status("memory", self.server.cluster_id, self.server.revision, size, used_bytes=size)

    # ---- leases

    async def grant(self, ttl_s: float) -> int:
        """The id of a new lease."""
        await self._enter()
        return self.server.grant(ttl_s)

    async def keep_alive(self, leases: Sequence[int]) -> Mapping[int, float]:
        """Each lease lives its full time again; its new time to live, 0 if it is gone."""
        await self._enter()
        return {lease: self.server.keep_alive(lease) for lease in leases}

    async def revoke(self, lease: int) -> None:
        """The lease and every key attached to it are gone."""
        await self._enter()
        self.server.revoke(lease)

    # ---- what list-and-watch needs

    async def probe(self, key: bytes) -> Probe:
        """Whether the key exists now."""
        await self._enter(key)
        return Probe(key in self.server.entries, self.server.revision, self.server.cluster_id)

    async def listing(self, prefix: bytes) -> AsyncGenerator[Listed, None]:
        """The parts of a listing as of one revision."""
        async for page in self.list(prefix):
            events = [Event(ChangeKind.PUT, entry.key, entry.value, entry.revision) for entry in page.entries]
            yield Listed(events, page.revision, page.cluster_id)

    async def watch(self, key: bytes, range_end: bytes, start_revision: int) -> AsyncGenerator[Message, None]:
        """The answers of one watch; raises a KvError when the stream ends."""
        server, connections, waker = self.server, self.server.connections, asyncio.Event()
        try:
            await self._enter(key)
        except Denied as exc:
            yield self._answer(created=True, canceled=True, reason=str(exc))
            return
        yield self._answer(created=True)
        if start_revision < server.compacted:
            yield Message(False, True, server.compacted, "", server.cluster_id, 0, ())
            return
        unsubscribe, position = server.subscribe(waker, key, range_end), start_revision
        try:
            while True:
                if self._is_closed or not server.is_up or server.connections != connections:
                    raise Unavailable("watch stream ended")
                waker.clear()
                events = [event for event in server.since(position) if is_inside(event.key, key, range_end)]
                for message in _messages(events):
                    if server.cut_after_events is not None:
                        part = message[: server.cut_after_events]
                        server.cut_after_events = None
                        yield self._answer(events=part)
                        raise Unavailable("cut in the middle of a catch-up")
                    yield self._answer(events=message)
                    position = message[-1].revision + 1
                if not waker.is_set():
                    await waker.wait()
        finally:
            unsubscribe()

    def _answer(
        self, *, created: bool = False, canceled: bool = False, reason: str = "", events: Sequence[Event] = ()
    ) -> Message:
        return Message(created, canceled, 0, reason, self.server.cluster_id, self.server.revision, events)

    async def _enter(self, key: bytes = b"", *, is_write: bool = False) -> None:
        await asyncio.sleep(0)  # a network is never instant: callers must survive what happens meanwhile
        self._admit(key, is_write=is_write)

    def _admit(self, key: bytes, *, is_write: bool) -> None:
        """What was asked arrives at the server."""
        if self._is_closed:
            raise Unavailable("the channel was closed")
        self.server.enter(key, is_write=is_write)
        before, self._cluster_id = self._cluster_id, self.server.cluster_id
        if before not in (0, self._cluster_id):
            for callback in self.on_store_change:
                callback()
            raise StoreChanged("another store answers")


def _messages(events: Sequence[Event]) -> list[Sequence[Event]]:
    """Events in messages that never split a revision, as etcd sends them."""
    messages: list[Sequence[Event]] = []
    start = 0
    for index in range(1, len(events) + 1):
        is_last = index == len(events)
        if is_last or (index - start >= EVENTS_PER_MESSAGE and events[index].revision != events[index - 1].revision):
            messages.append(events[start:index])
            start = index
    return messages
