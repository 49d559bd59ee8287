# SPDX-License-Identifier: Apache-2.0
"""From one cluster's stored records to rows: decoded, judged, and committed as one transaction per batch.

The only place that calls other features' writers. A record that is not believed counts as absent, so that what is known never
depends on what came before it; a record outside the cluster's networks is held and judged again when its nodes change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from agent.identity.writer import IdentityWriter
from agent.ipcache.writer import PrefixWriter
from agent.loadbalancer.merge import merge_backends
from agent.loadbalancer.writer import LoadBalancerWriter
from agent.mesh.networks import Networks
from agent.mesh.records import Reader, SliceSets
from agent.mesh.rejections import Rejections
from agent.nodes.writer import NodeWriter
from agent.tables import AgentDB, Backend, Origin, Peer
from meshkit.clock import Clock
from meshmodel import ip
from meshmodel.cluster_config import ClusterConfig
from meshmodel.errors import RecordError
from meshmodel.identity import identity_range
from meshmodel.keys import Kind
from meshmodel.names import ClusterId, ClusterName, ServiceName
from meshpeer.consumer import Change
from meshpeer.kinds import BACKEND_KINDS

MAX_HELD: Final = 10_000


@dataclass(frozen=True, slots=True)
class Writers:
    """Every verb the ingest may use."""

    load_balancer: LoadBalancerWriter
    prefixes: PrefixWriter
    identities: IdentityWriter
    nodes: NodeWriter


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
    ) -> None:
        self._name, self._db, self._writers, self._networks = name, db, writers, networks
        self._rejections, self._clock, self._maximum = rejections, clock, maximum
        self._cluster_id = ClusterId(0)
        self._reader: Reader | None = None
        self._form: Kind | None = None
        self._outdated: set[ServiceName] = set()
        self._held: dict[tuple[Kind, bytes], bytes] = {}
        self._slices = SliceSets()
        self.on_listed: Callable[[Kind], None] = lambda _kind: None
        self.on_removed: Callable[[tuple[str, ...]], None] = lambda _networks: None

    async def begin(self, config: ClusterConfig, kinds: Sequence[Kind]) -> None:
        """Records are judged by this configuration from here on.

        Backends that came in a form that is not read any more stay until the new form was listed once.
        """
        self._cluster_id = ClusterId(config.id)
        self._reader = Reader(self._name, self._cluster_id, identity_range(config.id, self._maximum))
        form = next((kind for kind in kinds if kind in BACKEND_KINDS), None)
        if form is not self._form:
            self._form = form
            self._outdated = {row.service for row in self._db.backends.rows() if row.cluster == self._name}
            self._slices.clear()
            self._held = {(kind, key): value for (kind, key), value in self._held.items() if kind not in BACKEND_KINDS}
        with self._db.write():
            old = self._db.peers.get(self._name)
            self._writers.load_balancer.set_peer(old or Peer(self._name, self._cluster_id))

    async def listed(self, kind: Kind) -> None:
        """All records of this kind are in the tables, and backends of another form are gone."""
        if kind is self._form and self._outdated:
            outdated, self._outdated = self._outdated, set()
            with self._db.write():
                for name in outdated:
                    self._set_backends(name, ())
        self.on_listed(kind)

    def apply(self, kind: Kind, changes: Sequence[Change]) -> None:
        """Everything that changed is in the tables, in one transaction."""
        with self._db.write():
            for key, value in changes:
                self._held.pop((kind, key), None)
                self._set_or_reject(kind, key, value)
            if kind is Kind.NODES:
                self._judge_held()
            if kind is Kind.ENDPOINT_SLICES:
                self._store_slices()

    def drain(self) -> None:
        """Nothing of the cluster is left: nodes, services, IPs, identities, in this order."""
        self.drain_services()
        with self._db.write():
            self._writers.nodes.drain_cluster(self._name)
            self._writers.prefixes.drain_cluster(self._name, (Origin.NODE, Origin.POD))
            for identity in self._writers.identities.drain_cluster(self._name):
                self._writers.prefixes.set_identity_unknown(identity)
            self._writers.load_balancer.delete_peer(self._name)
        self._networks.drop(self._name)
        self._held.clear()
        self._cluster_id, self._form = ClusterId(0), None

    def remove(self) -> None:
        """The cluster is no peer any more: nothing of it is left. `on_removed` is told which pod networks it had."""
        networks = tuple(c for n in self._db.nodes.rows() if n.cluster == self._name for c in n.pod_cidrs)
        self.drain()
        self.on_removed(networks)

    def drain_services(self) -> None:
        """No backend of the cluster is left; everything else is kept."""
        with self._db.write():
            self._writers.load_balancer.drain_cluster(self._name)
        self._slices.clear()
        self._outdated.clear()

    def _set_or_reject(self, kind: Kind, key: bytes, value: bytes | None) -> None:
        try:
            text = key.decode()
        except UnicodeDecodeError:
            self._rejections.record(self._name, RecordError(repr(key), "bad-key", "key is not UTF-8"))
            return
        try:
            if value is None:
                self._delete(kind, text)
            else:
                self._set(kind, text, value)
        except RecordError as exc:
            self._rejections.record(self._name, exc)
            with suppress(RecordError):
                self._delete(kind, text)
            if value is not None and exc.reason in HELD_REASONS and len(self._held) < MAX_HELD:
                self._held[kind, key] = value

    def _judge_held(self) -> None:
        """Nodes changed: what was outside the cluster's networks before may be inside now."""
        for (kind, key), value in list(self._held.items()):
            try:
                self._set(kind, key.decode(), value)
            except RecordError:
                continue
            del self._held[kind, key]

    def _set(self, kind: Kind, key: str, value: bytes) -> None:
        assert self._reader is not None
        match kind:
            case Kind.NODES:
                self._set_node(key, value)
            case Kind.IDENTITIES:
                row = self._reader.identity(key, value)
                self._writers.identities.set_identity(row)
                self._writers.prefixes.set_identity_known(row.id)
            case Kind.IPS:
                prefix = self._reader.ip(key, value, is_own_node=self._is_own_node)
                self._check(key, prefix.prefix)
                self._writers.prefixes.set_pod(prefix)
            case Kind.SERVICES:
                self._set_service(key, value)
            case Kind.ENDPOINT_SLICES:
                piece = self._reader.endpoint_slice(key, value)
                for backend in piece.backends:
                    self._check(key, backend.address)
                self._slices.set(key, piece)
            case _:
                return

    def _delete(self, kind: Kind, key: str) -> None:
        match kind:
            case Kind.NODES:
                self._networks.delete_node(self._name, key)
                self._writers.nodes.delete_node(self._name, key)
                self._writers.prefixes.delete_node(self._name, key)
            case Kind.IDENTITIES:
                identity = self._reader.identity_key(key) if self._reader is not None else None
                if identity is not None:
                    self._writers.identities.delete_identity(identity)
                    self._writers.prefixes.set_identity_unknown(identity)
            case Kind.IPS:
                self._writers.prefixes.delete_pod(self._name, ip.decode_key(key))
            case Kind.SERVICES:
                namespace, _, name = key.partition("/")
                self._set_backends(ServiceName(namespace, name), ())
            case Kind.ENDPOINT_SLICES:
                self._slices.delete(key)
            case _:
                return

    def _set_node(self, key: str, value: bytes) -> None:
        assert self._reader is not None
        node = self._reader.node(key, value)
        refusal = self._networks.refuse_node(node)
        if refusal is not None:
            raise RecordError(key, "foreign-network", refusal)
        self._networks.set_node(node)
        self._writers.nodes.set_node(node)
        self._writers.prefixes.set_node(node)

    def _set_service(self, key: str, value: bytes) -> None:
        assert self._reader is not None
        name, backends = self._reader.service(key, value)
        for backend in backends:
            self._check(key, backend.address)
        self._set_backends(name, backends)

    def _store_slices(self) -> None:
        for name, groups in self._slices.take_changed():
            self._set_backends(name, merge_backends(groups))

    def _set_backends(self, name: ServiceName, backends: Sequence[Backend]) -> None:
        self._outdated.discard(name)
        self._writers.load_balancer.set_backends(name, self._name, self._cluster_id, backends, self._clock.wall())

    def _check(self, key: str, address: str) -> None:
        refusal = self._networks.refuse_address(self._name, address)
        if refusal is not None:
            raise RecordError(key, "address-outside", refusal)

    def _is_own_node(self, host: str) -> bool:
        return self._name == self._db.own and host == self._db.node_address


HELD_REASONS: Final = frozenset({"address-outside", "foreign-network"})
