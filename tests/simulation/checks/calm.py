# SPDX-License-Identifier: Apache-2.0
"""Since when nothing fails: what people asked for has arrived everywhere then."""

from __future__ import annotations

from tests.simulation.kept import kept
from tests.simulation.world import World


class Calm:
    """`look` is called after every step; a fault that is over before the next look is not seen."""

    def __init__(self, world: World) -> None:
        self.since_s = world.now()

    def look(self, world: World) -> None:
        if _fails(world):
            self.disturb(world)

    def disturb(self, world: World, for_s: float = 0.0) -> None:
        """Something happened that takes so long to be over."""
        self.since_s = max(self.since_s, world.now() + for_s)


Leases = frozenset[tuple[str, int, int]]
"""Cluster, which of its stores one after the other, and the lease's id."""


def living_leases(world: World) -> Leases:
    """Each store has one more, 0, which never ends."""
    clusters = world.clusters.values()
    return frozenset((c.name, c.store.cluster_id, lease) for c in clusters for lease in (0, *c.store.leases))


def have_ended(before: Leases, now: Leases) -> bool:
    """Whether a lease ended in a store that goes on: what hung on it was deleted. A store that was replaced deletes nothing."""
    stores = {(cluster, number) for cluster, number, _ in now}
    return any((cluster, number) in stores for cluster, number, _ in before - now)


@kept(lambda world: world.loop.steps)
def _fails(world: World) -> bool:
    """Whether something that goes on keeps any program from hearing, deciding or writing."""
    if world.wire.fails or any(world.loop.is_frozen(name) for name in world.processes()):
        return True
    if not world.credentials.are_good:
        return True
    for cluster in world.clusters.values():
        if not cluster.kube.is_up or any(cluster.kube.lag_s.values()) or not cluster.store.is_up:
            return True
        if cluster.apiserver is None or not cluster.apiserver.process.is_alive:
            return True
        for node in cluster.nodes.values():
            if node.agent is None or node.agent.core is None or node.agent.process.writes.left >= 0:
                return True
            if not node.agent.core.db.initialized:
                return True
    return False
