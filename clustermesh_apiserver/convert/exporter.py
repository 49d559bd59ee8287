# SPDX-License-Identifier: Apache-2.0
"""From changed rows to wanted keys: each exporter knows which of its rows to convert again, and when it is complete.

A namespace that is not known yet is neither global nor not: its objects wait, and what was published stays.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Final, Protocol

from clustermesh_apiserver.convert.backend_health import without_failing
from clustermesh_apiserver.convert.confirmations import Asker, Confirmations
from clustermesh_apiserver.convert.endpoint_slice import convert_slice
from clustermesh_apiserver.convert.identity import IdentityRefusal, convert_identity
from clustermesh_apiserver.convert.node import convert_node
from clustermesh_apiserver.convert.pod_networks import pod_networks
from clustermesh_apiserver.convert.service import convert_service, is_shared
from clustermesh_apiserver.convert.service_export import convert_export
from clustermesh_apiserver.tables import IntentTable, Tables
from kubeintent.rows import NamespaceIntent, NodeIntent, ServiceIntent, SliceIntent
from meshkit.errors import MAXIMUM_TEXT
from meshmodel.identity import IdentityRange
from meshmodel.keys import Kind
from meshmodel.names import ClusterId, ClusterName

log = logging.getLogger(__name__)

MAX_BLOCKS_WAIT_S: Final = 30.0


class Sink(Protocol):
    """Where wanted keys go."""

    def upsert(self, key: bytes, value: bytes) -> None:
        """The key should have the value."""
        ...

    def delete(self, key: bytes) -> None:
        """The key should not exist."""
        ...

    def mark_synced(self) -> None:
        """Everything that exists has been said."""
        ...


class Exporter(ABC):
    """One kind of record.

    `is_settled` once everything that existed at the start has been handed over. `private` takes records that only our own
    agents may read; marking it synced marks the public part synced too, after it. `refused` are rows of which something is
    left out because every reader would reject it, and why.
    """

    def __init__(self, tables: Tables, sink: Sink, private: Sink | None = None) -> None:
        self.tables, self.sink, self.private = tables, sink, private
        self._dirty: dict[str, None] = {}
        self.is_settled = False
        self.failures: dict[str, str] = {}
        self.refused: dict[str, IdentityRefusal] = {}

    def touch(self, keys: Iterable[str]) -> None:
        """These rows changed, or something they depend on did."""
        for key in keys:
            self._dirty[key] = None

    @property
    @abstractmethod
    def needs(self) -> Sequence[IntentTable[Any]]:
        """The tables that must be complete before anything is concluded from them."""

    @abstractmethod
    def touch_namespace(self, namespace: str) -> None:
        """The namespace appeared, or became global or not."""

    def flush(self, budget: int) -> int:
        """Converts up to `budget` changed rows; returns how many are left."""
        if not self._dirty and self.is_settled:
            return 0
        if not all(table.synced for table in self.needs):
            return 0
        for key in list(islice(self._dirty, budget)):
            del self._dirty[key]
            try:
                self.export(key)
            except Exception as exc:  # one object of a shape nobody thought of must not stop the others
                self.failures[key] = repr(exc)[:MAXIMUM_TEXT]
                log.warning("object not converted, its record stays as it was", extra={"key": key, "error": repr(exc)})
            else:
                self.failures.pop(key, None)
        if not self._dirty and not self.is_settled and self.is_complete():
            self.is_settled = True
            (self.private or self.sink).mark_synced()
        return len(self._dirty)

    @abstractmethod
    def export(self, key: str) -> None:
        """The sink wants what this row says now."""

    def is_complete(self) -> bool:
        """Whether everything that exists can be called published once no row is waiting."""
        return True

    def namespace(self, name: str) -> NamespaceIntent | None:
        return self.tables.namespaces.get(name)


class BackendExporter(Exporter):
    """What records of backends are made from: services that are global and shared, with the endpoints that are confirmed."""

    def __init__(
        self,
        tables: Tables,
        sink: Sink,
        cluster: ClusterName,
        cluster_id: ClusterId,
        confirmations: Confirmations | None = None,
    ) -> None:
        super().__init__(tables, sink)
        self._cluster, self._cluster_id, self._confirmations = cluster, cluster_id, confirmations

    @property
    def needs(self) -> Sequence[IntentTable[Any]]:
        waited_for = self._confirmations.backends_need if self._confirmations is not None else ()
        return (self.tables.namespaces, self.tables.services, self.tables.slices, *waited_for)

    def announced(self, piece: SliceIntent, asker: Asker) -> SliceIntent:
        """The slice without addresses that are not confirmed yet; the asker's record is converted again when one is."""
        return piece if self._confirmations is None else self._confirmations.announced(piece, asker)

    def healthy(self, piece: SliceIntent, service: ServiceIntent) -> SliceIntent:
        """The slice without pods that fail the service's health probe; agents' Leases are touched with the service."""
        return without_failing(piece, service, self.tables.confirmations.rows())


