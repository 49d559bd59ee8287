# SPDX-License-Identifier: Apache-2.0
"""What Kubernetes objects say that the mesh needs to know: one small row per object, nothing else is kept. Pure.

Every address and network is in its one form, every port in its range, every protocol one of TCP, UDP and SCTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from meshmodel.annotations import ServiceAnnotations
from meshmodel.labels import Labels
from meshmodel.names import ServiceName
from meshmodel.node import INTERNAL_IP

Pairs: TypeAlias = tuple[tuple[str, str], ...]
"""A map of labels or annotations, sorted by key."""


class Port(NamedTuple):
    """One port of a service or an endpoint slice; `name` may be empty, and a slice's port without number means all.

    `node_port`: of a service, the port of every node that leads there; 0 for none.
    """

    name: str
    protocol: str
    port: int | None
    app_protocol: str = ""
    node_port: int = 0


@dataclass(frozen=True, slots=True)
class ServiceIntent:
    """One Service. `balancer_ips` are the load balancer's addresses that nodes translate, `balancer_sources` as written."""

    namespace: str
    name: str
    uid: str
    annotations: ServiceAnnotations
    cluster_ips: tuple[str, ...]
    ports: tuple[Port, ...]
    labels: Pairs
    selector: Pairs
    headless: bool = False
    external_name: bool = False
    other_proxy: bool = False
    session_affinity: str = "None"
    affinity_timeout_s: int = 0
    external_ips: tuple[str, ...] = ()
    balancer_ips: tuple[str, ...] = ()
    balancer_sources: tuple[str, ...] = ()
    is_internal_local: bool = False
    is_external_local: bool = False
    created: str = ""
    """Creation time as Kubernetes writes it: RFC 3339 in UTC, so that the order of texts is the order of times."""


class SliceEndpointIntent(NamedTuple):
    """One endpoint of a slice; a condition that is None was not stated. A tuple, as there may be half a million of them."""

    addresses: tuple[str, ...]
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None
    hostname: str = ""
    node_name: str = ""
    zone: str = ""
    for_zones: tuple[str, ...] = ()
    is_pod: bool = False
    for_nodes: tuple[str, ...] = ()

    @property
    def is_exported(self) -> bool:
        """Not both unready and not serving; one that does not say counts as ready, and as serving, as in Cilium."""
        return self.ready is not False or self.serving is not False


@dataclass(frozen=True, slots=True)
class SliceIntent:
    """One EndpointSlice; `service` is empty if it belongs to none."""

    namespace: str
    name: str
    service: str
    address_type: str
    endpoints: tuple[SliceEndpointIntent, ...]
    ports: tuple[Port, ...]
    labels: Pairs = ()
    annotations: Pairs = ()
    from_mesh: bool = False


@dataclass(frozen=True, slots=True)
class NamespaceIntent:
    """One Namespace."""

    name: str
    is_global: bool
    labels: Pairs


@dataclass(frozen=True, slots=True)
class PodIntent:
    """One Pod. `ips` are addresses of its own, none on the host network; `node` is empty until it has one.

    `named_ports` are (name, port, protocol), sorted.
    """

    namespace: str
    name: str
    host_ip: str
    ips: tuple[str, ...]
    labels: Pairs
    service_account: str
    named_ports: tuple[tuple[str, int, str], ...] = ()
    node: str = ""
    uses_host_network: bool = False
    uid: str = ""


@dataclass(frozen=True, slots=True)
class EndpointIntent:
    """One CiliumEndpoint, or one entry of a CiliumEndpointSlice. `identity` is 0 while it has none."""

    namespace: str
    name: str
    host_ip: str
    ips: tuple[str, ...]
    identity: int
    encryption_key: int = 0
    service_account: str = ""
    named_ports: tuple[tuple[str, int, str], ...] = ()


@dataclass(frozen=True, slots=True)
class IdentityIntent:
    """One CiliumIdentity. `namespace` is None if its labels name none; `managed` if this program made it."""

    number: int
    labels: Labels
    namespace: str | None
    managed: bool = False


@dataclass(frozen=True, slots=True)
class NodeIntent:
    """One Node or CiliumNode; `is_ready` is the kubelet's word, which only a Node has."""

    name: str
    addresses: tuple[tuple[str, str], ...]
    pod_cidrs: tuple[str, ...]
    labels: Pairs
    source: str
    annotations: Pairs = ()
    health_ips: tuple[str, str] = ("", "")
    ingress_ips: tuple[str, str] = ("", "")
    encryption_key: int = 0
    node_identity: int = 0
    wireguard_key: str = ""
    boot_id: str = ""
    created: str = ""
    is_ready: bool = False

    def internal_ip(self, *, version: int | None = None) -> str:
        """The first internal address, of this IP version if one is given; empty if there is none."""
        return next(
            (
                ip
                for kind, ip in self.addresses
                if kind == INTERNAL_IP and (version is None or (":" in ip) == (version == 6))
            ),
            "",
        )


@dataclass(frozen=True, slots=True)
class ExportIntent:
    """One ServiceExport. `created` is RFC 3339."""

    namespace: str
    name: str
    created: str
    labels: Pairs = ()
    annotations: Pairs = ()


@dataclass(frozen=True, slots=True)
class BlockIntent:
    """One block of pod addresses that Calico gave to a node."""

    cidr: str
    node: str


@dataclass(frozen=True, slots=True)
class HealthIntent:
    """One agent's other Lease: the pods of its node that fail their health probe, addresses by service."""

    node: str
    failing: tuple[tuple[ServiceName, tuple[str, ...]], ...] = ()


@dataclass(frozen=True, slots=True)
class ConfirmationIntent:
    """One agent's Lease: the pods of its node that it enforces and forwards for. Times are RFC 3339.

    `pods` has a pod's uid for each of its addresses, or namespace/name where the agent was never told the uid.
    """

    node: str
    pods: Mapping[str, str]
    created: str = ""
    renewed: str = ""
