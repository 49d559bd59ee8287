# SPDX-License-Identifier: Apache-2.0
"""IPv6 of pods between namespaces: neighbours found, pods of every node reached, policies kept; and programs that come and go."""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.datapath import syscall
from agent.datapath.config import AttachMode, NodeConfig
from agent.datapath.flow_layout import EventType
from agent.datapath.ipv6_calls import IPV6_PROGRAMS
from agent.datapath.layout import Direction, EndpointFlag, PolicyKey, PolicyValue
from agent.datapath.loader import Datapath
from agent.datapath.reasons import Reason
from tests.integration.datapath.datapath_topology import (
    TCP_PORT,
    UDP_PORT,
    Node,
    Pod,
    Topology,
    drain_events,
    exchange,
    topology,
)
from tests.integration.datapath.lone_node import lone_node, pod_interface
from tests.integration.datapath.test_datapath_loader import MAX_FRAME_BYTES, MAX_PROCESSED_INSTRUCTIONS
from tests.packet.datapath_host import bpffs, build_objects, inside, run
from tests.packet.packet_bytes6 import ADVERTISEMENT, discovery
from tests.support.leftovers import own_name

pytestmark = pytest.mark.root
OUT, IN = Direction.EGRESS, Direction.INGRESS
BOTH = EndpointFlag.ENFORCE_EGRESS | EndpointFlag.ENFORCE_INGRESS