class ServiceExporter(BackendExporter):
    """Service records."""

    def touch_namespace(self, namespace: str) -> None:
        self.touch(self.tables.services.in_group(namespace))

    def export(self, key: str) -> None:
        service = self.tables.services.get(key)
        if service is None:
            self.sink.delete(key.encode())
            return
        namespace = self.namespace(service.namespace)
        if namespace is None:
            return
        if not is_shared(service, namespace):
            self.sink.delete(key.encode())
            return
        rows = (self.tables.slices.get(name) for name in self.tables.slices.in_group(key))
        slices = [self.healthy(self.announced(p, (Kind.SERVICES, key)), service) for p in rows if p is not None]
        record = convert_service(service, slices, cluster=self._cluster, cluster_id=self._cluster_id)
        self.sink.upsert(key.encode(), record.encode())


class SliceExporter(BackendExporter):
    """Endpoint slice records."""

    def touch_namespace(self, namespace: str) -> None:
        for service in self.tables.services.in_group(namespace):
            self.touch(self.tables.slices.in_group(service))

    def export(self, key: str) -> None:
        piece = self.tables.slices.get(key)
        service = self.tables.services.get(f"{piece.namespace}/{piece.service}") if piece else None
        if piece is None or service is None:
            self.sink.delete(key.encode())
            return
        namespace = self.namespace(piece.namespace)
        if namespace is None:
            return
        record = None
        if is_shared(service, namespace):
            piece = self.healthy(self.announced(piece, (Kind.ENDPOINT_SLICES, key)), service)
            record = convert_slice(piece, service, cluster=self._cluster, cluster_id=self._cluster_id)
        if record is None:
            self.sink.delete(key.encode())
        else:
            self.sink.upsert(key.encode(), record)


class ExportExporter(Exporter):
    """Service export records: ServiceExport objects of services that exist."""

    def __init__(self, tables: Tables, sink: Sink, cluster: ClusterName) -> None:
        super().__init__(tables, sink)
        self._cluster = cluster

    @property
    def needs(self) -> Sequence[IntentTable[Any]]:
        return (self.tables.namespaces, self.tables.services, self.tables.exports)

    def touch_namespace(self, namespace: str) -> None:
        self.touch(self.tables.exports.in_group(namespace))

    def export(self, key: str) -> None:
        export = self.tables.exports.get(key)
        if export is None:
            self.sink.delete(key.encode())
            return
        namespace = self.namespace(export.namespace)
        if namespace is None:
            return
        value = convert_export(export, self.tables.services.get(key), namespace, cluster=self._cluster)
        if value is None:
            self.sink.delete(key.encode())
        else:
            self.sink.upsert(key.encode(), value)


