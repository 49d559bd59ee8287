# SPDX-License-Identifier: Apache-2.0
"""An endpoint slice as one cluster publishes it: protobuf inside a zstd frame. Source: docs/wire.md, endpoint slice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeVar

import msgspec
import zstandard

from meshmodel import protobuf
from meshmodel.address import canonical_ip
from meshmodel.errors import RecordError
from meshmodel.export_scope import parse_export_scope
from meshmodel.names import ClusterId, ClusterName, ServiceName

T = TypeVar("T")

SERVICE_NAME_LABEL: Final = "kubernetes.io/service-name"
ADDRESS_TYPES: Final = ("IPv4", "IPv6")
_ZSTD_LEVEL: Final = 3
# Go's encoder uses at most 32 MiB; a frame that asks for more is refused before anything is allocated.
_MAXIMUM_WINDOW: Final = 32 * 1024 * 1024
# More than an API server takes as one object: two kilobytes of zeros, compressed, must not buy seconds.
MAXIMUM_BYTES: Final = 4 << 20
# Ten times what Kubernetes allows: two bytes of message must not buy a hundred bytes of memory.
MAXIMUM_ENDPOINTS: Final = 10_000
MAXIMUM_ITEMS: Final = 1_000


class SlicePort(msgspec.Struct, frozen=True, gc=False):
    """A port of every endpoint of a slice; `port` None means "all ports"."""

    name: str = ""
    protocol: str = "TCP"
    port: int | None = None
    app_protocol: str = ""


class SliceEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint. Conditions are three-valued as in Kubernetes: None means that nobody said."""

    addresses: tuple[str, ...]
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None
    hostname: str = ""
    node_name: str = ""
    zone: str = ""
    for_zones: tuple[str, ...] = ()
    for_nodes: tuple[str, ...] = ()

    @property
    def is_ready(self) -> bool:
        """May take new connections: unset counts as ready."""
        return self.ready is not False

    @property
    def is_serving(self) -> bool:
        """Answers: unset follows ready."""
        return self.is_ready if self.serving is None else self.serving


class ClusterEndpointSlice(msgspec.Struct, frozen=True, kw_only=True):
    """One slice, complete; addresses are canonical text of the family `address_type` names."""

    cluster: ClusterName
    cluster_id: ClusterId
    namespace: str
    name: str
    address_type: str = "IPv4"
    labels: Mapping[str, str] = msgspec.field(default_factory=dict)
    annotations: Mapping[str, str] = msgspec.field(default_factory=dict)
    endpoints: tuple[SliceEndpoint, ...] = ()
    ports: tuple[SlicePort, ...] = ()

    @property
    def service(self) -> ServiceName | None:
        """The service that owns the slice, or None when no label says so."""
        name = self.labels.get(SERVICE_NAME_LABEL)
        return ServiceName(self.namespace, name) if name else None

    @property
    def export_to(self) -> tuple[str, ...] | None:
        """The only peers that may use it, None for all; nobody where the annotation cannot be read."""
        return parse_export_scope(self.annotations, [])

    def encode(self) -> bytes:
        """The bytes of the record: deterministic for one version of zstd."""
        return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(self.encode_message())

    def encode_message(self) -> bytes:
        """The protobuf message inside: fields in order, maps sorted, what is unset left out."""
        return b"".join(
            (
                protobuf.put_text(1, self.cluster),
                protobuf.put_number(2, self.cluster_id),
                protobuf.put_text(3, self.namespace),
                protobuf.put_text(4, self.name),
                protobuf.put_map(5, self.labels),
                protobuf.put_map(6, self.annotations),
                protobuf.put_text(7, self.address_type),
                *(protobuf.put_bytes(8, _encode_endpoint(endpoint)) for endpoint in self.endpoints),
                *(protobuf.put_bytes(9, _encode_port(port)) for port in self.ports),
            )
        )


