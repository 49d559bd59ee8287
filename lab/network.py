# SPDX-License-Identifier: Apache-2.0
"""The machines' side of a lab's network: the underlay, the nodes on it, and the pods' interfaces.

Only pyroute2 is used, so all of it blocks: call from a thread of its own, never from an event loop.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from pyroute2 import IPRoute

from lab import netns
from lab.names import LabNames
from lab.netns import descriptor_of, links_of, write_sysctls
from lab.topology import (
    POD_GATEWAY,
    POD_MTU,
    UNDERLAY_CIDR,
    UNDERLAY_GATEWAY,
    UNDERLAY_MTU,
    ClusterPlan,
    NodePlan,
)

BRIDGE: Final = "br0"
NODE_DEVICE: Final = "eth0"
SCOPE_LINK: Final = 253
NEIGHBOUR_PERMANENT: Final = 0x80
PREFIX_LENGTH: Final = int(UNDERLAY_CIDR.split("/")[1])
NODE_SYSCTLS: Final = (
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv6/conf/default/disable_ipv6", "1"),
)
UNDERLAY_SYSCTLS: Final = (
    *NODE_SYSCTLS,
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
)
POD_SYSCTLS: Final = (
    ("net/ipv6/conf/default/disable_ipv6", "1"),
    ("net/ipv4/ping_group_range", "0 2147483647"),
    ("net/ipv4/ip_unprivileged_port_start", "0"),
)


@dataclass(frozen=True, slots=True)
class PodLink:
    """One pod's pair of interfaces: `device` in the node, eth0 in the pod's own namespace."""

    netns: str
    device: str
    address: str


def build_underlay(lab: LabNames, clusters: Iterable[ClusterPlan]) -> None:
    """Every node is a namespace with eth0 on one bridge, and routes to the pods of its own cluster only.

    The bridge's own address is a router that knows the balancer addresses and is silent about all others.
    """
    netns.create(lab.underlay)
    write_sysctls(lab.underlay, UNDERLAY_SYSCTLS)
    with links_of(lab.underlay) as underlay:
        _link(underlay, BRIDGE, kind="bridge", mtu=UNDERLAY_MTU)
        bridge = _index(underlay, BRIDGE)
        underlay.link("set", index=bridge, state="up")
        underlay.addr("add", index=bridge, address=UNDERLAY_GATEWAY, prefixlen=PREFIX_LENGTH)
        underlay.route("add", dst="0.0.0.0/0", type="blackhole")
        for cluster in clusters:
            for node in cluster.nodes:
                _build_node(lab, underlay, bridge, node, cluster.nodes)


def _build_node(
    lab: LabNames, underlay: IPRoute, bridge: int, node: NodePlan, neighbours: tuple[NodePlan, ...]
) -> None:
    port = f"{node.cluster[:8]}-{neighbours.index(node)}"
    name = lab.node(node.name).netns
    netns.create(name)
    write_sysctls(name, NODE_SYSCTLS)
    with descriptor_of(name) as inside:
        _link(underlay, port, kind="veth", mtu=UNDERLAY_MTU, peer={"ifname": NODE_DEVICE, "net_ns_fd": inside})
    underlay.link("set", index=_index(underlay, port), state="up", master=bridge)
    with links_of(name) as inner:
        inner.link("set", index=_index(inner, "lo"), state="up")
        device = _index(inner, NODE_DEVICE)
        inner.link("set", index=device, state="up", mtu=UNDERLAY_MTU)
        inner.addr("add", index=device, address=node.address, prefixlen=PREFIX_LENGTH)
        inner.route("add", dst="default", gateway=UNDERLAY_GATEWAY, oif=device)
        for other in neighbours:
            if other != node:
                inner.route("add", dst=other.pod_cidr, gateway=other.address, oif=device)


def attach_pod(node_netns: str, pod_netns: str, address: str, node_address: str) -> PodLink:
    """The pod has its namespace and one address, and reaches its node without any ARP."""
    third, fourth = (int(part) for part in address.split(".")[2:])
    device = f"lxc{address.split('.')[1]}{third:02x}{fourth:02x}"
    pod_mac, node_mac = f"02:cd:0a:{third:02x}:{fourth:02x}:01", f"02:cd:0a:{third:02x}:{fourth:02x}:02"
    netns.create(pod_netns)
    write_sysctls(pod_netns, POD_SYSCTLS)
    with links_of(node_netns) as node, descriptor_of(pod_netns) as inner:
        with suppress(IndexError):
            node.link("del", index=_index(node, device))
        peer = {"ifname": NODE_DEVICE, "net_ns_fd": inner, "address": pod_mac, "mtu": POD_MTU}
        _link(node, device, kind="veth", address=node_mac, mtu=POD_MTU, peer=peer)
        host = _index(node, device)
        node.link("set", index=host, state="up")
        node.route("add", dst=f"{address}/32", oif=host, scope=SCOPE_LINK, prefsrc=node_address)
        node.neigh("replace", dst=address, lladdr=pod_mac, ifindex=host, state=NEIGHBOUR_PERMANENT)
    with links_of(pod_netns) as pod:
        pod.link("set", index=_index(pod, "lo"), state="up")
        eth0 = _index(pod, NODE_DEVICE)
        pod.link("set", index=eth0, state="up")
        pod.addr("add", index=eth0, address=address, prefixlen=32)
        pod.route("add", dst=f"{POD_GATEWAY}/32", oif=eth0, scope=SCOPE_LINK)
        pod.route("add", dst="default", gateway=POD_GATEWAY, oif=eth0)
        pod.neigh("replace", dst=POD_GATEWAY, lladdr=node_mac, ifindex=eth0, state=NEIGHBOUR_PERMANENT)
    return PodLink(pod_netns, device, address)


def detach_pod(node_netns: str, link: PodLink) -> None:
    """The pod's interfaces and namespace are gone; absent is success."""
    with links_of(node_netns) as node, suppress(IndexError):
        node.link("del", index=_index(node, link.device))
    netns.remove(link.netns)


def _link(handle: IPRoute, ifname: str, **options: object) -> None:
    handle.link("add", ifname=ifname, **options)


def _index(handle: IPRoute, ifname: str) -> int:
    found: list[int] = list(handle.link_lookup(ifname=ifname))
    return found[0]
