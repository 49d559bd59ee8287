# SPDX-License-Identifier: Apache-2.0
"""Security identities: 24-bit numbers with the cluster id on top. Source: Cilium's layout, docs/wire.md."""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple, NewType

from meshmodel.errors import ModelError
from meshmodel.names import check_maximum

NumericIdentity = NewType("NumericIdentity", int)

UNKNOWN: Final = NumericIdentity(0)
IDENTITY_BITS: Final = 24
# Below: the same meaning in every cluster. In the range of cluster 0, the first number for pods.
FIRST_ALLOCATED: Final = 256
# Scopes of one node, never exported: prefixes named by policies, and other nodes by their labels.
LOCAL_SCOPE_CIDR: Final = 1 << 24
LOCAL_SCOPE_REMOTE_NODE: Final = 2 << 24


class Reserved(IntEnum):
    """Identities that mean the same everywhere."""

    HOST = 1
    WORLD = 2
    UNMANAGED = 3
    HEALTH = 4
    INIT = 5
    REMOTE_NODE = 6
    KUBE_APISERVER = 7
    INGRESS = 8
    WORLD_IPV4 = 9
    WORLD_IPV6 = 10


_NAMES: Final = {0: "unknown"} | {int(r): r.name.lower().replace("_", "-") for r in Reserved}


class IdentityRange(NamedTuple):
    """The numbers one cluster may give to its pods, both ends included."""

    first: int
    last: int

    def contains(self, identity: int) -> bool:
        return self.first <= identity <= self.last

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


def identity_shift(maximum: int = 255) -> int:
    """How far the cluster id is shifted: 16 bits for 255 clusters, 15 for 511. Raises: ModelError."""
    return IDENTITY_BITS - check_maximum(maximum).bit_length()


def identity_range(cluster_id: int, maximum: int = 255) -> IdentityRange:
    """The numbers of this cluster; cluster 0 (no mesh) begins after the reserved ones.

    Raises: ModelError when the id is out of range.
    """
    shift = identity_shift(maximum)
    if not 0 <= cluster_id <= maximum:
        raise ModelError(f"cluster id {cluster_id}: expected 0 to {maximum}")
    first = cluster_id << shift
    return IdentityRange(first if cluster_id else FIRST_ALLOCATED, first + (1 << shift) - 1)


def is_reserved(identity: int) -> bool:
    """It means the same in every cluster (0, unknown, included)."""
    return 0 <= identity < FIRST_ALLOCATED


def world_of(address: str) -> Reserved:
    """The identity of an address or range that no record names, as the kernel has it: the families have one each."""
    return Reserved.WORLD_IPV6 if ":" in address else Reserved.WORLD


def is_of_range(identity: int) -> bool:
    """It is an agent's own number for a range of addresses, which no other node knows."""
    return identity & ~0xFFFFFF == LOCAL_SCOPE_CIDR


def is_of_nodes(identity: int) -> bool:
    """It is an agent's own number for nodes with the same labels, which no other node knows."""
    return identity & ~0xFFFFFF == LOCAL_SCOPE_REMOTE_NODE


def identity_name(identity: int) -> str:
    """The word for a reserved identity, else the number; of one node's own numbers "cidr:<n>" or "node:<n>"."""
    if identity in _NAMES:
        return _NAMES[identity]
    if is_of_range(identity):
        return f"cidr:{identity & 0xFFFFFF}"
    if is_of_nodes(identity):
        return f"node:{identity & 0xFFFFFF}"
    return str(int(identity))
