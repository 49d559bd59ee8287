# SPDX-License-Identifier: Apache-2.0
"""How the 24 bits of an identity are divided among clusters. Source: spec of the wire format, 4.3."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NewType

from meshmodel.errors import ModelError
from meshmodel.names import ClusterId, check_maximum

NumericIdentity = NewType("NumericIdentity", int)

UNKNOWN: Final = NumericIdentity(0)
IDENTITY_BITS: Final = 24
FIRST_ALLOCATED: Final = 256
LOCAL_SCOPE_CIDR: Final = 1 << 24
LOCAL_SCOPE_REMOTE_NODE: Final = 2 << 24


class Reserved(IntEnum):
    """Identities below 256, the same in every cluster."""

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

    @property
    def label(self) -> str:
        """The key of its `reserved:` label."""
        return self.name.lower().replace("_", "-")


_RESERVED: Final = {int(reserved): reserved for reserved in Reserved}


@dataclass(frozen=True, slots=True)
class IdentityRange:
    """Identities one cluster may use, both ends included."""

    first: NumericIdentity
    last: NumericIdentity

    def contains(self, identity: int) -> bool:
        return self.first <= identity <= self.last


def identity_shift(maximum: int = 255) -> int:
    """Where the cluster id starts: bit 16 in a mesh of 255 clusters, bit 15 in one of 511."""
    return IDENTITY_BITS - check_maximum(maximum).bit_length()


def identity_range(cluster_id: int, maximum: int = 255) -> IdentityRange:
    """What cluster `cluster_id` may use; for 0, a cluster outside a mesh, it starts at 256. Raises ModelError out of range."""
    if not 0 <= cluster_id <= maximum:
        raise ModelError(f"cluster id {cluster_id}: use 0 to {maximum}")
    shift = identity_shift(maximum)
    first = cluster_id << shift
    return IdentityRange(NumericIdentity(first or FIRST_ALLOCATED), NumericIdentity(((cluster_id + 1) << shift) - 1))


def cluster_of(identity: int, maximum: int = 255) -> ClusterId:
    """The cluster an identity belongs to; 0 for reserved and node-local ones."""
    if identity < FIRST_ALLOCATED or identity >= LOCAL_SCOPE_CIDR:
        return ClusterId(0)
    return ClusterId(identity >> identity_shift(maximum))


def identity_name(identity: int) -> str:
    """What people read: `world` for a reserved identity, `unknown` for 0, else the number."""
    if identity == UNKNOWN:
        return "unknown"
    return _RESERVED[identity].label if identity in _RESERVED else str(identity)
