# SPDX-License-Identifier: Apache-2.0
"""The rows of the node agent. Features meet here, and only here.

Intent rows (services, backends, prefixes, identities, nodes, endpoints, policies) say what clusters told us; desired rows
(frontends, verdicts) say what the kernel shall hold. Every row is frozen and complete: it replaces the one before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

import msgspec

from agent.unwell import FailingPods, LostNode
from meshkit.table import Database, Table
from meshkit.wake import Wake
from meshmodel.address import place_of
from meshmodel.algorithm import Algorithm
from meshmodel.annotations import Affinity
from meshmodel.condition import Condition
from meshmodel.health_probe import HealthProbe
from meshmodel.identity import Reserved
from meshmodel.labels import Labels
from meshmodel.names import ClusterId, ClusterName, ServiceName
from meshmodel.node import CILIUM_INTERNAL_IP
from meshmodel.steering import NO_STEERING, Steering
from meshpolicy import Direction, EndpointPolicy

# Identity 0 in the ipcache: an address that is ours or a peer's, of which we do not know yet whose it is.


class Hints(NamedTuple):
    """The zones and nodes whose clients shall prefer a backend. Source: discovery/v1."""

    zones: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()


NO_HINTS: Final = Hints()


def hints_of(zones: tuple[str, ...], nodes: tuple[str, ...] = ()) -> Hints:
    """The hints; none at all are always the same object."""
    return Hints(zones, nodes) if zones or nodes else NO_HINTS


class Backend(NamedTuple):
    """One address and port of one cluster's contribution; a tuple because there may be half a million of them.

    `node` is known of the own cluster's backends only.
    """

    address: str
    port: int
    protocol: str
    names: tuple[str, ...] = ("",)
    condition: Condition = Condition.ACTIVE
    is_healthy: bool = True
    zone: str = ""
    node: str = ""
    hints: Hints = NO_HINTS


class Target(NamedTuple):
    """Where the kernel may send a connection: the part of a backend that identifies it there."""

    address: str
    port: int
    protocol: str
    cluster_id: int


class FrontendKey(NamedTuple):
    address: str
    port: int
    protocol: str

    def __str__(self) -> str:
        return f"{place_of(self.address, self.port)}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class ServicePort:
    """`node_port`: the port of every node that leads there; 0 for none, and where another proxy alone answers for it."""

    name: str
    port: int
    protocol: str
    node_port: int = 0


@dataclass(frozen=True, slots=True)
class Address:
    """One address a service is reached at, and why: ClusterIP, ExternalIP, LoadBalancer, or NodePort (of the node)."""

    ip: str
    kind: str = "ClusterIP"


@dataclass(frozen=True, slots=True)
class Service:
    """A service of the own cluster, as its annotations and ports say."""

    name: ServiceName
    addresses: tuple[Address, ...]
    ports: tuple[ServicePort, ...]
    is_global: bool = False
    is_shared: bool = False
    affinity: Affinity = Affinity.NONE
    steering: Steering = NO_STEERING
    session_affinity_s: int = 0
    is_internal_local: bool = False
    """Its cluster addresses lead to backends of the client's node only (internalTrafficPolicy: Local)."""
    is_external_local: bool = False
    """Who comes from outside is led to backends of the node it came to only (externalTrafficPolicy: Local)."""
    source_ranges: tuple[str, ...] | None = None
    """Its load balancer addresses answer sources of these IPv4 ranges only; None: everybody."""
    unsupported: tuple[str, ...] = ()
    """What this node does not do of it, as sentences for its owner."""
    problems: tuple[str, ...] = ()
    algorithm: Algorithm | None = None
    """How a connection finds its backend; None: as the agent's setting says."""
    health_probe: HealthProbe | None = None
    """How its pods are asked whether they are well, by the agents of their nodes."""
    created: str = ""
    """When the object was made, as Kubernetes writes it (RFC 3339, UTC): of two that claim one thing, the older has it."""
    uid: str = ""


@dataclass(frozen=True, slots=True)
class LabelledService:
    """Any Service of the own cluster that has backends, balanced here or not (headless ones are not), for policies."""

    name: ServiceName
    labels: tuple[tuple[str, str], ...]
    is_global: bool = False


