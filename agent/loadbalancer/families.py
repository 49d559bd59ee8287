# SPDX-License-Identifier: Apache-2.0
"""Frontends of both families to the maps of each: ids, entries and room of one say nothing about the other."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence

from agent.datapath.maps import Maps
from agent.loadbalancer.frontend_shadow import FrontendShadow
from agent.loadbalancer.ops import LoadBalancerTarget
from agent.loadbalancer.registry import BackendRegistry, OwnerOf
from agent.tables import Frontend, FrontendKey, Target
from meshkit.reconciler import Rows


class FamiliesTarget:
    """A reconciler's target. Where there are no maps of IPv6 its frontends are refused one by one."""

    def __init__(
        self,
        maps: Maps,
        wall: Callable[[], float],
        on_written: Callable[[Frontend, float], None] | None = None,
        owner_of: OwnerOf = lambda _target, _service: None,
    ) -> None:
        self.ipv4 = LoadBalancerTarget(maps.of_ipv4, wall, on_written, owner_of)
        found = maps.of_ipv6
        self.ipv6 = None if found is None else LoadBalancerTarget(found, wall, on_written, owner_of)

    @property
    def backends(self) -> Sequence[BackendRegistry]:
        """Of each family."""
        return [target.backends for target in self._targets]

    @property
    def capacities(self) -> tuple[int, int]:
        """Entries that the service map of each family has room for."""
        return self.ipv4.capacity, 0 if self.ipv6 is None else self.ipv6.capacity

    def known(self) -> Collection[Target]:
        """Every backend that has an id."""
        return [target for registry in self.backends for target in registry.known()]

    def kept_states(self) -> dict[Target, int]:
        """The state that was written for each backend that nothing selects any more."""
        return {target: state for registry in self.backends for target, state in registry.kept_states().items()}

    def restore(self) -> int:
        """Takes over what the live maps hold. Returns frontends."""
        return sum([target.restore() for target in self._targets])

    def doubt(self) -> None:
        """The next prune compares everything."""
        for target in self._targets:
            target.doubt()

    def live(self, key: FrontendKey) -> FrontendShadow | None:
        target = self._target_of(key)
        return None if target is None else target.live(key)

    def update(self, rows: Sequence[Frontend]) -> Mapping[Hashable, Exception]:
        """The maps hold exactly these rows for their frontends; rows that cannot be written or find no room are returned."""
        ipv4, ipv6 = _apart(rows)
        failed = dict(self.ipv4.update(ipv4)) if ipv4 else {}
        if ipv6 and self.ipv6 is not None:
            failed |= self.ipv6.update(ipv6)
        elif ipv6:
            failed |= {row.key: ValueError(f"{row.key}: no map for addresses of IPv6") for row in ipv6}
        return failed

    def delete(self, rows: Sequence[Frontend]) -> Mapping[Hashable, Exception]:
        """Nothing of these frontends is left in the maps."""
        ipv4, ipv6 = _apart(rows)
        failed = dict(self.ipv4.delete(ipv4)) if ipv4 else {}
        if ipv6 and self.ipv6 is not None:
            failed |= self.ipv6.delete(ipv6)
        return failed

    def prune(self, rows: Rows[FrontendKey, Frontend]) -> Iterator[Collection[FrontendKey]]:
        """Nothing but these frontends is left in the maps. Names those whose entries others have changed."""
        for target in self._targets:
            yield from target.prune(rows)

    @property
    def _targets(self) -> Sequence[LoadBalancerTarget]:
        return (self.ipv4,) if self.ipv6 is None else (self.ipv4, self.ipv6)

    def _target_of(self, key: FrontendKey) -> LoadBalancerTarget | None:
        return self.ipv6 if ":" in key.address else self.ipv4


def _apart(rows: Sequence[Frontend]) -> tuple[Sequence[Frontend], Sequence[Frontend]]:
    """Those of IPv4, and those of IPv6."""
    ipv6 = [row for row in rows if ":" in row.key.address]
    return ([row for row in rows if ":" not in row.key.address], ipv6) if ipv6 else (rows, ipv6)
