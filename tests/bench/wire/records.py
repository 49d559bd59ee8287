# SPDX-License-Identifier: Apache-2.0
"""What a cluster publishes, of any size, as bytes: the same records every time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from meshmodel import keys, labels, node
from meshmodel.cluster_config import ClusterConfig
from meshmodel.identity import NumericIdentity, identity_range
from meshmodel.ip import IpRecord
from meshmodel.keys import Kind
from meshmodel.names import ClusterId, ClusterName, ServiceName
from meshmodel.service import ClusterService, RecordPort
from tests.support import record_keys

CLUSTER, CLUSTER_ID = "south", 2
FIRST_IDENTITY = identity_range(ClusterId(CLUSTER_ID)).first
NAMESPACES = 50
BACKENDS = 5
KINDS = (Kind.NODES, Kind.IDENTITIES, Kind.IPS, Kind.SERVICES, Kind.SERVICE_EXPORTS)
PORTS = {"http": RecordPort("TCP", 8080)}
FRONTEND = {"http": RecordPort("TCP", 80)}

Pair = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Shape:
    """How many records of each kind."""

    services: int = 0
    ips: int = 0
    identities: int = 0
    nodes: int = 0

    @property
    def total(self) -> int:
        return self.services + self.ips + self.identities + self.nodes


STANDARD = Shape(10_000, 100_000, 1_000, 500)
SMALL = Shape(2_020, 5_008, 200, 50)  # 7,278 keys, the size Cilium's exporter was measured with
MANY_SERVICES = Shape(services=100_000, nodes=500)


def pod_ip(index: int) -> str:
    """Pods are spread over 500 nodes with a /24 each."""
    place = index % 500
    return f"10.{64 + (place >> 8)}.{place & 255}.{index // 500 % 250 + 1}"


def node_ip(index: int) -> str:
    return f"172.18.{index >> 8}.{index & 255}"


def service_ip(index: int) -> str:
    index += 512  # the first ones of a service network are taken
    return f"172.{20 + (index >> 16)}.{index >> 8 & 255}.{index & 255}"


def service_name(index: int) -> ServiceName:
    return ServiceName(f"namespace-{index % NAMESPACES}", f"service-{index}")


def backend_ips(index: int, shift: int = 0) -> list[str]:
    return [pod_ip(index * BACKENDS + step + shift) for step in range(BACKENDS)]


def service_record(index: int, shift: int = 0) -> bytes:
    name = service_name(index)
    return ClusterService(
        cluster=ClusterName(CLUSTER),
        cluster_id=ClusterId(CLUSTER_ID),
        name=name,
        frontends={service_ip(index): FRONTEND},
        backends=dict.fromkeys(backend_ips(index, shift), PORTS),
        labels={"app": name.name},
        selector={"app": name.name},
    ).encode()


def ip_record(index: int, identities: int, shift: int = 0) -> bytes:
    return IpRecord(
        prefix=f"{pod_ip(index)}/32",
        identity=NumericIdentity(FIRST_IDENTITY + (index + shift) % identities),
        host_ip=node_ip(index % 500),
        namespace=f"namespace-{index % NAMESPACES}",
        pod=f"service-{index // BACKENDS}-5d9f7c9d4-{index:06d}",
        service_account="default",
    ).encode()


def identity_labels(index: int) -> labels.Labels:
    namespace = f"namespace-{index % NAMESPACES}"
    found = {"app": f"service-{index}", "tier": f"tier-{index % 7}"}
    return labels.pod_labels(found, namespace, {"kubernetes.io/metadata.name": namespace}, "default", CLUSTER)


def node_record(index: int) -> bytes:
    return node.MeshNode(
        cluster=ClusterName(CLUSTER),
        cluster_id=ClusterId(CLUSTER_ID),
        name=f"node-{index}",
        addresses=(node.NodeAddress(node.INTERNAL_IP, node_ip(index)),),
        ipv4_pod_cidrs=(f"10.{64 + (index >> 8)}.{index & 255}.0/24",),
        source="k8s",
        labels={"kubernetes.io/hostname": f"node-{index}"},
    ).encode()


def pairs(kind: Kind, shape: Shape, cluster: str = CLUSTER) -> Iterator[Pair]:
    """Every record of a kind under its key."""
    match kind:
        case Kind.SERVICES:
            for index in range(shape.services):
                yield record_keys.service_key(cluster, service_name(index)), service_record(index)
        case Kind.IPS:
            for index in range(shape.ips):
                yield record_keys.ip_key(cluster, pod_ip(index)), ip_record(index, shape.identities)
        case Kind.IDENTITIES:
            for index in range(shape.identities):
                value = labels.encode_labels(identity_labels(index))
                yield keys.identity_key(cluster, FIRST_IDENTITY + index), value
        case Kind.NODES:
            for index in range(shape.nodes):
                yield record_keys.node_key(cluster, f"node-{index}"), node_record(index)


def config() -> bytes:
    return ClusterConfig(id=ClusterId(CLUSTER_ID), synced_canaries=True, service_exports_enabled=False).encode()


def canaries() -> list[bytes]:
    """What stands in the store once everything is there."""
    return [keys.canary_key(CLUSTER, kind) for kind in KINDS]
