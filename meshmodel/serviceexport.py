# SPDX-License-Identifier: Apache-2.0
"""A service one cluster exports to the cluster set (MCS API). Source: docs/wire.md, service export."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final

import msgspec

from meshmodel.errors import RecordError
from meshmodel.names import ClusterName, ServiceName
from meshmodel.wire import JsonReader, encode_json


class ExportType(StrEnum):
    CLUSTER_SET_IP = "ClusterSetIP"
    HEADLESS = "Headless"


class SessionAffinity(StrEnum):
    NONE = "None"
    CLIENT_IP = "ClientIP"


class ExportPort(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False, omit_defaults=True, rename="camel"):
    """A port of the exported service, as in MCS."""

    name: str = ""
    protocol: str = ""
    app_protocol: str | None = None
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0


class _ClientIp(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    timeout: int | None = msgspec.field(default=None, name="timeoutSeconds")


class _AffinityConfig(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    client_ip: _ClientIp | None = msgspec.field(default=None, name="clientIP")


class _Wire(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    cluster: str = ""
    name: str = ""
    namespace: str = ""
    export_creation_timestamp: str | None = None
    ports: list[ExportPort] | None = None
    type: str = ""
    session_affinity: str = ""
    session_affinity_config: _AffinityConfig | msgspec.UnsetType | None = msgspec.UNSET
    ip_families: list[str] | msgspec.UnsetType | None = msgspec.UNSET
    internal_traffic_policy: str | msgspec.UnsetType | None = msgspec.UNSET
    traffic_distribution: str | msgspec.UnsetType | None = msgspec.UNSET
    annotations: dict[str, str] | msgspec.UnsetType | None = msgspec.UNSET
    labels: dict[str, str] | msgspec.UnsetType | None = msgspec.UNSET
    old_annotations: dict[str, str] | msgspec.UnsetType | None = msgspec.field(
        default=msgspec.UNSET, name="Annotations"
    )
    old_labels: dict[str, str] | msgspec.UnsetType | None = msgspec.field(default=msgspec.UNSET, name="Labels")


class ServiceExport(msgspec.Struct, frozen=True, kw_only=True):
    """One export. `created` is RFC 3339 text: the oldest export of a name decides what clusters disagree about."""

    cluster: ClusterName
    name: ServiceName
    created: str
    type: ExportType = ExportType.CLUSTER_SET_IP
    session_affinity: SessionAffinity = SessionAffinity.NONE
    session_affinity_timeout_s: int | None = None
    ports: tuple[ExportPort, ...] = ()
    ip_families: tuple[str, ...] = ()
    internal_traffic_policy: str = ""
    traffic_distribution: str = ""
    annotations: Mapping[str, str] = msgspec.field(default_factory=dict)
    labels: Mapping[str, str] = msgspec.field(default_factory=dict)

    def encode(self) -> bytes:
        """The bytes of the record; annotations and labels are written twice, once for older readers."""
        unset = msgspec.UNSET
        timeout = self.session_affinity_timeout_s
        affinity = _AffinityConfig(_ClientIp(timeout)) if timeout is not None else unset
        return encode_json(
            _Wire(
                cluster=self.cluster,
                name=self.name.name,
                namespace=self.name.namespace,
                export_creation_timestamp=self.created,
                ports=list(self.ports),
                type=self.type,
                session_affinity=self.session_affinity,
                session_affinity_config=affinity,
                ip_families=list(self.ip_families) or unset,
                internal_traffic_policy=self.internal_traffic_policy or unset,
                traffic_distribution=self.traffic_distribution or unset,
                annotations=dict(self.annotations) or unset,
                labels=dict(self.labels) or unset,
                old_annotations=dict(self.annotations) or unset,
                old_labels=dict(self.labels) or unset,
            )
        )


_reader: Final = JsonReader(_Wire, 1024 * 1024)
MAXIMUM_PORTS: Final = 1024
MAXIMUM_LABELS: Final = 4096
_ZERO_TIME: Final = "0001-01-01T00:00:00Z"


def decode(key_suffix: str, value: bytes, *, cluster: str) -> ServiceExport:
    """The export stored under `namespace/name` by this cluster.

    Raises: RecordError: bad-json, bad-field, too-large, key-mismatch, cluster-mismatch, bad-timestamp, bad-type,
    bad-affinity.
    """
    wire = _reader.read(key_suffix, value)
    if not wire.namespace or not wire.name or key_suffix != f"{wire.namespace}/{wire.name}":
        raise RecordError(key_suffix, "key-mismatch", f"holds {wire.namespace}/{wire.name}")
    if wire.cluster != cluster:
        raise RecordError(key_suffix, "cluster-mismatch", f"holds an export of {wire.cluster!r}, not of {cluster!r}")
    kinds = (wire.annotations, wire.labels, wire.old_annotations, wire.old_labels)
    if len(wire.ports or ()) > MAXIMUM_PORTS or any(len(each or ()) > MAXIMUM_LABELS for each in kinds):
        raise RecordError(key_suffix, "too-large", f"more than {MAXIMUM_PORTS} ports or {MAXIMUM_LABELS} labels")
    created = _check_time(key_suffix, wire.export_creation_timestamp)
    try:
        export_type = ExportType(wire.type)
    except ValueError:
        raise RecordError(key_suffix, "bad-type", f"{wire.type!r} is not ClusterSetIP or Headless") from None
    try:
        affinity = SessionAffinity(wire.session_affinity)
    except ValueError:
        raise RecordError(key_suffix, "bad-affinity", f"{wire.session_affinity!r} is not ClientIP or None") from None
    config = wire.session_affinity_config or None
    return ServiceExport(
        cluster=ClusterName(cluster),
        name=ServiceName(wire.namespace, wire.name),
        created=created,
        type=export_type,
        session_affinity=affinity,
        session_affinity_timeout_s=config.client_ip.timeout if config and config.client_ip else None,
        ports=tuple(wire.ports or ()),
        ip_families=tuple(wire.ip_families or ()),
        internal_traffic_policy=wire.internal_traffic_policy or "",
        traffic_distribution=wire.traffic_distribution or "",
        annotations=wire.annotations or wire.old_annotations or {},
        labels=wire.labels or wire.old_labels or {},
    )


def _check_time(key: str, text: str | None) -> str:
    if not text or text == _ZERO_TIME:
        raise RecordError(key, "bad-timestamp", "no creation time")
    try:
        _parse_time(text)
    except ValueError as exc:
        raise RecordError(key, "bad-timestamp", str(exc)) from None
    return text


def _parse_time(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text[:64]!r} has no time zone")
    return moment