@dataclass(frozen=True, slots=True)
class ServiceProblems:
    """What this node does not do of what a service asks for, as sentences for its owner. Desired row."""

    service: ServiceName
    uid: str
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BackendSet:
    """All backends one cluster contributes to one service; a newer one replaces it whole."""

    service: ServiceName
    cluster: ClusterName
    cluster_id: ClusterId
    backends: tuple[Backend, ...]
    updated_wall_s: float = field(default=0.0, compare=False)
    is_plain: bool = field(default=False, compare=False)
    """Every backend is healthy and active and has no hints: nothing is left to decide about single ones."""
    has_unnamed: bool = field(default=False, compare=False)
    """Some backend has no port name: it fits a port of any name."""
    is_withheld: bool = False
    """The cluster has backends, and they are not for clients of this one."""
    ipv6: BackendSet | None = None
    """Those with addresses of IPv6; `backends` has the others."""

    @property
    def of_both_families(self) -> tuple[Backend, ...]:
        return self.backends if self.ipv6 is None else self.backends + self.ipv6.backends


@dataclass(frozen=True, slots=True)
class Frontend:
    """What the kernel shall do for one service address: choose among `chosen`, keep `draining` for open connections.

    A backend that stands several times in `chosen` gets so many times the connections of one that stands there once.
    """

    key: FrontendKey
    service: ServiceName
    kind: str
    port_name: str
    chosen: tuple[Target, ...]
    draining: tuple[Target, ...] = ()
    session_affinity_s: int = 0
    is_consistent: bool = False
    """`chosen` is a Maglev table: a connection's addresses and ports say which of it they stand for."""
    received_wall_s: float = field(default=0.0, compare=False)
    reach: int = 0
    """Who is led there beside pods, as bits of datapath.layout.ServiceFlag: OF_NODE, OF_OUTSIDERS; SOURCE_RANGES: only who
    is in `source_ranges`."""
    source_ranges: tuple[str, ...] | None = None


class ClaimOrigin(StrEnum):
    """Why a prefix is in the ipcache, strongest claim first."""

    NODE = "node"
    POD = "pod"
    POD_CIDR = "pod-cidr"
    POLICY = "policy"


class NamedPort(NamedTuple):
    name: str
    port: int
    protocol: str


@dataclass(frozen=True, slots=True)
class Prefix:
    """One claim: this prefix belongs to this identity, and is reached through `tunnel` (empty: directly).

    `name` is the pod's or node's name. While the identity's labels have not arrived `is_known` is false, and the kernel is
    told identity 0: such an address is unknown, never allowed.
    """

    prefix: str
    identity: int
    tunnel: str
    cluster: ClusterName
    cluster_id: ClusterId
    origin: ClaimOrigin
    host: str = ""
    namespace: str = ""
    name: str = ""
    is_known: bool = True
    named_ports: tuple[NamedPort, ...] = ()


@dataclass(frozen=True, slots=True)
class Identity:
    id: int
    cluster: ClusterName
    labels: Labels


@dataclass(frozen=True, slots=True)
class NodeAddress:
    kind: str
    ip: str


def pack_labels(labels: Mapping[str, str]) -> bytes:
    """Equal labels give equal bytes."""
    return msgspec.json.encode(dict(labels), order="deterministic")


