# SPDX-License-Identifier: Apache-2.0
"""A checker of a simulated mesh that follows packets: connections outlive everything but their ends and what people change.
It knows pods and policies from Kubernetes alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Final, NamedTuple

from agent.datapath.layout import TICK_NS, IfindexKey
from agent.datapath.reasons import Reason
from kube.resource import NAMESPACES, NODES, PODS, SERVICES
from tests.simulation import truth
from tests.simulation.checks.calm import Calm, have_ended, living_leases
from tests.simulation.checks.policies import SETTLED_S, entries_of, is_denied, selected, version
from tests.simulation.cluster import Cluster, Node
from tests.simulation.kept import kept
from tests.simulation.packets.packet_flows import ACK, SYN, TCP, Lot, NodeFacts, Segment
from tests.simulation.packets.packet_path import PacketPath
from tests.simulation.world import World

ESTABLISHED, OPENING, CLOSING, OTHER = (-(-seconds * 10**9 // TICK_NS) for seconds in (21_600, 60, 10, 60))
FIRST_PORT: Final = 40_000
WRITTEN_AGAIN_S: Final = 20.0
"""Whose lease ended writes again what hung on it, at the latest when it would have kept it alive."""
TRIES: Final = 2
"""A pod may be given itself, which is no connection between two."""


class Connection(NamedTuple):
    """A connection that both ends established: the client's first packet, and the pod that answered."""

    client: Segment
    server: str
    server_port: int


class EstablishedConnections:
    """Every pod connects once to each Service of its cluster; what was answered once is answered while both pods live.

    Followed are connections that nobody has a reason to end: policies that speak about either pod do not change, the clusters of
    both follow each other and tell each other of the pods' namespaces, both nodes have their objects, and nobody is hostile.
    The connections are those of the simulated kernels: they are written to conntrack.
    """

    def __init__(self, world: World) -> None:
        self._world, self._open, self._asked = world, list[Connection](), set[tuple[str, str]]()
        self._port = FIRST_PORT
        self._choices = {node.name: world.rng_of(f"packets {node.name}").randrange for _, node in world.nodes()}
        self._paths: dict[str, PacketPath] = {}
        self._take_addresses(world)
        self._written: tuple[int, ...] = ()
        self._version: object = None
        self._selected = set[str]()
        self._leases = living_leases(world)
        self._is_unsure = self._is_held_up = False
        self._calm = Calm(world)
        self._judged_anew: list[Connection] = []
        self._homes: dict[str, Node] = {}
        self._on_known_nodes = set[str]()
        self._known = set[str]()

    @property
    def count(self) -> int:
        """How many connections stand."""
        return len(self._open)

    def __call__(self, world: World) -> Iterable[str]:
        homes = {address: node for _, node in world.nodes() for address in node.machine.interfaces}
        known = {node.name for cluster, node in world.nodes() if cluster.kube.store.get(NODES, node.name) is not None}
        if self._known - known or self._paths.keys() != {node.ip for _, node in world.nodes()}:
            self._take_addresses(world)
            self._doubt(world, homes)
        self._known = known
        self._homes, self._on_known_nodes = homes, {address for address, node in homes.items() if node.name in known}
        pods = {
            address: cluster for cluster in world.clusters.values() for address in _pods(cluster) if address in homes
        }
        self._calm.look(world)
        self._judge_policies(world)
        self._judge_leases(world, homes)
        yield from self._end_denied(world, pods, homes)
        self._open = [one for one in self._open if self._is_held(one, pods)]
        written = tuple(n for _, node in world.nodes() for n in _writes(node))
        if written == self._written and not (self._is_held_up and self._is_settled):
            return
        self._written, self._is_held_up = written, False
        for one in self._open:
            yield from self._go_on(one, homes)
        for cluster in world.clusters.values():
            clients = [address for address, where in sorted(pods.items()) if where is cluster]
            for address, port in _services(cluster) if clients else ():
                for client in clients:
                    for _ in range(TRIES):
                        self._connect(client, address, port, homes)

    @property
    def _is_settled(self) -> bool:
        return self._world.now() - self._calm.since_s >= SETTLED_S

    def _judge_policies(self, world: World) -> None:
        """Connections of pods that policies speak about are not followed beyond a change of anything that policies look at."""
        now = version(world)
        if now == self._version:
            return
        selected_now = {address for cluster in world.clusters.values() for address in selected(cluster)}
        touched, self._selected, self._version = self._selected | selected_now, selected_now, now
        self._calm.disturb(world)
        self._judged_anew += [one for one in self._open if not touched.isdisjoint((one.client.source, one.server))]
        self._open = [one for one in self._open if touched.isdisjoint((one.client.source, one.server))]

    def _end_denied(self, world: World, pods: Mapping[str, Cluster], homes: dict[str, Node]) -> Iterable[str]:
        """Of the connections whose policies changed, those that are denied now carry nothing once the change has arrived."""
        if not self._is_settled:
            return
        due, self._judged_anew = self._judged_anew, []
        for one in due:
            if not {one.client.source, one.server} <= pods.keys():
                continue
            if is_denied(world, one.client.source, one.server, one.server_port):
                there = self._carry(one.client, homes)
                if (there.where, there.to) == ("endpoint", one.server):
                    yield f"{one.client} to {one.server} goes on, which policies deny"

    def _judge_leases(self, world: World, homes: dict[str, Node]) -> None:
        """With a lease ends what hangs on it: other nodes do not know those addresses until they are written again."""
        leases = living_leases(world)
        if have_ended(self._leases, leases):
            self._doubt(world, homes)
        elif self._is_settled:
            self._is_unsure = False
        self._leases = leases

    def _doubt(self, world: World, homes: dict[str, Node]) -> None:
        """Some nodes do not know some addresses of others, or will not for a while."""
        self._is_unsure = True
        self._calm.disturb(world, WRITTEN_AGAIN_S)
        self._open = [one for one in self._open if homes.get(one.client.source) is homes.get(one.server)]

    def _is_held(self, one: Connection, pods: dict[str, Cluster]) -> bool:
        ends = [pods.get(one.client.source), pods.get(one.server)]
        client, server = ends
        if client is None or server is None:
            return False
        if self._homes.get(one.client.source) is self._homes.get(one.server):
            return not client.tampered
        if not {one.client.source, one.server} <= self._on_known_nodes:
            return False
        if client is server:
            return not client.tampered
        is_mutual = client.name in server.peers and server.name in client.peers
        told = {address for cluster in (client, server) for address in _told(cluster)}
        return is_mutual and not client.tampered and not server.tampered and {one.client.source, one.server} <= told

    def _connect(self, client: str, address: str, port: int, homes: dict[str, Node]) -> None:
        """SYN, its answer and the acknowledgement; a connection that does not come about is tried again later.

        Pods that policies speak about connect when those have arrived: what is open then is open by policy.
        """
        if (client, address) in self._asked or (client in self._selected and not self._is_settled):
            return
        self._port += 1
        first = Segment(client, address, TCP, self._port, port, SYN)
        there = self._carry(first, homes)
        if there.where != "endpoint" or there.to == client or there.to not in homes:
            return
        if there.to in self._selected and not self._is_settled:
            return
        if self._is_unsure and homes[client] is not homes[there.to]:
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
            if not self._may_wait(there):
                yield f"{one.client} to {one.server} is lost: {there.where} {there.reason and there.reason.name} {there.to}"
            return
        sent = there.packet
        answer = Segment(sent.destination, sent.source, TCP, sent.destination_port, sent.source_port, ACK)
        back = self._carry(answer, homes)
        if (back.where != "endpoint" or back.packet.source != one.client.destination) and not self._may_wait(back):
            yield f"an answer of {one.server} to {one.client} is lost: {back.where} {back.reason and back.reason.name}"

    def _may_wait(self, lot: Lot) -> bool:
        """A pod whose labels changed is closed, where there are policies, until its node knows what its new identity means.

        Ends send again what was dropped, so the connection stands; it is looked at anew when that has arrived.
        """
        held_up = lot.reason is Reason.POLICY_DENIED and not self._is_settled
        self._is_held_up |= held_up
        return held_up

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

    def _take_addresses(self, world: World) -> None:
        """Nodes are found by the addresses that they have now."""
        self._paths = {node.ip: self._path(cluster, node) for cluster, node in world.nodes()}

    def _path(self, cluster: Cluster, node: Node) -> PacketPath:
        def now_ns() -> int:
            return int(self._world.now() * 1e9)

        facts = NodeFacts(
            cluster_id=cluster.id,
            address=node.ip,
            now_ns=now_ns,
            tick=lambda: now_ns() // TICK_NS,
            choose=self._choices[node.name],
            established=ESTABLISHED,
            opening=OPENING,
            closing=CLOSING,
            other=OTHER,
        )
        return PacketPath(node.machine.maps, facts, partial(entries_of, node.machine))


