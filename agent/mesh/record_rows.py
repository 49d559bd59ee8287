# SPDX-License-Identifier: Apache-2.0
"""A cluster's records to rows, judged against its name, id and identity range. Pure; raises RecordError only."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from typing import TYPE_CHECKING, NamedTuple

from agent.tables import (
    NO_HINTS,
    Backend,
    ClaimOrigin,
    Identity,
    NamedPort,
    Node,
    NodeAddress,
    Prefix,
    hints_of,
    pack_labels,
)
from agent.wanted_backends import ALL_IPV4, WantedBackends
from meshmodel import identity_record, ip, node, service
from meshmodel.condition import Condition, condition_of
from meshmodel.errors import RecordError
from meshmodel.export_scope import is_exported_to
from meshmodel.identity import IdentityRange, NumericIdentity, Reserved
from meshmodel.names import ClusterId, ClusterName, ServiceName

if TYPE_CHECKING:
    from meshmodel.endpointslice import ClusterEndpointSlice
    from meshmodel.service import ClusterService

_ONE_NAME: dict[str, tuple[str, ...]] = {}


class OwnedPrefix(NamedTuple):
    """An address, and the uid of the pod that has it where the record says so."""

    row: Prefix
    pod_uid: str


class Piece(NamedTuple):
    """What one record says of a service: all of it, or one endpoint slice's part.

    `is_withheld`: there is one, and it is not for the clients of this cluster.
    """

    service: ServiceName
    backends: tuple[Backend, ...]
    is_withheld: bool = False


class Reader:
    """Decodes the records of one cluster, for the cluster `own`."""

    def __init__(
        self,
        cluster: ClusterName,
        cluster_id: ClusterId,
        identities: IdentityRange,
        own: ClusterName,
        wanted: WantedBackends = ALL_IPV4,
    ) -> None:
        self._cluster, self._cluster_id, self._identities, self._own = cluster, cluster_id, identities, own
        self._address_types = ("IPv4", "IPv6") if wanted.is_dual else ("IPv4",)
        self._wanted = wanted

    def node(self, key: str, value: bytes) -> Node:
        record = node.decode(key, value, cluster=self._cluster, cluster_id=self._cluster_id)
        return Node(
            cluster=self._cluster,
            cluster_id=self._cluster_id,
            name=record.name,
            addresses=tuple(NodeAddress(a.kind, a.ip) for a in record.addresses),
            pod_cidrs=record.pod_cidrs,
            health_ip=record.ipv4_health_ip,
            ingress_ip=record.ipv4_ingress_ip,
            packed_labels=pack_labels(record.labels),
        )

    def identity_key(self, key: str) -> NumericIdentity:
        return identity_record.decode_key(key, identities=self._identities)

    def identity(self, key: str, value: bytes) -> Identity:
        number, labels = identity_record.decode(key, value, cluster=self._cluster, identities=self._identities)
        return Identity(number, self._cluster, labels)

    def ip(self, key: str, value: bytes, *, is_own_node: Callable[[str], bool]) -> OwnedPrefix:
        """Tunnel and whether the identity is known are decided by the writer; this node's own address stays `host`."""
        record = ip.decode(key, value, identities=self._identities)
        identity = int(record.identity)
        if identity == int(Reserved.REMOTE_NODE) and is_own_node(record.ip):
            identity = int(Reserved.HOST)
        row = Prefix(
            prefix=record.prefix,
            identity=identity,
            tunnel="",
            cluster=self._cluster,
            cluster_id=self._cluster_id,
            origin=ClaimOrigin.POD,
            host=record.host_ip,
            namespace=record.namespace,
            name=record.pod,
            named_ports=tuple(NamedPort(p.name, p.port, p.protocol) for p in record.named_ports),
        )
        return OwnedPrefix(row, record.pod_uid)

    def service(self, key: str, value: bytes) -> Piece:
        """The backends, in address order; a record that is not shared, or not with us, contributes none."""
        record = service.decode(key, value, cluster=self._cluster, cluster_id=self._cluster_id)
        if not record.shared:
            return Piece(record.name, ())
        if not is_exported_to(self._own, record.export_to):
            return Piece(record.name, (), is_withheld=True)
        return Piece(record.name, self._wanted.first(self._of_service(record)))

    def _of_service(self, record: ClusterService) -> Iterator[Backend]:
        zones, terminating = record.zones, record.terminating
        last: service.PortMap | None = None
        ports: list[tuple[int, str, tuple[str, ...]]] = []
        for address in sorted(record.backends):
            if ":" in address and not self._wanted.is_dual:
                continue
            found = record.backends[address]
            if found is not last:  # backends of one service share their ports nearly always
                last, ports = found, _ports(found)
            place = zones.get(address)
            zone = place.zone if place is not None else ""
            hints = hints_of(place.for_zones) if place is not None else NO_HINTS
            condition = Condition.TERMINATING if address in terminating else Condition.ACTIVE
            for port, protocol, names in ports:
                yield Backend(address, port, protocol, names, condition, True, zone, "", hints)

    def endpoint_slice(self, key: str, value: bytes) -> Piece:
        """One slice of the newer format, which says of each backend whether it is terminating."""
        from meshmodel import endpointslice

        record = endpointslice.decode(key, value, cluster=self._cluster, cluster_id=self._cluster_id)
        if record.service is None:
            raise RecordError(key, "no-service", "the slice has no service name label")
        if not is_exported_to(self._own, record.export_to):
            return Piece(record.service, (), is_withheld=True)
        return Piece(record.service, self._wanted.first(self._of_slice(record)))

    def _of_slice(self, record: ClusterEndpointSlice) -> Iterator[Backend]:
        ports = [p for p in record.ports if p.port]
        for endpoint in record.endpoints if record.address_type in self._address_types else ():
            condition = condition_of(ready=endpoint.ready, serving=endpoint.serving, terminating=endpoint.terminating)
            if condition is None:
                continue
            hints = hints_of(endpoint.for_zones)
            for address in endpoint.addresses:
                for port in ports:
                    names = _names(port.name)
                    yield Backend(
                        address, port.port or 0, port.protocol, names, condition, True, endpoint.zone, "", hints
                    )


