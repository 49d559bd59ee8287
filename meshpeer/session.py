# SPDX-License-Identifier: Apache-2.0
"""One attempt to follow one cluster's store: connect, judge its configuration, then list and watch every kind of record.

An attempt ends by raising, and only then; the follower tries again. What is known outlives it. Ways it ends: the store cannot
be connected to or denies a stream; no configuration in time, one that cannot be read, or one that is refused; the configuration
changed or was removed; the heartbeat was silent for too long; no stream stood for too long; the consumer failed; cancelled.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from kvstore.errors import Denied, KvError
from kvstore.store import Batch, Event, Phase, Store
from meshkit.clock import Clock
from meshkit.errors import MeshError, TransientError
from meshkit.task_group import TaskGroup
from meshkit.wake import Wake, wait_for_ring
from meshmodel import cluster_config, keys, private_keys
from meshmodel.cluster_config import ClusterConfig
from meshmodel.keys import Kind
from meshmodel.names import ClusterName
from meshpeer.caps import UNLIMITED, Caps
from meshpeer.consumer import Change, Consumer
from meshpeer.followed import FollowedCluster
from meshpeer.kinds import OWN_KINDS, backends_once, offered_kinds
from meshpeer.pace import BEATS, Pace
from meshpeer.record_views import RecordViews
from meshpeer.signals import SignalLimits, Streams, why_config_ends, why_over
from meshpeer.turns import EVENTS_PER_TURN, cost_of, turns

log = logging.getLogger(__name__)

CONFIG_WAIT_S: Final = 180.0
CONFIG_STEP_S: Final = (0.25, 1.0)
CONFIG_RECHECK_S: Final = 10.0
NODES_FIRST_S: Final = 5.0
CLOSE_WAIT_S: Final = 5.0
TICK_S: Final = 1.0
RELIST_S: Final = 60.0

Connect = Callable[[], Awaitable[Store]]
Accept = Callable[[ClusterName, ClusterConfig], Sequence[str]]


class Follow(Protocol):
    """Begins to follow one part of a kind."""

    def __call__(self, kind: Kind, *, is_private: bool = False) -> None: ...


class SessionEndedError(TransientError):
    """The attempt is over; what was known stays known."""


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """How stores are followed.

    `everything` follows every kind the cluster publishes, else backends are read in one form (see `kinds`). Other kinds wait
    `nodes_first_s` at most for the first listing of nodes, for consumers that judge records by the cluster's nodes. `caps` hold
    for each peer, `total_bytes` for all of them together; neither for the own cluster.
    """

    prefer_slices: bool = False
    everything: bool = False
    nodes_first_s: float = NODES_FIRST_S
    config_wait_s: float = CONFIG_WAIT_S
    config_recheck_s: float = CONFIG_RECHECK_S
    limits: SignalLimits = field(default_factory=SignalLimits)
    caps: Caps = field(default_factory=Caps)
    total_bytes: float = math.inf


class RecordStream(NamedTuple):
    """One prefix that is followed; `is_private` is the part of the own cluster's store that peers cannot read."""

    kind: Kind
    prefix: bytes
    canary: bytes | None
    is_private: bool = False

    @property
    def name(self) -> str:
        return f"private {self.kind}" if self.is_private else str(self.kind)


