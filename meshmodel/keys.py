# SPDX-License-Identifier: Apache-2.0
"""Every etcd key of the mesh, as bytes. Source: docs/wire.md, keyspace.

Prefixes end in a slash, so that cluster `c1` never sees `c11`. `cached` is the layout a mirror writes: everything
carries the cluster's name there, before `id/` for identities and instead of `default` for addresses.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

from meshmodel.errors import RecordError

ROOT: Final = b"cilium/"
STATE: Final = b"cilium/state/"
CACHE: Final = b"cilium/cache/"
HEARTBEAT: Final = b"cilium/.heartbeat"
CLUSTER_CONFIG_PREFIX: Final = b"cilium/cluster-config/"
SYNCED_PREFIX: Final = b"cilium/synced/"
MIRROR_LOCK_PREFIX: Final = b"cilium/kvstoremesh-lock/"
MAXIMUM_KEY_BYTES: Final = 2048


class Kind(StrEnum):
    """The kinds of records one cluster publishes, by the words used in keys."""

    NODES = "nodes"
    SERVICES = "services"
    IPS = "ip"
    IDENTITIES = "identities"
    ENDPOINT_SLICES = "endpointslices"
    SERVICE_EXPORTS = "serviceexports"


def cluster_config_key(cluster: str) -> bytes:
    return CLUSTER_CONFIG_PREFIX + cluster.encode()


def synced_prefix(cluster: str) -> bytes:
    """Where the canaries of one cluster stand."""
    return SYNCED_PREFIX + cluster.encode() + b"/"


def synced_key(cluster: str, prefix: bytes | str) -> bytes:
    """The canary for a canary name such as `cilium/state/nodes/v1`."""
    name = prefix.encode() if isinstance(prefix, str) else prefix
    return synced_prefix(cluster) + name.rstrip(b"/")


def canary_name(kind: Kind, *, cached: bool = False) -> bytes:
    """What follows `cilium/synced/<cluster>/`: never with `/id`, `/default` or the cluster's name."""
    return (CACHE if cached else STATE) + kind.value.encode() + b"/v1"


CANARY: Final = {kind: canary_name(kind) for kind in Kind}


def canary_key(cluster: str, kind: Kind, *, cached: bool = False) -> bytes:
    """The key that says: everything of this kind that was there at the start is written."""
    return synced_key(cluster, canary_name(kind, cached=cached))


def prefix_of(kind: Kind, cluster: str, *, cached: bool = False) -> bytes:
    """What a reader of this cluster lists and watches for this kind."""
    base = canary_name(kind, cached=cached) + b"/"
    name = cluster.encode()
    match kind:
        case Kind.IDENTITIES:
            return base + (name + b"/id/" if cached else b"id/")
        case Kind.IPS:
            return base + (name if cached else b"default") + b"/"
        case _:
            return base + name + b"/"


def nodes_prefix(cluster: str, *, cached: bool = False) -> bytes:
    return prefix_of(Kind.NODES, cluster, cached=cached)


def services_prefix(cluster: str, *, cached: bool = False) -> bytes:
    return prefix_of(Kind.SERVICES, cluster, cached=cached)


def ips_prefix(cluster: str, *, cached: bool = False) -> bytes:
    return prefix_of(Kind.IPS, cluster, cached=cached)


def identities_prefix(cluster: str, *, cached: bool = False) -> bytes:
    return prefix_of(Kind.IDENTITIES, cluster, cached=cached)


def endpointslices_prefix(cluster: str, *, cached: bool = False) -> bytes:
    return prefix_of(Kind.ENDPOINT_SLICES, cluster, cached=cached)


def serviceexports_prefix(cluster: str, *, cached: bool = False) -> bytes:
    return prefix_of(Kind.SERVICE_EXPORTS, cluster, cached=cached)


def identity_key(cluster: str, identity: int, *, cached: bool = False) -> bytes:
    return identities_prefix(cluster, cached=cached) + str(int(identity)).encode()


def suffix_of(key: bytes, prefix: bytes) -> str:
    """The part of a key after the prefix, as the decoders want it.

    Raises: RecordError (bad-key) when it is not below the prefix, not UTF-8, empty, or too long to be ours.
    """
    if not key.startswith(prefix) or len(key) == len(prefix):
        raise RecordError(key[:128].decode("utf-8", "replace"), "bad-key", "not below its prefix")
    if len(key) > MAXIMUM_KEY_BYTES:
        raise RecordError(key[:128].decode("utf-8", "replace"), "bad-key", f"longer than {MAXIMUM_KEY_BYTES} bytes")
    try:
        return key[len(prefix) :].decode()
    except UnicodeDecodeError:
        raise RecordError(key[:128].decode("utf-8", "replace"), "bad-key", "not UTF-8") from None


class Place(NamedTuple):
    """What a key says: the kind, the cluster ("" when the key does not name it), the rest, and the layout."""

    kind: Kind
    cluster: str
    suffix: str
    is_cached: bool


def locate(key: bytes) -> Place | None:
    """Where a record's key points, or None for any other key. Raises: RecordError (bad-key)."""
    for is_cached, root in ((False, STATE), (True, CACHE)):
        if not key.startswith(root):
            continue
        kind_text, _, rest = key[len(root) :].partition(b"/v1/")
        try:
            kind = Kind(kind_text.decode("ascii", "replace"))
        except ValueError:
            return None
        text = suffix_of(key, key[: len(key) - len(rest)])
        cluster, _, suffix = text.partition("/")
        if kind is Kind.IDENTITIES:
            if is_cached:
                suffix = suffix.removeprefix("id/")
            elif cluster != "id":
                return None
        if kind in (Kind.IDENTITIES, Kind.IPS) and not is_cached:
            cluster = ""
        return Place(kind, cluster, suffix, is_cached)
    return None
