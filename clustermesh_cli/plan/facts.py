# SPDX-License-Identifier: Apache-2.0
"""What is known about one cluster when a command decides: plain values, no clients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from meshmodel.names import ClusterId, ClusterName


@dataclass(frozen=True, slots=True)
class StoreAccess:
    """Where peers reach the facade: the kind of Service, addresses, one port."""

    service_type: str
    addresses: tuple[str, ...]
    port: int


@dataclass(frozen=True, slots=True)
class KnownPeer:
    """What was written down about a peer when it was connected."""

    id: int
    pod_cidrs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """One cluster as it stands. `access` is None while no address is known; `is_mirrored`: it mirrors its peers.

    `flows` is where its relay answers relays of peers; None without one.
    """

    context: str
    name: ClusterName
    id: ClusterId
    maximum: int
    ca_pem: bytes
    access: StoreAccess | None
    pod_cidrs: tuple[str, ...]
    peers: Mapping[str, KnownPeer] = field(default_factory=dict)
    is_mirrored: bool = False
    flows: StoreAccess | None = None
