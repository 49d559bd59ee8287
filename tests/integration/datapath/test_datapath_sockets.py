# SPDX-License-Identifier: Apache-2.0
"""Sockets of the node itself: a frontend leads to a backend of any cluster, pods' sockets in the same group are left alone."""

from __future__ import annotations

import os
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from agent.datapath.config import AttachMode
from agent.datapath.flow_layout import EventType, HeartbeatKey, HeartbeatValue, MetricKey, Translation
from agent.datapath.layout import Direction, ServiceFlag
from agent.datapath.loader import Datapath
from agent.datapath.reasons import Reason
from agent.datapath.socket_hooks import SOCKET_HOOKS
from tests.integration.datapath.datapath_topology import TCP_PORT, Node, Topology, drain_events, exchange, topology
from tests.packet.datapath_host import bpffs, build_objects, inside

pytestmark = pytest.mark.root
VIP, UDP = "172.20.9.9", 17
SO_COOKIE = 57  # asm-generic/socket.h
OF_NODE = int(ServiceFlag.OF_NODE)


@contextmanager
def member_of(directory: Path) -> Iterator[Path]:
    """A control group in a hierarchy mounted there; this process is in it until the block ends."""
    directory.mkdir()
    subprocess.run(["mount", "-t", "cgroup2", "none", str(directory)], check=True)
    try:
        path = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
        home, group = directory / path[4:], directory / f"dpt-sockets-{os.getpid()}"
        group.mkdir()
        try:
            (group / "cgroup.procs").write_text(str(os.getpid()))
            yield group
        finally:
            (home / "cgroup.procs").write_text(str(os.getpid()))
            group.rmdir()
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    build_objects()
    work = tmp_path_factory.mktemp("sockets")
    with (
        member_of(work / "cgroup") as group,
        bpffs(work / "bpf") as pins,
        topology(f"dps-{os.getpid()}", pins, AttachMode.AUTO, control_group=group, unattended_after_s=60) as made,
    ):
        yield made


def socket_of(node: Node, kind: socket.SocketKind, family: int = socket.AF_INET) -> socket.socket:
    with inside(node.namespace):
        made = socket.socket(family, kind)
    made.settimeout(2)
    return made


def led(node: Node) -> int:
    found = node.maps.metrics.get(MetricKey(Reason.FLOW_OF_NODE, Direction.EGRESS))
    assert found is not None
    return found.packets


def ask(node: Node, address: str = VIP, port: int = 80) -> str:
    with socket_of(node, socket.SOCK_STREAM) as stream:
        stream.connect((address, port))
        return exchange(stream)


def test_a_process_of_the_node_reaches_backends_of_both_clusters_and_is_counted(clean: Topology) -> None:
    node, own, other = clean.nodes[0], clean.nodes[1].pods[0], clean.nodes[2].pods[0]
    clean.service(VIP, [own, other], flags=OF_NODE)
    before = led(node)
    answers = Counter(ask(node) for _ in range(30))
    assert set(answers) == {f"{own.name} {node.address}", f"{other.name} {node.address}"}
    assert led(node) == before + 30


def test_the_peer_of_the_socket_is_the_service(clean: Topology) -> None:
    node = clean.nodes[0]
    clean.service(VIP, [clean.nodes[2].pods[0]], flags=OF_NODE)
    with socket_of(node, socket.SOCK_STREAM) as stream:
        stream.connect((VIP, 80))
        assert stream.getpeername() == (VIP, 80)


