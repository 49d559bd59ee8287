# SPDX-License-Identifier: Apache-2.0
"""Packets that no honest sender makes, sent from a pod or from a host on the underlay, and a pod that says what reached it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from e2e.mesh import Cluster, Mesh, run
from lab.netns import command_inside
from lab.topology import cluster_named

PORT: Final = 9999
VXLAN_PORT: Final = 8472
LISTENER: Final = f"""
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", {PORT}))
print("ready", flush=True)
while True:
    data, where = s.recvfrom(2048)
    print(data.decode(), "from", where[0], flush=True)
"""
# SOURCE DESTINATION TEXT [OUTER-SOURCE OUTER-DESTINATION IDENTITY]: one UDP packet, plain or inside VXLAN; "" is the own address
SENDER: Final = f"""
import socket, struct, sys
source, destination, text, *outer = sys.argv[1:]
def ip(source, destination, body):
    ends = socket.inet_aton(source), socket.inet_aton(destination)
    head = struct.pack("!BBHHHBBH4s4s", 69, 0, 20 + len(body), 7, 0, 64, 17, 0, *ends)
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xffff) + (total >> 16)
    total += total >> 16
    return head[:10] + struct.pack("!H", ~total & 0xffff) + head[12:] + body
def udp(port, body):
    return struct.pack("!HHHH", 40000, port, 8 + len(body), 0) + body
if not source:
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.sendto(text.encode(), (destination, {PORT}))
    sys.exit()
packet = ip(source, destination, udp({PORT}, text.encode()))
if outer:
    where, towards, identity = outer
    frame = bytes.fromhex("0200000000020200000000010800") + packet
    body = struct.pack("!II", 0x08000000, int(identity) << 8) + frame
    if where:
        packet, destination = ip(where, towards, udp({VXLAN_PORT}, body)), towards
    else:
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.sendto(body, (towards, {VXLAN_PORT}))
        sys.exit()
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
s.sendto(packet, (destination, 0))
"""


@dataclass(frozen=True)
class Victim:
    """A pod that prints every datagram that reaches its port."""

    mesh: Mesh
    cluster: Cluster
    node: str
    address: str

    def heard(self) -> list[str]:
        return self.mesh.kubectl(self.cluster, "logs", "victim").stdout.splitlines()[1:]

    def hears(self, text: str) -> bool:
        return any(line.startswith(text + " ") for line in self.heard())

    @property
    def node_address(self) -> str:
        (plan,) = (node for node in cluster_named(self.cluster).nodes if node.name == self.node)
        return plan.address


@contextmanager
def victim(mesh: Mesh, cluster: Cluster) -> Iterator[Victim]:
    listener = "\n".join(f"        {line}" for line in LISTENER.strip().splitlines())
    pod = f"""
apiVersion: v1
kind: Pod
metadata: {{name: victim, labels: {{name: victim}}}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: listener
    image: debian
    command:
    - python3
    - -c
    - |
{listener}
"""
    try:
        mesh.apply(cluster, pod)
        mesh.wait_until(
            "the victim listens", lambda: "ready" in mesh.kubectl(cluster, "logs", "victim", check=False).stdout
        )
        _, node, address = mesh.pod(cluster, "victim")
        yield Victim(mesh, cluster, node, address)
    finally:
        mesh.delete(cluster, pod)


def send_from_pod(mesh: Mesh, cluster: Cluster, pod: str, *words: str) -> None:
    mesh.kubectl(cluster, "exec", pod, "--", "python3", "-c", SENDER, *words)


def send_from_underlay(mesh: Mesh, *words: str, via: str = "") -> None:
    """From a host of the underlay that is no node; `via` is the node that it takes for the way to the destination."""
    route = [f"{words[1]}/32", "via", via]
    if via:
        run(command_inside(mesh.names.underlay, ["ip", "route", "replace", *route]))
    try:
        run(command_inside(mesh.names.underlay, ["python3", "-c", SENDER, *words]))
    finally:
        if via:
            run(command_inside(mesh.names.underlay, ["ip", "route", "del", *route]))


def drops(mesh: Mesh, cluster: Cluster, node: str) -> str:
    """What the node's agent says it dropped lately."""
    return mesh.agent(cluster, node, "monitor", "--type", "drop", "--last", "200").stdout
