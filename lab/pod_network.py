# SPDX-License-Identifier: Apache-2.0
"""How a lab's pods reach their nodes, as three kinds of CNI plugins do it. Blocks, as `lab.network` does."""

from __future__ import annotations

import ipaddress
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pyroute2 import IPRoute

from lab import netns
from lab.netns import add_link, descriptor_of, index_of, links_of, write_sysctls
from lab.topology import POD_GATEWAY, POD_MTU, NodePlan

POD_DEVICE: Final = "eth0"
POD_BRIDGE: Final = "cni0"
SCOPE_LINK: Final = 253
NEIGHBOUR_PERMANENT: Final = 0x80
POD_SYSCTLS: Final = (
    ("net/ipv6/conf/default/disable_ipv6", "1"),
    ("net/ipv4/ping_group_range", "0 2147483647"),
    ("net/ipv4/ip_unprivileged_port_start", "0"),
)


class Cni(StrEnum):
    """ROUTED: a host route for each pod and no ARP. PTP: host routes, neighbours are asked for. BRIDGE: pods are ports of one."""

    ROUTED = "routed"
    BRIDGE = "bridge"
    PTP = "ptp"


@dataclass(frozen=True, slots=True)
class PodLink:
    """One pod's pair of interfaces: `device` in the node, eth0 in the pod's own namespace."""

    netns: str
    device: str
    address: str


def gateway_of(node: NodePlan, cni: Cni) -> str:
    """The address that a node's pods have as their gateway."""
    return POD_GATEWAY if cni is Cni.ROUTED else str(ipaddress.ip_network(node.pod_cidr)[1])


def prepare_node(node_netns: str, node: NodePlan, cni: Cni) -> None:
    """What the plugin has on a node before the first pod."""
    if cni is not Cni.BRIDGE:
        return
    with links_of(node_netns) as handle:
        third = int(node.pod_cidr.split(".")[2])
        cluster = int(node.pod_cidr.split(".")[1])
        add_link(handle, POD_BRIDGE, kind="bridge", address=f"02:cd:0b:{cluster:02x}:{third:02x}:01", mtu=POD_MTU)
        bridge = index_of(handle, POD_BRIDGE)
        prefix_length = int(node.pod_cidr.split("/")[1])
        handle.addr("add", index=bridge, address=gateway_of(node, cni), prefixlen=prefix_length)
        handle.link("set", index=bridge, state="up")


def attach_pod(node_netns: str, pod_netns: str, address: str, node: NodePlan, cni: Cni = Cni.ROUTED) -> PodLink:
    """The pod has its namespace and one address, and reaches its node."""
    third, fourth = (int(part) for part in address.split(".")[2:])
    device = f"lxc{address.split('.')[1]}{third:02x}{fourth:02x}"
    pod_mac, node_mac = f"02:cd:0a:{third:02x}:{fourth:02x}:01", f"02:cd:0a:{third:02x}:{fourth:02x}:02"
    netns.create(pod_netns)
    write_sysctls(pod_netns, POD_SYSCTLS)
    with links_of(node_netns) as handle, descriptor_of(pod_netns) as inner:
        with suppress(IndexError):
            handle.link("del", index=index_of(handle, device))
        peer = {"ifname": POD_DEVICE, "net_ns_fd": inner, "address": pod_mac, "mtu": POD_MTU}
        add_link(handle, device, kind="veth", address=node_mac, mtu=POD_MTU, peer=peer)
        host = index_of(handle, device)
        handle.link("set", index=host, state="up")
        _reach_pod(handle, host, address, node, cni)
        if cni is Cni.ROUTED:
            handle.neigh("replace", dst=address, lladdr=pod_mac, ifindex=host, state=NEIGHBOUR_PERMANENT)
    with links_of(pod_netns) as pod:
        pod.link("set", index=index_of(pod, "lo"), state="up")
        eth0 = index_of(pod, POD_DEVICE)
        pod.link("set", index=eth0, state="up")
        _reach_node(pod, eth0, address, node, cni)
        if cni is Cni.ROUTED:
            pod.neigh("replace", dst=POD_GATEWAY, lladdr=node_mac, ifindex=eth0, state=NEIGHBOUR_PERMANENT)
    return PodLink(pod_netns, device, address)


def _reach_pod(handle: IPRoute, host: int, address: str, node: NodePlan, cni: Cni) -> None:
    if cni is Cni.BRIDGE:
        handle.link("set", index=host, master=index_of(handle, POD_BRIDGE))
        return
    source = node.address
    if cni is Cni.PTP:
        source = gateway_of(node, cni)
        handle.addr("add", index=host, address=source, prefixlen=32)
    handle.route("add", dst=f"{address}/32", oif=host, scope=SCOPE_LINK, prefsrc=source)


def _reach_node(pod: IPRoute, eth0: int, address: str, node: NodePlan, cni: Cni) -> None:
    gateway = gateway_of(node, cni)
    if cni is Cni.BRIDGE:
        pod.addr("add", index=eth0, address=address, prefixlen=int(node.pod_cidr.split("/")[1]))
    else:
        pod.addr("add", index=eth0, address=address, prefixlen=32)
        pod.route("add", dst=f"{gateway}/32", oif=eth0, scope=SCOPE_LINK)
    pod.route("add", dst="default", gateway=gateway, oif=eth0)


def detach_pod(node_netns: str, link: PodLink) -> None:
    """The pod's interfaces and namespace are gone; absent is success."""
    with links_of(node_netns) as handle, suppress(IndexError):
        handle.link("del", index=index_of(handle, link.device))
    netns.remove(link.netns)
