# SPDX-License-Identifier: Apache-2.0
"""One upstream watch shared by every client that watches the same range, with a bounded history to resume from."""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Final, NamedTuple

from kvstore.errors import Denied, KvError, StoreChanged, Unavailable
from kvstore.facade.grant import ClientLimits
from kvstore.facade.upstream import Upstream
from kvstore.proto import rpc_pb2 as pb
from meshkit.backoff import Backoff
from meshkit.clock import Clock

log = logging.getLogger(__name__)

# how far back a new hub begins, so that clients that listed a moment ago can share it; etcd replays this in 0.1 s
HEAD_START: Final = 1000
BACKOFF_S: Final = (0.05, 2.0)


class HistoryRecord(NamedTuple):
    """One upstream message: its bytes and the revisions of its first and last event."""

    first: int
    last: int
    raw: bytes


class Hub:
    """The changes of one range since `floor`, in order; clients hold a cursor, nothing is queued per client.

    `synced` is the revision up to which every change is in here. `ended` says why no more will come.
    """

    def __init__(
        self,
        upstream: Upstream,
        key: bytes,
        range_end: bytes,
        limits: ClientLimits,
        clock: Clock,
        *,
        owner: str | None = None,
        on_resize: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.key, self.range_end, self.owner = key, range_end, owner
        self._on_resize = on_resize
        self._upstream, self._limits, self._clock = upstream, limits, clock
        self._records: list[HistoryRecord] = []
        self._base = self.bytes = 0
        self.floor = self.synced = 0
        self.ready = asyncio.Event()
        self.ended: KvError | Denied | None = None
        self.clients: set[Callable[[], None]] = set()
        self.unused_since: float | None = clock.monotonic()
        self.messages = 0

    @property
    def end(self) -> int:
        """The cursor behind the newest message."""
        return self._base + len(self._records)

    @property
    def spare_bytes(self) -> int:
        """What can be forgotten: everything but the newest message."""
        return self.bytes - len(self._records[-1].raw) if self._records else 0

    def can_serve(self, revision: int) -> bool:
        """True if every change from the revision on is or will be in here; a client that is behind is too slow."""
        return self.ended is None and self.ready.is_set() and revision > self.floor

    def cursor(self, revision: int) -> int:
        """Where a client that wants changes from the revision on has to begin."""
        return self._base + bisect_left(self._records, revision, key=_last)

    def read(self, cursor: int) -> Sequence[HistoryRecord]:
        """The messages from the cursor on that fit one answer; the history must reach back so far."""
        index = cursor - self._base
        size, end = 0, index
        while end < len(self._records):
            size += len(self._records[end].raw)
            if size > self._limits.message_bytes and end > index:
                break
            end += 1
        return self._records[index:end]

    def join(self, wake: Callable[[], None]) -> None:
        """The client is woken at every change."""
        self.clients.add(wake)
        self.unused_since = None

    def leave(self, wake: Callable[[], None]) -> None:
        """The client is not woken any more."""
        self.clients.discard(wake)
        if not self.clients:
            self.unused_since = self._clock.monotonic()

    async def run(self) -> None:
        """Follows upstream until the history is lost or upstream is away too long; then `ended` says why."""
        backoff = Backoff(*BACKOFF_S)
        lost_at: float | None = None
        while self.ended is None:
            position = self.synced
            try:
                await self._follow()
            except (StoreChanged, Denied) as exc:
                self.finish(exc)
                return
            except KvError as exc:
                now = self._clock.monotonic()
                if self.synced != position:
                    lost_at = None
                    backoff.reset()
                lost_at = now if lost_at is None else lost_at
                if now - lost_at > self._limits.outage_s:
                    self.finish(exc)
                    return
            await self._clock.sleep(backoff.next())

    def finish(self, reason: KvError | Denied) -> None:
        """No change will come any more; every client is woken to see it."""
        if self.ended is None:
            self.ended = reason
            self.ready.set()
            self._wake()

    async def _follow(self) -> None:
        start = self.synced + 1 if self.ready.is_set() else await self._first_revision()
        request = pb.WatchCreateRequest(
            key=self.key, range_end=self.range_end, start_revision=start, progress_notify=True
        )
        async with aclosing(self._upstream.watch(request)) as answers:
            async for raw, answer in answers:
                if answer.canceled:
                    self._on_canceled(answer)
                    return
                if answer.created:
                    if answer.header.revision < self.synced:
                        raise StoreChanged("the store went back in time")
                    self._begin(start)
                elif answer.events:
                    self._append(raw, answer)
                else:
                    self.synced = max(self.synced, answer.header.revision)

    async def _first_revision(self) -> int:
        await self._upstream.refresh()
        return max(1, self._upstream.header.revision - HEAD_START + 1)

    def _begin(self, start: int) -> None:
        if not self.ready.is_set():
            self.floor = self.synced = start - 1
            self.ready.set()

    def _on_canceled(self, answer: pb.WatchResponse) -> None:
        """Upstream compacted what we had still to see: the history begins anew, clients behind it are on their own."""
        if not answer.compact_revision:
            raise Unavailable(answer.cancel_reason or "upstream watch canceled")
        self._base = self.end
        self._records.clear()
        self._resize(-self.bytes)
        self.floor = self.synced = max(self.floor, answer.compact_revision)
        self._wake()

    def _append(self, raw: bytes, answer: pb.WatchResponse) -> None:
        record = HistoryRecord(answer.events[0].kv.mod_revision, answer.events[-1].kv.mod_revision, raw)
        self._records.append(record)
        self.synced = record.last
        self.messages += 1
        self._resize(len(raw))
        if self.bytes > self._limits.history_bytes:
            self.trim(self._limits.history_bytes // 2)
        self._wake()

    def trim(self, size: int) -> None:
        """The oldest messages are forgotten until the history has the size; at least one, and never the newest."""
        dropped = freed = 0
        while dropped < len(self._records) - 1 and self.bytes - freed > size:
            freed += len(self._records[dropped].raw)
            dropped += 1
        self._resize(-freed)
        if dropped:
            self.floor = self._records[dropped - 1].last
            self._base += dropped
            del self._records[:dropped]

    def _resize(self, change: int) -> None:
        self.bytes += change
        self._on_resize(change)

    def _wake(self) -> None:
        for wake in list(self.clients):
            wake()


class HubPool:
    """The hubs by range; one that nobody used for a while, or that ended, is replaced when it is asked for again.

    Their histories share one bound: the largest gives way.
    """

    def __init__(self, upstream: Upstream, limits: ClientLimits, clock: Clock) -> None:
        self._upstream, self._limits, self._clock = upstream, limits, clock
        self._hubs: dict[tuple[bytes, bytes], Hub] = {}
        self._tasks: dict[Hub, asyncio.Task[None]] = {}
        self.history_bytes = 0
        upstream.on_store_change.append(self._on_store_change)

    def __len__(self) -> int:
        return len(self._hubs)

    async def hub(self, key: bytes, range_end: bytes, *, owner: str | None = None) -> Hub | None:
        """The shared watch of a range, ready; None if there are too many already, or too many of this owner's."""
        self._drop_unused()
        hub = self._hubs.get((key, range_end))
        if hub is None:
            if len(self._hubs) >= self._limits.shared_watches or not self._has_room(owner):
                return None
            hub = Hub(self._upstream, key, range_end, self._limits, self._clock, owner=owner, on_resize=self._on_resize)
            self._hubs[key, range_end] = hub
            self._tasks[hub] = asyncio.create_task(hub.run(), name="facade hub")
        await hub.ready.wait()
        return hub

    async def close(self) -> None:
        """No upstream watch is open."""
        tasks = list(self._tasks.values())
        self._hubs.clear()
        self._tasks.clear()
        self.history_bytes = 0
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _has_room(self, owner: str | None) -> bool:
        """Whether the owner may have one more; hubs of its own that it left make way at once."""
        if owner is None:
            return True
        owned = [hub for hub in self._hubs.values() if hub.owner == owner]
        if len(owned) < self._limits.shared_watches_per_client:
            return True
        unused = [hub for hub in owned if hub.unused_since is not None and hub.ready.is_set()]
        for hub in unused:
            self._drop(hub)
        return bool(unused)

    def _drop_unused(self) -> None:
        before = self._clock.monotonic() - self._limits.linger_s
        for hub in list(self._hubs.values()):
            is_unused = hub.unused_since is not None and hub.unused_since < before
            if is_unused or hub.ended is not None:
                self._drop(hub)

    def _drop(self, hub: Hub) -> None:
        """The hub is gone; who is about to join it sees that it has ended."""
        del self._hubs[hub.key, hub.range_end]
        self._tasks.pop(hub).cancel()
        self.history_bytes -= hub.bytes
        hub.finish(Unavailable("shared watch not used any more"))

    def _on_resize(self, change: int) -> None:
        """Over the bound, histories without readers are dropped first, then the largest ones are shortened."""
        self.history_bytes += change
        limit = self._limits.history_bytes_total
        if change <= 0 or self.history_bytes <= limit:
            return
        for hub in [hub for hub in self._hubs.values() if hub.unused_since is not None and hub.ready.is_set()]:
            self._drop(hub)
        while self.history_bytes > limit:
            largest = max(self._hubs.values(), key=_spare_bytes)
            if not largest.spare_bytes:
                return
            largest.trim(largest.bytes // 2)

    def _on_store_change(self) -> None:
        for hub in self._hubs.values():
            hub.finish(StoreChanged("the store was replaced"))


def _spare_bytes(hub: Hub) -> int:
    return hub.spare_bytes


def _last(record: HistoryRecord) -> int:
    return record.last
