# SPDX-License-Identifier: Apache-2.0
"""Real packets beside other CNI plugins: pods on ports of a bridge, and pods whose neighbours are asked for (ptp)."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agent.datapath.attach import Attacher, Attachment, Hook
from agent.datapath.config import AttachMode
from agent.datapath.layout import Direction, EndpointFlag, PolicyKey, PolicyValue
from agent.datapath.libbpf import BpfObject
from agent.datapath.pod_interfaces import sight
from agent.datapath.proxy_routes import prepare_stack
from agent.datapath.reasons import Reason
from meshpolicy import Direction as PolicyDirection
from meshpolicy.http_rule import HttpRule
from meshpolicy.proxy_ports import Listener
from tests.integration.datapath.datapath_topology import (
    TCP_PORT,
    UDP_PORT,
    Pod,
    Topology,
    drain_events,
    exchange,
    topology,
)
from tests.integration.datapath.node_envoy import PORT, ask, connection, envoy_of, redirect
from tests.integration.datapath.recorder import Recorder
from tests.packet.datapath_host import bpffs, build_objects, inside, run
from tests.support.leftovers import own_name

pytestmark = pytest.mark.root
VIP, HOST_ID = "172.20.1.7", 1
KINDS = {"bridge": (AttachMode.TCX, True), "bridge-clsact": (AttachMode.CLSACT, False), "ptp": (AttachMode.TCX, True)}


@pytest.fixture(scope="module", params=KINDS)
def mesh(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    build_objects()
    mode, peer_redirect = KINDS[request.param]
    cni = request.param.partition("-")[0]
    with (
        bpffs(tmp_path_factory.mktemp("cni") / "bpf") as pins,
        topology(own_name("cni"), pins, mode, peer_redirect=peer_redirect, cni=cni) as made,
    ):
        yield made


def names(pods: list[Pod], client: Pod) -> set[str]:
    return {f"{pod.name} {client.address}" for pod in pods}


def test_every_pod_is_found_where_it_is(clean: Topology) -> None:
    for node in clean.nodes:
        with inside(node.namespace):
            found = [s.interface for s in sight([(pod.address, 0) for pod in node.pods])]
            bridge = socket.if_nametoindex("cni0") if node.cni == "bridge" else 0
        seen = [(i.ifindex, i.mac, i.node_mac, i.bridge) for i in found if i is not None]
        assert seen == [(pod.ifindex, pod.mac, pod.node_mac, bridge) for pod in node.pods]


def test_every_pod_reaches_every_pod(clean: Topology) -> None:
    for source in clean.pods():
        for target in clean.pods():
            if target is not source:
                assert source.ask(target.address, TCP_PORT) == f"{target.name} {source.address}"


def test_a_service_spreads_over_its_node_its_cluster_and_the_other(clean: Topology) -> None:
    client, *others = clean.pods()
    backends = [others[0], others[1], others[4]]
    clean.service(VIP, backends)
    assert {client.ask(VIP, 80) for _ in range(60)} == names(backends, client)
    clean.service(VIP, [client])
    assert client.ask(VIP, 80) == f"{client.name} 169.254.42.1"


def test_datagrams_of_a_service_are_answered_from_its_address(clean: Topology) -> None:
    client, beside, *_, far = clean.pods()
    for target in (beside, far):
        clean.service(VIP, [target], 17)
        with client.datagram() as made:
            made.sendto(b"?", (VIP, 80))
            assert made.recvfrom(256) == (f"{target.name} {client.address}".encode(), (VIP, 80))


def test_the_node_reaches_its_pods_and_they_reach_it(clean: Topology) -> None:
    node = clean.nodes[0]
    pod = node.pods[0]
    with inside(node.namespace), socket.create_connection((pod.address, TCP_PORT), 2) as made:
        assert exchange(made).startswith(pod.name)
    for address in (node.address, node.gateway):
        if address == "169.254.1.1":
            continue
        with inside(node.namespace):
            server = socket.create_server((address, 0))
        with closing(server), pod.connect(address, server.getsockname()[1]) as made:
            accepted, peer = server.accept()
            accepted.close()
            assert peer[0] == pod.address


def test_policy_of_both_sides_holds_on_one_node_and_lets_its_node_in(clean: Topology) -> None:
    node = clean.nodes[0]
    first, second = node.pods
    allow = PolicyValue(False, 1, 1)
    node.maps.policy.update([(PolicyKey(second.endpoint_id, Direction.INGRESS, HOST_ID), allow)])
    node.endpoint(second, EndpointFlag.ENFORCE_INGRESS, 2)
    assert first.is_refused(second.address, TCP_PORT)
    assert second.ask(first.address, TCP_PORT) == f"{first.name} {second.address}", "answers come in"
    with inside(node.namespace), socket.create_connection((second.address, TCP_PORT), 2) as made:
        assert exchange(made).startswith(second.name)
    node.maps.policy.update([(PolicyKey(second.endpoint_id, Direction.INGRESS, first.identity), allow)])
    node.endpoint(second, EndpointFlag.ENFORCE_INGRESS, 3)
    assert first.ask(second.address, TCP_PORT) == f"{second.name} {first.address}"
    node.endpoint(first, EndpointFlag.ENFORCE_EGRESS, 4)
    assert first.is_refused(second.address, TCP_PORT)


def test_a_neighbour_that_nobody_remembers_is_asked_for_again(clean: Topology) -> None:
    client, beside, *_, far = clean.pods()
    for place in (client.namespace, beside.namespace, clean.nodes[0].namespace):
        run("ip", "-n", place, "neigh", "flush", "all")
    assert client.ask(beside.address, TCP_PORT).startswith(beside.name)
    assert client.ask(far.address, TCP_PORT).startswith(far.name)


def test_a_pod_speaks_for_no_other_address(clean: Topology) -> None:
    """Its ARP is its own, and so are its packets."""
    node = clean.nodes[0]
    liar, victim = node.pods
    drain_events(node)
    run("ip", "-n", liar.namespace, "address", "add", f"{victim.address}/32", "dev", "eth0")
    try:
        command = (
            "ip",
            "netns",
            "exec",
            liar.namespace,
            "ping",
            "-c",
            "1",
            "-W",
            "1",
            "-I",
            victim.address,
            node.gateway,
        )
        assert subprocess.run(command, capture_output=True, check=False).returncode == 1
        with inside(node.namespace):
            assert [s.interface.ifindex for s in sight([(victim.address, 0)]) if s.interface] == [victim.ifindex]
    finally:
        run("ip", "-n", liar.namespace, "address", "del", f"{victim.address}/32", "dev", "eth0")
    assert {e.reason for e in drain_events(node) if e.reason >= 128} == {Reason.INVALID_SOURCE_IP}


def test_a_flood_for_others_is_no_pods_business(clean: Topology) -> None:
    """The bridge has forgotten where a MAC is; the frame reaches every port, and one pod."""
    node = clean.nodes[0]
    if node.cni != "bridge":
        pytest.skip("only a bridge floods")
    first, second = node.pods
    second_flags = EndpointFlag.ENFORCE_INGRESS
    node.endpoint(second, second_flags, 2)
    drain_events(node)
    run("ip", "-n", node.namespace, "link", "set", "cni0", "type", "bridge", "fdb_flush")
    with inside(node.namespace), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.settimeout(2)
        made.sendto(b"?", (first.address, UDP_PORT))
        assert made.recv(256).decode().startswith(first.name)
    seen = [e for e in drain_events(node) if e.destination == first.address]
    assert {e.endpoint_id for e in seen} == {first.endpoint_id}


@pytest.mark.parametrize("hook", list(Hook))
def test_a_program_of_somebody_else_on_the_interface_runs_too_and_stays(
    clean: Topology, hook: Hook, tmp_path: Path
) -> None:
    node = clean.nodes[0]
    pod, place = node.pods[0], Attachment("pod", node.pods[0].ifindex, hook)
    links = node.pins.with_name(f"others-{hook}")
    links.mkdir()
    other = others_program(tmp_path)
    with inside(node.namespace):
        attacher = Attacher(links, use_tcx=True)
        attacher.attach(place, other.program_fd("no_datagrams"), "no_datagrams")
        node.datapath.attach(pod.ifindex)
        try:
            assert not answers_datagrams(pod)
            with socket.create_connection((pod.address, TCP_PORT), 2) as made:
                assert exchange(made).startswith(pod.name)
            assert attacher.runs(place, other.program_fd("no_datagrams"))
            assert node.datapath.unattached([pod.ifindex]) == set()
        finally:
            attacher.detach(place)
            other.close()
        assert answers_datagrams(pod)


def others_program(directory: Path) -> BpfObject:
    """The program, loaded."""
    source, made = Path(__file__).with_name("no_datagrams.bpf.c"), directory / "no_datagrams.bpf.o"
    include = f"/usr/include/{os.uname().machine}-linux-gnu"
    run("clang-14", "-O2", "-g", "-target", "bpf", "-mcpu=v3", "-I", include, "-c", str(source), "-o", str(made))
    loaded = BpfObject(made, directory)
    loaded.load()
    return loaded


def answers_datagrams(pod: Pod) -> bool:
    """Whether a datagram of this namespace is answered by the pod."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.settimeout(0.5)
        made.sendto(b"?", (pod.address, UDP_PORT))
        try:
            return made.recv(256).startswith(pod.name.encode())
        except TimeoutError:
            return False


