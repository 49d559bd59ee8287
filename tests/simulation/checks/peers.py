# SPDX-License-Identifier: Apache-2.0
"""At rest every program says of every peer that it is followed, ready and taken whole: status is what people look at."""

from __future__ import annotations

from collections.abc import Iterable

from agent.mesh.feature import MeshFeature
from meshapi.peer import RemoteCluster
from tests.simulation.cluster import Cluster
from tests.simulation.world import World


def check_peers(world: World) -> Iterable[str]:
    for cluster in world.clusters.values():
        program = cluster.apiserver.apiserver if cluster.apiserver is not None else None
        if program is not None:
            yield from _check(f"{cluster.name}: mirror", cluster, program.peers())
        for node in cluster.nodes.values():
            mesh = node.agent.features.get("mesh") if node.agent is not None else None
            if isinstance(mesh, MeshFeature):
                yield from _check(node.name, cluster, mesh.peers())


def _check(who: str, cluster: Cluster, rows: Iterable[RemoteCluster]) -> Iterable[str]:
    found = {row.name: row for row in rows}
    if found.keys() != cluster.peers:
        yield f"{who}: follows {sorted(found)}, not {sorted(cluster.peers)}"
    for name, row in sorted(found.items()):
        if not (row.ready and row.connected):
            yield f"{who}: peer {name} is {row.state}, not ready: {row.status}; {row.reason}"
        for what, truncated in row.truncated.items():
            yield f"{who}: {truncated.total} {what} of {name} are not taken, beyond {truncated.limit}"
