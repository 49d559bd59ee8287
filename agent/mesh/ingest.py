# SPDX-License-Identifier: Apache-2.0
"""From one cluster's stored records to rows: decoded, judged, and committed as one transaction per batch.

The only place that calls other features' writers. A record that is not believed counts as absent, so that what is known never
depends on what came before it. What a cluster may not speak for is left out of its record, backend by backend, and judged again
when somebody's claims change.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass

from agent.identity.writer import IdentityWriter
from agent.ipcache.writer import PrefixWriter
from agent.loadbalancer.merge import merge_backends
from agent.loadbalancer.writer import LoadBalancerWriter
from agent.mesh.blocks import Block, block_of
from agent.mesh.held_addresses import held_addresses
from agent.mesh.held_records import Held, around
from agent.mesh.networks import ClaimChange as Claimed
from agent.mesh.networks import ClaimRefusal, Networks
from agent.mesh.peer_backends import rooms_of
from agent.mesh.record_room import PeerRooms
from agent.mesh.record_rows import Reader, SliceSets
from agent.mesh.rejections import Rejections
from agent.mesh.withdrawn import Withdrawn
from agent.nodes.writer import NodeWriter
from agent.tables import AgentDB, Backend, ClaimOrigin, Node, PeerHealth, Prefix
from meshkit.clock import Clock
from meshmodel import ip
from meshmodel.cluster_config import ClusterConfig
from meshmodel.errors import RecordError
from meshmodel.identity import identity_range
from meshmodel.keys import Kind
from meshmodel.names import ClusterId, ClusterName, ServiceName
from meshpeer.allowed import Allowed
from meshpeer.consumer import Change
from meshpeer.kinds import BACKEND_KINDS


def _ignore_pod(_pod: Prefix, _uid: str) -> None:
    return


@dataclass(frozen=True, slots=True)
class Writers:
    """Every verb the ingest may use. `hear_pod` is told of each pod of this node, with its uid ("": not in the record)."""

    load_balancer: LoadBalancerWriter
    prefixes: PrefixWriter
    identities: IdentityWriter
    nodes: NodeWriter
    hear_pod: Callable[[Prefix, str], None] = _ignore_pod


class Ingest:
    """One cluster's part of the tables. Outlives sessions; `drain` is the only way back to nothing."""

    def __init__(
        self,
        name: ClusterName,
        db: AgentDB,
        writers: Writers,
        *,
        networks: Networks,
        rejections: Rejections,
        clock: Clock,
        maximum: int = 255,
        rooms: PeerRooms | None = None,
    ) -> None:
        self._name, self._db, self._writers, self._networks = name, db, writers, networks
        self._rejections, self._clock, self._maximum = rejections, clock, maximum
        self._cluster_id = ClusterId(0)
        self._reader: Reader | None = None
        self._form: Kind | None = None
        self._outdated: set[ServiceName] = set()
        self._held, self._withdrawn, self._slices = Held(), Withdrawn(), SliceSets()
        self.refused_nodes: dict[str, tuple[ClaimRefusal, ...]] = {}
        """By node what only the connection file's list refuses, else why none of its addresses is believed."""
        self.on_overflow: Callable[[Kind, bytes], None] = lambda _kind, _key: None
        self.on_room: Callable[[frozenset[Kind]], None] = lambda _kinds: None
        self.on_given_back: Callable[[frozenset[Kind]], None] = lambda _kinds: None
        self._backends, self._node_networks = rooms_of(name, db.own, networks, rooms or PeerRooms.usual())
        self.rooms = (self._backends.room, self._node_networks)
        self.on_listed: Callable[[Kind], None] = lambda _kind: None
        self.on_removed: Callable[[tuple[str, ...]], None] = lambda _networks: None
        self.on_withdrawn: Callable[[], None] = lambda: None
        self.allowed: Callable[[], Allowed] = Allowed
        networks.judges.append(self._judge_again)

    @property
    def held(self) -> Collection[tuple[Kind, bytes]]:
        """The records that are refused for now, by their keys without the prefix."""
        return self._held.keys()

    async def begin(self, config: ClusterConfig, kinds: Sequence[Kind]) -> None:
        """Records are judged by this configuration from here on.

        Raises: ModelError when the connection file's lists of networks cannot be understood.
        Backends that came in a form that is not read any more stay until the new form was listed once.
        """
        self._networks.allow(self._name, self.allowed())
        self._cluster_id = ClusterId(config.id)
        identities, wanted = identity_range(config.id, self._maximum), self._writers.load_balancer.wanted
        self._reader = Reader(self._name, self._cluster_id, identities, self._db.own, wanted)
        form = next((kind for kind in kinds if kind in BACKEND_KINDS), None)
        if form is not self._form:
            self._form = form
            self._outdated = {row.service for row in self._db.backends.rows() if row.cluster == self._name}
            self._slices.clear()
            self._backends.room.clear()
        self._held.keep(kinds)
        with self._db.write():
            old = self._db.peers.get(self._name)
            self._writers.load_balancer.set_peer(old or PeerHealth(self._name, self._cluster_id))
            self._networks.settle()  # what its lists let it own may have been ours

    async def listed(self, kind: Kind) -> None:
        """All records of this kind are in the tables, and backends of another form are gone."""
        if kind is self._form and self._outdated:
            outdated, self._outdated = self._outdated, set()
            with self._db.write():
                for name in outdated - self._store_slices():
                    self._set_backends(name, ())
        self.on_listed(kind)

    def apply(self, kind: Kind, changes: Sequence[Change]) -> int:
        """Everything that changed is in the tables, in one transaction; returns how many records were looked at for it."""
        with self._db.write():
            for key, value in changes:
                if len(self._held):
                    self._held.pop((kind, key))
                self._set_or_reject(kind, key, value)
            if kind is Kind.ENDPOINT_SLICES:
                self._store_slices()
            looked_at = len(changes) + self._networks.settle()
            self._networks.recount(self._name, lambda: held_addresses(self._db, self._name, self._slices))
            return looked_at

    def drain(self) -> None:
        """Nothing of the cluster is left: nodes, services, IPs, identities, in this order."""
        self.drain_services()
        with self._db.write():
            self._writers.nodes.drain_cluster(self._name)
            self._writers.prefixes.drain_cluster(self._name, (ClaimOrigin.NODE, ClaimOrigin.POD))
            for identity in self._writers.identities.drain_cluster(self._name):
                self._writers.prefixes.set_identity_unknown(identity)
            self._writers.load_balancer.delete_peer(self._name)
            self._held.keep(())
            self.refused_nodes.clear()
            self._withdrawn = Withdrawn()
            self._node_networks.clear()
            self._networks.drop(self._name)
            self._networks.settle()
        self._cluster_id, self._form = ClusterId(0), None

    def remove(self) -> None:
        """The cluster is no peer any more: nothing of it is left, no count either. `on_removed` is told its pod networks."""
        networks = tuple(c for n in self._db.nodes.rows() if n.cluster == self._name for c in n.pod_cidrs)
        self._networks.judges.remove(self._judge_again)
        self.drain()
        self._rejections.forget(self._name)
        self.on_removed(networks)

    def drain_services(self) -> None:
        """No backend of the cluster is left; everything else is kept."""
        with self._db.write():
            self._writers.load_balancer.drain_cluster(self._name)
        self._slices.clear()
        self._backends.room.clear()
        self._outdated.clear()

    def _set_or_reject(self, kind: Kind, key: bytes, value: bytes | None, *, is_known: bool = False) -> None:
        """`is_known`: it was counted before, when it was refused first."""
        try:
            text = key.decode()
        except UnicodeDecodeError:
            self._rejections.record(self._name, RecordError(repr(key), "bad-key", "key is not UTF-8"))
            return
        try:
            if value is None:
                self._delete(kind, text)
                return
            refused = self._set(kind, text, value)
        except RecordError as exc:
            self._rejections.record(self._name, exc)
            with suppress(RecordError):
                self._delete(kind, text)
            return
        if not refused:
            return
        if not is_known:
            for reason, refusal in refused:
                self._rejections.record(self._name, RecordError(text, reason, refusal.reason))
        if not self._held.put((kind, key), value, around([refusal.block for _, refusal in refused])):
            self.on_overflow(kind, key)

    def _judge_again(self, changes: Sequence[Claimed]) -> int:
        """Claims changed: what was refused may be this cluster's now, and what was accepted ours.

        Returns how many records were looked at. Of its own claims only addresses help a cluster, as tunnel endpoint or for an
        identity: so a peer that announces a wide network again and again costs nothing.
        """
        freed = [c.block for c in changes if c.cluster != self._name and not c.is_added]
        gained = [c.block for c in changes if c.cluster == self._name and c.is_added and c.block.is_address]
        waiting = dict.fromkeys([*self._held.waiting_for(freed), *self._held.waiting_at(gained)])
        for kind, key in waiting:
            self._set_or_reject(kind, key, self._held.pop((kind, key)), is_known=True)
        self._store_slices()
        if self._held.has_room_again:
            overflowed, self._held.overflowed = frozenset(self._held.overflowed), set()
            self.on_room(overflowed)
        if again := self._withdrawn.given_back(freed):
            self.on_given_back(again)
        if self._name != self._db.own:
            taken = [c.block for c in changes if c.cluster == self._db.own and c.is_added]
            if taken := [block for block in taken if self._networks.may_hold(self._name, block)]:
                self._withdraw(taken)
            nodes = [c.block for c in changes if c.cluster != self._name and c.is_added and c.block.is_address]
            if addresses := {str(block) for block in nodes if self._networks.may_hold(self._name, block)}:
                self._withdraw_tunnels(addresses)
        return len(waiting)

    def _withdraw(self, taken: Sequence[Block]) -> None:
        """Rows about networks that the own cluster claims now are gone.

        They come back if the claim is given up, by a listing that is asked for then. This looks at every row of the cluster: it
        is for conflicts.
        """
        name, count = self._name, 0
        for node in [row for row in self._db.nodes.rows() if row.cluster == name]:
            admitted, refusals = self._networks.admit(node)
            count += self._reject(Kind.NODES, node.name, "foreign-network", refusals)
            if refusals:
                self._store_node(node.name, admitted, refusals)
        for row in [
            r for r in self._db.prefixes.rows() if r.origin is ClaimOrigin.POD and r.cluster in (name, self._db.own)
        ]:
            if any(block.overlaps(block_of(row.prefix)) for block in taken):
                refusal = self._networks.refuse_address(name, row.prefix)
                if refusal is not None:  # where the row is ours, the peer's claim may wait below it
                    self._withdrawn.remember(refusal.block, Kind.IPS)
                    if row.cluster == name:
                        count += self._reject(Kind.IPS, row.prefix, "address-outside", [refusal])
                    self._writers.prefixes.delete_pod(name, row.prefix)
        for key, piece in self._slices.pieces():
            kept, refusals = self._backends.believable(piece.backends)
            if refusals:
                self._slices.set(key, piece._replace(backends=kept))
        for backends in [row for row in self._db.backends.rows() if row.cluster == name]:
            kept, refusals = self._backends.believable(backends.of_both_families)
            count += self._reject(self._form or Kind.SERVICES, str(backends.service), "address-outside", refusals)
            if refusals:
                self._set_backends(backends.service, kept)
        self._store_slices()
        if count:
            self.on_withdrawn()

    def _reject(self, kind: Kind, key: str, reason: str, refusals: Sequence[ClaimRefusal]) -> int:
        for refusal in refusals:
            self._rejections.record(self._name, RecordError(key, reason, refusal.reason))
            self._withdrawn.remember(refusal.block, kind)
        return len(refusals)

    def _withdraw_tunnels(self, addresses: Collection[str]) -> None:
        """Pods behind what was a node of this cluster, and is another cluster's now, are reached there no more."""
        for row in [r for r in self._db.prefixes.rows() if r.cluster == self._name and r.host in addresses]:
            refusal = self._networks.refuse_host(self._name, row.host)
            if refusal is not None and row.origin is ClaimOrigin.POD:
                self._reject(Kind.IPS, row.prefix, "unknown-host", [refusal])
                self._writers.prefixes.delete_pod(self._name, row.prefix)

    def _set(self, kind: Kind, key: str, value: bytes) -> list[tuple[str, ClaimRefusal]]:
        """The record is in the tables, but for what is returned as refused. Raises: RecordError."""
        assert self._reader is not None
        match kind:
            case Kind.NODES:
                node = self._node_networks.fitting(key, self._reader.node(key, value))
                admitted, refusals = self._networks.admit(node)
                self.refused_nodes.pop(key, None)
                self._store_node(key, admitted, refusals)
                if unlisted := tuple(refusal for refusal in refusals if refusal.is_unlisted):
                    self.refused_nodes[key] = unlisted
                return [("foreign-network", refusal) for refusal in refusals]
            case Kind.IDENTITIES:
                row = self._reader.identity(key, value)
                self._writers.identities.set_identity(row)
                self._writers.prefixes.set_identity_known(row.id)
            case Kind.IPS:
                owned = self._reader.ip(key, value, is_own_node=self._is_own_node)
                refused = self._set_ip(key, owned.row)
                if not refused and self._is_own_node(owned.row.host):
                    self._writers.hear_pod(*owned)
                return refused
            case Kind.SERVICES:
                piece = self._reader.service(key, value)
                backends, refusals = self._backends.take(kind, key, piece.backends)
                self._set_backends(piece.service, backends, is_withheld=piece.is_withheld)
                return [("address-outside", refusal) for refusal in refusals]
            case Kind.ENDPOINT_SLICES:
                piece = self._reader.endpoint_slice(key, value)
                backends, refusals = self._backends.take(kind, key, piece.backends)
                self._slices.set(key, piece._replace(backends=backends))
                return [("address-outside", refusal) for refusal in refusals]
            case _:
                pass
        return []

    def _set_ip(self, key: str, row: Prefix) -> list[tuple[str, ClaimRefusal]]:
        """Stores the address, or refuses it and removes the row that an earlier record of the same key made."""
        networks, name = self._networks, self._name
        is_plain = (
            networks.is_plain(name, row.prefix, row.host, row.identity) and self._refuse_taken(row.prefix) is None
        )
        refused = [] if is_plain else self._refuse_ip(row)
        if refused:
            self._delete(Kind.IPS, key)
            return refused
        if name == self._db.own:
            networks.set_own_pod(row.prefix)
        self._writers.prefixes.set_pod(row)
        return []

    def _refuse_ip(self, row: Prefix) -> list[tuple[str, ClaimRefusal]]:
        networks, name = self._networks, self._name
        return [
            (reason, refusal)
            for reason, refusal in (
                ("address-outside", networks.refuse_address(name, row.prefix) or self._refuse_taken(row.prefix)),
                ("unknown-host", networks.refuse_host(name, row.host)),
                ("reserved-identity", networks.refuse_identity(name, row.prefix, row.identity)),
            )
            if refusal is not None
        ]

    def _refuse_taken(self, prefix: str) -> ClaimRefusal | None:
        """An address that another peer's pod has, in networks that neither of them announces."""
        row = self._db.prefixes.get(prefix)
        if row is None or row.origin is not ClaimOrigin.POD or row.cluster in (self._name, self._db.own):
            return None
        return (
            None
            if self._name == self._db.own
            else ClaimRefusal(f"{prefix} is a pod of {row.cluster}", block_of(prefix))
        )

    def _delete(self, kind: Kind, key: str) -> None:
        for room in self.rooms:
            room.give_back(kind, key)
        match kind:
            case Kind.NODES:
                self.refused_nodes.pop(key, None)
                self._networks.delete_node(self._name, key)
                self._writers.nodes.delete_node(self._name, key)
                self._writers.prefixes.delete_node(self._name, key)
            case Kind.IDENTITIES:
                identity = self._reader.identity_key(key) if self._reader is not None else None
                if identity is not None:
                    self._writers.identities.delete_identity(identity)
                    self._writers.prefixes.set_identity_unknown(identity)
            case Kind.IPS:
                prefix = ip.decode_key(key)
                had = self._writers.prefixes.delete_pod(self._name, prefix)
                if self._name == self._db.own:
                    self._networks.delete_own_pod(prefix)
                elif had:  # or two clusters that want what neither may have would be judged in turns for ever
                    self._networks.release(self._name, prefix)
            case Kind.SERVICES:
                namespace, _, name = key.partition("/")
                self._set_backends(ServiceName(namespace, name), ())
            case Kind.ENDPOINT_SLICES:
                self._slices.delete(key)
            case _:
                return

    def _store_node(self, key: str, node: Node | None, refusals: Sequence[ClaimRefusal]) -> None:
        if node is None:
            self._delete(Kind.NODES, key)
            self.refused_nodes[key] = tuple(refusals)
            return
        self._networks.set_node(node)
        self._writers.nodes.set_node(node)
        self._writers.prefixes.set_node(node)

    def _store_slices(self) -> set[ServiceName]:
        """Services whose slices changed have their backends. One that is known in another form still waits for all its slices."""
        changed = self._slices.take_changed(but=self._outdated)
        for name, groups in changed:
            self._set_backends(name, merge_backends(groups), is_withheld=self._slices.is_withheld(name))
        return {name for name, _ in changed}

    def _set_backends(self, name: ServiceName, backends: Sequence[Backend], *, is_withheld: bool = False) -> None:
        self._outdated.discard(name)
        balancer, now_s = self._writers.load_balancer, self._clock.wall()
        balancer.set_backends(name, self._name, self._cluster_id, backends, now_s, is_withheld=is_withheld)

    def _is_own_node(self, host: str) -> bool:
        return self._name == self._db.own and self._db.is_here(host)