def decode(key_suffix: str, value: bytes, *, cluster: str, cluster_id: int) -> ClusterEndpointSlice:
    """The slice stored under `namespace/slice-name` by this cluster.

    Raises: RecordError: too-large, bad-zstd, bad-protobuf, key-mismatch, cluster-mismatch, id-mismatch,
    bad-address-type, bad-address.
    """
    data = _decompress(key_suffix, value)
    try:
        found = decode_message(data)
    except ValueError as exc:
        raise RecordError(key_suffix, "bad-protobuf", str(exc)) from None
    if not found.namespace or not found.name or key_suffix != f"{found.namespace}/{found.name}":
        raise RecordError(key_suffix, "key-mismatch", f"holds {found.namespace}/{found.name}")
    if found.cluster != cluster:
        raise RecordError(key_suffix, "cluster-mismatch", f"holds a slice of {found.cluster!r}, not of {cluster!r}")
    if found.cluster_id != cluster_id:
        raise RecordError(key_suffix, "id-mismatch", f"cluster id {found.cluster_id}, expected {cluster_id}")
    if found.address_type not in ADDRESS_TYPES:
        raise RecordError(key_suffix, "bad-address-type", f"{found.address_type!r} is not IPv4 or IPv6")
    try:
        endpoints = tuple(_canonical(endpoint, found.address_type) for endpoint in found.endpoints)
    except ValueError as exc:
        raise RecordError(key_suffix, "bad-address", str(exc)) from None
    return msgspec.structs.replace(found, endpoints=endpoints)


def message_size(value: bytes) -> int:
    """How many bytes its message has, without reading it; of what says nothing the most, of what is no record its own size."""
    try:
        declared = zstandard.frame_content_size(value)
    except zstandard.ZstdError:
        return len(value)
    return min(declared, MAXIMUM_BYTES) if declared >= 0 else MAXIMUM_BYTES


def decode_message(data: bytes) -> ClusterEndpointSlice:
    """The message as it is: well-formed, not validated. Raises: ValueError."""
    texts = {1: "", 3: "", 4: "", 7: ""}
    maps: dict[int, dict[str, str]] = {5: {}, 6: {}}
    cluster_id = 0
    endpoints: list[SliceEndpoint] = []
    ports: list[SlicePort] = []
    for field, value in protobuf.fields(data):
        if field in texts:
            texts[field] = protobuf.text(value)
        elif field == 2:
            cluster_id = protobuf.number(value) & 0xFFFFFFFF
        elif field in maps:
            key, content = protobuf.map_entry(value)
            maps[field][key] = content
            _check_size(len(maps[field]) - 1)
        elif field == 8:
            _append(endpoints, _decode_endpoint(protobuf.message(value)), MAXIMUM_ENDPOINTS)
        elif field == 9:
            _append(ports, _decode_port(protobuf.message(value)))
    return ClusterEndpointSlice(
        cluster=ClusterName(texts[1]),
        cluster_id=ClusterId(cluster_id),
        namespace=texts[3],
        name=texts[4],
        address_type=texts[7],
        labels=maps[5],
        annotations=maps[6],
        endpoints=tuple(endpoints),
        ports=tuple(ports),
    )


_idle: list[zstandard.ZstdDecompressor] = []


def _decompress(key: str, value: bytes) -> bytes:
    if len(value) > MAXIMUM_BYTES:
        raise RecordError(key, "too-large", f"{len(value)} bytes")
    # making one costs ten times as much as using it; taken out while in use, so that threads never share one
    decompressor = _idle.pop() if _idle else zstandard.ZstdDecompressor(max_window_size=_MAXIMUM_WINDOW)
    try:
        declared = zstandard.frame_content_size(value)
        if declared > MAXIMUM_BYTES:
            raise RecordError(key, "too-large", f"{declared} bytes when decompressed")
        # without a declared size this allocates up to the cap, and fails beyond it
        return decompressor.decompress(value, max_output_size=MAXIMUM_BYTES)
    except zstandard.ZstdError as exc:
        raise RecordError(key, "bad-zstd", str(exc)) from None
    finally:
        _idle.append(decompressor)