@pytest.fixture(scope="module", params=[("routed", AttachMode.TCX, True), ("bridge", AttachMode.CLSACT, False)])
def mesh(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    build_objects()
    cni, mode, peer_redirect = request.param
    with (
        bpffs(tmp_path_factory.mktemp("ipv6") / "bpf") as pins,
        topology(own_name("ipv6"), pins, mode, peer_redirect=peer_redirect, cni=cni, ipv6=True) as made,
    ):
        yield made


@pytest.fixture
def clean(mesh: Topology) -> Topology:
    for node in mesh.nodes:
        node.maps.policy.delete([key for key, _ in node.maps.policy.items()])
        for pod in node.pods:
            node.endpoint(pod)
    return mesh


def _judge(node: Node, pod: Pod, direction: Direction, allowed: list[int], revision: int) -> None:
    flag = EndpointFlag.ENFORCE_INGRESS if direction is IN else EndpointFlag.ENFORCE_EGRESS
    node.maps.policy.delete([key for key, _ in node.maps.policy.items() if key.endpoint_id == pod.endpoint_id])
    node.maps.policy.update([(PolicyKey(pod.endpoint_id, direction, i), PolicyValue(False, 1, i)) for i in allowed])
    node.endpoint(pod, flag, revision)


def test_every_pod_reaches_every_pod_by_tcp_and_udp(clean: Topology) -> None:
    for source in clean.pods():
        for target in clean.pods():
            if target is source:
                continue
            assert source.ask(target.ipv6, TCP_PORT) == f"{target.name} {source.ipv6}"
            with source.datagram(family=socket.AF_INET6) as made:
                made.sendto(b"?", (target.ipv6, UDP_PORT))
                assert made.recv(256).decode() == f"{target.name} {source.ipv6}"


def test_pods_under_a_policy_find_their_neighbours_and_nobody_who_is_not_allowed(clean: Topology) -> None:
    node = clean.nodes[0]
    target, friend, stranger = node.pods[0], clean.nodes[2].pods[0], clean.nodes[3].pods[0]
    for namespace in (target.namespace, node.namespace):
        run("ip", "-n", namespace, "-6", "neigh", "flush", "all")
    _judge(node, target, IN, [friend.identity], 2)
    drain_events(node)
    assert friend.ask(target.ipv6, TCP_PORT).startswith(target.name)
    assert stranger.is_refused(target.ipv6, TCP_PORT)
    assert node.pods[1].is_refused(target.ipv6, TCP_PORT)
    drops = [e for e in drain_events(node) if e.type == EventType.DROP and e.destination_port == TCP_PORT]
    assert {(e.source, e.destination, e.reason) for e in drops} == {
        (stranger.ipv6, target.ipv6, Reason.POLICY_DENIED),
        (node.pods[1].ipv6, target.ipv6, Reason.POLICY_DENIED),
    }


def test_a_policy_change_reaches_an_open_connection_and_back(clean: Topology) -> None:
    node, client = clean.nodes[0], clean.nodes[2].pods[0]
    target = node.pods[0]
    with client.connect(target.ipv6, TCP_PORT) as made:
        exchange(made)
        _judge(node, target, IN, [], 3)
        made.settimeout(0.4)
        with pytest.raises(TimeoutError):
            exchange(made)
        _judge(node, target, IN, [client.identity], 4)
        made.settimeout(3)
        assert made.recv(256).decode().startswith(target.name), "retransmitted and answered"


@pytest.mark.parametrize("place", [1, -1], ids=["own node", "other cluster"])
def test_pings_pass_where_echo_is_allowed(clean: Topology, place: int) -> None:
    node, target = clean.nodes[0], clean.pods()[place]
    source = node.pods[0]
    ping = ("ip", "netns", "exec", source.namespace, "ping", "-c", "1", "-W", "1", target.ipv6)
    node.maps.policy.update(
        [(PolicyKey(source.endpoint_id, OUT, target.identity, 58, 128, 16), PolicyValue(False, 1, 1))]
    )
    node.endpoint(source, BOTH, 5)
    run(*ping)
    node.maps.policy.delete([PolicyKey(source.endpoint_id, OUT, target.identity, 58, 128, 16)])
    with pytest.raises(AssertionError):
        run(*ping)


def test_the_node_reaches_its_pods_and_the_answer_finds_back(clean: Topology) -> None:
    node = clean.nodes[0]
    pod = node.pods[0]
    _judge(node, pod, IN, [1], 6)
    with inside(node.namespace), socket.create_connection((pod.ipv6, TCP_PORT), 2) as made:
        assert exchange(made).startswith(pod.name)


def test_large_transfers_and_full_packets_cross_clusters(clean: Topology) -> None:
    client, target = clean.pods()[0], clean.pods()[-1]
    with client.connect(target.ipv6, TCP_PORT) as made:
        made.sendall(b"x" * 3_000_000)
        assert made.recv(256).decode().startswith(target.name)
    size = str(1450 - 48)
    run("ip", "netns", "exec", client.namespace, "ping", "-c", "1", "-W", "1", "-M", "do", "-s", size, target.ipv6)


def test_a_pod_with_a_larger_mtu_learns_the_right_one(clean: Topology) -> None:
    """The first datagram is answered with the MTU, the next one goes in fragments, which follow their first one."""
    node, client, target = clean.nodes[0], clean.nodes[0].pods[1], clean.pods()[-1]
    ends = ((client.namespace, "eth0"), (node.namespace, "lxcb"))
    try:
        for namespace, device in ends:
            run("ip", "-n", namespace, "link", "set", device, "mtu", "1500")
        with client.datagram(family=socket.AF_INET6) as made:
            made.sendto(b"x" * 1440, (target.ipv6, UDP_PORT))
            made.sendto(b"x" * 1440, (target.ipv6, UDP_PORT))
            assert made.recv(256).decode().startswith(target.name)
        assert "mtu 1450" in run("ip", "-n", client.namespace, "route", "get", target.ipv6)
    finally:
        for namespace, device in ends:
            run("ip", "-n", namespace, "link", "set", device, "mtu", "1450")


def test_a_pod_cannot_take_its_neighbours_address(clean: Topology) -> None:
    """The forged advertisement does not arrive: the node, or on a bridge the gateway, goes on to find the neighbour."""
    node = clean.nodes[0]
    victim, attacker, client = node.pods[0], node.pods[1], clean.nodes[2].pods[0]
    assert client.ask(victim.ipv6, TCP_PORT).startswith(victim.name)
    forged = discovery(
        victim.ipv6, "ff02::1", ADVERTISEMENT, victim.ipv6, bytes.fromhex(attacker.mac.replace(":", "")), 2
    )
    frame = b"\x33\x33\0\0\0\1" + bytes.fromhex(attacker.mac.replace(":", "")) + forged.frame()[12:]
    drain_events(node)
    with inside(attacker.namespace), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind(("eth0", 0x86DD))
        raw.send(frame)
    dropped = [e.reason for e in drain_events(node) if e.type == EventType.DROP and e.source == victim.ipv6]
    assert Reason.INVALID_SOURCE_IP in dropped
    device = "cni0" if node.cni == "bridge" else "lxcb"
    assert attacker.mac not in run("ip", "-n", node.namespace, "-6", "neigh", "show", victim.ipv6, "dev", device)
    assert node.pods[1].ask(victim.ipv6, TCP_PORT).startswith(victim.name)


# programs -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeConfig]:
    sizes = {"mesh_ct_tcp": 4096, "mesh_ct_other": 4096, "mesh_ct6_tcp": 4096, "mesh_ct6_other": 4096}
    with lone_node("ipv6", tmp_path_factory.mktemp("ipv6-programs"), max_entries=sizes, ipv6=True) as made:
        yield made


def _maps_of(config: NodeConfig) -> set[str]:
    return {path.name for path in (config.pin_directory / "maps").iterdir()}


def _running(config: NodeConfig) -> list[int | None]:
    calls = Path(config.pin_directory / "maps" / "mesh_calls")
    from agent.datapath.kernel import RawMap

    raw = RawMap(syscall.get_pinned(calls))
    try:
        values = [raw.get(struct.pack("<I", place)) for place in range(len(IPV6_PROGRAMS))]
    finally:
        raw.close()
    return [None if value is None else int(struct.unpack("<I", value)[0]) for value in values]


def test_a_node_without_ipv6_has_none_of_its_programs_and_maps(config: NodeConfig) -> None:
    made = Datapath(replace(config, ipv6=False))
    try:
        made.open()
        made.attach(pod_interface())
        assert not {name for name in _maps_of(config) if "6" in name}
        assert _running(config) == [None, None, None]
        assert not made.unattached_node()
    finally:
        made.uninstall()


def test_programs_go_on_with_ipv6_as_long_as_it_is_on(config: NodeConfig, datapath: Datapath) -> None:
    datapath.open()
    assert len(datapath.unattached_node()) >= len(IPV6_PROGRAMS)
    datapath.attach(pod_interface())
    assert not datapath.unattached_node()
    first = _running(config)
    assert first == [syscall.program_id(datapath.program_fd(name)) for name in IPV6_PROGRAMS]
    datapath.close()
    assert _running(config) == first, "they outlive the process"
    again = Datapath(config)
    again.open()
    again.attach_node()
    assert None not in _running(config)
    assert not set(_running(config)) & set(first)
    again.close()
    without = Datapath(replace(config, ipv6=False))
    without.open()
    without.attach_node()
    assert _running(config) == [None, None, None]
    without.close()


def test_a_call_that_somebody_took_away_is_found_missing_and_put_back(config: NodeConfig, datapath: Datapath) -> None:
    datapath.open()
    datapath.attach_node()
    run(
        "bpftool",
        "map",
        "delete",
        "pinned",
        str(config.pin_directory / "maps" / "mesh_calls"),
        "key",
        "0",
        "0",
        "0",
        "0",
    )
    assert datapath.unattached_node() == ["mesh_from_container6 of mesh_calls"]
    datapath.attach_node()
    assert not datapath.unattached_node()


def test_programs_of_ipv6_stay_within_their_budgets(datapath: Datapath) -> None:
    datapath.open()
    statistics = {name: text for name, text in datapath.statistics().items() if name in IPV6_PROGRAMS}
    assert len(statistics) == len(IPV6_PROGRAMS)
    for name, text in statistics.items():
        processed, stack = re.search(r"processed (\d+) insns", text), re.search(r"stack depth ([\d+]+)", text)
        assert processed, text
        assert stack, text
        frames = [int(n) for n in stack[1].split("+")]
        print(f"{name}: {processed[1]} instructions processed, largest frame {max(frames)} bytes")
        assert int(processed[1]) <= MAX_PROCESSED_INSTRUCTIONS
        assert max(frames) <= MAX_FRAME_BYTES
