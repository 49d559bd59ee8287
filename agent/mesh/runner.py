# SPDX-License-Identifier: Apache-2.0
"""Followed clusters as this agent keeps them: their rows, who waits for them, and whether they are chosen (liveness)."""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from agent.mesh.held_records import MAXIMUM_RECORDS
from agent.mesh.ingest import Ingest, Writers
from agent.mesh.liveness import Liveness, Signals, decide, is_cache_expired
from agent.mesh.networks import Networks
from agent.mesh.own_pods import OwnPods
from agent.mesh.probe import Prober
from agent.mesh.record_room import PeerRooms
from agent.mesh.rejections import Rejections
from agent.settings import AgentSettings
from agent.tables import AgentDB, Node, Service
from meshkit.clock import Clock
from meshkit.table import HistoryLostError
from meshkit.task_group import TaskGroup
from meshmodel.keys import Kind
from meshmodel.names import ClusterName, ServiceName
from meshpeer.allowed import parse_allowed
from meshpeer.caps import Dropped
from meshpeer.followed import FollowedCluster
from meshpeer.follower import CertificateEnd, Connector, Explain, Follower, Member
from meshpeer.kinds import BACKEND_KINDS
from meshpeer.reservations import Own
from meshpeer.session import SessionOptions

log = logging.getLogger(__name__)