def test_packets_too_large_for_the_overlay_are_answered_with_its_mtu(clean: Topology) -> None:
    node, client, target = clean.nodes[0], clean.nodes[0].pods[1], clean.pods()[-1]
    places = [(client.namespace, "eth0"), (node.namespace, "lxcb")]
    places += [(node.namespace, "cni0")] if node.cni == "bridge" else []
    try:
        for namespace, device in places:
            run("ip", "-n", namespace, "link", "set", device, "mtu", "1500")
        with client.datagram() as made:
            made.sendto(b"x" * 1450, (target.address, UDP_PORT))
            made.sendto(b"x" * 1450, (target.address, UDP_PORT))
            assert made.recv(256).decode().startswith(target.name)
    finally:
        for namespace, device in reversed(places):
            run("ip", "-n", namespace, "link", "set", device, "mtu", "1450")
        run("ip", "-n", client.namespace, "route", "flush", "cache")


@pytest.mark.parametrize("direction", [Direction.EGRESS, Direction.INGRESS])
def test_requests_go_through_the_proxy_also_where_a_bridge_asks_the_rules_of_the_stack(
    clean: Topology, direction: Direction
) -> None:
    """As Kubernetes wants it of a bridge (br_netfilter): it takes from a packet the socket that it was handed to."""
    node = clean.nodes[0]
    first, second, far = *node.pods, clean.nodes[2].pods[0]
    asking = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    with inside(node.namespace):
        if node.cni == "bridge" and asking.exists():
            asking.write_text("1")
        assert prepare_stack() == ""
    servers = [Recorder(pod) for pod in (second, far)]
    judged = first if direction == Direction.EGRESS else second
    redirect(node, judged, direction)
    rules = frozenset((HttpRule("GET", "/ok"),))
    word = PolicyDirection.EGRESS if direction == Direction.EGRESS else PolicyDirection.INGRESS
    pairs = [(first, second), (first, far)] if direction == Direction.EGRESS else [(first, second), (far, second)]
    try:
        with envoy_of(node, {PORT: Listener(word, rules)}):
            for source, target in pairs:
                with closing(connection(source, target.address)) as made:
                    assert ask(made, "GET", "/ok") == (200, b"ok")
                    assert ask(made, "POST", "/ok", b"?")[0] == 403
    finally:
        for server in servers:
            server.close()
