# SPDX-License-Identifier: Apache-2.0
"""Node or CiliumNode → record. Pure."""

from __future__ import annotations

from kubeintent.rows import NodeIntent
from meshmodel.names import ClusterId, ClusterName
from meshmodel.node import MeshNode, NodeAddress


def convert_node(node: NodeIntent, *, cluster: ClusterName, cluster_id: ClusterId) -> MeshNode:
    """The record: cluster and id are ours whatever the object says; the first prefix of a family is its primary one."""
    prefixes = node.pod_cidrs
    return MeshNode(
        name=node.name,
        cluster=cluster,
        cluster_id=cluster_id,
        addresses=tuple(NodeAddress(kind, ip) for kind, ip in node.addresses),
        ipv4_pod_cidrs=tuple(prefix for prefix in prefixes if ":" not in prefix),
        ipv6_pod_cidrs=tuple(prefix for prefix in prefixes if ":" in prefix),
        ipv4_health_ip=node.health_ips[0],
        ipv6_health_ip=node.health_ips[1],
        ipv4_ingress_ip=node.ingress_ips[0],
        ipv6_ingress_ip=node.ingress_ips[1],
        source=node.source,
        encryption_key=node.encryption_key,
        labels=dict(node.labels),
        annotations=dict(node.annotations),
        node_identity=node.node_identity,
        wireguard_key=node.wireguard_key,
        boot_id=node.boot_id,
    )
