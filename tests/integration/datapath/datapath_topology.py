# SPDX-License-Identifier: Apache-2.0
"""Two clusters of two nodes with two pods each, in network namespaces, each node with its own loaded datapath.

The node routes each pod over its veth with permanent neighbours ("routed") or as the ptp plugin does, with neighbours that
are asked for ("ptp"), or pods are ports of a bridge that is their gateway ("bridge"). Pods answer on TCP 8080 and UDP 5353
with their name and the address they saw. Same-cluster pod networks are routed on the underlay too, as a CNI plugin would.
With `ipv6` pods and nodes have addresses of both families, pods' neighbours of IPv6 are always asked for, and the node is their
router at its own address of the link (or of the bridge).
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.datapath import layout
from agent.datapath.config import VXLAN_PORT, Aggregation, AttachMode, Lifetimes, NodeConfig
from agent.datapath.flow_layout import DatapathEvent
from agent.datapath.loader import Datapath
from agent.datapath.maps import Maps
from tests.integration.datapath.pod_servers import answer, listen
from tests.packet.datapath_host import inside, run

TCP_PORT, UDP_PORT = 8080, 5353
ROUTER = "192.168.50.254"
UNDERLAY_MTU = 1500
POD_MTU = UNDERLAY_MTU - 50
SIZES = {"mesh_ct_tcp": 4096, "mesh_ct_other": 4096, "mesh_ct_opening": 4096}
_GATEWAY = "169.254.1.1"
_BRIDGE = "cni0"


@dataclass
class Pod:
    """One namespace behind a veth."""

    name: str
    namespace: str
    address: str
    identity: int
    endpoint_id: int
    ipv6: str = ""
    ifindex: int = 0
    mac: str = ""
    node_mac: str = ""

    def connect(self, address: str, port: int, timeout_s: float = 2.0) -> socket.socket:
        """A TCP connection from this pod."""
        with inside(self.namespace):
            return socket.create_connection((address, port), timeout_s)

    def datagram(self, timeout_s: float = 2.0, family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
        """A UDP socket of this pod."""
        with inside(self.namespace):
            made = socket.socket(family, socket.SOCK_DGRAM)
        made.settimeout(timeout_s)
        return made

    def ask(self, address: str, port: int, timeout_s: float = 2.0) -> str:
        """The TCP answer: "<server> <client address>"."""
        with self.connect(address, port, timeout_s) as made:
            return exchange(made)

    def is_refused(self, address: str, port: int) -> bool:
        """True when nothing answers: a denied connection times out silently."""
        try:
            self.ask(address, port, 0.4)
        except TimeoutError:
            return True
        return False


def exchange(made: socket.socket) -> str:
    """One question and its answer on an open connection."""
    made.sendall(b"?")
    return made.recv(256).decode()


def drain_events(node: Node) -> list[DatapathEvent]:
    """What the node's programs reported since the last call."""
    ring = node.datapath.event_ring()
    try:
        return ring.drain()
    finally:
        ring.close()