@kept(lambda cluster: cluster.kube.store.changed(PODS))
def _pods(cluster: Cluster) -> dict[str, str]:
    """Pods that run, by address; those that share their node's address are left out."""
    found = {}
    for pod in cluster.kube.objects(PODS):
        address, metadata = (pod.get("status") or {}).get("podIP"), pod["metadata"]
        if address and not metadata.get("deletionTimestamp") and not pod["spec"].get("hostNetwork"):
            found[address] = f"{metadata['namespace']}/{metadata['name']}"
    return found


@kept(lambda cluster: cluster.kube.store.changed(PODS, NAMESPACES))
def _told(cluster: Cluster) -> list[str]:
    """Pods that other clusters hear of."""
    found = [pod for pod in truth.pods(cluster) if truth.is_global_namespace(cluster, pod["metadata"]["namespace"])]
    return [pod["status"]["podIP"] for pod in found]


def _writes(node: Node) -> tuple[int, ...]:
    maps = node.machine.maps
    watched = (maps.services, maps.backends, maps.members, maps.ipcache, maps.policy, maps.endpoints_by_address)
    return tuple(each.writes for each in watched)


@kept(lambda cluster: cluster.kube.store.changed(SERVICES))
def _services(cluster: Cluster) -> list[tuple[str, int]]:
    found = [service["spec"] for service in cluster.kube.objects(SERVICES)]
    return sorted(
        (spec["clusterIP"], spec["ports"][0]["port"]) for spec in found if spec.get("clusterIP") not in (None, "None")
    )
