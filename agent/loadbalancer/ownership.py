# SPDX-License-Identifier: Apache-2.0
"""Which service has an address and port that several claim. Pure.

The kind of the claim decides before anything a tenant can choose: ClusterIP, then LoadBalancer, NodePort, ExternalIP. Of one
kind the older service wins, then the first by name. So the answer does not depend on the order of events.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple, TypeVar

from agent.tables import FrontendKey, Service
from meshmodel.names import ServiceName

CLUSTER_IP: Final = "ClusterIP"
LOAD_BALANCER: Final = "LoadBalancer"
NODE_PORT: Final = "NodePort"
EXTERNAL_IP: Final = "ExternalIP"
RANKS: Final = {CLUSTER_IP: 0, LOAD_BALANCER: 1, NODE_PORT: 2, EXTERNAL_IP: 3}
A = TypeVar("A")
B = TypeVar("B")
_NEVER: Final = "~"  # after every time: an object that does not say when it was made is younger than all


class Claim(NamedTuple):
    """One service's claim on one address; the least of several wins."""

    rank: int
    created: str
    service: ServiceName


def claim_of(service: Service, key: FrontendKey) -> Claim | None:
    """The service's claim on the address, or on the node port; None if it does not name it."""
    kind = next((address.kind for address in service.addresses if address.ip == key.address), None)
    if kind is None and any((key.port, key.protocol) == (p.node_port, p.protocol) for p in service.ports):
        kind = NODE_PORT
    return None if kind is None else Claim(RANKS.get(kind, len(RANKS)), service.created or _NEVER, service.name)


def describe_loss(key: FrontendKey, mine: Claim, winner: Claim) -> str:
    """The sentence for the status of the service that does not get the frontend."""
    if mine.rank != winner.rank:
        why = f"its {_kind(winner.rank)} goes before {_kind(mine.rank)}"
    elif mine.created != winner.created:
        why = "it is older"
    else:
        why = "its name comes first"
    return f"{key} belongs to service {winner.service}: {why}"


def _kind(rank: int) -> str:
    return next((kind for kind, number in RANKS.items() if number == rank), "address")


class Contests:
    """The services that claim a frontend which more than one claims."""

    def __init__(self) -> None:
        self._rivals: dict[FrontendKey, set[ServiceName]] = {}
        self._of: dict[ServiceName, set[FrontendKey]] = {}

    def __contains__(self, key: FrontendKey) -> bool:
        return key in self._rivals

    def rivals(self, key: FrontendKey) -> tuple[ServiceName, ...]:
        return tuple(sorted(self._rivals.get(key, ())))

    def of(self, name: ServiceName) -> tuple[FrontendKey, ...]:
        """Where the service has rivals."""
        return tuple(sorted(self._of.get(name, ())))

    def join(self, key: FrontendKey, names: Iterable[ServiceName]) -> None:
        for name in names:
            self._rivals.setdefault(key, set()).add(name)
            self._of.setdefault(name, set()).add(key)

    def leave(self, key: FrontendKey, name: ServiceName) -> tuple[ServiceName, ...]:
        """The service claims it no more; returns who still does. One alone has no rivals."""
        left = self.rivals(key)
        if name in left:
            self._forget(key, name)
            left = tuple(other for other in left if other != name)
        if len(left) == 1:
            self._forget(key, left[0])
        return left

    def _forget(self, key: FrontendKey, name: ServiceName) -> None:
        _discard(self._rivals, key, name)
        _discard(self._of, name, key)


def _discard(index: dict[A, set[B]], one: A, other: B) -> None:
    found = index[one]
    found.discard(other)
    if not found:
        del index[one]
