# SPDX-License-Identifier: Apache-2.0
"""What clients notice, with real sockets, when there is nobody to talk to, or not here."""

from __future__ import annotations

import subprocess
import time

import pytest

from agent.datapath.layout import BackendKey, BackendState, IpcacheKey
from tests.integration.datapath.datapath_topology import TCP_PORT, Pod, Topology, exchange
from tests.packet.datapath_host import run

pytestmark = pytest.mark.root
VIP = "172.20.1.7"
AT_ONCE_S = 0.5


def _remove_address(mesh: Topology, pod: Pod) -> None:
    """Every node forgets the pod."""
    for node in mesh.nodes:
        gone = [key for key, value in node.maps.backends.items() if value.address == pod.address]
        node.maps.backends.delete(gone)
        node.maps.ipcache.delete([IpcacheKey(pod.address)])


def test_a_service_without_backends_refuses_at_once(clean: Topology) -> None:
    client = clean.pods()[0]
    clean.service(VIP, [])
    clean.service(VIP, [], 17)
    begun = time.monotonic()
    with pytest.raises(ConnectionRefusedError):
        client.connect(VIP, 80)
    with client.datagram() as made:
        made.connect((VIP, 80))
        made.send(b"?")
        with pytest.raises(ConnectionRefusedError):
            made.recv(256)
    assert time.monotonic() - begun < AT_ONCE_S


def test_a_connection_ends_at_once_when_the_address_of_its_backend_is_gone(clean: Topology) -> None:
    client, old, new = clean.pods()[0], clean.pods()[-1], clean.pods()[-2]
    clean.service(VIP, [old])
    try:
        with client.connect(VIP, 80) as made:
            exchange(made)
            clean.service(VIP, [new], service_id=2)
            _remove_address(clean, old)
            begun = time.monotonic()
            with pytest.raises(ConnectionResetError):
                exchange(made)
            assert time.monotonic() - begun < AT_ONCE_S
            assert client.ask(VIP, 80).startswith(new.name)
    finally:
        for node in clean.nodes:
            node.maps.ipcache.update(clean.ipcache_for(node))


def test_a_backend_no_frontend_wants_keeps_its_connection_and_gets_no_new_one(clean: Topology) -> None:
    client, old, new = clean.pods()[0], clean.pods()[-1], clean.pods()[1]
    clean.service(VIP, [old])
    with client.connect(VIP, 80) as made:
        exchange(made)
        clean.service(VIP, [new], service_id=2)
        for node in clean.nodes:
            value = node.maps.backends.get(BackendKey(100))
            assert value is not None
            node.maps.backends.update([(BackendKey(100), value._replace(state=BackendState.MAINTENANCE))])
        assert exchange(made).startswith(old.name)
        assert client.ask(VIP, 80).startswith(new.name)


@pytest.mark.parametrize("through_service", [False, True], ids=["pod", "service"])
def test_a_tcp_connection_of_a_pod_with_a_larger_mtu_learns_the_right_one(
    clean: Topology, through_service: bool
) -> None:
    """Both ends announce a segment size that does not fit the overlay, and leave checksums to their devices."""
    client, target = clean.nodes[0].pods[1], clean.nodes[3].pods[0]
    clean.service(VIP, [target])
    ends = [(client.namespace, "eth0"), (clean.nodes[0].namespace, "lxcb")]
    ends += [(target.namespace, "eth0"), (clean.nodes[3].namespace, "lxca")]
    try:
        for namespace, device in ends:
            run("ip", "-n", namespace, "link", "set", device, "mtu", "1500")
        with client.connect(*((VIP, 80) if through_service else (target.address, TCP_PORT))) as made:
            made.settimeout(5)
            made.sendall(b"x" * 300_000)
            assert made.recv(256).decode().startswith(target.name)
    finally:
        for namespace, device in ends:
            run("ip", "-n", namespace, "link", "set", device, "mtu", "1450")


def _hop(client: Pod, address: str, hops: int) -> str:
    words = ["ip", "netns", "exec", client.namespace, "ping", "-c", "1", "-W", "2", "-t", str(hops), address]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=10).stdout


def test_a_trace_to_a_pod_of_another_cluster_shows_both_nodes(clean: Topology) -> None:
    client, target = clean.pods()[0], clean.pods()[-1]
    first, second, third = (_hop(client, target.address, hops) for hops in (1, 2, 3))
    assert f"From {clean.nodes[0].address} " in first
    assert "Time to live exceeded" in first
    assert f"From {clean.nodes[-1].address} " in second
    assert "Time to live exceeded" in second
    assert f"bytes from {target.address}" in third
