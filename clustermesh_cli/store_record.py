# SPDX-License-Identifier: Apache-2.0
"""A key of the store and its value in words: what kind of record it is, what it says, why readers would refuse it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from meshmodel import (
    cluster_config,
    endpointslice,
    identity_record,
    ip,
    keys,
    node,
    private_keys,
    service,
    serviceexport,
)
from meshmodel.cluster_config import ClusterConfig
from meshmodel.errors import ModelError, RecordError
from meshmodel.identity import identity_range
from meshmodel.keys import CLUSTER_CONFIG_PREFIX, Kind, Place
from meshmodel.labels import labels_text

CONFIGS: Final = CLUSTER_CONFIG_PREFIX.decode()
PRIVATE: Final = private_keys.PRIVATE.decode()
CANARY: Final = "canary"
OTHERS: Final[Mapping[str, str]] = {
    keys.SYNCED_PREFIX.decode(): CANARY,
    private_keys.SYNCED.decode(): CANARY,
    keys.HEARTBEAT.decode(): "heartbeat",
    keys.MIRROR_LOCK_PREFIX.decode(): "mirror-lock",
}


@dataclass(frozen=True, slots=True)
class Known:
    """What the store's cluster configs say: records are judged by them, as their readers do."""

    own: str = ""
    configs: Mapping[str, ClusterConfig] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decoded:
    """`value` is plain data that JSON can hold; `problem` says why a reader would not believe the record."""

    kind: str
    cluster: str
    value: Any
    problem: str = ""


def read_configs(entries: Iterable[tuple[str, bytes]]) -> Known:
    """From the records under cilium/cluster-config/; the one that is not a mirror's is our own."""
    configs: dict[str, ClusterConfig] = {}
    for key, value in entries:
        try:
            configs[key.removeprefix(CONFIGS)] = cluster_config.decode(value)
        except RecordError:
            continue
    own = next((name for name, config in configs.items() if not config.cached), "")
    return Known(own, configs)


def decode(key: str, value: bytes, known: Known) -> Decoded:
    """What the record says. Never fails: what cannot be decoded is shown as it is, with the reason."""
    if key.startswith(CONFIGS):
        return _decode_config(key.removeprefix(CONFIGS), value)
    for prefix, kind in OTHERS.items():
        if key.startswith(prefix):
            cluster = key.removeprefix(prefix).partition("/")[0] if kind == CANARY else ""
            return Decoded(kind, cluster, _text(value))
    is_private = key.startswith(PRIVATE)
    try:
        place = private_keys.locate(key.encode()) if is_private else keys.locate(key.encode())
    except RecordError as exc:
        return Decoded("unknown", "", _as_is(value), str(exc))
    if place is None:
        return Decoded("unknown", "", _as_is(value))
    place = place._replace(cluster=place.cluster or known.own)
    kind = f"private {place.kind}" if is_private else place.kind.value
    try:
        return Decoded(kind, place.cluster, _decode_record(place, value, known))
    except RecordError as exc:
        return Decoded(kind, place.cluster, _as_is(value), str(exc))


def one_line(decoded: Decoded) -> str:
    """The value, and why it is not believed, on one line."""
    said = decoded.value if isinstance(decoded.value, str) else msgspec.json.encode(decoded.value).decode()
    return f"{said}   !! {decoded.problem}" if decoded.problem else said


def _decode_config(cluster: str, value: bytes) -> Decoded:
    try:
        cluster_config.decode(value, cluster=cluster)
    except RecordError as exc:
        return Decoded("cluster-config", cluster, _as_is(value), str(exc))
    return Decoded("cluster-config", cluster, _as_is(value))


def _decode_record(place: Place, value: bytes, known: Known) -> Any:
    """Raises: RecordError, as any reader of the cluster would."""
    config = known.configs.get(place.cluster)
    if config is None:
        raise RecordError(place.suffix, "no-cluster-config", f"nothing says which id cluster {place.cluster!r} has")
    key, cluster, number = place.suffix, place.cluster, config.id
    try:
        identities = identity_range(number, config.max_connected_clusters)
    except ModelError as exc:
        raise RecordError(place.suffix, "bad-cluster-config", str(exc)) from None
    match place.kind:
        case Kind.NODES:
            node.decode(key, value, cluster=cluster, cluster_id=number)
        case Kind.SERVICES:
            service.decode(key, value, cluster=cluster, cluster_id=number)
        case Kind.IPS:
            ip.decode(key, value, identities=identities)
        case Kind.SERVICE_EXPORTS:
            serviceexport.decode(key, value, cluster=cluster)
        case Kind.IDENTITIES:
            identity, labels = identity_record.decode(key, value, cluster=cluster, identities=identities)
            return {"id": int(identity), "labels": labels_text(labels)}
        case Kind.ENDPOINT_SLICES:
            return msgspec.to_builtins(endpointslice.decode(key, value, cluster=cluster, cluster_id=number))
    return _as_is(value)


def _as_is(value: bytes) -> Any:
    try:
        return msgspec.json.decode(value)
    except msgspec.DecodeError:
        return _text(value)


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.hex()