class Session:
    """Runs one attempt at a time for one cluster. `views` and `state` live as long as the cluster is configured."""

    def __init__(
        self,
        state: FollowedCluster,
        consumer: Consumer,
        views: RecordViews,
        *,
        connect: Connect,
        accept: Accept,
        clock: Clock,
        options: SessionOptions,
    ) -> None:
        self._state, self._consumer, self._views = state, consumer, views
        self._connect, self._accept, self._clock, self._options = connect, accept, clock, options
        self._streams = Streams(clock.monotonic())
        self._recheck, self._was_listed = Wake(), Wake()
        self._following: dict[tuple[Kind, bool], asyncio.Task[None]] = {}
        self._listed_s: dict[Kind, float] = {}
        caps = UNLIMITED if state.is_own else options.caps
        self._pace = Pace(state, caps, clock)
        self._beats = Pace(state, UNLIMITED if state.is_own else BEATS, clock)

    async def run(self) -> None:
        """Follow the cluster until the attempt is over. Raises: MeshError, OSError, or what the consumer raised."""
        self._streams = Streams(self._clock.monotonic())
        self._following.clear()
        self._listed_s.clear()
        store = await self._connect()
        try:
            config = await self._fetch_config(store)
            await self._begin(config)
            self._note_store(store)
            await self._follow(store, config)
        finally:
            self._state.lose(self._clock.monotonic(), "session ended")
            await _close(store, self._state.name)

    # ---- configuration

    async def _fetch_config(self, store: Store) -> ClusterConfig:
        """The cluster's configuration record; waits for it, since a starting cluster has none yet."""
        deadline_s = self._clock.monotonic() + self._options.config_wait_s
        step_s, longest_s = CONFIG_STEP_S
        while True:
            found = await read_config(store, self._state.name)
            if found is not None:
                return found
            self._state.reason = "waiting for the cluster configuration to be published"
            if self._clock.monotonic() + step_s > deadline_s:
                raise SessionEndedError(f"no cluster configuration within {self._options.config_wait_s:g} s")
            await self._clock.sleep(step_s)
            step_s = min(step_s * 2, longest_s)

    async def _begin(self, config: ClusterConfig) -> None:
        """Nothing of a former id is left before the new one is asked for."""
        state = self._state
        if state.config is not None and state.config.id != config.id:
            log.warning("cluster id changed, draining", extra={"peer": state.name})
            self._consumer.drain()
            self._views.keep(())
            state.forget()
        state.warnings = tuple(self._accept(state.name, config))
        kinds = self._kinds(config)
        self._views.keep(kinds)
        await self._consumer.begin(config, kinds)
        state.begin(config, kinds)

    def _kinds(self, config: ClusterConfig) -> tuple[Kind, ...]:
        if self._state.is_own:
            return OWN_KINDS
        if self._options.everything:
            return offered_kinds(config)
        return backends_once(config, prefer_slices=self._options.prefer_slices)

    def _note_store(self, store: Store) -> None:
        """The state names the store that answers, now and whenever another one takes its place."""

        def note() -> None:
            self._state.store_id = getattr(store, "cluster_id", 0)

        note()
        store.on_store_change.append(note)

    # ---- streams

    async def _follow(self, store: Store, config: ClusterConfig) -> None:
        """Every kind of record, the heartbeat and the configuration, until one of them says that the attempt is over."""
        self._state.last_heartbeat_s = self._clock.monotonic()
        nodes_listed, name = Wake(), self._state.name
        try:
            async with TaskGroup() as group:
                group.create_task(self._beat(store), name=f"{name} heartbeat")
                group.create_task(self._watch_config(store, config), name=f"{name} config")

                def follow(kind: Kind, *, is_private: bool = False) -> None:
                    public = self._public(kind, config)
                    part = self._watch_private(store, kind) if is_private else self._watch(store, public, nodes_listed)
                    words = f"{name} private {kind}" if is_private else f"{name} {kind}"
                    self._following[kind, is_private] = group.create_task(part, name=words)

                group.create_task(self._watchdog(follow), name=f"{name} watchdog")
                for kind in self._state.kinds:
                    follow(kind)
                    if self._has_private(kind):
                        follow(kind, is_private=True)
        except BaseExceptionGroup as failures:
            raise _first(failures) from None

    def _public(self, kind: Kind, config: ClusterConfig) -> RecordStream:
        name, cached = self._state.name, config.cached
        canary = keys.canary_key(name, kind, cached=cached) if config.synced_canaries else None
        return RecordStream(kind, keys.prefix_of(kind, name, cached=cached), canary)

    def _has_private(self, kind: Kind) -> bool:
        return self._state.is_own and kind in private_keys.PRIVATE_KINDS

    async def _watch(self, store: Store, stream: RecordStream, nodes_listed: Wake) -> None:
        """Nodes first: what other records may claim is judged by them. A cluster that never lists them is not waited for."""
        if stream.kind is not Kind.NODES and self._options.nodes_first_s:
            await wait_for_ring(nodes_listed, 0, self._options.nodes_first_s, self._clock)
        async with aclosing(store.list_and_watch(stream.prefix, canary=stream.canary)) as batches:
            async for batch in batches:
                self._note(stream.name, batch)
                await self._take(stream, batch)
                if batch.phase is Phase.LISTED and stream.kind is Kind.NODES:
                    nodes_listed.set()

    async def _watch_private(self, store: Store, kind: Kind) -> None:
        """Records of the own cluster that peers cannot read. Their writer has written all when the public ones are listed."""
        while not self._state.synced.get(kind):
            await self._was_listed.wait(self._was_listed.count)
        stream = RecordStream(kind, private_keys.prefix_of(kind), private_keys.canary_key(kind), is_private=True)
        assert stream.canary is not None
        try:
            if await store.get(stream.canary) is None:
                await self._consumer.listed(kind)
            async with aclosing(store.list_and_watch(stream.prefix, canary=stream.canary)) as batches:
                async for batch in batches:
                    await self._hand_over(stream, batch)
                    if batch.phase is Phase.LISTED:
                        await self._consumer.listed(kind)
        except Denied:  # a store without a private part
            await self._consumer.listed(kind)

    async def _take(self, stream: RecordStream, batch: Batch) -> None:
        state, kind, is_listed = self._state, stream.kind, batch.phase is Phase.LISTED
        await self._hand_over(stream, batch)
        if batch.events or is_listed:
            self._note_truncations()
            state.counts[kind] = self._views.count(kind)
            state.last_update_wall_s = self._clock.wall()
            state.revision = max(state.revision, batch.revision)
        if is_listed:
            if not self._has_private(kind):
                await self._consumer.listed(kind)
            state.synced[kind] = True
            self._listed_s[kind] = self._clock.monotonic()
            self._was_listed.set()
        if state.settle():
            log.info("peer ready", extra={"peer": state.name, "revision": state.revision})

    async def _hand_over(self, stream: RecordStream, batch: Batch) -> None:
        """The consumer has everything the batch changes, in parts of bounded size; other tasks get a turn between them."""
        view = self._views.part(stream.kind, is_private=stream.is_private)
        if batch.phase is Phase.LISTING:
            self._views.begin_listing(stream.kind, is_private=stream.is_private)
        cost = len if self._options.everything else cost_of(stream.kind)  # who copies everything reads no values
        for number, events in enumerate(turns(batch.events, cost)):
            if number:
                await asyncio.sleep(0)
            changes = view.feed(events, len(stream.prefix))
            await self._pace.keep(stream.name, events, changes, self._apply(stream, changes, events), cost)
        if batch.phase is Phase.LISTED:
            while gone := view.take_gone(EVENTS_PER_TURN):
                self._apply(stream, gone)
                await asyncio.sleep(0)

    def _apply(self, stream: RecordStream, changes: list[Change], events: Sequence[Event] = ()) -> int:
        if self._has_private(stream.kind):
            cut = len(stream.prefix)
            revisions = {event.key[cut:]: event.revision for event in events}
            changes = self._views.settle_twins(stream.kind, changes, revisions, is_private=stream.is_private)
        if not changes:
            return 0
        try:
            return self._consumer.apply(stream.kind, changes)
        except Exception:
            self._views.part(stream.kind, is_private=stream.is_private).suspect(changes)
            raise

    # ---- signals

    async def _beat(self, store: Store) -> None:
        async with aclosing(store.list_and_watch(keys.HEARTBEAT)) as batches:
            async for batch in batches:
                self._note("heartbeat", batch)
                if batch.events:
                    self._state.last_heartbeat_s = self._clock.monotonic()
                    await self._beats.keep("heartbeat", batch.events, (), len(batch.events))

    async def _watchdog(self, follow: Follow) -> None:
        limits = self._options.limits
        while True:
            await self._clock.sleep(TICK_S)
            now_s = self._clock.monotonic()
            reason = why_over(now_s, self._streams, self._state.last_heartbeat_s, limits)
            if reason is not None:
                raise SessionEndedError(reason)
            self._state.note_lost_streams(self._streams.lost(now_s, limits.lost_limit_s))
            self._list_again(now_s, follow)

    def _list_again(self, now_s: float, follow: Follow) -> None:
        """Kinds of which there is more to know than is known are listed anew, each once a minute at most; parts at once."""
        for kind, is_private in sorted(self._views.wanted_parts & self._following.keys()):
            self._following.pop((kind, is_private)).cancel()
            follow(kind, is_private=is_private)
        self._views.wanted_parts.clear()
        for kind in self._views.due():
            if (kind, False) in self._following and now_s - self._listed_s.get(kind, now_s) >= RELIST_S:
                self._views.wanted.discard(kind)
                del self._listed_s[kind]
                self._following.pop((kind, False)).cancel()
                follow(kind)

    def _note_truncations(self) -> None:
        found = self._views.truncations()
        if found.keys() - self._state.truncated.keys():
            facts = {"peer": self._state.name, "reason": ", ".join(f"{w}: {d.limit}" for w, d in found.items())}
            log.warning("peer publishes more than is taken", extra=facts)
        self._state.truncated = found

    async def _watch_config(self, store: Store, config: ClusterConfig) -> None:
        """A cluster that was given another id, layout or form of backends is met again from the start."""
        seen = self._recheck.count
        while True:
            await wait_for_ring(self._recheck, seen, self._options.config_recheck_s, self._clock)
            seen = self._recheck.count
            try:
                found = await read_config(store, self._state.name)
            except KvError:
                continue  # the streams notice a lost connection by themselves
            reason = why_config_ends(config, found)
            if reason is not None:
                raise SessionEndedError(reason)

    def _note(self, stream: str, batch: Batch) -> None:
        now_s, is_standing = self._clock.monotonic(), batch.phase is not Phase.INTERRUPTED
        self._streams.note(stream, is_standing=is_standing, now_s=now_s)
        if is_standing:
            self._state.last_heard_s = now_s
        if self._streams.is_connected and not self._state.is_connected:
            self._state.connect(now_s, self._clock.wall())
            self._recheck.set()
        elif not self._streams.is_connected:
            self._state.lose(now_s, "connection to the store lost")


async def read_config(store: Store, cluster: ClusterName) -> ClusterConfig | None:
    """The cluster's configuration record, None where there is none. Raises: RecordError, KvError, Denied."""
    entry = await store.get(keys.cluster_config_key(cluster))
    return None if entry is None else cluster_config.decode(entry.value, cluster=cluster)


async def _close(store: Store, cluster: ClusterName) -> None:
    """The client is closed, or given up after a bounded time."""
    try:
        async with asyncio.timeout(CLOSE_WAIT_S):
            await store.close()
    except TimeoutError:
        log.warning("store client could not be closed in time", extra={"peer": cluster})


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """The failure that ended the attempt: ours before a stranger's, never only a cancellation."""
    flat = [e for e in failures.exceptions if not isinstance(e, BaseExceptionGroup)]
    return next((e for e in flat if isinstance(e, MeshError)), flat[0] if flat else failures)
