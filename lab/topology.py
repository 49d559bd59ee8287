# SPDX-License-Identifier: Apache-2.0
"""Which clusters, nodes and addresses a lab has: the mesh of the walkthrough, written down once. Pure."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final

UNDERLAY_CIDR: Final = "172.18.0.0/24"
UNDERLAY_GATEWAY: Final = "172.18.0.1"
POD_GATEWAY: Final = "169.254.1.1"
UNDERLAY_MTU: Final = 1500
POD_MTU: Final = 1450
API_PORT: Final = 6443
ROLES: Final = ("control-plane", "worker", "worker2")


@dataclass(frozen=True, slots=True)
class NodePlan:
    """One node: a network namespace with an address on the underlay and a share of its cluster's pod addresses."""

    name: str
    cluster: str
    role: str
    address: str
    pod_cidr: str

    @property
    def is_control_plane(self) -> bool:
        return self.role == "control-plane"


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """One cluster: its id in the mesh, its address ranges and its nodes, control plane first."""

    name: str
    cluster_id: int
    pod_cidr: str
    service_cidr: str
    balancer_cidr: str
    nodes: tuple[NodePlan, ...]

    @property
    def context(self) -> str:
        return f"kind-{self.name}"

    @property
    def api_address(self) -> str:
        """The address the API server has inside the cluster."""
        return self.nodes[0].address

    @property
    def kubernetes_address(self) -> str:
        return self.service_address(1)

    @property
    def dns_address(self) -> str:
        return self.service_address(10)

    @property
    def balancer_addresses(self) -> tuple[str, ...]:
        """What Services of type LoadBalancer may get."""
        return tuple(map(str, ipaddress.ip_network(self.balancer_cidr).hosts()))

    def service_address(self, index: int) -> str:
        return str(ipaddress.ip_network(self.service_cidr)[index])


def _cluster(name: str, cluster_id: int, first_host: int, roles: tuple[str, ...] = ROLES) -> ClusterPlan:
    nodes = tuple(
        NodePlan(
            name=f"{name}-{role}",
            cluster=name,
            role=role,
            address=str(ipaddress.ip_network(UNDERLAY_CIDR)[first_host + index]),
            pod_cidr=f"10.{cluster_id}.{index}.0/24",
        )
        for index, role in enumerate(roles)
    )
    networks = (f"10.{cluster_id}.0.0/16", f"172.20.{cluster_id}.0/24", f"172.19.{cluster_id}.0/24")
    return ClusterPlan(name, cluster_id, *networks, nodes)


KOORNACHT: Final = _cluster("koornacht", 1, 2)
TION: Final = _cluster("tion", 2, 5)
ENDOR: Final = _cluster("endor", 3, 8, ROLES[:2])
CLUSTERS: Final = (KOORNACHT, TION)
"""Those of the walkthrough, which every lab has."""
POSSIBLE: Final = (*CLUSTERS, ENDOR)
"""Also the one that only a lab of three has."""
NODES: Final = tuple(node for cluster in POSSIBLE for node in cluster.nodes)


def cluster_named(name: str) -> ClusterPlan:
    """The plan of one cluster. Raises: KeyError naming what exists."""
    for cluster in POSSIBLE:
        if cluster.name == name:
            return cluster
    raise KeyError(f"no cluster {name!r}; there are {', '.join(c.name for c in POSSIBLE)}")


def node_named(name: str) -> NodePlan:
    """The plan of one node. Raises: KeyError naming what exists."""
    for node in NODES:
        if node.name == name:
            return node
    raise KeyError(f"no node {name!r}; there are {', '.join(n.name for n in NODES)}")