@dataclass(frozen=True, slots=True)
class Node:
    cluster: ClusterName
    cluster_id: ClusterId
    name: str
    addresses: tuple[NodeAddress, ...]
    pod_cidrs: tuple[str, ...]
    health_ip: str = ""
    ingress_ip: str = ""
    packed_labels: bytes = b"{}"
    """As `pack_labels` makes them: what a peer's caps let in is as large here as in its records. Rarely asked for."""

    @property
    def labels(self) -> Mapping[str, str]:
        """Read anew at each call."""
        return msgspec.json.decode(self.packed_labels, type=dict[str, str])

    @property
    def internal_ip(self) -> str:
        """The address tunnels lead to: the first InternalIP, else the first address of any kind but Cilium's own."""
        for kind in ("InternalIP", "ExternalIP"):
            for address in self.addresses:
                if address.kind == kind:
                    return address.ip
        return next((a.ip for a in self.addresses if a.kind != CILIUM_INTERNAL_IP), "")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A pod of this node that has an interface: what enforcement is attached to. `ipv6`: its further addresses.

    `is_bridge_port`: the interface is a port of a bridge, whose MAC `node_mac` is, and may carry other pods' frames.
    """

    address: str
    endpoint_id: int
    ifindex: int
    mac: str
    node_mac: str
    identity: int
    namespace: str
    pod: str
    named_ports: tuple[NamedPort, ...] = ()
    is_bridge_port: bool = False
    ipv6: tuple[str, ...] = ()


THE_NODE: Final = Endpoint("0.0.0.0", 0, 0, "00:00:00:00:00:00", "00:00:00:00:00:00", Reserved.HOST, "", "")
"""The node itself as an endpoint, while host policies select it. It is in no table of endpoints and has no interface."""


@dataclass(frozen=True, slots=True)
class EndpointVerdicts:
    """What the kernel shall enforce for one endpoint, and in which directions it tells of connections that no policy judges.

    Of a policy that has more than `most` entries (0: than a pod may have), `own_ranges` are the identities of the address ranges
    that its own rules name.
    """

    endpoint: Endpoint
    policy: EndpointPolicy
    watched: frozenset[Direction] = frozenset()
    own_ranges: frozenset[int] = frozenset()
    most: int = 0

    @property
    def is_node(self) -> bool:
        """Whether it is about the node itself."""
        return not self.endpoint.ifindex


@dataclass(frozen=True, slots=True)
class PolicyRow:
    """A policy object as it stands: parsed and in force, staged, or refused with the reason."""

    kind: str
    namespace: str
    name: str
    is_valid: bool
    message: str = ""
    problems: tuple[str, ...] = ()
    unenforced: tuple[str, ...] = ()
    """Those of `problems` that say what has not the effect it states."""
    is_staged: bool = False


@dataclass(frozen=True, slots=True)
class PeerHealth:
    """What selection must know of a cluster: is it withdrawn by the liveness rule."""

    name: ClusterName
    cluster_id: ClusterId
    is_withdrawn: bool = False
    reason: str = ""


class AgentDB(Database):
    """Every table of the agent. `own` names this cluster and `node_address` this node: rows of theirs are local.

    `moved` rings when the node got another address. Records that name a former one are still of this node.
    """

    def __init__(self, own: ClusterName, own_id: ClusterId, node_name: str = "", node_address: str = "") -> None:
        super().__init__()
        self.own, self.own_id = own, own_id
        self.node_name, self.node_address = node_name, node_address
        self.former_addresses: frozenset[str] = frozenset()
        self.moved = Wake()
        self.drained: frozenset[ClusterName] = frozenset()
        """Clusters whose backends take no new connections while others can."""
        self.services: Table[ServiceName, Service] = Table(self, "services", key=lambda s: s.name)
        self.labelled_services: Table[ServiceName, LabelledService] = Table(
            self, "labelled-services", key=lambda s: s.name
        )
        self.backends: Table[tuple[ServiceName, ClusterName], BackendSet]
        self.backends = Table(self, "backends", key=lambda b: (b.service, b.cluster))
        self.service_problems: Table[ServiceName, ServiceProblems] = Table(
            self, "service-problems", lambda p: p.service
        )
        self.frontends: Table[FrontendKey, Frontend] = Table(self, "frontends", key=lambda f: f.key)
        self.prefixes: Table[str, Prefix] = Table(self, "prefixes", key=lambda p: p.prefix)
        self.identities: Table[int, Identity] = Table(self, "identities", key=lambda i: i.id)
        self.nodes: Table[tuple[ClusterName, str], Node] = Table(self, "nodes", key=lambda n: (n.cluster, n.name))
        self.endpoints: Table[str, Endpoint] = Table(self, "endpoints", key=lambda e: e.address)
        self.verdicts: Table[str, EndpointVerdicts] = Table(self, "verdicts", key=lambda v: v.endpoint.address)
        self.policies: Table[tuple[str, str, str], PolicyRow] = Table(
            self, "policies", key=lambda p: (p.kind, p.namespace, p.name)
        )
        self.peers: Table[ClusterName, PeerHealth] = Table(self, "peers", key=lambda p: p.name)
        self.failing_pods: Table[str, FailingPods] = Table(self, "failing-pods", key=lambda f: f.lease)
        self.lost_nodes: Table[str, LostNode] = Table(self, "lost_nodes", key=lambda n: n.ip)

    def is_here(self, host: str) -> bool:
        """Whether a record that names this host is about this node."""
        return host == self.node_address or host in self.former_addresses

    def move_to(self, address: str) -> None:
        """This node has another address from now on. Call inside `write()`."""
        self.former_addresses = (self.former_addresses | {self.node_address}) - {address, ""}
        self.node_address = address
        self.moved.set()

    def give_up(self, address: str) -> None:
        """A former address of this node is another node's now. Call inside `write()`."""
        self.former_addresses -= {address}
        self.moved.set()
