# SPDX-License-Identifier: Apache-2.0
"""Wanted state under one prefix, kept equal in the store: coalesced, in transactions, on leases, retried for ever."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from itertools import islice
from typing import Final

from kvstore.errors import Denied, KvError, LeaseLost, Rejected
from kvstore.joined import MAX_TXN_BYTES, JoinedWrites
from kvstore.lease import LeaseSession
from kvstore.limiter import Limiter
from kvstore.store import MAX_TXN_OPS, Entry, Store
from meshkit.backoff import Backoff
from meshkit.clock import Clock, SystemClock
from meshkit.errors import MAXIMUM_TEXT

log = logging.getLogger(__name__)

# of every transaction, so that a stream of updates never keeps the first listing from being finished
BULK_SHARE: Final = 32
BACKOFF_S: Final = (0.1, 5.0)


class SharedStore:
    """The writer of one prefix: say what should be there, `run` makes it so.

    Three queues, emptied in this order: deletes, updates, and bulk (the first listing, and everything again after a
    loss); a key is in one of them at most, and its newest value is what gets written. Once everything wanted at
    `mark_synced` is written, the canary key is, and `synced` is set.

    With `joined`, transactions are shared with the other writers of the same store.

    `read_back` finds what somebody else changed under the prefix, and has it written again; `repaired` counts that.
    """

    def __init__(
        self,
        store: Store,
        session: LeaseSession | None,
        prefix: bytes,
        canary_key: bytes | None = None,
        *,
        canary_value: Callable[[], bytes] = lambda: b"true",
        limiter: Limiter | None = None,
        clock: Clock | None = None,
        joined: JoinedWrites | None = None,
    ) -> None:
        self._store, self._session, self._prefix = store, session, prefix
        self._writes = joined or store
        self._canary_key, self._canary_value = canary_key, canary_value
        self._limiter, self._clock = limiter or Limiter(), clock or SystemClock()
        self._wanted: dict[bytes, bytes] = {}
        self._deletes: dict[bytes, None] = {}
        self._updates: dict[bytes, None] = {}
        self._bulk: dict[bytes, None] = {}
        self._wake = asyncio.Event()
        self._is_marked = self._is_canary_due = False
        self.synced = asyncio.Event()
        self.rejected: Counter[str] = Counter()
        self._rejected_keys: set[bytes] = set()
        self.transactions = self.writes = self.failures = self.repaired = 0
        self._clean_revision = self._foreign = 0
        self._settled: list[set[bytes]] = []
        self.last_error = ""
        store.on_store_change.append(self._forget_revision)
        store.on_break.append(self._forget_revision)
        if session is not None:
            session.on_loss.append(self._on_loss)
        else:
            store.on_store_change.append(self.rewrite)

    @property
    def wanted(self) -> Mapping[bytes, bytes]:
        """What should be in the store, by key without the prefix."""
        return self._wanted

    @property
    def pending(self) -> int:
        """How many keys are not written yet."""
        return len(self._deletes) + len(self._updates) + len(self._bulk)

    def upsert(self, key: bytes, value: bytes) -> None:
        """The key should have the value; nothing happens if it does already."""
        if self._wanted.get(key) == value:
            return
        self._wanted[key] = value
        self._rejected_keys.discard(key)
        self._deletes.pop(key, None)
        if self._is_marked and key not in self._bulk:
            self._updates[key] = None
        elif key not in self._updates:
            self._bulk[key] = None
        self._wake.set()

    def delete(self, key: bytes) -> None:
        """The key should not exist; nothing happens if it was never wanted."""
        if self._wanted.pop(key, None) is None:
            return
        self._rejected_keys.discard(key)
        self._updates.pop(key, None)
        self._bulk.pop(key, None)
        self._deletes[key] = None
        self._wake.set()

    def mark_synced(self) -> None:
        """The source's first listing is complete: everything wanted now is what the canary stands for."""
        if not self._is_marked:
            self._is_marked = self._is_canary_due = True
            self._wake.set()

    def rewrite(self) -> None:
        """Everything wanted is written again, and the canary after it: the store may have lost any of it."""
        self._bulk.update(dict.fromkeys(key for key in self._wanted if key not in self._updates))
        self._is_canary_due = self._is_marked
        self._wake.set()

    async def read_back(self, *, is_shared: bool = False) -> int:
        """What is under the prefix is what is wanted, or will be: returns how many keys somebody else had changed.

        Foreign keys are removed, unless the prefix `is_shared` with other writers: then they are theirs, but for those that
        hang on a lease of ours, which a backup of the store has brought back. A key of ours on somebody else's lease would end
        with that: where nobody else writes it is written again; where others do the lease may be that of another replica.
        Costs one question if all that changed since the last look was our doing, else a listing. Nothing is judged before
        `synced`, and no key that is being written just now.
        Raises: KvError or Denied.
        """
        if not self.synced.is_set():
            return 0
        with self._settling() as settled:
            if await self._is_as_left(settled, is_shared=is_shared):
                return await self._read_back_canary(is_shared=is_shared)
            found, revision = await self._read_all()
        moving = {*settled, *self._queued(), *self._rejected_keys}
        hangs = self._hangs_right(is_shared=is_shared)
        wrong = [key for key in self._wanted if key not in moving and not self._is_right(key, found.get(key), hangs)]
        foreign = [key for key in found if key not in self._wanted and key not in moving]
        if is_shared:
            ours = set(self._session.leases) if self._session is not None else set()
            theirs = len(foreign)
            foreign = [key for key in foreign if found[key].lease in ours]
            self._foreign = theirs - len(foreign)
        if not wrong and not foreign and not moving - self._rejected_keys:
            self._clean_revision = revision
        self._updates.update(dict.fromkeys(wrong))
        self._deletes.update(dict.fromkeys(foreign))
        self.repaired += len(wrong) + len(foreign)
        if wrong or foreign:
            self._wake.set()
        return len(wrong) + len(foreign) + await self._read_back_canary(is_shared=is_shared)

    async def _is_as_left(self, settled: set[bytes], *, is_shared: bool) -> bool:
        """True if there are as many keys as there should be, and what changed since all was right is as wanted."""
        if not self._clean_revision:
            return False
        changes = await self._store.changed_since(self._prefix, self._clean_revision)
        if settled or self.pending or not changes.is_complete:
            return False
        if changes.revision < self._clean_revision:
            return False  # the store went back in time
        if changes.key_count != len(self._wanted) - len(self._rejected_keys) + self._foreign:
            return False
        hangs = self._hangs_right(is_shared=is_shared)
        if not all(self._is_right(entry.key[len(self._prefix) :], entry, hangs) for entry in changes.entries):
            return False
        self._clean_revision = changes.revision
        return True

    def _is_right(self, key: bytes, entry: Entry | None, hangs: Callable[[int], bool]) -> bool:
        """Whether the key has its value, on a lease that is right."""
        return entry is not None and entry.value == self._wanted.get(key) and hangs(entry.lease)

    def _hangs_right(self, *, is_shared: bool) -> Callable[[int], bool]:
        """Whether a key of ours may hang on a lease: without one it would outlive us, on a foreign one end without us."""
        if self._session is None:
            return lambda _lease: True
        if is_shared:
            return lambda lease: lease != 0
        return frozenset(self._session.leases).__contains__

    def _queued(self) -> Iterator[bytes]:
        yield from (*self._deletes, *self._updates, *self._bulk)

    async def _read_all(self) -> tuple[dict[bytes, Entry], int]:
        """Every key under the prefix, and the revision of the listing."""
        found: dict[bytes, Entry] = {}
        revision = 0
        async with aclosing(self._store.list(self._prefix)) as pages:
            async for page in pages:
                revision = page.revision
                found |= {entry.key[len(self._prefix) :]: entry for entry in page.entries}
        return found, revision

    @contextmanager
    def _settling(self) -> Iterator[set[bytes]]:
        """The keys that are written or deleted while the context lasts."""
        settled = set[bytes]()
        self._settled.append(settled)
        try:
            yield settled
        finally:
            self._settled = [each for each in self._settled if each is not settled]

    async def _read_back_canary(self, *, is_shared: bool) -> int:
        if self._canary_key is None or self._is_canary_due:
            return 0
        found = await self._store.get(self._canary_key)
        if self._is_canary_due or (found is not None and self._hangs_right(is_shared=is_shared)(found.lease)):
            return 0
        self._is_canary_due = True
        self.repaired += 1
        self._wake.set()
        return 1

    async def run(self) -> None:
        """The store becomes what is wanted and stays so, until cancelled."""
        backoff = Backoff(*BACKOFF_S, self._session.rng if self._session is not None else None)
        while True:
            if not self.pending and not self._is_canary_due:
                self._wake.clear()
                await self._wake.wait()
            try:
                await self._round()
                backoff.reset()
                self.last_error = ""
            except (KvError, Denied) as exc:
                self.failures += 1
                self.last_error = str(exc)
                delay_s = backoff.next()
                log.debug("publishing failed", extra={"key": self._name, "error": repr(exc), "delay_s": delay_s})
                await self._clock.sleep(delay_s)

    @property
    def _name(self) -> str:
        return self._prefix.decode("utf-8", "replace")

    async def _round(self) -> None:
        if self._is_canary_due and not self._bulk and not self._deletes:
            await self._write_canary()
            return
        keys = self._next_keys()
        await self._limiter.take(len(keys))
        ops = {key: self._wanted.get(key) for key in keys}
        await self._apply(ops, await self._leases(ops))

    def _next_keys(self) -> list[bytes]:
        """The most urgent keys that fit one transaction; they stay queued until they are written."""
        urgent = MAX_TXN_OPS - min(BULK_SHARE, len(self._bulk))
        keys = list(islice(self._deletes, urgent))
        keys += islice(self._updates, urgent - len(keys))
        keys += islice(self._bulk, MAX_TXN_OPS - len(keys))
        size = 0
        for index, key in enumerate(keys):
            size += len(self._prefix) + len(key) + len(self._wanted.get(key, b""))
            if size > MAX_TXN_BYTES and index:
                return keys[:index]
        return keys

    async def _leases(self, ops: Mapping[bytes, bytes | None]) -> Mapping[bytes, int]:
        """What each key to be put hangs on, by the key in the store."""
        if self._session is None:
            return {}
        bound = await self._session.bind(self._prefix + key for key, value in ops.items() if value is not None)
        return {key: lease for lease, keys in bound.items() for key in keys}

    async def _apply(self, ops: Mapping[bytes, bytes | None], leases: Mapping[bytes, int]) -> None:
        used = {leases.get(self._prefix + key, 0) for key in ops}
        try:
            changes = {self._prefix + key: value for key, value in ops.items()}
            await self._writes.apply(changes, lease=leases)
        except LeaseLost:
            if len(used) > 1:
                await self._apply_by_lease(ops, leases)
                return
            if self._session is not None:
                self._session.report_lost(used.pop())
            raise
        except Rejected as exc:
            await self._apply_one_by_one(ops, leases, exc)
            return
        if self._session is not None and not used - {0} <= set(self._session.leases):
            raise LeaseLost  # lost while the answer was on its way: written, and gone again
        self.transactions += 1
        self._settle(ops)

    async def _apply_by_lease(self, ops: Mapping[bytes, bytes | None], leases: Mapping[bytes, int]) -> None:
        """The store does not say which lease is gone: what hangs on the others is written, and the lost ones are found."""
        groups: dict[int, dict[bytes, bytes | None]] = {}
        for key, value in ops.items():
            groups.setdefault(leases.get(self._prefix + key, 0), {})[key] = value
        lost: LeaseLost | None = None
        for lease, group in groups.items():
            try:
                await self._apply(group, {self._prefix + key: lease for key in group})
            except LeaseLost as exc:
                lost = exc
        if lost is not None:
            raise lost

    async def _apply_one_by_one(
        self, ops: Mapping[bytes, bytes | None], leases: Mapping[bytes, int], reason: Rejected
    ) -> None:
        """One bad record must not keep the others from being published: it is counted, said, and left out."""
        if len(ops) == 1:
            (key,) = ops
            self.rejected[str(reason)] += 1
            if key in self._wanted:
                self._rejected_keys.add(key)
            facts = {"key": (self._prefix + key)[:MAXIMUM_TEXT].decode("utf-8", "replace"), "reason": str(reason)}
            log.warning("record rejected by the store", extra=facts)
            self._settle(ops)
            return
        for key, value in ops.items():
            full = self._prefix + key
            await self._apply({key: value}, {full: leases[full]} if full in leases else {})

    def _settle(self, written: Mapping[bytes, bytes | None]) -> None:
        """Written keys leave their queue, unless they were changed again meanwhile."""
        self.writes += len(written)
        for settled in self._settled:
            settled.update(written)
        for key, value in written.items():
            if value is None and self._session is not None and key not in self._wanted:
                self._session.release(self._prefix + key)
            if self._wanted.get(key) == value:
                for queue in (self._deletes, self._updates, self._bulk):
                    queue.pop(key, None)

    async def _write_canary(self) -> None:
        self._is_canary_due = False
        if self._canary_key is not None:
            try:
                lease = await self._canary_lease(self._canary_key)
                await self._store.put(self._canary_key, self._canary_value(), lease=lease)
            except LeaseLost:
                self._is_canary_due = True
                if self._session is not None:
                    self._session.report_lost(lease)
                raise
            except (KvError, Denied):
                self._is_canary_due = True
                raise
        self.synced.set()

    async def _canary_lease(self, key: bytes) -> int:
        if self._session is None:
            return 0
        return next(iter(await self._session.bind([key])))

    def _forget_revision(self) -> None:
        self._clean_revision = 0

    def _on_loss(self, lost: frozenset[bytes]) -> None:
        cut = len(self._prefix)
        mine = [key[cut:] for key in lost if key.startswith(self._prefix)]
        self._bulk.update(dict.fromkeys(key for key in mine if key in self._wanted and key not in self._updates))
        if mine or self._canary_key in lost:
            self._is_canary_due = self._is_marked
            self._wake.set()
