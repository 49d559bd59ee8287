# SPDX-License-Identifier: Apache-2.0
"""One prefix of a store as decoded values in memory, kept equal through every interruption."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from types import MappingProxyType
from typing import Final, Generic, Protocol, TypeVar

from kvstore.store import Batch, ChangeKind, Event, Phase, Store

log = logging.getLogger(__name__)

SLICE_EVENTS: Final = 2000
LOGGED_REJECTS: Final = 10

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
T_contra = TypeVar("T_contra", contravariant=True)


class Codec(Protocol[T_co]):
    """Turns a key (without the prefix) and its bytes into a value; raises ValueError for what it cannot believe."""

    def decode(self, key: bytes, value: bytes) -> T_co:
        """The value."""
        ...


class Observer(Protocol[T_contra]):
    """Is told every change of a known value, once."""

    def upsert(self, key: bytes, value: T_contra) -> None:
        """The key has this value now; never called twice in a row with an equal one."""
        ...

    def delete(self, key: bytes, value: T_contra) -> None:
        """The key is gone; `value` is what was known."""
        ...


class WatchStore(Generic[T]):
    """The values under one prefix.

    A listing makes everything known suspect; what it does not mention is deleted when it ends, not before. A lost
    connection deletes nothing. A value that cannot be decoded is counted in `rejected` and treated as absent.
    """

    def __init__(self, codec: Codec[T], observer: Observer[T], *, on_slice: Callable[[], None] | None = None) -> None:
        self._codec, self._observer, self._on_slice = codec, observer, on_slice
        self._entries: dict[bytes, T] = {}
        self._suspects: set[bytes] = set()
        self._is_running = False
        self.synced = asyncio.Event()
        self.is_connected = False
        self.rejected: Counter[str] = Counter()
        self.lists = 0
        self.revision = 0

    @property
    def entries(self) -> Mapping[bytes, T]:
        """What is known now, by key without the prefix."""
        return MappingProxyType(self._entries)

    async def run(self, store: Store, prefix: bytes, *, canary: bytes | None = None) -> None:
        """Follow the prefix until cancelled; may be run again on another store, what is known stays meanwhile.

        Raises: Denied if the store does not let us read.
        """
        if self._is_running:
            raise RuntimeError("this watch store is running already")
        self._is_running = True
        try:
            async with aclosing(store.list_and_watch(prefix, canary=canary)) as batches:
                async for batch in batches:
                    await self._take(batch, len(prefix))
        finally:
            self._is_running = self.is_connected = False
            self.synced.clear()

    def drain(self) -> None:
        """Everything known is deleted: for a cluster that was removed, or lost for longer than its grace time."""
        if self._is_running:
            raise RuntimeError("a running watch store is not drained")
        for key in list(self._entries):
            self._drop(key)
        self._suspects.clear()
        self._end_slice()

    async def _take(self, batch: Batch, cut: int) -> None:
        self.is_connected = batch.phase is not Phase.INTERRUPTED
        if batch.phase is Phase.LISTING:
            self._suspects = set(self._entries)
            self.lists += 1
        for start in range(0, len(batch.events), SLICE_EVENTS):
            if start:
                await asyncio.sleep(0)  # a large listing must not stall the rest of the program
            self._apply(batch.events[start : start + SLICE_EVENTS], cut)
            self._end_slice()
        self.revision = max(self.revision, batch.revision) if batch.phase is Phase.CHANGES else batch.revision
        if batch.phase is Phase.LISTED:
            for key in self._suspects:
                self._drop(key)
            self._suspects = set()
            self._end_slice()
            self.synced.set()

    def _apply(self, events: Sequence[Event], cut: int) -> None:
        suspects, entries, decode = self._suspects, self._entries, self._codec.decode
        for kind, full_key, raw, _ in events:
            key = full_key[cut:]
            suspects.discard(key)
            if kind is ChangeKind.DELETE:
                self._drop(key)
                continue
            try:
                value = decode(key, raw)
            except ValueError as exc:
                self._reject(key, exc)
                continue
            if entries.get(key) != value:
                entries[key] = value
                self._observer.upsert(key, value)

    def _reject(self, key: bytes, exc: ValueError) -> None:
        reason = str(getattr(exc, "reason", "undecodable"))
        self.rejected[reason] += 1
        if self.rejected[reason] <= LOGGED_REJECTS:
            facts = {"key": key[:256].decode("utf-8", "replace"), "reason": reason}
            log.warning("record rejected", extra=facts)
        self._drop(key)

    def _drop(self, key: bytes) -> None:
        if key in self._entries:
            self._observer.delete(key, self._entries.pop(key))

    def _end_slice(self) -> None:
        if self._on_slice is not None:
            self._on_slice()