@dataclass
class Node:
    """One node namespace."""

    cluster: int
    number: int
    prefix: str
    pins: Path
    mode: AttachMode
    peer_redirect: bool
    lifetimes: Lifetimes
    unattended_after_s: int
    control_group: Path | None
    cni: str = "routed"
    vxlan_port: int = VXLAN_PORT
    aggregation: Aggregation = Aggregation.MEDIUM
    ipv6: bool = False
    pods: list[Pod] = field(default_factory=list)
    opened: list[Datapath] = field(default_factory=list)

    @property
    def namespace(self) -> str:
        return f"{self.prefix}-c{self.cluster}n{self.number}"

    @property
    def address(self) -> str:
        return f"192.168.50.{self.cluster * 10 + self.number}"

    @property
    def pod_network(self) -> str:
        return f"10.{self.cluster}.{self.number}.0/24"

    @property
    def address6(self) -> str:
        return f"fd00:50::{self.cluster}{self.number}"

    @property
    def pod_network6(self) -> str:
        return f"fd00:{self.cluster}:{self.number}::/64"

    @property
    def gateway6(self) -> str:
        """The address of IPv6 by which pods reach the node."""
        return f"fd00:{self.cluster}:{self.number}::1" if self.cni == "bridge" else "fe80::1"

    @property
    def bridge_mac(self) -> str:
        return f"02:00:03:{self.cluster:02x}:{self.number:02x}:01"

    @property
    def gateway(self) -> str:
        """The address by which pods reach the node."""
        return _GATEWAY if self.cni == "routed" else f"10.{self.cluster}.{self.number}.1"

    @property
    def config(self) -> NodeConfig:
        return NodeConfig(
            self.address,
            self.cluster,
            self.pins,
            attach_mode=self.mode,
            peer_redirect=self.peer_redirect,
            max_entries=SIZES,
            vxlan_port=self.vxlan_port,
            lifetimes=self.lifetimes,
            unattended_after_s=self.unattended_after_s,
            control_group=self.control_group,
            leads_outsiders=True,
            aggregation=self.aggregation,
            ipv6=self.ipv6,
        )

    @property
    def datapath(self) -> Datapath:
        return self.opened[-1]

    @property
    def maps(self) -> Maps:
        return self.datapath.open()

    def endpoint(self, pod: Pod, flags: int = 0, revision: int = 1) -> None:
        """The pod's policy settings."""
        macs = (pod.mac, pod.node_mac)
        flags |= layout.EndpointFlag.BRIDGE_PORT if self.cni == "bridge" else 0
        value = layout.EndpointValue(pod.ifindex, pod.endpoint_id, flags, pod.identity, revision, *macs, pod.address)
        addresses = [address for address in (pod.address, pod.ipv6) if address]
        self.maps.endpoints_by_address.update([(layout.AddressKey(address), value) for address in addresses])
        self.maps.endpoints_by_ifindex.update([(layout.IfindexKey(pod.ifindex), value)])


