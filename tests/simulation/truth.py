# SPDX-License-Identifier: Apache-2.0
"""What people asked for, read from Kubernetes objects alone, by the plain rules of the mesh: what programs must arrive at."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any, Final

from kube.resource import ENDPOINT_SLICES, NAMESPACES, PODS, SERVICES, KubeObject
from tests.simulation.cluster import Cluster
from tests.simulation.kept import kept
from tests.simulation.world import World

GLOBAL: Final = ("service.cilium.io/global", "io.cilium/global-service")
SHARED: Final = ("service.cilium.io/shared", "io.cilium/shared-service")
AFFINITY: Final = ("service.cilium.io/affinity", "io.cilium/service-affinity")
NAMESPACE_GLOBAL: Final = "clustermesh.cilium.io/global"
SERVICE_LABEL: Final = "kubernetes.io/service-name"

Place = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Ready:
    """A ready endpoint of one port of one slice."""

    address: str
    port: int
    name: str
    protocol: str


@kept(lambda cluster: cluster.kube.store.changed(PODS))
def pods(cluster: Cluster) -> list[KubeObject]:
    return [pod for pod in cluster.kube.objects(PODS) if pod["status"].get("podIP")]


def key_of(obj: KubeObject) -> str:
    return f"{obj['metadata']['namespace']}/{obj['metadata']['name']}"


def is_global_namespace(cluster: Cluster, name: str) -> bool:
    found = cluster.kube.store.get(NAMESPACES, name)
    annotations = (found or {}).get("metadata", {}).get("annotations") or {}
    return str(annotations.get(NAMESPACE_GLOBAL, "true")).lower() != "false"


def annotation(service: KubeObject, names: Iterable[str], default: str) -> str:
    annotations = service["metadata"].get("annotations") or {}
    return next((str(annotations[name]).strip().lower() for name in names if name in annotations), default)


def is_global(service: KubeObject) -> bool:
    return annotation(service, GLOBAL, "false") == "true"


def is_shared(cluster: Cluster, service: KubeObject) -> bool:
    """Whether peers use its endpoints; a name for something outside has none."""
    if service["spec"].get("type") == "ExternalName":
        return False
    said = annotation(service, SHARED, "true") == "true"
    return is_global(service) and said and is_global_namespace(cluster, service["metadata"]["namespace"])


def endpoints(cluster: Cluster, service: str) -> set[Ready]:
    """The ready endpoints of all slices of a service (`namespace/name`)."""
    return _endpoints(cluster).get(service, set())


@kept(lambda cluster: cluster.kube.store.changed(ENDPOINT_SLICES))
def _endpoints(cluster: Cluster) -> dict[str, set[Ready]]:
    services: dict[str, set[Ready]] = {}
    for piece in cluster.kube.objects(ENDPOINT_SLICES):
        meta = piece["metadata"]
        found = services.setdefault(f"{meta['namespace']}/{(meta.get('labels') or {}).get(SERVICE_LABEL)}", set())
        for endpoint in piece.get("endpoints") or []:
            if (endpoint.get("conditions") or {}).get("ready", True) is False:
                continue
            for port in piece.get("ports") or []:
                place = (port.get("name") or "", port.get("protocol") or "TCP")
                found |= {Ready(a, port["port"], *place) for a in endpoint["addresses"] if is_ipv4(a)}
    return services


def is_ipv4(text: str) -> bool:
    """Four plain numbers, none with a zero in front."""
    parts = text.split(".")
    return len(parts) == 4 and all(p.isdecimal() and str(int(p)) == p and int(p) < 256 for p in parts)


def fitting(found: Iterable[Ready], name: str, protocol: str) -> set[Place]:
    """Same protocol, and the same name where both have one; an unnamed port that has unnamed endpoints takes no others."""
    same = [each for each in found if each.protocol == protocol]
    unnamed = [each for each in same if not each.name]
    if not name and unnamed:
        same = unnamed
    elif name:
        same = [each for each in same if each.name in ("", name)]
    return {(each.address, each.port) for each in same}


def claimed_addresses(service: KubeObject) -> set[str]:
    """What a Service asks for that Kubernetes did not give it."""
    ingress = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []
    return {*(service["spec"].get("externalIPs") or []), *(entry["ip"] for entry in ingress if "ip" in entry)}


def balancer_addresses(world: World, cluster: Cluster, service: KubeObject) -> set[str]:
    """Addresses that a load balancer gave and that nobody has. No range is set from which Services may take others."""
    ingress = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []
    return {entry["ip"] for entry in ingress if not is_taken(world, cluster, entry["ip"])}


def is_taken(world: World, cluster: Cluster, address: str) -> bool:
    """A Service's, a node's, within a node's pod network, or nobody's for ever."""
    ip = IPv4Address(address)
    nodes = [node for name in (cluster.name, *cluster.peers) for node in world.clusters[name].nodes.values()]
    cluster_ips = {service["spec"].get("clusterIP") for service in cluster.kube.objects(SERVICES)}
    is_of_node = any(address == node.ip or ip in IPv4Network(node.pod_cidr) for node in nodes)
    return address in cluster_ips or is_of_node or ip.is_loopback


def expected(world: World, cluster: Cluster, service: KubeObject, port: dict[str, Any]) -> set[Place]:
    """The backends that this port of a Service has on every node of the cluster, at rest."""
    key, where = key_of(service), (port.get("name") or "", port.get("protocol") or "TCP")
    own = fitting(endpoints(cluster, key), *where)
    if not is_global(service):
        return own
    theirs: set[Place] = set()
    for name in cluster.peers:
        peer = world.clusters[name]
        same = peer.kube.store.get(SERVICES, key)
        if same is not None and is_shared(peer, same):
            theirs |= fitting(endpoints(peer, key), *where)
    affinity = annotation(service, AFFINITY, "none")
    if affinity == "local":
        return own or theirs
    if affinity == "remote":
        return theirs or own
    return own | theirs
