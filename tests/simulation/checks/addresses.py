# SPDX-License-Identifier: Apache-2.0
"""The address cache: at all times the own cluster's addresses are its own, and at rest every pod is there as it is."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import cache, partial
from ipaddress import IPv4Network
from typing import Any, Final

from kube.resource import NODES, KubeObject
from tests.simulation import truth
from tests.simulation.cluster import Cluster, Node
from tests.simulation.programs import AgentProcess
from tests.simulation.world import World

WORLD: Final = 2
"""The identity of whoever is not known and in no cluster."""


def entries(node: Node) -> dict[str, Any]:
    """What the cache says of IPv4 prefixes."""
    return {key.prefix: value for key, value in node.machine.maps.ipcache.items() if ":" not in key.prefix}


class OwnAddresses:
    """No entry within what our nodes have, pods and addresses alike, says that it is a peer's. A node whose object was deleted
    has these for itself alone from then on: others hear of it late when it is back. An agent that starts while the object has no
    network does not know of one. An address that a node takes while others know it as a peer's, to whom it was free, they know
    as ours when they have heard of that.
    """

    def __init__(self, world: World) -> None:
        self._ips = {node.name: node.ip for _, node in world.nodes()}
        self._late: set[tuple[str, str]] = set()
        """By node, prefixes that it knew as a peer's when a node of ours took them, and knows so still."""
        self._uids = {node.name: _object(cluster, node)["metadata"]["uid"] for cluster, node in world.nodes()}
        self._knowing: dict[str, AgentProcess | None] = {}
        self._ignorant: set[str] = set()
        self._well: dict[str, object] = {}
        """What was found well of each node: as long as it is the same, it is well."""

    def __call__(self, world: World) -> Iterable[str]:
        for cluster, node in world.nodes():
            if _object(cluster, node)["spec"].get("podCIDRs"):
                self._knowing[node.name] = (
                    node.agent if node.agent is not None and node.agent.core is not None else None
                )
            elif node.agent is None or node.agent is not self._knowing[node.name]:
                self._ignorant.add(node.name)
        self._note_moves(world)
        for cluster in world.clusters.values():
            known = {
                n for n in cluster.nodes.values() if _object(cluster, n)["metadata"].get("uid") == self._uids[n.name]
            }
            for node in cluster.nodes.values():
                ours = known if node.name in self._ignorant else {*known, node}
                maps = node.machine.maps
                looked_at = (maps.ipcache.writes, maps.backends.writes, {(each.name, each.ip) for each in ours})
                if self._well.get(node.name) == looked_at:
                    continue
                late = {prefix for name, prefix in self._late if name == node.name}
                found = list(_check_own(cluster, node, ours, late))
                if not found:
                    self._well[node.name] = looked_at
                yield from found

    def _note_moves(self, world: World) -> None:
        for cluster, node in world.nodes():
            if self._ips[node.name] != node.ip:
                self._ips[node.name] = node.ip
                self._late |= {(other.name, f"{node.ip}/32") for other in cluster.nodes.values()}
        if self._late:
            peers = {
                (n.name, prefix)
                for c, n in world.nodes()
                for prefix, v in entries(n).items()
                if v.cluster_id not in (0, c.id)
            }
            self._late &= peers


def _object(cluster: Cluster, node: Node) -> KubeObject:
    """The node's object; one without anything where there is none."""
    return cluster.kube.store.get(NODES, node.name) or {"metadata": {}, "spec": {}}


def _check_own(cluster: Cluster, node: Node, ours: Collection[Node], late: Collection[str]) -> Iterable[str]:
    """`ours` are those whose addresses this one knows as ours, but for the `late`."""
    services = network_of(f"{cluster.service_network}.0.0/16")
    networks, ips = [network_of(each.pod_cidr) for each in ours], {f"{each.ip}/32" for each in ours}
    for prefix, value in entries(node).items():
        if value.cluster_id in (0, cluster.id) or prefix in late:
            continue
        if prefix in ips or any(network_of(prefix).subnet_of(each) for each in (*networks, services)):
            yield f"{node.name}: own address {prefix} is said to be of cluster {value.cluster_id}: {value}"
    for key, value in node.machine.maps.backends.items():
        address = network_of(f"{value.address}/32")
        if value.cluster_id not in (0, cluster.id) and any(address.subnet_of(each) for each in networks):
            yield f"{node.name}: backend {key.id} {value.address} is said to be of cluster {value.cluster_id}"
        if address.subnet_of(services):
            yield f"{node.name}: backend {key.id} is an address of our own services: {value.address}"


class UnknownIsNobody:
    """An address of a pod is never said to be of the world, not for one write: what is not known of it may come later."""

    def __init__(self, world: World) -> None:
        self._networks = [network_of(node.pod_cidr) for _, node in world.nodes()]
        self._found: list[str] = []
        for _, node in world.nodes():
            node.machine.listen(node.machine.maps.ipcache, partial(self._look, node))

    def __call__(self, _world: World) -> Iterable[str]:
        found, self._found = self._found, []
        return found

    def _look(self, node: Node, key: Any) -> None:
        value = node.machine.maps.ipcache.get(key)
        if value is None or value.identity != WORLD or ":" in key.prefix:
            return
        if any(network_of(key.prefix).subnet_of(each) for each in self._networks):
            self._found.append(f"{node.name}: {key.prefix} is a pod's, and was said to be of the world: {value}")


network_of = cache(IPv4Network)


def check_addresses(world: World) -> Iterable[str]:
    """Every pod of every cluster that is followed is in every node's cache, with its cluster and its node's address."""
    for cluster in world.clusters.values():
        wanted: dict[str, tuple[int, str]] = {}
        for name in (cluster.name, *sorted(cluster.peers)):
            other = world.clusters[name]
            for pod in truth.pods(other):
                is_told = name == cluster.name or truth.is_global_namespace(other, pod["metadata"]["namespace"])
                if is_told and pod["spec"]["nodeName"] in other.nodes:
                    wanted[pod["status"]["podIP"]] = (other.id, pod["status"]["hostIP"])
        networks = [network_of(n.pod_cidr) for c in world.clusters.values() for n in c.nodes.values()]
        for node in cluster.nodes.values():
            found = {
                prefix.removesuffix("/32"): value
                for prefix, value in entries(node).items()
                if prefix.endswith("/32") and any(network_of(prefix).subnet_of(each) for each in networks)
            }
            for address in sorted(wanted.keys() | found.keys()):
                value = found.get(address)
                if value is None:
                    yield f"{node.name}: pod {address} of cluster {wanted[address][0]} is not in the address cache"
                elif address not in wanted:
                    yield f"{node.name}: {address} is no pod's address, and in the address cache: {value}"
                elif value.cluster_id != wanted[address][0]:
                    yield f"{node.name}: pod {address} is of cluster {wanted[address][0]}, cached as {value}"
                elif wanted[address][0] != cluster.id and value.tunnel != wanted[address][1]:
                    yield f"{node.name}: pod {address} is on {wanted[address][1]}, cached as {value}"
