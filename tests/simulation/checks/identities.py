# SPDX-License-Identifier: Apache-2.0
"""At rest every node knows each pod by an identity whose labels are the pod's, whichever part of the store told of it."""

from __future__ import annotations

from collections.abc import Iterable

from agent.datapath.layout import AddressKey, IpcacheKey
from tests.simulation.checks.policies import pods_as_peers
from tests.simulation.checks.records import IDENTITY
from tests.simulation.checks.twin import readable
from tests.simulation.cluster import Cluster, Node
from tests.simulation.world import World

PRIVATE_IDENTITY = "clustermesh/private/identities/v1/id/"


def check_identities(world: World) -> Iterable[str]:
    """Pods of the own cluster and of those that it follows; of peers whose records were tampered with, none."""
    meanings = {cluster.name: _meanings(cluster) for cluster in world.clusters.values()}
    for cluster, node in world.nodes():
        for name in (cluster.name, *sorted(cluster.peers)):
            other = world.clusters[name]
            if other.tampered:
                continue
            for address, who in pods_as_peers(other, is_abroad=name != cluster.name):
                for where, identity in _identities(node, address):
                    world.loop.reached["identity of a pod"] += 1
                    labels = meanings[name].get(identity, frozenset())
                    if labels != frozenset(who.labels):
                        yield f"{node.name}: {where} {address} is {identity}: {sorted(labels)}, not {sorted(who.labels)}"


def _identities(node: Node, address: str) -> Iterable[tuple[str, int]]:
    """What the address cache says, and of a pod of this node its endpoint too."""
    maps = node.machine.maps
    if (cached := maps.ipcache.get(IpcacheKey(address))) is not None:
        yield "address", int(cached.identity)
    if (endpoint := maps.endpoints_by_address.get(AddressKey(address))) is not None:
        yield "endpoint", int(endpoint.identity)


def _meanings(cluster: Cluster) -> dict[int, frozenset[str]]:
    """The labels of every identity of a cluster, by its number, as records of both parts of its store say."""
    found: dict[int, frozenset[str]] = {}
    for key, entry in cluster.store.entries.items():
        prefix, _, number = key.decode("utf-8", "replace").rpartition("/")
        if f"{prefix}/" in (IDENTITY, PRIVATE_IDENTITY) and number.isdecimal():
            found[int(number)] = frozenset(part for part in readable(entry.value).split(";") if part)
    return found
