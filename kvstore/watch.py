# SPDX-License-Identifier: Apache-2.0
"""List, then watch, then list again only when history is lost: one loop for every store and every prefix.

The store below is seen through `WatchSource`, so the in-memory twin runs this very loop.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import NamedTuple, Protocol

from kvstore.errors import Compacted, Denied, KvError, Oversized, StoreChanged, Unavailable
from kvstore.options import Options
from kvstore.store import Batch, ChangeKind, Event, Phase, prefix_end
from meshkit.backoff import Backoff
from meshkit.clock import Clock

log = logging.getLogger(__name__)


class Message(NamedTuple):
    """One answer on a watch stream."""

    created: bool
    canceled: bool
    compact_revision: int
    reason: str
    cluster_id: int
    revision: int
    events: Sequence[Event]


class Listed(NamedTuple):
    """A part of a listing, as events."""

    events: Sequence[Event]
    revision: int
    cluster_id: int


class Probe(NamedTuple):
    """Whether a key exists, and in which store at which revision."""

    exists: bool
    revision: int
    cluster_id: int


class WatchSource(Protocol):
    """What a store must offer for list-and-watch."""

    def listing(self, prefix: bytes) -> AsyncGenerator[Listed, None]:
        """The parts of a listing as of one revision."""
        ...

    def watch(self, key: bytes, range_end: bytes, start_revision: int) -> AsyncGenerator[Message, None]:
        """The answers of one watch; raises a KvError when the stream ends."""
        ...

    async def probe(self, key: bytes) -> Probe:
        """Whether the key exists now."""
        ...


class PrefixFollower:
    """Follows one prefix for ever; with a canary key, lists only a store that has it."""

    def __init__(
        self, source: WatchSource, prefix: bytes, canary: bytes | None, options: Options, *, clock: Clock
    ) -> None:
        self._source, self._prefix, self._canary = source, prefix, canary
        self._replay_limit, self._clock = options.replay_limit, clock
        self._backoff = Backoff(options.backoff_minimum_s, options.backoff_maximum_s, options.rng)
        self._seen, self._cluster_id = 0, 0
        self._must_list, self._is_standing = True, False

    async def run(self) -> AsyncGenerator[Batch, None]:
        """Never ends by itself; raises Denied only."""
        error: KvError
        while True:
            try:
                if self._must_list:
                    async with aclosing(self._list()) as batches:
                        async for batch in batches:
                            yield batch
                async with aclosing(self._watch()) as batches:
                    async for batch in batches:
                        yield batch
            except (Compacted, StoreChanged, Oversized) as exc:
                self._must_list, error = True, exc
            except KvError as exc:
                error = exc
            delay_s = self._backoff.next()
            log.debug("watch interrupted", extra={"key": self._name, "error": repr(error), "delay_s": delay_s})
            if self._is_standing:
                self._is_standing = False
                yield Batch(Phase.INTERRUPTED, (), self._seen)
            await self._clock.sleep(delay_s)

    @property
    def _name(self) -> str:
        return self._prefix.decode("utf-8", "replace")

    async def _list(self) -> AsyncGenerator[Batch, None]:
        gate = await self._wait_for_canary()
        revision = cluster_id = 0
        async with aclosing(self._source.listing(self._prefix)) as parts:
            async for part in parts:
                if not cluster_id:
                    revision, cluster_id = part.revision, part.cluster_id
                    if gate is not None and (gate.cluster_id != cluster_id or gate.revision > revision):
                        raise StoreChanged("the store was replaced before it could be listed")
                    self._is_standing = True
                    yield Batch(Phase.LISTING, (), revision)
                elif part.cluster_id != cluster_id:
                    raise StoreChanged("the store was replaced while it was listed")
                yield Batch(Phase.CHANGES, part.events, revision)
        self._seen, self._cluster_id, self._must_list = revision, cluster_id, False
        yield Batch(Phase.LISTED, (), revision)

    async def _wait_for_canary(self) -> Probe | None:
        if self._canary is None:
            return None
        while True:
            probe = await self._source.probe(self._canary)
            if probe.exists:
                return probe
            async with aclosing(self._source.watch(self._canary, b"", probe.revision + 1)) as messages:
                async for message in messages:
                    _check_canceled(message)
                    if message.created and (
                        message.cluster_id != probe.cluster_id or message.revision < probe.revision
                    ):
                        raise StoreChanged("the store was replaced before it was filled")
                    if any(event.kind is ChangeKind.PUT for event in message.events):
                        break

    async def _watch(self) -> AsyncGenerator[Batch, None]:
        source = self._source.watch(self._prefix, prefix_end(self._prefix), self._seen + 1)
        async with aclosing(source) as messages:
            async for message in messages:
                _check_canceled(message)
                if message.created:
                    self._check_position(message)
                    self._backoff.reset()
                    self._is_standing = True
                    yield Batch(Phase.CHANGES, (), self._seen)
                if message.events:
                    # a header carries the store's revision, so only events tell how far we are
                    self._seen = message.events[-1].revision
                    yield Batch(Phase.CHANGES, message.events, self._seen)
                elif not message.created:
                    self._seen = max(self._seen, message.revision)  # a progress notice, sent to caught-up watches only
        raise Unavailable("watch ended")

    def _check_position(self, message: Message) -> None:
        if message.cluster_id != self._cluster_id:
            raise StoreChanged("another store answers")
        if message.revision < self._seen:
            raise StoreChanged("the store went back in time")
        if message.revision - self._seen > self._replay_limit:
            raise Compacted


def _check_canceled(message: Message) -> None:
    if not message.canceled:
        return
    if message.compact_revision:
        raise Compacted(message.compact_revision)
    if "permission" in message.reason.lower():
        raise Denied(message.reason)
    raise Unavailable(message.reason or "watch canceled")
