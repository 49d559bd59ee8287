# SPDX-License-Identifier: Apache-2.0
"""One supervised session per configured cluster. What happens to one cluster stays with it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from agent.mesh.directory import Listing, compare, read_directory
from agent.mesh.ingest import Ingest, Writers
from agent.mesh.liveness import DEFAULT_WITHDRAW_AFTER_S, Liveness, Signals, decide, is_cache_expired
from agent.mesh.networks import Networks
from agent.mesh.probe import Prober
from agent.mesh.rejections import Rejections
from agent.mesh.session import Session, SessionOptions
from agent.mesh.state import SessionRecord
from agent.tables import AgentDB, Node
from kvstore.store import Store
from meshapi.peer import PeerState
from meshkit.backoff import Backoff
from meshkit.clock import Clock
from meshkit.errors import PermanentError, TransientError
from meshkit.supervise import supervise
from meshmodel.cluster_config import ClusterConfig, check_peer_config
from meshmodel.errors import ModelError
from meshmodel.keys import Kind
from meshmodel.names import ClusterId, ClusterName

log = logging.getLogger(__name__)

RETRY_MINIMUM_S = 0.5
RETRY_MAXIMUM_S = 15.0
STOP_WAIT_S = 5.0
JUDGE_S = 0.5

Connector = Callable[[bytes], Awaitable[Store]]


class RefusedError(TransientError):
    """A person must change something before this cluster can be read; looked at again now and then."""


@dataclass(slots=True)
class Member:
    """One configured cluster: its content as last seen, its session and what that wrote."""

    state: SessionRecord
    ingest: Ingest
    content: bytes
    task: asyncio.Task[None] | None = None
    waiting: dict[Kind, list[Callable[[], None]]] = field(default_factory=dict)


class MeshRunner:
    """Follows the configuration directory, and the own cluster's store where one is given."""

    def __init__(
        self,
        db: AgentDB,
        writers: Writers,
        connect: Connector,
        clock: Clock,
        *,
        directory: Path,
        maximum: int = 255,
        options: SessionOptions | None = None,
        cache_ttl_s: float = 0.0,
        withdraw_after_s: float = DEFAULT_WITHDRAW_AFTER_S,
        prober: Prober | None = None,
    ) -> None:
        self._db, self._writers, self._connect, self._clock = db, writers, connect, clock
        self._directory, self._maximum, self._options = directory, maximum, options
        self._cache_ttl_s, self._withdraw_after_s, self._prober = cache_ttl_s, withdraw_after_s, prober
        self._networks = Networks(db.own)
        self.rejections = Rejections(clock)
        self.members: dict[ClusterName, Member] = {}
        self.refused: Mapping[str, str] = {}
        self._has_own = False
        self.drained: dict[ClusterName, tuple[str, ...]] = {}  # pod networks of clusters that are no peers any more
        self._taken: dict[ClusterId, ClusterName] = {}

    def states(self) -> list[SessionRecord]:
        """Every configured peer, by name; without the own cluster."""
        return [member.state for name, member in sorted(self.members.items()) if name != self._db.own]

    def expect_configured(self) -> None:
        """Nothing is pruned before every cluster configured now finished its first listing. Call before the first round."""
        for name, content in read_directory(self._directory, self._db.own).configs.items():
            self._member(name, content)

    def expect_own(self, content: bytes) -> None:
        """The own cluster's store is read by the same session code, with this connection file."""
        self._member(self._db.own, content)

    def know_own_node(self, node: Node) -> None:
        """Peers may not claim what this node has, also before the own cluster's store says so."""
        self._networks.set_node(node)

    def release_waiting(self) -> tuple[str, ...]:
        """Stop waiting for peers' first listings; returns what was still missing. The own cluster is waited for."""
        peers = [(name, m) for name, m in sorted(self.members.items()) if name != self._db.own]
        missing = [f"{name}: {kind}" for name, member in peers for kind in member.waiting]
        for _, member in peers:
            _release(member)
        return tuple(missing)

    async def run(self, changes: AsyncIterator[None]) -> None:
        """Until cancelled. `changes` yields whenever the directory may have changed. Rows stay as they are at the end."""
        async with asyncio.TaskGroup() as group:
            for member in self.members.values():
                self._start(group, member)
            group.create_task(self._watch_silence(), name="peer liveness")
            if self._prober is not None:
                group.create_task(self._prober.run(self.states), name="peer probes")
            async for _ in changes:
                listing = read_directory(self._directory, self._db.own)  # a mounted Secret: memory, not disk
                await self._follow(group, listing)

    async def _follow(self, group: asyncio.TaskGroup, listing: Listing) -> None:
        if listing.refused != self.refused:
            for name, reason in listing.refused.items():
                log.error("peer configuration refused", extra={"path": name, "reason": reason})
        self.refused = listing.refused
        if listing.has_own and not self._has_own:
            log.info("peer configuration of this cluster itself ignored", extra={"path": self._db.own})
        self._has_own = listing.has_own
        known = {name: m.content for name, m in self.members.items() if name != self._db.own}
        difference = compare(known, listing.configs)
        for name in difference.removed:
            await self._remove(name)
        for name in difference.changed:
            member = self._member(name, listing.configs[name])
            self.drained.pop(name, None)
            member.content = listing.configs[name]
            await _stop(member)
            log.info("peer configured", extra={"peer": name})
            self._start(group, member)

    def _member(self, name: ClusterName, content: bytes) -> Member:
        known = self.members.get(name)
        if known is not None:
            return known
        state = SessionRecord(name, is_own=name == self._db.own, control_lost_s=self._clock.monotonic())
        ingest = Ingest(
            name,
            self._db,
            self._writers,
            networks=self._networks,
            rejections=self.rejections,
            clock=self._clock,
            maximum=self._maximum,
        )
        member = self.members[name] = Member(state, ingest, content)
        prefixes, frontends = self._db.prefixes, self._db.frontends
        for kind in (Kind.NODES, Kind.IPS, Kind.IDENTITIES):
            member.waiting[kind] = [prefixes.expect(f"{name} {kind}")]
        if not state.is_own:
            member.waiting[Kind.SERVICES] = [frontends.expect(f"{name} {Kind.SERVICES}")]
        ingest.on_listed = lambda kind: _listed(member, kind)
        return member

    def _start(self, group: asyncio.TaskGroup, member: Member) -> None:
        name = member.state.name
        session = Session(
            member.state,
            member.ingest,
            connect=lambda: self._connect(member.content),
            reservations=self,
            clock=self._clock,
            options=self._options,
        )

        async def attempt() -> None:
            await self._attempt(member, session)

        def failed(exc: BaseException, _delay_s: float) -> None:
            _note_failure(member.state, exc, self._clock)

        job = supervise(
            f"peer {name}", attempt, backoff=Backoff(RETRY_MINIMUM_S, RETRY_MAXIMUM_S), clock=self._clock,
            on_failure=failed,
        )  # fmt: skip
        member.task = group.create_task(job, name=f"peer {name}")

    async def _attempt(self, member: Member, session: Session) -> None:
        try:
            await session.run()
        except (PermanentError, ValueError) as exc:
            member.state.state = PeerState.REFUSED
            raise RefusedError(str(exc)) from exc
        except (OSError, TransientError, asyncio.CancelledError):
            raise
        except Exception as exc:  # this is the supervisor of one peer: a bug there must not end the others
            log.exception("peer session failed unexpectedly", extra={"peer": member.state.name})
            raise RefusedError(repr(exc)) from exc

    async def _remove(self, name: ClusterName) -> None:
        """The peer was removed on purpose: nothing of it is left."""
        member = self.members.pop(name)
        await _stop(member)
        _release(member)
        self.drained[name] = tuple(c for n in self._db.nodes.rows() if n.cluster == name for c in n.pod_cidrs)
        member.ingest.drain()
        for cluster_id in [i for i, owner in self._taken.items() if owner == name]:
            del self._taken[cluster_id]
        log.info("peer removed and drained", extra={"peer": name})

    def accept(self, name: ClusterName, config: ClusterConfig) -> None:
        """Reserve the cluster's id, releasing a former one. Raises: ModelError."""
        for cluster_id in [i for i, owner in self._taken.items() if owner == name]:
            del self._taken[cluster_id]
        if name == self._db.own:
            if config.id != self._db.own_id:
                raise ModelError(
                    f"{name}: our own store says cluster id {config.id}, this agent is set to {self._db.own_id}"
                )
            return
        warnings = check_peer_config(
            config, peer=name, local_id=self._db.own_id, local_maximum=self._maximum, taken=self._taken
        )
        self.members[name].state.warnings = warnings
        self._taken[config.id] = name

    async def _watch_silence(self) -> None:
        while True:
            await self._clock.sleep(JUDGE_S)
            now_s = self._clock.monotonic()
            for member in self.members.values():
                if not member.state.is_own:
                    self._judge(member, now_s)
                    self._expire(member, now_s)

    def _judge(self, member: Member, now_s: float) -> None:
        """A peer lost on both paths is not chosen any more; one that is back is."""
        state, row = member.state, self._db.peers.get(member.state.name)
        if row is None:
            return
        verdict = decide(
            now_s, Signals(state.control_lost_s, state.data_lost_s, state.has_probes), self._withdraw_after_s
        )
        is_withdrawn = verdict.liveness is Liveness.WITHDRAWN
        if is_withdrawn != row.is_withdrawn:
            with self._db.write():
                self._writers.load_balancer.set_peer(replace(row, is_withdrawn=is_withdrawn, reason=verdict.reason))
            log.warning("peer liveness changed", extra={"peer": state.name, "reason": verdict.reason or "is back"})
            if not is_withdrawn and state.state is PeerState.WITHDRAWN:
                state.state, state.reason = (
                    (PeerState.READY, "") if state.is_ready else (PeerState.DISCONNECTED, verdict.reason)
                )
        if is_withdrawn:
            state.state, state.reason = PeerState.WITHDRAWN, verdict.reason

    def _expire(self, member: Member, now_s: float) -> None:
        """Services of a peer that was not heard of for the configured time are drained; nothing else is."""
        state = member.state
        if not state.synced.get(Kind.SERVICES):
            return
        if is_cache_expired(now_s, state.control_lost_s, self._cache_ttl_s):
            member.ingest.drain_services()
            state.synced[Kind.SERVICES] = False
            state.revocations += 1
            log.warning("peer silent for too long, services withdrawn", extra={"peer": state.name})


def _listed(member: Member, kind: Kind) -> None:
    if kind is Kind.ENDPOINT_SLICES:
        kind = Kind.SERVICES
    for done in member.waiting.pop(kind, ()):
        done()


def _release(member: Member) -> None:
    for kind in list(member.waiting):
        _listed(member, kind)


def _note_failure(state: SessionRecord, exc: BaseException, clock: Clock) -> None:
    state.failures += 1
    state.last_failure_wall_s = clock.wall()
    state.last_error = str(exc)[:256]
    if state.state is PeerState.REFUSED and isinstance(exc, RefusedError):
        state.reason = state.last_error
        return
    state.state = PeerState.DISCONNECTED if state.is_synced else PeerState.CONNECTING
    state.reason = f"{state.last_error}; last known state is kept" if state.is_synced else state.last_error


async def _stop(member: Member) -> None:
    task, member.task = member.task, None
    if task is not None:
        task.cancel()
        await asyncio.wait([task], timeout=STOP_WAIT_S)
