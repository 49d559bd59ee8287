# SPDX-License-Identifier: Apache-2.0
"""What the kernel of a receiver makes of odd packets is never for a port that the sender's policy does not allow."""

from __future__ import annotations

import contextlib
import os
import socket
from collections import Counter
from collections.abc import Iterator
from random import Random

import pytest

from agent.datapath.config import AttachMode
from agent.datapath.layout import Direction, EndpointFlag, PolicyKey, PolicyValue
from tests.integration.datapath.datapath_topology import Pod, Topology, topology
from tests.integration.datapath.odd_packets import OddPackets
from tests.packet.datapath_host import bpffs, build_objects, inside, run
from tests.packet.packet_bytes import UDP
from tests.support.leftovers import own_name

pytestmark = pytest.mark.root
ALLOWED, DENIED = 53, 99
BUNDLES = int(os.environ.get("ODD_BUNDLES", "4000"))  # and the seed: more are others


@pytest.fixture(scope="module", params=["ptp", "bridge"])
def mesh(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    build_objects()
    with (
        bpffs(tmp_path_factory.mktemp("odd") / "bpf") as pins,
        topology(own_name("odd"), pins, AttachMode.TCX, cni=request.param, ipv6=True) as made,
    ):
        yield made


class Receiver:
    """Sockets of a pod on both ports, in both families."""

    def __init__(self, pod: Pod, stack: contextlib.ExitStack) -> None:
        self.pod, self._sockets = pod, dict[tuple[int, int], socket.socket]()
        run(
            "ip",
            "netns",
            "exec",
            pod.namespace,
            "sysctl",
            "-q",
            "-w",
            "net.ipv6.ip6frag_time=1",
            "net.ipv4.ipfrag_time=1",
        )
        for family in (socket.AF_INET, socket.AF_INET6):
            for port in (ALLOWED, DENIED):
                with inside(pod.namespace):
                    made = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
                if family == socket.AF_INET6:
                    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                made.bind(("", port))
                made.setblocking(False)
                self._sockets[family, port] = made

    def heard(self) -> Counter[tuple[int, int]]:
        """How many datagrams came by family and port since the last call."""
        found: Counter[tuple[int, int]] = Counter()
        for key, made in self._sockets.items():
            with contextlib.suppress(BlockingIOError):
                while True:
                    made.recv(2000)
                    found[key] += 1
        return found


@pytest.mark.parametrize("place", ["same node", "other node"])
def test_no_odd_packet_brings_a_receiver_more_than_policy_allows(mesh: Topology, place: str) -> None:
    node, draw = mesh.nodes[0], Random(BUNDLES)
    sender, target = node.pods[0], node.pods[1] if place == "same node" else mesh.nodes[1].pods[0]
    node.maps.policy.update(
        [(PolicyKey(sender.endpoint_id, Direction.EGRESS, target.identity, UDP, ALLOWED, 16), PolicyValue(False, 1, 1))]
    )
    node.endpoint(sender, EndpointFlag.ENFORCE_EGRESS, 2)
    macs = bytes.fromhex((_gateway_mac(mesh) + sender.mac).replace(":", ""))
    made = {
        b"\x08\x00": OddPackets(draw, sender.address, target.address, (ALLOWED, DENIED)),
        b"\x86\xdd": OddPackets(draw, sender.ipv6, target.ipv6, (ALLOWED, DENIED)),
    }
    heard: Counter[tuple[int, int]] = Counter()
    with contextlib.ExitStack() as stack:
        receiver = Receiver(target, stack)
        with inside(sender.namespace):
            raw = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
        raw.bind(("eth0", 0))
        for number in range(BUNDLES):
            kind = draw.choice(list(made))
            packets = made[kind].bundle()
            for packet in packets:
                raw.send(macs + kind + packet)
            came = receiver.heard()
            assert not came[socket.AF_INET, DENIED] + came[socket.AF_INET6, DENIED], (number, packets)
            heard += came
    assert min(heard[family, ALLOWED] for family in (socket.AF_INET, socket.AF_INET6)) > BUNDLES / 100, heard


def _gateway_mac(mesh: Topology) -> str:
    node = mesh.nodes[0]
    device = "cni0" if node.cni == "bridge" else "lxca"
    return run("ip", "-n", node.namespace, "-brief", "link", "show", device).split()[2]
