# SPDX-License-Identifier: Apache-2.0
"""A cluster's observers and its relay in one process, each behind mTLS on a port of its own."""

from __future__ import annotations

import time
from pathlib import Path

from certs import profile
from certs.authority import Authority
from flows.listener import ServerCertificates
from flows.live import LiveFlows
from flows.methods import PeerFacts, tls_server_name
from flows.proto import observer_pb2 as observer
from flows.relay_server import RelayServer
from flows.remote import ClientCertificates, RemoteObserver
from flows.ring import FlowEntry, decode_nothing
from flows.server import ObserverServer, Served
from flows.streams import FlowStreams
from meshkit.clock import SystemClock
from meshkit.wake import Wake
from relay.links import ObserverLinks
from relay.mesh import FlowMesh
from relay.nodes import Namespaces, Nodes
from relay.peers import PeerDoor
from relay.programs import Programs
from relay.settings import RelaySettings
from tests.support.flow_entries import decode


class Node:
    """One observer. Its flows are the test's."""

    def __init__(self, cluster: str, name: str, authority: Authority) -> None:
        self.name = f"{cluster}/{name}"
        self.flows = LiveFlows(decode, 1023, self.name)
        shown = authority.issue(profile.observer(cluster), time.time())
        self._certificates = ServerCertificates(authority.certificate_pem, shown.cert_pem, shown.key_pem)
        self.streams = FlowStreams(most=8, stalled_s=1.0)
        self._server_name, self.port = tls_server_name(cluster, name), 0
        self.server = self._make()

    @property
    def facts(self) -> PeerFacts:
        return PeerFacts(f"127.0.0.1:{self.port}", self._server_name)

    def _make(self) -> ObserverServer:
        events = LiveFlows(decode_nothing, 7, self.name)
        served, own = Served(self.flows, events, dict, Wake(), "1.2.3"), self.name.partition("/")[0]
        return ObserverServer(
            served, SystemClock(), self.streams, lambda name: profile.names_another_cluster(name, own)
        )

    async def start(self) -> None:
        self.server = self._make()
        self.port = self.server.listen_tls(f"127.0.0.1:{self.port}", lambda: self._certificates)
        await self.server.start()

    async def stop(self) -> None:
        await self.server.stop()


class RelayWorld:
    """A relay over nodes n1, n2, ... of a cluster, and a client of it."""

    def __init__(self, folder: Path, cluster: str = "north", nodes: int = 3) -> None:
        self.cluster, self.clock = cluster, SystemClock()
        self.authority = Authority.create(f"{cluster} CA", time.time(), 30)
        self.nodes = [Node(cluster, f"n{number}", self.authority) for number in range(1, nodes + 1)]
        self.asking = self.certificates(profile.relay(cluster))
        settings = RelaySettings(cluster_name=cluster, token_file=folder / "token")
        self.observers = ObserverLinks(lambda _: self.asking, self.clock)
        self.peer_authority = b""
        self.peers = ObserverLinks(lambda _: self._asking_peer(), self.clock)
        kube_nodes = Nodes(cluster, 0, lambda: None)
        self.mesh = FlowMesh(
            cluster, self.observers, self.peers, nodes=kube_nodes, programs=Programs(settings), clock=self.clock
        )
        self.streams = FlowStreams(most=4, stalled_s=1.0)
        self.server = RelayServer(
            lambda _: self.mesh, "1.2.3", self.streams, lambda name: profile.names_another_cluster(name, cluster)
        )
        self.port = self.peers_port = 0
        self.bundle, self.grants = folder / "bundle", folder / "grants"
        for made in (self.bundle, self.grants):
            made.mkdir(parents=True)
        self.namespaces = Namespaces(default_global=True)
        self.door = PeerDoor(self.mesh, self.bundle, self.grants, self.namespaces.is_shared, self.clock)
        self.peers_server = RelayServer(self.door.source_of, "1.2.3", FlowStreams(most_of_one=2))

    async def open_door(self, peer: RelayWorld) -> None:
        """The peer's relay may connect, and has this one among its peers."""
        (self.bundle / f"{peer.cluster}.crt").write_bytes(peer.authority.certificate_pem)
        shown = self.authority.issue(profile.relay_server(self.cluster, "kube-system"), time.time())
        self.peers_port = self.peers_server.listen_tls(
            "127.0.0.1:0", lambda: ServerCertificates(self.door.trusted(), shown.cert_pem, shown.key_pem)
        )
        await self.peers_server.start()
        facts = PeerFacts(f"127.0.0.1:{self.peers_port}", profile.relay_name(self.cluster))
        peer.peer_authority = self.authority.certificate_pem
        peer.peers.set_targets({self.cluster: facts})

    def grant(self, peer: str, *, is_given: bool = True) -> None:
        (self.grants / f"flows-{peer}").write_text("shared" if is_given else "")

    def _asking_peer(self) -> ClientCertificates:
        return ClientCertificates(self.peer_authority, self.asking.cert, self.asking.key)

    def certificates(self, shape: profile.Profile, authority: Authority | None = None) -> ClientCertificates:
        made = (authority or self.authority).issue(shape, time.time())
        return ClientCertificates(self.authority.certificate_pem, made.cert_pem, made.key_pem)

    async def start(self) -> None:
        for node in self.nodes:
            await node.start()
        shown = self.authority.issue(profile.relay_server(self.cluster, "kube-system"), time.time())
        served = ServerCertificates(self.authority.certificate_pem, shown.cert_pem, shown.key_pem)
        self.port = self.server.listen_tls("127.0.0.1:0", lambda: served)
        await self.server.start()
        self.observers.set_targets({node.name: node.facts for node in self.nodes})

    def client(self, certificates: ClientCertificates | None = None) -> RemoteObserver:
        """Asks the relay as an agent of the cluster would, or with these certificates."""
        shown = certificates or self.certificates(profile.local(self.cluster))
        facts = PeerFacts(f"127.0.0.1:{self.port}", profile.relay_name(self.cluster))
        return RemoteObserver(facts, lambda: shown)

    async def stop(self) -> None:
        await self.server.stop()
        await self.peers_server.stop()
        for node in self.nodes:
            await node.stop()


def add(node: Node, *entries: FlowEntry) -> None:
    node.flows.extend(entries)


def pods(answers: list[observer.GetFlowsResponse]) -> list[str]:
    """The source of each flow, in the order in which they came."""
    return [each.flow.source.pod_name for each in answers if each.WhichOneof("response_types") == "flow"]


def told(answers: list[observer.GetFlowsResponse]) -> list[tuple[int, tuple[str, ...]]]:
    """What was said of nodes."""
    events = [each.node_status for each in answers if each.WhichOneof("response_types") == "node_status"]
    return [(event.state_change, tuple(event.node_names)) for event in events]
