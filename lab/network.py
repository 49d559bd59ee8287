# SPDX-License-Identifier: Apache-2.0
"""The machines' side of a lab's network: the underlay and the nodes on it. `lab.pod_network` has the pods.

Only pyroute2 is used, so all of it blocks: call from a thread of its own, never from an event loop.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from pyroute2 import IPRoute

from lab import netns
from lab.names import LabNames
from lab.netns import add_link, descriptor_of, index_of, links_of, write_sysctls
from lab.pod_network import Cni, prepare_node
from lab.topology import (
    UNDERLAY_CIDR,
    UNDERLAY_GATEWAY,
    UNDERLAY_MTU,
    ClusterPlan,
    NodePlan,
)

BRIDGE: Final = "br0"
NODE_DEVICE: Final = "eth0"
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


def build_underlay(lab: LabNames, clusters: Iterable[ClusterPlan], cni: Cni = Cni.ROUTED) -> None:
    """Every node is a namespace with eth0 on one bridge, and routes to the pods of its own cluster only.

    The bridge's own address is a router that knows the balancer addresses and is silent about all others.
    """
    netns.create(lab.underlay)
    write_sysctls(lab.underlay, UNDERLAY_SYSCTLS)
    with links_of(lab.underlay) as underlay:
        add_link(underlay, BRIDGE, kind="bridge", mtu=UNDERLAY_MTU)
        bridge = index_of(underlay, BRIDGE)
        underlay.link("set", index=bridge, state="up")
        underlay.addr("add", index=bridge, address=UNDERLAY_GATEWAY, prefixlen=PREFIX_LENGTH)
        underlay.route("add", dst="0.0.0.0/0", type="blackhole")
        for cluster in clusters:
            for node in cluster.nodes:
                _build_node(lab, underlay, bridge, node, cluster.nodes)
                prepare_node(lab.node(node.name).netns, node, cni)


def _build_node(
    lab: LabNames, underlay: IPRoute, bridge: int, node: NodePlan, neighbours: tuple[NodePlan, ...]
) -> None:
    port = f"{node.cluster[:8]}-{neighbours.index(node)}"
    name = lab.node(node.name).netns
    netns.create(name)
    write_sysctls(name, NODE_SYSCTLS)
    with descriptor_of(name) as inside:
        add_link(underlay, port, kind="veth", mtu=UNDERLAY_MTU, peer={"ifname": NODE_DEVICE, "net_ns_fd": inside})
    underlay.link("set", index=index_of(underlay, port), state="up", master=bridge)
    with links_of(name) as inner:
        inner.link("set", index=index_of(inner, "lo"), state="up")
        device = index_of(inner, NODE_DEVICE)
        inner.link("set", index=device, state="up", mtu=UNDERLAY_MTU)
        inner.addr("add", index=device, address=node.address, prefixlen=PREFIX_LENGTH)
        inner.route("add", dst="default", gateway=UNDERLAY_GATEWAY, oif=device)
        for other in neighbours:
            if other != node:
                inner.route("add", dst=other.pod_cidr, gateway=other.address, oif=device)
