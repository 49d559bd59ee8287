# SPDX-License-Identifier: Apache-2.0
"""How many backends the Services of each namespace may have, so that those of others have theirs (ADR 57). Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from agent.datapath.spec import SERVICES, SERVICES6
from agent.loadbalancer.frontend import is_ipv6
from agent.namespace_shares import STEPS, NamespaceShares
from agent.tables import Backend, Service
from agent.wanted_backends import NAMED, WantedBackends
from meshmodel.address import place_of
from meshmodel.names import ServiceName

LOOKED_AT: Final = 4
"""Slices of one service may repeat each other: so many times the most that it may have are read of them."""
FAMILIES: Final = ("", " of IPv6")


class Kept(NamedTuple):
    """What a service gets of its backends; `left_out` is a sentence, empty if it gets all."""

    backends: Sequence[Backend]
    left_out: str = ""


class _Shape(NamedTuple):
    """What the service map has of a service in one family: each address has an entry for each port and for each backend."""

    addresses: int
    ports: int

    def entries(self, backends: int) -> int:
        return self.addresses * (self.ports + backends) if backends else 0

    def backends(self, entries: int) -> int:
        return max(0, entries // self.addresses - self.ports)


_NONE: Final = (0, 0)
_UNKNOWN: Final = (_Shape(1, 0), _Shape(1, 0))
"""A service that is not in the map, or not known yet: its backends cost memory."""


class OwnRoom:
    """Three quarters of the service map of each family are for the own cluster's backends, in fair shares (ADR 60)."""

    def __init__(
        self, wanted: WantedBackends, entries: int = SERVICES.max_entries, entries6: int = SERVICES6.max_entries
    ) -> None:
        """`entries`: of the service map, `entries6`: of that of IPv6."""
        self._most_of_one = wanted.most
        self._shapes: dict[ServiceName, tuple[_Shape, _Shape]] = {}
        self._sizes: dict[ServiceName, tuple[int, int]] = {}
        step = max(1, wanted.most // STEPS)
        rooms = [max(1, entries * 3 // 4), max(1, entries6 * 3 // 4)]
        self._rooms = rooms
        self._shares: list[NamespaceShares[ServiceName]] = [NamespaceShares(room, room, step) for room in rooms]

    @property
    def looked_at(self) -> int:
        """Backends that are read of all slices of one service."""
        return LOOKED_AT * (self._most_of_one + NAMED)

    def set_service(self, name: ServiceName, service: Service | None) -> None:
        """The service is as given; None: it is not in the service map."""
        if service is None:
            self._shapes.pop(name, None)
        else:
            ipv6 = sum(map(is_ipv6, service.addresses))
            ipv4 = len(service.addresses) - ipv6 + any(port.node_port for port in service.ports)
            self._shapes[name] = _Shape(max(1, ipv4), len(service.ports)), _Shape(max(1, ipv6), len(service.ports))
        self._want(name)

    def set_sizes(self, name: ServiceName, ipv4: int, ipv6: int) -> None:
        """The service's slices have so many backends of each family."""
        now = ipv4, ipv6
        if self._sizes.get(name, _NONE) == now:
            return
        if now == _NONE:
            del self._sizes[name]
        else:
            self._sizes[name] = now
        self._want(name)

    def settle(self) -> set[ServiceName]:
        """Whose share may differ from what it was."""
        return self._shares[0].settle() | self._shares[1].settle()

    def keep(self, name: ServiceName, backends: Sequence[Backend]) -> Kept:
        """The first of each family, in the order they are given in."""
        ipv4, ipv6 = self._shares
        if ipv4.has_all(name) and ipv6.has_all(name):
            return Kept(backends)
        found: list[list[Backend]] = [[], []]
        for backend in backends:
            found[":" in backend.address].append(backend)
        kept, kept6 = (self._cut(name, part, family) for family, part in enumerate(found))
        return Kept((*kept.backends, *kept6.backends), "; ".join(filter(None, (kept.left_out, kept6.left_out))))

    def problems(self) -> list[str]:
        """One sentence for each namespace that does not get what it wants."""
        return [
            f"namespace {name}: its services want {wanted} entries of the service map{family}, and each has {most} at most: "
            f"{room} are for all namespaces (service-entries)"
            for family, room, shares in zip(FAMILIES, self._rooms, self._shares, strict=True)
            for name, wanted, most in shares.short()
        ]

    def _want(self, name: ServiceName) -> None:
        sizes, shapes = self._sizes.get(name, _NONE), self._shapes.get(name, _UNKNOWN)
        for family, shares in enumerate(self._shares):
            shares.want(name, name.namespace, shapes[family].entries(min(sizes[family], self._most_of_one)))

    def _cut(self, name: ServiceName, backends: Sequence[Backend], family: int) -> Kept:
        shares, shape = self._shares[family], self._shapes.get(name, _UNKNOWN)[family]
        most = self._most_of_one if shares.has_all(name) else shape.backends(shares.most(name))
        if len(backends) <= most or most >= self._most_of_one:
            return Kept(backends)
        first = ", ".join(f"{place_of(b.address, b.port)}/{b.protocol}" for b in backends[most : most + NAMED])
        return Kept(
            backends[:most],
            f"namespace {name.namespace} has more backends than there is room for beside those of others (service-entries): "
            f"of this service {first} and what follows is left out",
        )