class Topology:
    """Everything, and the writes that tests make on all nodes at once."""

    def __init__(
        self,
        prefix: str,
        pins: Path,
        mode: AttachMode,
        *,
        peer_redirect: bool = True,
        lifetimes: Lifetimes | None = None,
        unattended_after_s: int = 0,
        control_group: Path | None = None,
        cni: str = "routed",
        vxlan_port: int = VXLAN_PORT,
        aggregation: Aggregation = Aggregation.MEDIUM,
        ipv6: bool = False,
    ) -> None:
        self._prefix, self.underlay = prefix, f"{prefix}-ul"
        lives = lifetimes or Lifetimes()
        rest = (mode, peer_redirect, lives, unattended_after_s, control_group, cni, vxlan_port, aggregation, ipv6)
        self.nodes = [Node(c, n, prefix, pins / f"c{c}n{n}", *rest) for c in (1, 2) for n in (1, 2)]
        self._stop, self._threads = threading.Event(), list[threading.Thread]()

    def up(self) -> None:
        """Namespaces, pods, servers, datapaths and maps."""
        _ip(None, [f"netns add {self.underlay}"])
        _ip(self.underlay, ["link add br0 type bridge", "link set br0 up", f"addr add {ROUTER}/24 dev br0"])
        for node in self.nodes:
            self._add_node(node)
        for node in self.nodes:
            with inside(node.namespace):
                node.opened.append(Datapath(node.config))
                node.maps.ipcache.update(self.ipcache_for(node))
                for pod in node.pods:
                    node.endpoint(pod)
                    node.datapath.attach(pod.ifindex)
        self._serve()

    def down(self) -> None:
        """Nothing is left."""
        self._stop.set()
        for thread in self._threads:
            thread.join(5)
        names = [self.underlay, *(n.namespace for n in self.nodes), *(p.namespace for n in self.nodes for p in n.pods)]
        with contextlib.ExitStack() as stack:
            for name in names:
                stack.callback(subprocess.run, ["ip", "netns", "del", name], capture_output=True, check=False)
            for node in self.nodes:
                stack.callback(_uninstall, node)

    def pods(self) -> list[Pod]:
        """All pods: c1n1 a and b, c1n2 a and b, ..."""
        return [pod for node in self.nodes for pod in node.pods]

    def service(
        self,
        address: str,
        backends: list[Pod],
        protocol: int = 6,
        service_id: int = 1,
        flags: int = 0,
        affinity_s: int = 0,
    ) -> None:
        """Port 80 of this address leads to the pods' servers, on every node. `flags` beside those of the affinity."""
        port = TCP_PORT if protocol == 6 else UDP_PORT
        head = layout.ServiceKey(address, 80, protocol)
        for node in self.nodes:
            ids = [service_id * 100 + n for n in range(len(backends))]
            wide = node.maps.of_ipv6
            maps = wide if wide and ":" in address else node.maps.of_ipv4
            places = [(p.ipv6 if maps is wide else p.address, int(p.address.split(".")[1])) for p in backends]
            values = [layout.BackendValue(ip, port, protocol, 0, cluster) for ip, cluster in places]
            maps.backends.update([(layout.BackendKey(i), v) for i, v in zip(ids, values, strict=True)])
            maps.members.update([(layout.MemberKey(service_id, i), layout.MemberValue()) for i in ids])
            slots = [(head._replace(slot=n), layout.ServiceValue(i, service_id)) for n, i in enumerate(ids, 1)]
            all_flags = flags | (layout.ServiceFlag.AFFINITY if affinity_s else 0)
            value = layout.ServiceValue(affinity_s, service_id, len(ids), all_flags)
            maps.services.update([*slots, (head, value)])

    def ipcache_for(self, node: Node) -> list[tuple[layout.IpcacheKey, layout.IpcacheValue]]:
        """Who the pods and nodes are, with a tunnel to each pod that is not here."""
        entries = []
        for other in self.nodes:
            identity, tunnel = (1, "0.0.0.0") if other is node else (6, other.address)
            entries.append((layout.IpcacheKey(other.address), layout.IpcacheValue(identity, cluster_id=other.cluster)))
            if other.ipv6:
                value = layout.IpcacheValue(identity, cluster_id=other.cluster)
                entries.append((layout.IpcacheKey(other.address6), value))
            entries.extend(
                (layout.IpcacheKey(address), layout.IpcacheValue(pod.identity, tunnel, other.cluster))
                for pod in other.pods
                for address in (pod.address, pod.ipv6)
                if address
            )
        return entries

    def _add_node(self, node: Node) -> None:
        name, uplink = node.namespace, f"u{node.cluster}{node.number}"
        _ip(None, [f"netns add {name}"])
        _ip(
            self.underlay,
            [
                f"link add {uplink} type veth peer name eth0 netns {name}",
                f"link set {uplink} master br0 up",
            ],
        )
        up = ["link set lo up", "link set eth0 up", f"addr add {node.address}/24 dev eth0"]
        _ip(name, [*up, f"route add default via {ROUTER}"])
        run("ip", "netns", "exec", name, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
        if node.ipv6:
            run("ip", "netns", "exec", name, "sysctl", "-q", "-w", "net.ipv6.conf.all.forwarding=1")
            _ip(name, [f"addr add {node.address6}/64 dev eth0 nodad"])
        if node.cni == "bridge":
            made = [
                f"link add {_BRIDGE} address {node.bridge_mac} mtu {POD_MTU} type bridge",
                f"addr add {node.gateway}/24 dev {_BRIDGE}",
            ]
            made += [f"addr add {node.gateway6}/64 dev {_BRIDGE} nodad"] if node.ipv6 else []
            _ip(name, [*made, f"link set {_BRIDGE} up"])
        for letter in "ab":
            self._add_pod(node, letter)
        for other in self.nodes:
            if other.cluster == node.cluster and other is not node:
                _ip(name, [f"route add {other.pod_network} via {other.address}"])
                _ip(name, [f"route add {other.pod_network6} via {other.address6}"] if node.ipv6 else [])

    def _add_pod(self, node: Node, letter: str) -> None:
        index = 10 + len(node.pods)
        tail = f"{node.cluster:02x}:{node.number:02x}:{index:02x}"
        pod = Pod(
            name=f"c{node.cluster}n{node.number}{letter}",
            namespace=f"{node.namespace}{letter}",
            address=f"10.{node.cluster}.{node.number}.{index}",
            identity=(node.cluster << 16) + node.number * 100 + index,
            endpoint_id=node.number * 100 + index,
            ipv6=f"fd00:{node.cluster}:{node.number}::{index}" if node.ipv6 else "",
            mac=f"02:00:01:{tail}",
            node_mac=node.bridge_mac if node.cni == "bridge" else f"02:00:02:{tail}",
        )
        _ip(None, [f"netns add {pod.namespace}"])
        self._plug(node, pod, f"lxc{letter}")
        with inside(node.namespace):
            pod.ifindex = socket.if_nametoindex(f"lxc{letter}")
        node.pods.append(pod)

    def _plug(self, node: Node, pod: Pod, host: str) -> None:
        peer = f"peer name eth0 address {pod.mac} mtu {POD_MTU} netns {pod.namespace}"
        own = "" if node.cni == "bridge" else f"address {pod.node_mac}"
        node_side = [f"link add {host} {own} mtu {POD_MTU} type veth {peer}", f"link set {host} up"]
        pod_side = ["link set lo up", "link set eth0 up"]
        if node.cni == "bridge":
            node_side.append(f"link set {host} master {_BRIDGE}")
            pod_side += [f"addr add {pod.address}/24 dev eth0", f"route add default via {node.gateway}"]
        elif node.cni == "ptp":
            node_side += [f"addr add {node.gateway}/32 dev {host}", f"route add {pod.address}/32 dev {host}"]
            pod_side += [
                f"addr add {pod.address}/32 dev eth0",
                f"route add {node.gateway}/32 dev eth0 src {pod.address}",
            ]
            pod_side.append(f"route add default via {node.gateway} dev eth0")
        else:
            node_side += [
                f"route add {pod.address}/32 dev {host}",
                f"neigh replace {pod.address} lladdr {pod.mac} dev {host} nud permanent",
            ]
            pod_side += [
                f"addr add {pod.address}/32 dev eth0",
                f"route add {node.gateway}/32 dev eth0",
                f"route add default via {node.gateway} dev eth0",
                f"neigh replace {node.gateway} lladdr {pod.node_mac} dev eth0 nud permanent",
            ]
        if node.ipv6 and node.cni == "bridge":
            pod_side += [f"addr add {pod.ipv6}/64 dev eth0 nodad", f"route add default via {node.gateway6}"]
        elif node.ipv6:
            node_side += [f"addr add {node.gateway6}/64 dev {host} nodad", f"route add {pod.ipv6}/128 dev {host}"]
            pod_side += [f"addr add {pod.ipv6}/128 dev eth0 nodad", f"route add default via {node.gateway6} dev eth0"]
        _ip(node.namespace, node_side)
        _ip(pod.namespace, pod_side)

    def _serve(self) -> None:
        selector = selectors.DefaultSelector()
        for pod in self.pods():
            for family in (socket.AF_INET, socket.AF_INET6) if pod.ipv6 else (socket.AF_INET,):
                with inside(pod.namespace):
                    listen(selector, pod.name, family, TCP_PORT, UDP_PORT)
        thread = threading.Thread(target=answer, args=(selector, self._stop), name="pod servers")
        thread.start()
        self._threads.append(thread)


def _uninstall(node: Node) -> None:
    for opened in node.opened:
        with inside(node.namespace):
            opened.uninstall()


def _ip(namespace: str | None, commands: list[str]) -> None:
    place = ["-n", namespace] if namespace else []
    done = subprocess.run(
        ["ip", *place, "-batch", "-"], input="\n".join(commands), text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, f"{namespace}: {commands}: {done.stderr}"


@contextlib.contextmanager
def topology(prefix: str, pins: Path, mode: AttachMode, **options: Any) -> Iterator[Topology]:
    """A running topology, gone afterwards. `options` are those of Topology."""
    made = Topology(prefix, pins, mode, **options)
    try:
        made.up()
        yield made
    finally:
        made.down()
