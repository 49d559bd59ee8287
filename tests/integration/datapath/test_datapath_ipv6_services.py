# SPDX-License-Identifier: Apache-2.0
"""Services of IPv6 between namespaces of two clusters: pods of every node are led to backends of both, and back."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from agent.datapath.config import AttachMode
from agent.datapath.layout import Direction, EndpointFlag, PolicyKey, PolicyValue
from agent.loadbalancer.families import FamiliesTarget
from agent.tables import Frontend, FrontendKey, Target
from meshmodel.names import ServiceName
from tests.integration.datapath.datapath_topology import TCP_PORT, UDP_PORT, Pod, Topology, exchange, topology
from tests.packet.datapath_host import bpffs, build_objects, run
from tests.support.leftovers import own_name

pytestmark = pytest.mark.root
VIP, VIP6, OTHER_VIP6 = "10.96.0.7", "fd00:96::7", "fd00:96::8"
ECHO = ServiceName("test", "echo")


@pytest.fixture(scope="module", params=[("routed", AttachMode.TCX, True), ("bridge", AttachMode.CLSACT, False)])
def mesh(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    build_objects()
    cni, mode, peer_redirect = request.param
    with (
        bpffs(tmp_path_factory.mktemp("services6") / "bpf") as pins,
        topology(own_name("services6"), pins, mode, peer_redirect=peer_redirect, cni=cni, ipv6=True) as made,
    ):
        yield made


@pytest.fixture
def clean(mesh: Topology) -> Topology:
    for node in mesh.nodes:
        for held in (*(node.maps.of_ipv6 or ()), *node.maps.of_ipv4, node.maps.policy):
            held.delete([key for key, _ in held.items()])
        for pod in node.pods:
            node.endpoint(pod)
    return mesh


def _ends(mesh: Topology) -> tuple[Pod, Pod]:
    """A backend of each cluster, neither of which is the first pod."""
    return mesh.nodes[0].pods[1], mesh.nodes[-1].pods[1]


def test_pods_of_every_node_are_answered_by_backends_of_both_clusters_in_the_name_of_the_service(
    clean: Topology,
) -> None:
    backends = list(_ends(clean))
    for protocol, service_id in ((6, 1), (17, 2)):
        clean.service(VIP6, backends, protocol, service_id)
    for node in clean.nodes:
        client = node.pods[0]
        wanted = {f"{backend.name} {client.ipv6}" for backend in backends}
        assert {client.ask(VIP6, 80) for _ in range(24)} == wanted
        seen = set()
        for _ in range(24):
            with client.datagram(family=socket.AF_INET6) as made:
                made.connect((VIP6, 80))  # takes answers of the service alone
                made.send(b"?")
                seen.add(made.recv(256).decode())
        assert seen == wanted


def test_a_pod_that_is_the_only_backend_answers_itself(clean: Topology) -> None:
    pod = clean.nodes[0].pods[0]
    clean.service(VIP6, [pod])
    assert pod.ask(VIP6, 80) == f"{pod.name} 100::a9fe:2a01"


def test_a_service_without_backends_refuses_at_once(clean: Topology) -> None:
    client = clean.nodes[0].pods[0]
    clean.service(VIP6, [], 6, 1)
    clean.service(VIP6, [], 17, 2)
    with pytest.raises(ConnectionRefusedError):
        client.connect(VIP6, 80)
    with client.datagram(family=socket.AF_INET6) as made:
        made.connect((VIP6, 80))
        made.send(b"?")
        with pytest.raises(ConnectionRefusedError):
            made.recv(1)


def test_a_pod_with_a_larger_mtu_learns_from_the_service_what_fits(clean: Topology) -> None:
    """The first datagram is answered with the MTU, the next one goes in fragments, which follow their first one."""
    node, client, remote = clean.nodes[0], clean.nodes[0].pods[1], clean.nodes[-1].pods[0]
    clean.service(VIP6, [remote], 17)
    ends = ((client.namespace, "eth0"), (node.namespace, "lxcb"))
    try:
        for namespace, device in ends:
            run("ip", "-n", namespace, "link", "set", device, "mtu", "1500")
        with client.datagram(family=socket.AF_INET6) as made:
            made.sendto(b"x" * 1440, (VIP6, 80))
            made.sendto(b"x" * 1440, (VIP6, 80))
            assert made.recv(256).decode().startswith(remote.name)
        assert "mtu 1450" in run("ip", "-n", client.namespace, "route", "get", VIP6)
    finally:
        for namespace, device in ends:
            run("ip", "-n", namespace, "link", "set", device, "mtu", "1450")


def test_a_large_transfer_to_a_service_crosses_clusters(clean: Topology) -> None:
    client, remote = clean.nodes[0].pods[0], _ends(clean)[1]
    clean.service(VIP6, [remote])
    with client.connect(VIP6, 80) as made:
        made.sendall(b"x" * 3_000_000)
        assert made.recv(256).decode().startswith(remote.name)


def test_a_pod_whose_egress_is_judged_reaches_the_backends_it_may_reach(clean: Topology) -> None:
    node, (own, remote) = clean.nodes[0], _ends(clean)
    client = node.pods[0]
    clean.service(VIP6, [own], service_id=1)
    clean.service(OTHER_VIP6, [remote], service_id=2)
    node.maps.policy.update(
        [
            (
                PolicyKey(client.endpoint_id, Direction.EGRESS, remote.identity, 6, TCP_PORT, 16),
                PolicyValue(False, 1, 1),
            )
        ]
    )
    node.endpoint(client, EndpointFlag.ENFORCE_EGRESS, 2)
    assert client.ask(OTHER_VIP6, 80).startswith(remote.name)
    assert client.is_refused(VIP6, 80)


def test_the_agents_own_writer_leads_both_families_and_open_connections_outlive_the_service(clean: Topology) -> None:
    own, remote = _ends(clean)
    client, node = clean.nodes[0].pods[0], clean.nodes[0]
    target = FamiliesTarget(node.maps, lambda: 0.0, owner_of=lambda _target, _service: "")
    target.restore()
    rows = [
        Frontend(FrontendKey(VIP, 80, "TCP"), ECHO, "ClusterIP", "", (Target(remote.address, TCP_PORT, "TCP", 2),)),
        Frontend(FrontendKey(VIP6, 80, "TCP"), ECHO, "ClusterIP", "", (Target(remote.ipv6, TCP_PORT, "TCP", 2),)),
        Frontend(FrontendKey(VIP6, 80, "UDP"), ECHO, "ClusterIP", "", (Target(own.ipv6, UDP_PORT, "UDP", 1),)),
    ]
    assert not target.update(rows)
    assert client.ask(VIP, 80) == f"{remote.name} {client.address}"
    with client.connect(VIP6, 80) as made, client.datagram(family=socket.AF_INET6) as asked:
        assert exchange(made) == f"{remote.name} {client.ipv6}"
        asked.connect((VIP6, 80))
        asked.send(b"?")
        assert asked.recv(256).decode() == f"{own.name} {client.ipv6}"
        again = FamiliesTarget(node.maps, lambda: 0.0, owner_of=lambda _target, _service: "")
        assert again.restore() == 3
        assert not again.delete(rows)
        assert exchange(made) == f"{remote.name} {client.ipv6}"
    assert not list(node.maps.services.items())
    assert node.maps.of_ipv6 is not None
    assert not list(node.maps.of_ipv6.services.items())
