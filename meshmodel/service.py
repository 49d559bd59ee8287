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

from meshmodel.address import PROTOCOLS, canonical_ip, is_ipv4
from meshmodel.errors import RecordError
from meshmodel.names import ClusterId, ClusterName, ServiceName
from meshmodel.wire import JsonReader, encode_json

MAXIMUM_BACKENDS: Final = 65_536
MAXIMUM_FRONTENDS: Final = 1024
MAXIMUM_PORTS: Final = 1024
MAXIMUM_LABELS: Final = 4096
_MAXIMUM_INTERNED: Final = 4096


class RecordPort(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False, rename="pascal"):
    """A port in host order and its protocol: TCP, UDP or SCTP."""

    protocol: str = ""
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0


PortMap = Mapping[str, RecordPort]


class Zone(msgspec.Struct, frozen=True):
    """Where a backend runs, and the zones that shall prefer it."""

    zone: str
    for_zones: tuple[str, ...] = ()


class _ForZone(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    name: str = ""


class _Zone(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    zone: str = ""
    for_zones: list[_ForZone] | None = msgspec.field(default=None, name="forZones")


class _Wire(msgspec.Struct, forbid_unknown_fields=True):
    cluster: str = ""
    namespace: str = ""
    name: str = ""
    frontends: dict[str, dict[str, RecordPort] | None] | None = None
    backends: dict[str, dict[str, RecordPort] | None] | None = None
    hostnames: dict[str, str] | msgspec.UnsetType | None = msgspec.UNSET
    zones: dict[str, _Zone] | msgspec.UnsetType | None = msgspec.UNSET
    labels: dict[str, str] | None = None
    selector: dict[str, str] | None = None
    include_external: bool = msgspec.field(default=False, name="includeExternal")
    shared: bool = False
    cluster_id: int = msgspec.field(default=0, name="clusterID")
    export_to: list[str] | msgspec.UnsetType | None = msgspec.field(default=msgspec.UNSET, name="exportTo")
    terminating: list[str] | msgspec.UnsetType | None = msgspec.UNSET


class ClusterService(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Everything a peer needs to balance to this service.

    `frontends` and `backends` map an address to its ports by name ("" for a nameless one); `hostnames` and `zones` map
    backend addresses. A record with `shared` false withdraws the service. `export_to` names the only peers that may use it;
    None: all. `terminating` are the backends that end and still serve.
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
    export_to: tuple[str, ...] | None = None
    terminating: frozenset[str] = frozenset()

    def encode(self) -> bytes:
        """The bytes of the record: deterministic, and equal to those of Cilium's exporter for the same service.

        Fields that Cilium does not know, `exportTo` and `terminating`, are there only where they say something.
        """
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
                export_to=msgspec.UNSET if self.export_to is None else list(self.export_to),
                terminating=sorted(self.terminating) or msgspec.UNSET,
            )
        )


_reader: Final = JsonReader(_Wire)
_NOTHING: Final[Mapping[str, str]] = {}
_NO_ZONES: Final[Mapping[str, Zone]] = {}
_NONE: Final[frozenset[str]] = frozenset()
_interned: dict[tuple[tuple[str, RecordPort], ...], PortMap] = {}


def decode(key_suffix: str, value: bytes, *, cluster: str, cluster_id: int) -> ClusterService:
    """The record stored under `namespace/name` by this cluster.

    Ports of protocols we do not balance, and host names and zones of what is no address, are left out. Raises:
    RecordError: bad-json, bad-field, too-large, key-mismatch, cluster-mismatch, id-mismatch, bad-address.
    """
    wire = _reader.read(key_suffix, value)
    if key_suffix != f"{wire.namespace}/{wire.name}" or not wire.namespace or not wire.name:
        raise RecordError(key_suffix, "key-mismatch", f"holds {wire.namespace}/{wire.name}")
    if wire.cluster != cluster:
        raise RecordError(key_suffix, "cluster-mismatch", f"holds a service of {wire.cluster!r}, not of {cluster!r}")
    if wire.cluster_id != cluster_id:
        raise RecordError(key_suffix, "id-mismatch", f"cluster id {wire.cluster_id}, expected {cluster_id}")
    _check_size(key_suffix, wire)
    try:
        frontends = _addresses(wire.frontends)
        backends = _addresses(wire.backends)
        hostnames = _keyed(wire.hostnames) if wire.hostnames else _NOTHING
        zones = _zones(wire.zones) if wire.zones else _NO_ZONES
        terminating = frozenset(map(_ip_or_nothing, wire.terminating)) if wire.terminating else _NONE
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
        export_to=tuple(wire.export_to) if isinstance(wire.export_to, list) else None,
        terminating=terminating,
    )


def _check_size(key: str, wire: _Wire) -> None:
    for what, count, maximum in (
        ("backends", len(wire.backends or ()), MAXIMUM_BACKENDS),
        ("frontends", len(wire.frontends or ()), MAXIMUM_FRONTENDS),
        ("labels", max(len(wire.labels or ()), len(wire.selector or ())), MAXIMUM_LABELS),
    ):
        if count > maximum:
            raise RecordError(key, "too-large", f"{count} {what}, {maximum} are accepted")


def _addresses(found: dict[str, dict[str, RecordPort] | None] | None) -> Mapping[str, PortMap]:
    """Ports by canonical address; an address in two spellings has the ports of both."""
    if not found:
        return {}
    last_raw: dict[str, RecordPort] | None = None
    last: PortMap = {}
    result: dict[str, PortMap] = {}
    for text, ports in found.items():
        if not last or ports != last_raw:
            last_raw, last = ports, _ports(ports)
        ip = text if is_ipv4(text) else canonical_ip(text)
        result[ip] = {**result[ip], **last} if ip in result else last
    return result


def _ports(ports: dict[str, RecordPort] | None) -> PortMap:
    items = tuple(ports.items()) if ports else ()
    known = _interned.get(items)
    if known is not None:
        return known
    if len(items) > MAXIMUM_PORTS:
        raise ValueError(f"{len(items)} ports of one address, {MAXIMUM_PORTS} are accepted")
    if len(_interned) >= _MAXIMUM_INTERNED:
        _interned.clear()
    usual = ((name, spec if spec.protocol in PROTOCOLS else _upper_case(spec)) for name, spec in items)
    result = {name: spec for name, spec in usual if spec.protocol in PROTOCOLS}
    if len(items) <= 8 and all(len(name) <= 64 for name, _ in items):
        _interned[items] = result
    return result


def _upper_case(spec: RecordPort) -> RecordPort:
    return RecordPort(spec.protocol.upper(), spec.port)


def _keyed(found: dict[str, str]) -> Mapping[str, str]:
    return {ip: text for key, text in found.items() if (ip := _ip_or_nothing(key))}


def _zones(found: dict[str, _Zone]) -> Mapping[str, Zone]:
    return {
        ip: Zone(zone.zone, tuple(each.name for each in zone.for_zones or ()))
        for key, zone in found.items()
        if (ip := _ip_or_nothing(key))
    }


def _ip_or_nothing(text: str) -> str:
    if is_ipv4(text):
        return text
    try:
        return canonical_ip(text)
    except ValueError:
        return ""
