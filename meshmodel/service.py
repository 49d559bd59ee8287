# SPDX-License-Identifier: Apache-2.0
"""A service as one cluster publishes it to its peers (K11). Source: spec of the wire format, 2.5, and what was observed, 4.2.

The record is complete, never a delta. Field order, blanks and sorted map keys are those of the anchor, so that bytes can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from meshmodel.address import is_ipv4, parse_address
from meshmodel.errors import ModelError, RecordError
from meshmodel.limits import decode_json
from meshmodel.names import ServiceName

Protocol = Literal["TCP", "UDP", "SCTP"]
PortNumber = int


class PortSpec(msgspec.Struct, frozen=True, array_like=False, gc=False):
    """One port: protocol in capitals, number in host order."""

    protocol: str = msgspec.field(name="Protocol", default="TCP")
    port: int = msgspec.field(name="Port", default=0)


Ports = dict[str, PortSpec]


class ZoneName(msgspec.Struct, frozen=True, gc=False):
    name: str = ""


class BackendZone(msgspec.Struct, frozen=True, rename="camel"):
    """Where a backend is, and which zones should prefer it."""

    zone: str = ""
    for_zones: list[ZoneName] = []


class ClusterService(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One service of one cluster. Maps are by address, then by port name ("" for an unnamed port)."""

    cluster: str = ""
    namespace: str = ""
    service: str = msgspec.field(name="name", default="")
    frontends: dict[str, Ports] = {}
    backends: dict[str, Ports] = {}
    hostnames: dict[str, str] | None = None
    zones: dict[str, BackendZone] | None = None
    labels: dict[str, str] | None = None
    selector: dict[str, str] | None = None
    include_external: bool = False
    shared: bool = False
    cluster_id: int = msgspec.field(name="clusterID", default=0)

    @property
    def name(self) -> ServiceName:
        return ServiceName(self.namespace, self.service)

    def encode(self) -> bytes:
        """Deterministic bytes: maps sorted, empty hostnames and zones left out, labels and selector always objects."""
        document: dict[str, object] = {
            "cluster": self.cluster,
            "namespace": self.namespace,
            "name": self.service,
            "frontends": _sorted_ports(self.frontends),
            "backends": _sorted_ports(self.backends),
        }
        if self.hostnames:
            document["hostnames"] = dict(sorted(self.hostnames.items()))
        if self.zones:
            document["zones"] = dict(sorted(self.zones.items()))
        document["labels"] = dict(sorted((self.labels or {}).items()))
        document["selector"] = dict(sorted((self.selector or {}).items()))
        document["includeExternal"] = self.include_external
        document["shared"] = self.shared
        document["clusterID"] = self.cluster_id
        return msgspec.json.encode(document)


_DECODER: Final = msgspec.json.Decoder(ClusterService, strict=True)


def decode(key: str, value: bytes, *, cluster: str, cluster_id: int) -> ClusterService:
    """The record stored under `key`, the part after the cluster's prefix, as published by `cluster`.

    Raises RecordError: bad-json, wrong-type, too-large, key-mismatch, cluster-mismatch, id-mismatch, bad-address, bad-port.
    """
    record = decode_json(_DECODER, key, value)
    if record.cluster != cluster:
        raise RecordError(key, "cluster-mismatch", f"says it is of {record.cluster!r}, came from {cluster}")
    if not record.namespace or not record.service or key != f"{record.namespace}/{record.service}":
        raise RecordError(key, "key-mismatch", f"holds {record.namespace}/{record.service}")
    if record.cluster_id != cluster_id:
        raise RecordError(key, "id-mismatch", f"says cluster id {record.cluster_id}, {cluster} has {cluster_id}")
    _check(key, record.frontends)
    _check(key, record.backends)
    return record


def _check(key: str, by_address: Mapping[str, Ports]) -> None:
    for address, ports in by_address.items():
        if not is_ipv4(address):
            try:
                parse_address(address)
            except ModelError as exc:
                raise RecordError(key, "bad-address", str(exc)) from exc
        for spec in ports.values():
            if not 0 < spec.port < 65536 or spec.protocol not in ("TCP", "UDP", "SCTP"):
                raise RecordError(key, "bad-port", f"{address}: {spec.protocol[:16]}/{spec.port}")


def _sorted_ports(by_address: Mapping[str, Ports]) -> dict[str, Ports]:
    return {address: dict(sorted(ports.items())) for address, ports in sorted(by_address.items())}
