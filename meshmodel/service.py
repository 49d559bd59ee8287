# SPDX-License-Identifier: Apache-2.0
"""A service as one cluster publishes it: complete, never a delta. Source: docs/wire.md, shared service.

Addresses are canonical text. Mappings are never changed after decoding; equal port maps are often one object, which is
what keeps 100,000 services small.
"""

from __future__ import annotations

from collections.abc import Mapping
from sys import intern
from typing import Annotated, Final

import msgspec

from meshmodel.address import canonical_ip, is_ipv4
from meshmodel.errors import RecordError
from meshmodel.names import ClusterId, ClusterName, ServiceName
from meshmodel.wire import decode_json, encode_json

PROTOCOLS: Final = frozenset({"TCP", "UDP", "SCTP"})
_MAXIMUM_INTERNED: Final = 4096


class PortSpec(msgspec.Struct, frozen=True, gc=False, rename="pascal"):
    """A port in host order and its protocol: TCP, UDP or SCTP."""

    protocol: str
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)]


PortMap = Mapping[str, PortSpec]


class Zone(msgspec.Struct, frozen=True):
    """Where a backend runs, and the zones that shall prefer it."""

    zone: str
    for_zones: tuple[str, ...] = ()


class _ForZone(msgspec.Struct, frozen=True, gc=False):
    name: str = ""


class _Zone(msgspec.Struct, frozen=True):
    zone: str = ""
    for_zones: list[_ForZone] | None = msgspec.field(default=None, name="forZones")


class _Wire(msgspec.Struct):
    cluster: str = ""
    namespace: str = ""
    name: str = ""
    frontends: dict[str, dict[str, PortSpec] | None] | None = None
    backends: dict[str, dict[str, PortSpec] | None] | None = None
    hostnames: dict[str, str] | msgspec.UnsetType | None = msgspec.UNSET
    zones: dict[str, _Zone] | msgspec.UnsetType | None = msgspec.UNSET
    labels: dict[str, str] | None = None
    selector: dict[str, str] | None = None
    include_external: bool = msgspec.field(default=False, name="includeExternal")
    shared: bool = False
    cluster_id: int = msgspec.field(default=0, name="clusterID")


class ClusterService(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Everything a peer needs to balance to this service.

    `frontends` and `backends` map an address to its ports by name ("" for a nameless one); `hostnames` and `zones` map
    backend addresses. A record with `shared` false withdraws the service.
    """

    cluster: ClusterName
    cluster_id: ClusterId
    name: ServiceName
    frontends: Mapping[str, PortMap]
    backends: Mapping[str, PortMap]
    hostnames: Mapping[str, str] = msgspec.field(default_factory=dict)
    zones: Mapping[str, Zone] = msgspec.field(default_factory=dict)
    labels: Mapping[str, str] = msgspec.field(default_factory=dict)
    selector: Mapping[str, str] = msgspec.field(default_factory=dict)
    include_external: bool = True
    shared: bool = True

    def encode(self) -> bytes:
        """The bytes of the record: deterministic, and equal to those of Cilium's exporter for the same service."""
        zones = {
            ip: _Zone(zone=z.zone, for_zones=[_ForZone(name) for name in z.for_zones]) for ip, z in self.zones.items()
        }
        return encode_json(
            _Wire(
                cluster=self.cluster,
                namespace=self.name.namespace,
                name=self.name.name,
                frontends={ip: dict(ports) for ip, ports in self.frontends.items()},
                backends={ip: dict(ports) for ip, ports in self.backends.items()},
                hostnames=dict(self.hostnames) or msgspec.UNSET,
                zones=zones or msgspec.UNSET,
                labels=dict(self.labels),
                selector=dict(self.selector),
                include_external=self.include_external,
                shared=self.shared,
                cluster_id=self.cluster_id,
            )
        )


_decoder: Final = msgspec.json.Decoder(_Wire)
_NOTHING: Final[Mapping[str, str]] = {}
_NO_ZONES: Final[Mapping[str, Zone]] = {}
_interned: dict[tuple[tuple[str, PortSpec], ...], PortMap] = {}


def decode(key_suffix: str, value: bytes, *, cluster: str, cluster_id: int) -> ClusterService:
    """The record stored under `namespace/name` by this cluster.

    Raises: RecordError: bad-json, bad-field, too-large, key-mismatch, cluster-mismatch, id-mismatch, bad-address,
    bad-protocol.
    """
    wire = decode_json(_decoder, key_suffix, value)
    if key_suffix != f"{wire.namespace}/{wire.name}" or not wire.namespace or not wire.name:
        raise RecordError(key_suffix, "key-mismatch", f"holds {wire.namespace}/{wire.name}")
    if wire.cluster != cluster:
        raise RecordError(key_suffix, "cluster-mismatch", f"holds a service of {wire.cluster!r}, not of {cluster!r}")
    if wire.cluster_id != cluster_id:
        raise RecordError(key_suffix, "id-mismatch", f"cluster id {wire.cluster_id}, expected {cluster_id}")
    try:
        frontends = _addresses(wire.frontends)
        backends = _addresses(wire.backends)
        hostnames = _keyed(wire.hostnames) if wire.hostnames else _NOTHING
        zones = _zones(wire.zones) if wire.zones else _NO_ZONES
    except _ProtocolError as exc:
        raise RecordError(key_suffix, "bad-protocol", str(exc)) from None
    except ValueError as exc:
        raise RecordError(key_suffix, "bad-address", str(exc)) from None
    labels = wire.labels or _NOTHING
    return ClusterService(
        cluster=ClusterName(cluster),
        cluster_id=ClusterId(cluster_id),
        name=ServiceName(intern(wire.namespace), wire.name),
        frontends=frontends,
        backends=backends,
        hostnames=hostnames,
        zones=zones,
        labels=labels,
        selector=labels if wire.selector == labels else wire.selector or _NOTHING,
        include_external=wire.include_external,
        shared=wire.shared,
    )


class _ProtocolError(Exception):
    pass


def _addresses(found: dict[str, dict[str, PortSpec] | None] | None) -> Mapping[str, PortMap]:
    if not found:
        return {}
    last_raw: dict[str, PortSpec] | None = None
    last: PortMap = {}
    result: dict[str, PortMap] = {}
    for ip, ports in found.items():
        if not last or ports != last_raw:
            last_raw, last = ports, _ports(ports)
        result[ip if is_ipv4(ip) else canonical_ip(ip)] = last
    if len(result) != len(found):
        raise ValueError("the same address in two forms")
    return result


def _ports(ports: dict[str, PortSpec] | None) -> PortMap:
    items = tuple(ports.items()) if ports else ()
    known = _interned.get(items)
    if known is not None:
        return known
    for _, spec in items:
        if spec.protocol not in PROTOCOLS:
            raise _ProtocolError(f"{spec.protocol[:32]!r} is not TCP, UDP or SCTP")
    if len(_interned) >= _MAXIMUM_INTERNED:
        _interned.clear()
    result = dict(items)
    if len(items) <= 8 and all(len(name) <= 64 for name, _ in items):
        _interned[items] = result
    return result


def _keyed(found: dict[str, str]) -> Mapping[str, str]:
    return {ip if is_ipv4(ip) else canonical_ip(ip): text for ip, text in found.items()}


def _zones(found: dict[str, _Zone]) -> Mapping[str, Zone]:
    return {
        ip if is_ipv4(ip) else canonical_ip(ip): Zone(z.zone, tuple(f.name for f in z.for_zones or ()))
        for ip, z in found.items()
    }