def _canonical(endpoint: SliceEndpoint, address_type: str) -> SliceEndpoint:
    addresses = tuple(canonical_ip(address) for address in endpoint.addresses)
    for address in addresses:
        if (":" in address) != (address_type == "IPv6"):
            raise ValueError(f"{address} in a slice of {address_type}")
    return endpoint if addresses == endpoint.addresses else msgspec.structs.replace(endpoint, addresses=addresses)


def _decode_endpoint(data: bytes) -> SliceEndpoint:
    addresses: list[str] = []
    conditions: dict[int, bool] = {}
    texts = {3: "", 6: "", 7: ""}
    hints: dict[int, list[str]] = {1: [], 2: []}
    for field, value in protobuf.fields(data):
        if field == 1:
            _append(addresses, protobuf.text(value))
        elif field == 2:
            conditions |= {n: bool(protobuf.number(v)) for n, v in protobuf.fields(protobuf.message(value)) if n <= 3}
        elif field in texts:
            texts[field] = protobuf.text(value)
        elif field == 8:
            for kind, hint in protobuf.fields(protobuf.message(value)):
                if kind in hints:
                    _append(hints[kind], _decode_hint(protobuf.message(hint)))
    return SliceEndpoint(
        addresses=tuple(addresses),
        ready=conditions.get(1),
        serving=conditions.get(2),
        terminating=conditions.get(3),
        hostname=texts[3],
        node_name=texts[6],
        zone=texts[7],
        for_zones=tuple(hints[1]),
        for_nodes=tuple(hints[2]),
    )


def _decode_hint(data: bytes) -> str:
    return next((protobuf.text(value) for field, value in protobuf.fields(data) if field == 1), "")


def _append(items: list[T], item: T, maximum: int = MAXIMUM_ITEMS) -> None:
    _check_size(len(items), maximum)
    items.append(item)


def _check_size(size: int, maximum: int = MAXIMUM_ITEMS) -> None:
    if size >= maximum:
        raise ValueError(f"more than {maximum} of one thing")


def _decode_port(data: bytes) -> SlicePort:
    texts = {1: "", 2: "TCP", 4: ""}
    port: int | None = None
    for field, value in protobuf.fields(data):
        if field in texts:
            texts[field] = protobuf.text(value)
        elif field == 3:
            port = protobuf.number(value)
            if port > 65535:
                raise ValueError(f"port {port}")
    return SlicePort(name=texts[1], protocol=texts[2], port=port, app_protocol=texts[4])


def _encode_endpoint(endpoint: SliceEndpoint) -> bytes:
    conditions = b"".join(
        protobuf.put_number(field, int(value))
        for field, value in enumerate((endpoint.ready, endpoint.serving, endpoint.terminating), start=1)
        if value is not None
    )
    hints = b"".join(
        protobuf.put_bytes(field, protobuf.put_bytes(1, name))
        for field, names in ((1, endpoint.for_zones), (2, endpoint.for_nodes))
        for name in names
    )
    return b"".join(
        (
            *(protobuf.put_bytes(1, address) for address in endpoint.addresses),
            protobuf.put_bytes(2, conditions),
            protobuf.put_text(3, endpoint.hostname),
            protobuf.put_text(6, endpoint.node_name),
            protobuf.put_text(7, endpoint.zone),
            protobuf.put_bytes(8, hints) if hints else b"",
        )
    )


def _encode_port(port: SlicePort) -> bytes:
    return b"".join(
        (
            protobuf.put_bytes(1, port.name),
            protobuf.put_text(2, port.protocol),
            protobuf.put_number(3, port.port) if port.port is not None else b"",
            protobuf.put_text(4, port.app_protocol),
        )
    )