JUDGE_S: Final = 0.5


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
        vxlan_port: int = AgentSettings.vxlan_port,
        options: SessionOptions | None = None,
        rooms: PeerRooms | None = None,
        cache_ttl_s: float = 0.0,
        withdraw_after_s: float = AgentSettings.withdraw_after_s,
        prober: Prober | None = None,
        explain: Explain | None = None,
        certificate_end: CertificateEnd | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._db, self._writers, self._clock, self._maximum = db, writers, clock, maximum
        self._cache_ttl_s, self._withdraw_after_s, self._prober = cache_ttl_s, withdraw_after_s, prober
        self._networks, self._rooms = Networks(db.own), rooms or PeerRooms.usual()
        OwnPods(db, self._networks)
        self._waiting: dict[ClusterName, dict[Kind, list[Callable[[], None]]]] = {}
        self.rejections = Rejections(clock)
        self.drained: dict[ClusterName, tuple[str, ...]] = {}  # pod networks of clusters that are no peers any more
        own = Own(db.own, db.own_id, maximum, vxlan_port)
        self._follower = Follower(
            own,
            directory,
            connect,
            self._consume,
            clock,
            options=options,
            explain=explain,
            certificate_end=certificate_end,
            rng=rng,
        )

    @property
    def members(self) -> Mapping[ClusterName, Member[Ingest]]:
        """Every configured cluster, the own one included."""
        return self._follower.members

    @property
    def refused(self) -> Mapping[str, str]:
        """Files of the directory that are no peers, and why."""
        return self._follower.refused

    def states(self) -> list[FollowedCluster]:
        """Every configured peer, by name; without the own cluster."""
        return [member.state for member in self._follower.peers()]

    def expect_configured(self) -> None:
        """Nothing is pruned before every cluster configured now finished its first listing. Call before the first round."""
        self._follower.expect_configured()

    def expect_own(self, content: bytes) -> None:
        """The own cluster's store is read by the same session code, with this connection file."""
        self._follower.expect_own(content)

    def know_own_node(self, node: Node) -> None:
        """Peers may not claim what this node has, also before the own cluster's store says so. Call inside `db.write()`."""
        self._networks.set_node(node)
        self._networks.settle()

    def know_this_node(self, node: Node) -> None:
        """As `know_own_node`; and when its record goes, no peer may have what the agent's own node has."""
        self._networks.set_this_node((*(address.ip for address in node.addresses), *node.pod_cidrs))
        self.know_own_node(node)

    def know_service_networks(self, prefixes: Iterable[str]) -> None:
        """Peers may not claim what our services' addresses are taken from. Call inside `db.write()`."""
        self._networks.set_own_service_networks(prefixes)
        self._networks.settle()

    def release_waiting(self) -> tuple[str, ...]:
        """Stop waiting for peers' first listings; returns what was still missing. The own cluster is waited for."""
        peers = [name for name in sorted(self._waiting) if name != self._db.own]
        missing = [f"{name}: {kind}" for name in peers for kind in self._waiting[name]]
        for name in peers:
            self._release(name)
        return tuple(missing)

    async def run(self, changes: AsyncIterator[None]) -> None:
        """Until cancelled. `changes` yields whenever the directory may have changed. Rows stay as they are at the end."""
        async with TaskGroup() as group:
            group.create_task(self._watch_silence(), name="peer liveness")
            if self._prober is not None:
                group.create_task(self._prober.run(self.states), name="peer probes")
            group.create_task(self._watch_services(), name="own service addresses")
            await self._follower.run(changes)

    # ---- what a configured cluster's consumer is here

    def _consume(self, name: ClusterName) -> Ingest:
        self.drained.pop(name, None)
        ingest = Ingest(
            name,
            self._db,
            self._writers,
            networks=self._networks,
            rejections=self.rejections,
            clock=self._clock,
            maximum=self._maximum,
            rooms=self._rooms,
        )
        prefixes, frontends = self._db.prefixes, self._db.frontends
        waiting = {kind: [prefixes.expect(f"{name} {kind}")] for kind in (Kind.NODES, Kind.IPS, Kind.IDENTITIES)}
        if name != self._db.own:
            waiting[Kind.SERVICES] = [frontends.expect(f"{name} {Kind.SERVICES}")]
        self._waiting[name] = waiting
        ingest.on_listed = lambda kind: self._listed(name, kind)

        def removed(networks: tuple[str, ...]) -> None:
            for room in ingest.rooms:
                room.leave()
            self._removed(name, networks)

        ingest.on_removed = removed
        if name != self._db.own:
            ingest.allowed = lambda: parse_allowed(self._follower.members[name].content)
            ingest.on_withdrawn = lambda: self._doubt(name)
            overflow = Dropped()

            def overflowed(kind: Kind, key: bytes) -> None:
                overflow.add(f"{kind}/".encode() + key, f"{MAXIMUM_RECORDS} refused records that wait")
                self._note(name, "waiting", overflow)

            ingest.on_overflow = overflowed
            ingest.on_room = lambda kinds: self._let_in_again(name, kinds)
            ingest.on_given_back = lambda kinds: self._want_again(name, kinds)
            for room in ingest.rooms:
                room.on_crowded = partial(self._note, name, room.what)
                room.on_room = partial(self._let_in_again, name, place=room.what)
        return ingest

    def _let_in_again(self, name: ClusterName, kinds: Iterable[Kind], place: str = "waiting") -> None:
        """There is room in this place for records again: those that found none are told again."""
        self._note(name, place, Dropped())
        self._want_again(name, kinds)

    def _note(self, name: ClusterName, place: str, dropped: Dropped) -> None:
        if name in self._follower.members:  # not of a peer that is being removed
            self._follower.members[name].views.note(place, dropped)

    def _want_again(self, name: ClusterName, kinds: Iterable[Kind]) -> None:
        """All records of these kinds are told again, by a listing once a minute at most."""
        for kind in kinds:
            self._follower.members[name].views.want_again(kind)

    def _doubt(self, name: ClusterName) -> None:
        """The next listing tells everything again."""
        self._follower.members[name].views.doubt()

    def _listed(self, name: ClusterName, kind: Kind) -> None:
        """Backends are waited for in whichever form they are read."""
        found = Kind.SERVICES if kind in BACKEND_KINDS else kind
        for done in self._waiting.get(name, {}).pop(found, ()):
            done()

    def _release(self, name: ClusterName) -> None:
        for kind in list(self._waiting.get(name, ())):
            self._listed(name, kind)

    def _removed(self, name: ClusterName, networks: tuple[str, ...]) -> None:
        self._release(name)
        self._waiting.pop(name, None)
        self.drained[name] = networks

    async def _watch_services(self) -> None:
        """Addresses of our services are ours, whatever a peer says."""
        services, seen = self._db.services, 0
        while True:
            rung = services.changed.count
            try:
                changes = [(c.key, None if c.deleted else c.row) for c in services.changes_since(seen)]
            except HistoryLostError:
                gone: list[tuple[ServiceName, Service | None]] = [
                    (name, None) for name in self._networks.own_services() if name not in services
                ]
                changes = gone + [(row.name, row) for row in services.rows()]
            seen = services.revision
            with self._db.write():
                for name, row in changes:
                    found = () if row is None else row.addresses
                    self._networks.set_own_service(
                        name,
                        [a.ip for a in found if a.kind == "ClusterIP"],
                        [a.ip for a in found if a.kind == "LoadBalancer"],
                    )
                self._networks.settle()
            await services.changed.wait(rung)

    # ---- liveness

    async def _watch_silence(self) -> None:
        while True:
            await self._clock.sleep(JUDGE_S)
            now_s = self._clock.monotonic()
            for member in self._follower.peers():
                self._judge(member.state, now_s)
                self._expire(member, now_s)

    def _judge(self, state: FollowedCluster, now_s: float) -> None:
        """A peer lost on both paths is not chosen any more; one that is back is."""
        row = self._db.peers.get(state.name)
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
        state.withdrawn = verdict.reason if is_withdrawn else ""

    def _expire(self, member: Member[Ingest], now_s: float) -> None:
        """Backends of a peer that was not heard of for the configured time are drained; nothing else is."""
        state = member.state
        form = next((kind for kind in BACKEND_KINDS if state.synced.get(kind)), None)
        if form is not None and is_cache_expired(now_s, state.control_lost_s, self._cache_ttl_s):
            member.consumer.drain_services()
            member.views.forget(form)
            state.synced[form] = False
            state.revocations += 1
            log.warning("peer silent for too long, services withdrawn", extra={"peer": state.name})
