# SPDX-License-Identifier: Apache-2.0
"""What programs keep of a peer: never more than its cap, and at rest no more than it publishes now."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from agent.mesh.feature import MeshFeature
from agent.mesh.held_records import MAXIMUM_BYTES, MAXIMUM_RECORDS
from agent.mesh.ingest import Ingest
from kvstore.store import prefix_end
from meshmodel.keys import Kind, prefix_of
from meshpeer.follower import Member
from meshpeer.record_views import _SIZE, RecordViews
from tests.simulation.cluster import Cluster
from tests.simulation.world import World

COPY_SHARE: Final = 2.0
"""A copy may hold what is taken back beside what takes its place."""


class BoundedPeers:
    """Of each peer, a program keeps no more than it may, and counts exactly what it keeps: what is counted wrong leaks, or shuts
    the peer out. Its copy in the own store is bounded as well, and so are records that are refused for now.
    """

    def __call__(self, world: World) -> Iterable[str]:
        for cluster in world.clusters.values():
            for name, views in _mirrored(cluster):
                yield from _check_views(f"{cluster.name}: mirror", name, views)
                if views.truncations():
                    world.loop.reached["cap of a peer reached"] += 1
                if world.clusters[name].tampered and (size := _copied_bytes(cluster, name)) > _most(views) * COPY_SHARE:
                    yield f"{cluster.name}: has {size} bytes of {name}, which may have {_most(views):.0f}"
            for node in cluster.nodes.values():
                for member in _members(node.agent.features.get("mesh") if node.agent is not None else None):
                    yield from _check_views(node.name, member.state.name, member.views)
                    held = member.consumer._held
                    if len(held) > MAXIMUM_RECORDS or not 0 <= held.size_bytes <= MAXIMUM_BYTES:
                        yield f"{node.name}: keeps {len(held)} refused records of {held.size_bytes} bytes of {member.state.name}"


def _mirrored(cluster: Cluster) -> Iterator[tuple[str, RecordViews]]:
    """What the cluster's mirror knows of each peer."""
    program = cluster.apiserver.apiserver if cluster.apiserver is not None else None
    mirror = program.publication.mirror if program is not None and program.publication is not None else None
    if mirror is not None and mirror._follower is not None:
        for member in mirror._follower.peers():
            yield member.state.name, member.views


def _members(mesh: object) -> list[Member[Ingest]]:
    """Peers that an agent follows."""
    if not isinstance(mesh, MeshFeature):
        return []
    return [member for _, member in sorted(mesh.runner.members.items()) if not member.state.is_own]


def _most(views: RecordViews) -> float:
    return views._budget.limit


def _check_views(who: str, peer: str, views: RecordViews) -> Iterable[str]:
    used = views._budget.used
    kept = sum(digest & _SIZE for view in views._parts.values() for digest in view._known.values())
    if used != kept:
        yield f"{who}: counts {used} bytes of {peer}, and keeps {kept}"
    if used > _most(views):
        yield f"{who}: keeps {used} bytes of {peer}, which may have {_most(views):.0f}"


def _copied_bytes(cluster: Cluster, peer: str) -> int:
    """Of the records in the cluster's own store that are a peer's, without their prefixes."""
    prefixes = {kind: prefix_of(kind, peer, cached=True) for kind in Kind}
    return sum(
        len(key) - len(prefix) + len(entry.value)
        for prefix in prefixes.values()
        for key, entry in cluster.store.entries.items()
        if key.startswith(prefix)
    )


def check_memory(world: World) -> Iterable[str]:
    """Agents by the copy that their cluster has of the peer, and that copy by the peer's own store."""
    stores = {name: sorted(cluster.store.entries) for name, cluster in world.clusters.items()}
    for cluster in world.clusters.values():
        for name in sorted(cluster.peers):
            for kind in Kind:
                copied = _count(stores[cluster.name], prefix_of(kind, name, cached=True))
                published = _count(stores[name], prefix_of(kind, name, cached=False))
                if copied > published:
                    yield f"{cluster.name}: has {copied} {kind} of {name}, which publishes {published}"
        for node in cluster.nodes.values():
            mesh = node.agent.features.get("mesh") if node.agent is not None else None
            yield from _check_agent(stores[cluster.name], node.name, _members(mesh))


def _check_agent(store: Sequence[bytes], node: str, members: Iterable[Member[Ingest]]) -> Iterable[str]:
    for member in members:
        name = member.state.name
        for kind in Kind:
            known, copied = member.views.count(kind), _count(store, prefix_of(kind, name, cached=True))
            if known > copied:
                yield f"{node}: remembers {known} {kind} of {name}, of which there are {copied}"
        for kind, key in member.consumer.held:
            if prefix_of(kind, name, cached=True) + key not in store:
                yield f"{node}: keeps the refused record {kind} {key!r} of {name}, which has it no more"


def _count(store: Sequence[bytes], prefix: bytes) -> int:
    """How many of these sorted keys begin with the prefix."""
    return bisect_left(store, prefix_end(prefix)) - bisect_left(store, prefix)