def test_an_ipv4_address_in_an_ipv6_socket_is_led_too(clean: Topology) -> None:
    node, pod = clean.nodes[0], clean.nodes[2].pods[0]
    clean.service(VIP, [pod], flags=OF_NODE)
    with socket_of(node, socket.SOCK_STREAM, socket.AF_INET6) as stream:
        stream.connect((f"::ffff:{VIP}", 80))
        assert stream.getpeername()[:2] == (f"::ffff:{VIP}", 80)
        assert exchange(stream) == f"{pod.name} {node.address}"


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "mapped"])
def test_datagrams_stay_with_their_backend_and_are_answered_by_the_service(clean: Topology, family: int) -> None:
    node, pods = clean.nodes[0], [clean.nodes[1].pods[0], clean.nodes[2].pods[0], clean.nodes[2].pods[1]]
    clean.service(VIP, pods, UDP, flags=OF_NODE)
    towards = VIP if family == socket.AF_INET else f"::ffff:{VIP}"
    seen = set()
    for _ in range(40):
        with socket_of(node, socket.SOCK_DGRAM, family) as datagram:
            answers = set()
            for _ in range(4):
                datagram.sendto(b"?", (towards, 80))
                text, sender = datagram.recvfrom(256)
                assert sender[:2] == (towards, 80)
                answers.add(text.split()[0].decode())
            assert len(answers) == 1
            seen |= answers
    assert seen == {pod.name for pod in pods}


def test_what_a_socket_is_led_to_is_recorded_once_each_way(clean: Topology) -> None:
    node, pod = clean.nodes[0], clean.nodes[2].pods[0]
    clean.service(VIP, [pod], UDP, flags=OF_NODE)
    drain_events(node)
    with socket_of(node, socket.SOCK_DGRAM) as datagram:
        for _ in range(4):
            datagram.sendto(b"?", (VIP, 80))
            datagram.recvfrom(256)
        cookie = int.from_bytes(datagram.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8), "little")
    forward, back = [e for e in drain_events(node) if e.type == EventType.TRANSLATION]
    assert (forward.point, back.point) == (Translation.FORWARD, Translation.BACK)
    assert (forward.source, forward.source_port, forward.source_identity) == (node.address, 0, 1)
    assert (forward.destination, forward.frontend, forward.frontend_port) == (pod.address, VIP, 80)
    assert (back.source, back.source_port) == (forward.destination, forward.destination_port)
    assert (back.destination, back.destination_port, back.frontend) == (node.address, 0, VIP)
    assert forward.socket_cookie == back.socket_cookie == cookie
    assert forward.cgroup_id == back.cgroup_id != 0


def test_a_socket_that_is_refused_is_recorded_as_dropped(clean: Topology) -> None:
    node = clean.nodes[0]
    clean.service(VIP, [], flags=OF_NODE)
    drain_events(node)
    with socket_of(node, socket.SOCK_STREAM) as stream, pytest.raises(ConnectionRefusedError):
        stream.connect((VIP, 80))
    (event,) = drain_events(node)
    assert (event.type, event.reason, event.destination, event.destination_port) == (1, Reason.NO_BACKEND, VIP, 80)


def test_a_datagram_moves_on_when_its_backend_may_not_be_chosen_any_more(clean: Topology) -> None:
    node, (first, second) = clean.nodes[0], clean.nodes[2].pods
    clean.service(VIP, [first], UDP, flags=OF_NODE)
    with socket_of(node, socket.SOCK_DGRAM) as datagram:
        datagram.sendto(b"?", (VIP, 80))
        assert datagram.recv(256).startswith(first.name.encode())
        clean.service(VIP, [second], UDP, service_id=2, flags=OF_NODE)
        datagram.sendto(b"?", (VIP, 80))
        assert datagram.recv(256).startswith(second.name.encode())


def test_a_connected_datagram_socket_hears_the_service(clean: Topology) -> None:
    node, pod = clean.nodes[0], clean.nodes[2].pods[0]
    clean.service(VIP, [pod], UDP, flags=OF_NODE)
    with socket_of(node, socket.SOCK_DGRAM) as datagram:
        datagram.connect((VIP, 80))
        assert datagram.getpeername() == (VIP, 80)
        datagram.send(b"?")
        assert datagram.recvfrom(256) == (f"{pod.name} {node.address}".encode(), (VIP, 80))


def test_session_affinity_keeps_the_node_with_one_backend(clean: Topology) -> None:
    node = clean.nodes[0]
    clean.service(VIP, [p for n in clean.nodes[1:] for p in n.pods], flags=OF_NODE, affinity_s=60, service_id=5)
    assert len({ask(node) for _ in range(12)}) == 1