class NodeExporter(Exporter):
    """Node records: every node of this cluster, with the networks that its pods are really in.

    Networks that people give (`by_hand`) take the place of all others. The first node by name announces them: they are the
    cluster's, and readers send what is in a node's network to that node.

    The record of a Node object that is gone stays while pods with addresses of their own are bound to the node: they run on,
    and a kubelet that registers again makes the same object anew. Kubernetes deletes the pods of a node that stays away.
    """

    def __init__(
        self,
        tables: Tables,
        sink: Sink,
        cluster: ClusterName,
        cluster_id: ClusterId,
        *,
        now: Callable[[], float],
        by_hand: Sequence[str] = (),
    ) -> None:
        super().__init__(tables, sink)
        self._cluster, self._cluster_id, self._now, self._by_hand = cluster, cluster_id, now, tuple(by_hand)
        self._waiting_since: float | None = None

    @property
    def needs(self) -> Sequence[IntentTable[Any]]:
        """Calico's blocks are waited for, but not for ever: they may be forbidden to us, and nodes are needed."""
        tables = self.tables
        if tables.is_cilium:
            return (tables.nodes,)
        if not (tables.nodes.synced and tables.pods.synced) or tables.blocks.synced:
            return (tables.nodes, tables.pods)
        if self._waiting_since is None:
            self._waiting_since = self._now()
        if self._now() - self._waiting_since < MAX_BLOCKS_WAIT_S:
            return (tables.blocks,)
        return (tables.nodes, tables.pods)

    def touch(self, keys: Iterable[str]) -> None:
        super().touch(keys)
        if self._by_hand:
            super().touch(self.tables.nodes.keys())

    def touch_namespace(self, namespace: str) -> None:
        """Nodes belong to no namespace."""

    def export(self, key: str) -> None:
        node = self.tables.nodes.get(key)
        if node is None:
            if not self._has_pods(key):
                self.sink.delete(key.encode())
            return
        node = replace(node, pod_cidrs=self._networks(node))
        record = convert_node(node, cluster=self._cluster, cluster_id=self._cluster_id)
        self.sink.upsert(key.encode(), record.encode())

    def _has_pods(self, node: str) -> bool:
        pods = self.tables.pods
        return any(pod.ips for key in pods.on_node(node) if (pod := pods.get(key)) is not None)

    def _networks(self, node: NodeIntent) -> tuple[str, ...]:
        tables = self.tables
        if self._by_hand:
            return self._by_hand if node.name == min(tables.nodes.keys()) else ()
        if tables.is_cilium:
            return node.pod_cidrs
        pods = [ip for key in tables.pods.on_node(node.name) if (pod := tables.pods.get(key)) for ip in pod.ips]
        blocks = [block.cidr for key in tables.blocks.on_node(node.name) if (block := tables.blocks.get(key))]
        return pod_networks(node.pod_cidrs, sorted(blocks), sorted(pods), has_blocks=len(tables.blocks) > 0)


class IdentityExporter(Exporter):
    """Identity records: identities of global namespaces. What readers would reject is counted and left out."""

    def __init__(
        self,
        tables: Tables,
        sink: Sink,
        cluster: ClusterName,
        numbers: IdentityRange,
        are_users_settled: Callable[[], bool],
        *,
        private: Sink | None = None,
    ) -> None:
        super().__init__(tables, sink, private)
        self._cluster, self._numbers, self._are_users_settled = cluster, numbers, are_users_settled

    @property
    def needs(self) -> Sequence[IntentTable[Any]]:
        return (self.tables.namespaces, self.tables.identities)

    def touch_namespace(self, namespace: str) -> None:
        self.touch(self.tables.identities.in_group(namespace))

    def is_complete(self) -> bool:
        return self._are_users_settled()

    def export(self, key: str) -> None:
        identity = self.tables.identities.get(key)
        record = convert_identity(identity, cluster=self._cluster, numbers=self._numbers) if identity else None
        self.refused.pop(key, None)
        if identity is None or record is None or isinstance(record, IdentityRefusal):
            if isinstance(record, IdentityRefusal):
                self.refused[key] = record
            self._say(key.encode(), None, None)
            return
        namespace = self.namespace(identity.namespace or "")
        if namespace is None:
            return
        number, labels = record
        self._say(number, labels if namespace.is_global else None, None if namespace.is_global else labels)

    def _say(self, number: bytes, public: bytes | None, private: bytes | None) -> None:
        publish(self.sink, {number: public})
        if self.private is not None:
            publish(self.private, {number: private})


def publish(sink: Sink, changes: Mapping[bytes, bytes | None]) -> None:
    """The sink wants each of these; None is a key that no row claims any more."""
    for key, value in changes.items():
        if value is None:
            sink.delete(key)
        else:
            sink.upsert(key, value)
