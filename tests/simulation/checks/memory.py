# SPDX-License-Identifier: Apache-2.0
"""At rest nobody remembers more of a peer than it publishes: what it took back, or nobody could read, is forgotten."""

from __future__ import annotations

from collections.abc import Iterable

from agent.mesh.feature import MeshFeature
from meshmodel.keys import Kind, prefix_of
from tests.simulation.cluster import Cluster
from tests.simulation.world import World


def check_memory(world: World) -> Iterable[str]:
    """Agents by the copy that their cluster has of the peer, and that copy by the peer's own store."""
    for cluster in world.clusters.values():
        for name in sorted(cluster.peers):
            peer = world.clusters[name]
            for kind in Kind:
                copied = _count(cluster, prefix_of(kind, name, cached=True))
                published = _count(peer, prefix_of(kind, name, cached=False))
                if copied > published:
                    yield f"{cluster.name}: has {copied} {kind} of {name}, which publishes {published}"
        for node in cluster.nodes.values():
            mesh = node.agent.features.get("mesh") if node.agent is not None else None
            if isinstance(mesh, MeshFeature):
                yield from _check_agent(cluster, node.name, mesh)


def _check_agent(cluster: Cluster, node: str, mesh: MeshFeature) -> Iterable[str]:
    assert mesh.runner is not None
    for name, member in sorted(mesh.runner.members.items()):
        if member.state.is_own:
            continue
        for kind in Kind:
            known, copied = member.views.count(kind), _count(cluster, prefix_of(kind, name, cached=True))
            if known > copied:
                yield f"{node}: remembers {known} {kind} of {name}, of which there are {copied}"
        for kind, key in member.consumer.held:
            if prefix_of(kind, name, cached=True) + key not in cluster.store.entries:
                yield f"{node}: keeps the refused record {kind} {key!r} of {name}, which has it no more"


def _count(cluster: Cluster, prefix: bytes) -> int:
    return sum(key.startswith(prefix) for key in cluster.store.entries)
