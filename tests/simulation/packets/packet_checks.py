# SPDX-License-Identifier: Apache-2.0
"""A checker of a simulated mesh that follows packets: connections outlive everything but their ends. It knows pods from
Kubernetes alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from agent.datapath.layout import TICK_NS, IfindexKey
from kube.resource import PODS, SERVICES
from tests.simulation.cluster import Cluster, Node
from tests.simulation.packets.packet_flows import ACK, SYN, TCP, Lot, NodeFacts, Segment
from tests.simulation.packets.packet_path import PacketPath
from tests.simulation.world import World

ESTABLISHED, OPENING, CLOSING, OTHER = (-(-seconds * 10**9 // TICK_NS) for seconds in (21_600, 60, 10, 60))
FIRST_PORT: Final = 40_000
TRIES: Final = 8
"""A pod may be given itself, which is no connection between two."""


class Connection(NamedTuple):
    """A connection that both ends established: the client's first packet, and the pod that answered."""

    client: Segment
    server: str
    server_port: int


class EstablishedConnections:
    """Every pod connects once to each Service of its cluster; what was answered once is answered while both pods live.

    For worlds without policies. The connections are those of the simulated kernels: they are written to conntrack.
    """

    def __init__(self, world: World) -> None:
        self._world, self._open, self._asked = world, list[Connection](), set[tuple[str, str]]()
        self._port = FIRST_PORT
        self._paths = {node.ip: self._path(cluster, node) for cluster, node in world.nodes()}

    @property
    def count(self) -> int:
        """How many connections stand."""
        return len(self._open)

    def __call__(self, world: World) -> Iterable[str]:
        homes = {address: node for _, node in world.nodes() for address in node.machine.interfaces}
        living = {address for cluster in world.clusters.values() for address in _pods(cluster)} & homes.keys()
        self._open = [one for one in self._open if {one.client.source, one.server} <= living]
        for one in self._open:
            yield from self._go_on(one, homes)
        for cluster in world.clusters.values():
            for client in sorted(set(_pods(cluster)) & living):
                for address, port in _services(cluster):
                    for _ in range(TRIES):
                        self._connect(client, address, port, homes)

    def _connect(self, client: str, address: str, port: int, homes: dict[str, Node]) -> None:
        """SYN, its answer and the acknowledgement; a connection that does not come about is tried again later."""
        if (client, address) in self._asked:
            return
        self._port += 1
        first = Segment(client, address, TCP, self._port, port, SYN)
        there = self._carry(first, homes)
        if there.where != "endpoint" or there.to == client:
            return
        server = there.packet
        back = Segment(server.destination, server.source, TCP, server.destination_port, server.source_port, SYN | ACK)
        if (
            self._carry(back, homes).packet.source == address
            and self._carry(first._replace(flags=ACK), homes).to == there.to
        ):
            self._asked.add((client, address))
            self._open.append(Connection(first._replace(flags=ACK), there.to, server.destination_port))

    def _go_on(self, one: Connection, homes: dict[str, Node]) -> Iterable[str]:
        there = self._carry(one.client, homes)
        if (there.where, there.to) != ("endpoint", one.server):
            yield f"{one.client} to {one.server} is lost: {there.where} {there.reason and there.reason.name} {there.to}"
            return
        sent = there.packet
        answer = Segment(sent.destination, sent.source, TCP, sent.destination_port, sent.source_port, ACK)
        back = self._carry(answer, homes)
        if back.where != "endpoint" or back.packet.source != one.client.destination:
            yield f"an answer of {one.server} to {one.client} is lost: {back.where} {back.reason and back.reason.name}"

    def _carry(self, segment: Segment, homes: dict[str, Node]) -> Lot:
        """From the pod that sends it to where it ends, over the overlay where it goes that way."""
        home = homes[segment.source]
        ifindex = home.machine.interfaces[segment.source]
        sent = self._paths[home.ip].from_pod(ifindex, segment)
        if sent.where != "overlay" or sent.to not in self._paths:
            return sent
        endpoint = home.machine.maps.endpoints_by_ifindex.get(IfindexKey(ifindex))
        assert endpoint is not None
        return self._paths[sent.to].from_overlay(sent.packet, endpoint.identity, home.ip)

    def _path(self, cluster: Cluster, node: Node) -> PacketPath:
        def now_ns() -> int:
            return int(self._world.now() * 1e9)

        chance = self._world.rng_of(f"packets {node.name}")
        facts = NodeFacts(
            cluster_id=cluster.id,
            address=node.ip,
            now_ns=now_ns,
            tick=lambda: now_ns() // TICK_NS,
            choose=chance.randrange,
            established=ESTABLISHED,
            opening=OPENING,
            closing=CLOSING,
            other=OTHER,
        )
        return PacketPath(node.machine.maps, facts)


def _pods(cluster: Cluster) -> dict[str, str]:
    """Pods that run, by address; those that share their node's address are left out."""
    found = {}
    for pod in cluster.kube.objects(PODS):
        address, metadata = (pod.get("status") or {}).get("podIP"), pod["metadata"]
        if address and not metadata.get("deletionTimestamp") and not pod["spec"].get("hostNetwork"):
            found[address] = f"{metadata['namespace']}/{metadata['name']}"
    return found


def _services(cluster: Cluster) -> list[tuple[str, int]]:
    found = [service["spec"] for service in cluster.kube.objects(SERVICES)]
    return sorted(
        (spec["clusterIP"], spec["ports"][0]["port"]) for spec in found if spec.get("clusterIP") not in (None, "None")
    )