def _ports(ports: service.PortMap) -> list[tuple[int, str, tuple[str, ...]]]:
    """Ports of one address: the same protocol and number under two names is one backend with both."""
    names: dict[tuple[str, int], list[str]] = {}
    for name, spec in ports.items():
        if spec.port:
            names.setdefault((spec.protocol, spec.port), []).append(name)
    return [
        (port, protocol, _names(found[0]) if len(found) == 1 else tuple(sorted(found)))
        for (protocol, port), found in sorted(names.items())
    ]


def _names(name: str) -> tuple[str, ...]:
    """The same tuple for the same name: half a million backends share a handful."""
    known = _ONE_NAME.get(name)
    if known is None:
        known = (name,)
        if len(_ONE_NAME) < 10_000:
            _ONE_NAME[name] = known
    return known


class SliceSets:
    """Slices of one cluster by service, merged on demand."""

    def __init__(self) -> None:
        self._by_service: dict[ServiceName, dict[str, Piece]] = {}
        self._owner: dict[str, ServiceName] = {}
        self._changed: dict[ServiceName, None] = {}

    def set(self, key: str, piece: Piece) -> None:
        if self._owner.get(key, piece.service) != piece.service:
            self.delete(key)
        self._owner[key] = piece.service
        self._by_service.setdefault(piece.service, {})[key] = piece
        self._changed[piece.service] = None

    def delete(self, key: str) -> None:
        name = self._owner.pop(key, None)
        if name is None:
            return
        del self._by_service[name][key]
        if not self._by_service[name]:
            del self._by_service[name]
        self._changed[name] = None

    def is_withheld(self, name: ServiceName) -> bool:
        """Whether slices of the service are there and not for us."""
        return any(piece.is_withheld for piece in self._by_service.get(name, {}).values())

    def pieces(self) -> list[tuple[str, Piece]]:
        """Every slice by its key."""
        return [item for pieces in self._by_service.values() for item in pieces.items()]

    def clear(self) -> None:
        self._by_service.clear()
        self._owner.clear()
        self._changed.clear()

    def take_changed(self, but: Container[ServiceName] = ()) -> list[tuple[ServiceName, list[tuple[Backend, ...]]]]:
        """Services that changed since the last call, with the backends of each of their slices now; `but` stay changed."""
        changed = [name for name in self._changed if name not in but]
        self._changed = {name: None for name in self._changed if name in but}
        return [(name, [p.backends for p in self._by_service.get(name, {}).values()]) for name in changed]