def test_a_service_without_backends_refuses_at_once(clean: Topology) -> None:
    node = clean.nodes[0]
    clean.service(VIP, [], flags=OF_NODE)
    clean.service(VIP, [], UDP, flags=OF_NODE)
    with socket_of(node, socket.SOCK_STREAM) as stream, pytest.raises(ConnectionRefusedError):
        stream.connect((VIP, 80))
    with socket_of(node, socket.SOCK_DGRAM) as datagram, pytest.raises(ConnectionRefusedError):
        datagram.sendto(b"?", (VIP, 80))


def test_a_node_port_is_on_the_nodes_address_and_not_on_loopback(clean: Topology) -> None:
    node, pod = clean.nodes[0], clean.nodes[2].pods[0]
    clean.service("0.0.0.0", [pod], flags=OF_NODE)
    assert ask(node, node.address) == f"{pod.name} {node.address}"
    for address in ("127.0.0.1", clean.nodes[1].address):
        with socket_of(node, socket.SOCK_STREAM) as stream, pytest.raises(ConnectionRefusedError):
            stream.connect((address, 80))


def test_a_service_that_is_not_taken_over_is_left_to_whoever_answers_for_it(clean: Topology) -> None:
    node = clean.nodes[0]
    clean.service(VIP, [clean.nodes[2].pods[0]])
    before = led(node)
    with socket_of(node, socket.SOCK_STREAM) as stream:
        stream.settimeout(0.3)
        with pytest.raises(TimeoutError):
            stream.connect((VIP, 80))
    assert led(node) == before


def test_sockets_of_pods_in_the_same_group_are_left_to_their_own_programs(clean: Topology) -> None:
    node, other = clean.nodes[0], clean.nodes[2].pods[0]
    clean.service(VIP, [other], flags=OF_NODE)
    before = led(node)
    assert node.pods[0].ask(VIP, 80) == f"{other.name} {node.pods[0].address}"
    assert led(node) == before


def test_while_no_agent_attends_sockets_go_where_they_want(clean: Topology) -> None:
    node, pod = clean.nodes[0], clean.nodes[2].pods[0]
    clean.service(VIP, [pod], flags=OF_NODE)
    node.maps.heartbeat.update([(HeartbeatKey(0), HeartbeatValue(1))])
    try:
        with socket_of(node, socket.SOCK_STREAM) as stream:
            stream.settimeout(0.3)
            with pytest.raises(TimeoutError):
                stream.connect((VIP, 80))
    finally:
        node.maps.heartbeat.delete([HeartbeatKey(0)])
    assert ask(node) == f"{pod.name} {node.address}"


def test_hooks_outlive_the_process_and_an_uninstall_leaves_none(clean: Topology) -> None:
    node, pod = clean.nodes[0], clean.nodes[2].pods[0]
    clean.service(VIP, [pod], flags=OF_NODE)
    with inside(node.namespace):
        node.opened.pop().close()
        assert ask(node) == f"{pod.name} {node.address}"
        again = Datapath(node.config)
        node.opened.append(again)
        again.open()
        assert again.unattached_node() == []
        assert again.sockets_obstacle == ""
        (node.pins / "sockets" / "mesh_connect4").unlink()
        assert again.unattached_node() == ["mesh_connect4"]
        again.attach_node()
        assert again.unattached_node() == []
        assert sorted(p.name for p in (node.pins / "sockets").iterdir()) == sorted(SOCKET_HOOKS)
    assert ask(node) == f"{pod.name} {node.address}"
    assert ask(node, pod.address, TCP_PORT) == f"{pod.name} {node.address}"


def test_without_a_control_group_the_programs_say_why_and_leave_sockets_alone(clean: Topology, tmp_path: Path) -> None:
    node = clean.nodes[3]
    config = node.config
    with inside(node.namespace):
        node.opened.pop().close()
        made = Datapath(replace(config, control_group=tmp_path))
        made.open()
        assert str(tmp_path) in made.sockets_obstacle
        assert not list((node.pins / "sockets").iterdir())
        assert config.control_group is not None
        (tmp_path / "unified").symlink_to(config.control_group)
        made.adapt()
        assert (made.sockets_obstacle, made.unattached_node()) == ("", [])
        made.close()
        node.opened.append(Datapath(config))
        node.datapath.open()
        assert node.datapath.unattached_node() == []
