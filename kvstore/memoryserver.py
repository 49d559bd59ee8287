# SPDX-License-Identifier: Apache-2.0
"""A key-value store in memory that behaves as etcd does: revisions, history, compaction, leases, watches, faults."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from kvstore.errors import Compacted, Denied, KvError, LeaseLost, Rejected, Unavailable
from kvstore.store import OPEN_END, ChangeKind, Entry, Event, lease_by_key
from meshkit.clock import Clock, SystemClock

FIRST_CLUSTER_ID: Final = 0xC1


@dataclass(slots=True)
class Lease:
    """One lease and the keys attached to it."""

    ttl_s: float
    expires_at: float
    keys: set[bytes] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class StoreBackup:
    """A backup of a store. `leases` are times to live in seconds and attached keys, by lease."""

    revision: int
    entries: Mapping[bytes, Entry]
    leases: Mapping[int, tuple[float, frozenset[bytes]]]
    next_lease: int


class MemoryServer:
    """The server side; any number of MemoryStores talk to it. Faults are switched here."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock: Clock = clock or SystemClock()
        self.cluster_id, self.revision, self.compacted = FIRST_CLUSTER_ID, 1, 0
        self.entries: dict[bytes, Entry] = {}
        self.history: list[Event] = []
        self.leases: dict[int, Lease] = {}
        self.is_up = True
        self.denied: set[bytes] = set()
        self.writes = 0
        self.failures: list[KvError] = []
        self.cut_after_events: int | None = None
        self.connections = 0
        self._next_lease = 1
        self._wakers: dict[asyncio.Event, tuple[bytes, bytes]] = {}

    # ---- requests

    def enter(self, key: bytes = b"", *, is_write: bool = False) -> None:
        """A request arrives: fail it if a fault says so, let leases expire first."""
        if not self.is_up:
            raise Unavailable("the store is down")
        if is_write and self.failures:
            raise self.failures.pop(0)
        if self.denied and key.startswith(tuple(self.denied)):
            raise Denied("etcdserver: permission denied")
        self.expire()

    def commit(self, ops: Mapping[bytes, bytes | None], lease: int | Mapping[bytes, int]) -> int:
        """All operations happened at one new revision."""
        lease_of = lease_by_key(ops, lease)
        for each in lease_of.values():
            if each and each not in self.leases:
                raise LeaseLost(each)
        if b"" in ops:
            raise Rejected("etcdserver: key is not provided")
        if not any(value is not None or key in self.entries for key, value in ops.items()):
            return self.revision
        self.writes += 1
        self.revision += 1
        for key, value in ops.items():
            self._set(key, value, lease_of.get(key, 0))
        for waker, (start, end) in self._wakers.items():
            for key in ops:
                if is_inside(key, start, end):
                    waker.set()
                    break
        return self.revision

    def select(self, key: bytes, range_end: bytes) -> list[Entry]:
        """The entries of a range, in the order of their keys."""
        if not range_end:
            return [self.entries[key]] if key in self.entries else []
        if range_end == OPEN_END:
            found = [each for each in self.entries if key <= each]
        else:
            found = [each for each in self.entries if key <= each < range_end]
        return [self.entries[each] for each in sorted(found)]

    def since(self, revision: int) -> list[Event]:
        """The history from a revision on."""
        return self.history[bisect_left(self.history, revision, key=_revision) :]

    # ---- leases

    def grant(self, ttl_s: float) -> int:
        """The id of a new lease."""
        lease, self._next_lease = self._next_lease, self._next_lease + 1
        self.leases[lease] = Lease(ttl_s, self.clock.monotonic() + ttl_s)
        return lease

    def keep_alive(self, lease: int) -> float:
        """The lease's new time to live, 0 if it is gone."""
        held = self.leases.get(lease)
        if held is None:
            return 0.0
        held.expires_at = self.clock.monotonic() + held.ttl_s
        return held.ttl_s

    def revoke(self, lease: int) -> None:
        """The lease and its keys are gone, in one revision."""
        held = self.leases.pop(lease, None)
        if held is not None and held.keys:
            self.commit(dict.fromkeys(held.keys), 0)

    def expire(self) -> None:
        """Leases whose time is over are revoked."""
        now = self.clock.monotonic()
        for lease in [lease for lease, held in self.leases.items() if held.expires_at <= now]:
            self.revoke(lease)

    # ---- faults

    def stop(self) -> None:
        """As kill -9: every stream breaks, no call gets through, nothing is lost."""
        self.is_up = False
        self.connections += 1
        self.wake()

    def start(self) -> None:
        """Back up with what was there."""
        self.is_up = True

    def cut(self) -> None:
        """Every open stream breaks once; new ones work."""
        self.stop()
        self.start()

    def wipe(self, *, keep_id: bool = False) -> None:
        """Restarted with an empty data directory; its id is new unless the bootstrap flags were the same."""
        self.stop()
        if not keep_id:
            self.cluster_id += 1
        self.revision, self.compacted = 1, 0
        self.entries, self.history, self.leases = {}, [], {}
        self.start()

    def snapshot(self) -> StoreBackup:
        """What a backup taken now holds."""
        leases = {number: (held.ttl_s, frozenset(held.keys)) for number, held in self.leases.items()}
        return StoreBackup(self.revision, dict(self.entries), leases, self._next_lease)

    def restore(self, snapshot: StoreBackup, *, keep_id: bool = True, bump: int = 0) -> None:
        """Restarted from a backup: its keys, no history, and leases that live their full time again.

        The id stays if the bootstrap flags were the same. The revision is the backup's and `bump`, as with
        `etcdutl snapshot restore --bump-revision --mark-compacted`; without, who did not hear of it misses changes.
        """
        self.wipe(keep_id=keep_id)
        now = self.clock.monotonic()
        self.revision = self.compacted = snapshot.revision + bump
        self.entries, self._next_lease = dict(snapshot.entries), snapshot.next_lease
        self.leases = {
            number: Lease(ttl_s, now + ttl_s, set(keys)) for number, (ttl_s, keys) in snapshot.leases.items()
        }

    def compact(self, revision: int | None = None) -> None:
        """History before the revision (now, if None) is gone."""
        self.compacted = self.revision if revision is None else revision
        self.history = self.since(self.compacted)

    # ---- watches

    def subscribe(self, waker: asyncio.Event, key: bytes, range_end: bytes) -> Callable[[], None]:
        """The event is set on every change in the range and every fault until the returned function is called."""
        self._wakers[waker] = (key, range_end)

        def leave() -> None:
            self._wakers.pop(waker, None)

        return leave

    def wake(self) -> None:
        """Everybody who waits looks again."""
        for waker in self._wakers:
            waker.set()

    def check_history(self, revision: int) -> None:
        """Raises Compacted if changes from the revision on are not complete any more."""
        if revision < self.compacted:
            raise Compacted(self.compacted)

    def _set(self, key: bytes, value: bytes | None, lease: int) -> None:
        before = self.entries.pop(key, None)
        if before is not None and before.lease in self.leases:
            self.leases[before.lease].keys.discard(key)
        if value is None:
            if before is not None:
                self.history.append(Event(ChangeKind.DELETE, key, b"", self.revision))
            return
        if lease:
            self.leases[lease].keys.add(key)
        self.entries[key] = Entry(key, value, self.revision, lease)
        self.history.append(Event(ChangeKind.PUT, key, value, self.revision))


def is_inside(key: bytes, start: bytes, range_end: bytes) -> bool:
    """True if a key lies in [start, range_end), open-ended for `\\0`, the one key for an empty end."""
    if not range_end:
        return key == start
    return key >= start and (range_end == OPEN_END or key < range_end)


def _revision(event: Event) -> int:
    return event.revision
