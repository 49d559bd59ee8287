# SPDX-License-Identifier: Apache-2.0
"""Real packets between real pods: two clusters, VXLAN, services, policy, and agents that come and go."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from agent.datapath.config import AttachMode
from agent.datapath.flow_layout import DatapathEvent, EventType
from agent.datapath.layout import BackendKey, BackendState, Direction, EndpointFlag, PolicyKey, PolicyValue
from agent.datapath.loader import Datapath
from agent.datapath.pod_interfaces import sight
from agent.datapath.proxy_routes import prepare_stack
from agent.datapath.reasons import Reason
from tests.integration.datapath.datapath_topology import TCP_PORT, Node, Pod, Topology, drain_events, exchange
from tests.packet.datapath_host import inside, run, tcx_programs

pytestmark = pytest.mark.root
VIP = "172.20.1.7"


def _enforce(node: Node, pod: Pod, flag: EndpointFlag, allowed: list[int], revision: int) -> None:
    direction = Direction.INGRESS if flag is EndpointFlag.ENFORCE_INGRESS else Direction.EGRESS
    old = [k for k, _ in node.maps.policy.items() if k.endpoint_id == pod.endpoint_id]
    node.maps.policy.update([(PolicyKey(pod.endpoint_id, direction, i), PolicyValue(False, 1, i)) for i in allowed])
    node.maps.policy.delete([k for k in old if k.identity not in allowed])
    node.endpoint(pod, flag, revision)


def test_every_pod_reaches_every_pod(clean: Topology) -> None:
    for source in clean.pods():
        for target in clean.pods():
            if target is not source:
                assert source.ask(target.address, TCP_PORT) == f"{target.name} {source.address}"


def test_pings_cross_clusters(clean: Topology) -> None:
    source, target = clean.pods()[0], clean.pods()[-1]
    run("ip", "netns", "exec", source.namespace, "ping", "-c", "2", "-i", "0.2", "-W", "1", target.address)


def test_packets_of_full_size_cross_clusters(clean: Topology) -> None:
    source, target = clean.pods()[0], clean.pods()[-1]
    size = str(1450 - 28)
    run("ip", "netns", "exec", source.namespace, "ping", "-c", "1", "-W", "1", "-M", "do", "-s", size, target.address)


def test_a_service_spreads_over_both_clusters_and_shows_the_client(clean: Topology) -> None:
    client, *others = clean.pods()
    backends = [others[0], others[1], others[4]]
    clean.service(VIP, backends)
    answers = [client.ask(VIP, 80) for _ in range(60)]
    assert set(answers) == {f"{pod.name} {client.address}" for pod in backends}


def test_udp_answers_come_from_the_service_address(clean: Topology) -> None:
    client, target = clean.pods()[0], clean.pods()[-1]
    clean.service(VIP, [target], 17)
    with client.datagram() as made:
        made.sendto(b"?", (VIP, 80))
        answer, sender = made.recvfrom(256)
    assert (answer.decode(), sender) == (f"{target.name} {client.address}", (VIP, 80))


def test_a_pod_is_its_own_backend(clean: Topology) -> None:
    client = clean.pods()[0]
    clean.service(VIP, [client])
    assert client.ask(VIP, 80) == f"{client.name} 169.254.42.1"


def test_a_closed_udp_port_behind_a_service_is_reported_to_the_client(clean: Topology) -> None:
    client, target = clean.pods()[0], clean.pods()[-1]
    clean.service(VIP, [target], 17)
    for node in clean.nodes:
        ((key, value),) = node.maps.backends.items()
        node.maps.backends.update([(key, value._replace(port=9))])
    with client.datagram() as made:
        made.connect((VIP, 80))
        made.send(b"?")
        with pytest.raises(ConnectionRefusedError):
            made.recv(256)


def test_the_node_reaches_its_pods_and_the_answer_finds_back(clean: Topology) -> None:
    node = clean.nodes[0]
    pod = node.pods[0]
    with inside(node.namespace):
        with socket.create_connection((pod.address, TCP_PORT), 2) as made:
            assert exchange(made).startswith(pod.name)


def test_large_transfers_survive_translation(clean: Topology) -> None:
    client, target = clean.pods()[0], clean.pods()[-1]
    clean.service(VIP, [target])
    with client.connect(VIP, 80) as made:
        made.sendall(b"x" * 3_000_000)
        assert made.recv(256).decode().startswith(target.name)


def test_a_pod_with_a_larger_mtu_learns_the_right_one(clean: Topology) -> None:
    """The first datagram is answered with the MTU, the next one goes in fragments, which follow their first one."""
    node, client, target = clean.nodes[0], clean.nodes[0].pods[1], clean.pods()[-1]
    clean.service(VIP, [target], 17)
    ends = ((client.namespace, "eth0"), (node.namespace, "lxcb"))
    try:
        for namespace, device in ends:
            run("ip", "-n", namespace, "link", "set", device, "mtu", "1500")
        with client.datagram() as made:
            made.sendto(b"x" * 1450, (VIP, 80))
            made.sendto(b"x" * 1450, (VIP, 80))
            assert made.recv(256).decode().startswith(target.name)
        assert "mtu 1450" in run("ip", "-n", client.namespace, "route", "get", VIP)
    finally:
        for namespace, device in ends:
            run("ip", "-n", namespace, "link", "set", device, "mtu", "1450")


def test_policy_by_remote_identity_names_both_sides_of_a_drop(clean: Topology) -> None:
    node = clean.nodes[0]
    target, friend, stranger = node.pods[0], clean.nodes[2].pods[0], clean.nodes[3].pods[0]
    _enforce(node, target, EndpointFlag.ENFORCE_INGRESS, [friend.identity], 2)
    drain_events(node)
    assert friend.ask(target.address, TCP_PORT).startswith(target.name)
    assert stranger.is_refused(target.address, TCP_PORT)
    drops = [e for e in drain_events(node) if e.type == EventType.DROP and e.destination_port == TCP_PORT]
    assert drops
    assert {(e.source_identity, e.destination_identity, e.reason) for e in drops} == {
        (stranger.identity, target.identity, Reason.POLICY_DENIED)
    }
    assert {(e.source, e.destination) for e in drops} == {(stranger.address, target.address)}


def test_a_policy_change_reaches_an_open_connection_and_back(clean: Topology) -> None:
    node, client = clean.nodes[0], clean.nodes[2].pods[0]
    target = node.pods[0]
    with client.connect(target.address, TCP_PORT) as made:
        exchange(made)
        _enforce(node, target, EndpointFlag.ENFORCE_INGRESS, [], 3)
        made.settimeout(0.4)
        with pytest.raises(TimeoutError):
            exchange(made)
        _enforce(node, target, EndpointFlag.ENFORCE_INGRESS, [client.identity], 4)
        made.settimeout(3)
        assert made.recv(256).decode().startswith(target.name), "retransmitted and answered"


def test_a_denied_client_times_out_silently_on_egress(clean: Topology) -> None:
    node = clean.nodes[0]
    client, target = node.pods[0], clean.pods()[-1]
    clean.service(VIP, [target])
    _enforce(node, client, EndpointFlag.ENFORCE_EGRESS, [], 5)
    assert client.is_refused(VIP, 80)
    _enforce(node, client, EndpointFlag.ENFORCE_EGRESS, [target.identity], 6)
    assert client.ask(VIP, 80).startswith(target.name)


def test_a_terminating_backend_keeps_its_connection_and_gets_no_new_one(clean: Topology) -> None:
    client, old, new = clean.pods()[0], clean.pods()[-1], clean.pods()[-2]
    clean.service(VIP, [old])
    with client.connect(VIP, 80) as made:
        exchange(made)
        clean.service(VIP, [new], service_id=2)
        for node in clean.nodes:
            value = node.maps.backends.get(BackendKey(100))
            assert value is not None
            node.maps.backends.update([(BackendKey(100), value._replace(state=BackendState.TERMINATING))])
        assert exchange(made).startswith(old.name)
        assert client.ask(VIP, 80).startswith(new.name)


def test_a_connection_outlives_its_service(clean: Topology) -> None:
    client, target = clean.pods()[0], clean.pods()[-1]
    clean.service(VIP, [target])
    with client.connect(VIP, 80) as made:
        exchange(made)
        for node in clean.nodes:
            node.maps.services.delete([k for k, _ in node.maps.services.items()])
            node.maps.backends.delete([k for k, _ in node.maps.backends.items()])
        assert exchange(made).startswith(target.name)


def test_endpoints_are_found_by_route_and_the_other_end_of_the_veth(mesh: Topology) -> None:
    node = mesh.nodes[0]
    with inside(node.namespace):
        seen = sight([*((pod.address, 0) for pod in node.pods), (mesh.nodes[1].pods[0].address, 0), ("203.0.113.1", 0)])
    expected = [(pod.ifindex, pod.mac, pod.node_mac, 0) for pod in node.pods]
    assert [s.interface for s in seen] == [*expected, None, None], "no pod of another node, no route at all"


async def test_events_arrive_through_the_event_loop(clean: Topology) -> None:
    node = clean.nodes[0]
    client, target = node.pods[0], clean.pods()[-1]
    ring = node.datapath.event_ring()
    try:
        ring.drain()
        task = asyncio.create_task(asyncio.to_thread(client.ask, target.address, TCP_PORT))
        async with asyncio.timeout(3):
            async with contextlib.aclosing(ring.batches()) as batches:
                async for batch in batches:
                    events = map(DatapathEvent.unpack, batch)
                    if any(e.type == EventType.TRACE and e.destination == target.address for e in events):
                        break
        await task
        assert sum(ring.lost) == 0
    finally:
        ring.close()


async def test_events_that_come_while_others_are_gathered_do_not_keep_the_loop_turning(clean: Topology) -> None:
    node = clean.nodes[0]
    client, target = node.pods[0], clean.pods()[-1]
    ring = node.datapath.event_ring()
    try:
        ring.drain()
        await asyncio.to_thread(client.ask, target.address, TCP_PORT)
        async with asyncio.timeout(3), contextlib.aclosing(ring.batches()) as batches:
            await anext(batches)
            await asyncio.to_thread(client.ask, target.address, TCP_PORT)
            assert not asyncio.get_running_loop().remove_reader(ring.fileno()), "watched while nobody waits"
            await anext(batches)
    finally:
        ring.close()


class Stream:
    """A UDP question every few milliseconds from a pod to the service; counts what was never answered."""

    def __init__(self, client: Pod) -> None:
        self._socket = client.datagram(1.0)
        self._socket.connect((VIP, 80))
        self._stop = threading.Event()
        self.answered = self.lost = 0
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Stream:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._socket.close()

    def wait_for(self, more: int) -> None:
        """That many further answers came."""
        goal, deadline = self.answered + more, time.monotonic() + 10
        while self.answered < goal:
            assert time.monotonic() < deadline, f"{self.answered} answered, {self.lost} lost"
            self._stop.wait(0.01)

    def _run(self) -> None:
        while not self._stop.wait(0.002):
            try:
                self._socket.send(b"?")
                self._socket.recv(256)
                self.answered += 1
            except OSError:
                self.lost += 1


AGENT = """
import sys
from pathlib import Path
from agent.datapath.config import AttachMode, NodeConfig
from agent.datapath.loader import Datapath
address, cluster, pins, mode, peer = sys.argv[1:6]
sizes = {"mesh_ct_tcp": 4096, "mesh_ct_other": 4096, "mesh_ct_opening": 4096}
way = {"attach_mode": AttachMode(mode), "peer_redirect": bool(peer)}
made = Datapath(NodeConfig(address, int(cluster), Path(pins), max_entries=sizes, **way))
made.open()
print(sorted(made.attached()), flush=True)
sys.stdin.read()
"""


def test_agents_may_die_and_come_back_under_traffic(clean: Topology) -> None:
    node, client, target = clean.nodes[0], clean.nodes[0].pods[0], clean.pods()[-1]
    clean.service(VIP, [target], 17)
    clean.service(VIP, [target], service_id=2)
    with client.connect(VIP, 80) as made, Stream(client) as stream:
        stream.wait_for(20)
        for _ in range(3):
            config = (node.address, str(node.cluster), str(node.pins), node.mode.value, "yes" * node.peer_redirect)
            place = ("ip", "netns", "exec", node.namespace, sys.executable, "-c", AGENT)
            root = Path(__file__).parents[3]
            agent = subprocess.Popen(
                [*place, *config], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root
            )
            try:
                assert agent.stdout is not None
                assert agent.stdout.readline().strip() == str(sorted(p.ifindex for p in node.pods))
                stream.wait_for(20)
            finally:
                agent.send_signal(signal.SIGKILL)
                agent.communicate()
            stream.wait_for(20)
            assert exchange(made).startswith(target.name)
        assert stream.lost == 0


def test_a_map_of_another_size_is_replaced_without_losing_entries(clean: Topology) -> None:
    node, client, target = clean.nodes[0], clean.nodes[0].pods[0], clean.pods()[-1]
    clean.service(VIP, [target], 17)
    with Stream(client) as stream:
        stream.wait_for(10)
        before = dict(node.maps.ipcache.items())
        bigger = replace(
            node.config, max_entries={**node.config.max_entries, "mesh_ipcache": 4096, "mesh_ct_tcp": 8192}
        )
        with inside(node.namespace):
            again = Datapath(bigger)
            maps = again.open()
            node.opened.append(again)
        assert (maps.ipcache.info().max_entries, dict(maps.ipcache.items())) == (4096, before)
        stream.wait_for(10)
        assert stream.lost == 0
    with inside(node.namespace):
        node.opened.pop()
        again.close()
        node.datapath.close()
        node.datapath.open()


def test_a_detached_pod_is_left_to_the_stack(clean: Topology) -> None:
    node = clean.nodes[0]
    pod, neighbour = node.pods
    with inside(node.namespace):
        node.datapath.detach(pod.ifindex)
        node.datapath.detach(pod.ifindex)
        assert node.datapath.attached() == {neighbour.ifindex}
        node.datapath.attach(pod.ifindex)
        node.datapath.attach(pod.ifindex)
        assert node.datapath.attached() == {pod.ifindex, neighbour.ifindex}


def test_uninstall_leaves_nothing(clean: Topology) -> None:
    node = clean.nodes[1]
    with inside(node.namespace):
        seen = sum(tcx_programs(_device(node, pod)) for pod in node.pods)
        assert seen == (4 if node.mode is AttachMode.TCX else 0)
        assert prepare_stack() == ""
        assert "clustermesh" in run("nft", "list", "tables")
        node.datapath.uninstall()
        assert "clustermesh" not in run("nft", "list", "tables")
        for pod in node.pods:
            assert "mesh" not in run("bpftool", "net", "show", "dev", _device(node, pod))
            assert tcx_programs(_device(node, pod)) == 0
        assert "mesh0" not in run("ip", "-o", "link", "show")
        assert "clsact" not in run("tc", "qdisc", "show")
    assert not node.pins.exists()
    assert clean.nodes[1].pods[0].ask(clean.nodes[1].pods[1].address, TCP_PORT), "the CNI's own way still works"
    with inside(node.namespace):
        node.datapath.uninstall()
        for pod in node.pods:
            node.endpoint(pod)
            node.datapath.attach(pod.ifindex)
        node.maps.ipcache.update(clean.ipcache_for(node))


def _device(node: Node, pod: Pod) -> str:
    letter = pod.name[-1]
    return f"lxc{letter}"
