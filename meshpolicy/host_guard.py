# SPDX-License-Identifier: Apache-2.0
"""What no host policy takes from a node: the way to the API server, the kubelet, and the traffic of the mesh itself.

The guard is a policy like others, of a level above all of them. It enforces nothing by itself: a node that no host policy
selects has none. What the programs pass without asking (the overlay, ICMP errors) is in it too, so that explanations say so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from meshmodel.cluster_config import VXLAN_PORT
from meshmodel.labels import NAMESPACE_LABEL, RESERVED
from meshpolicy.entity import entity_selectors
from meshpolicy.icmp import TYPE_NAMES
from meshpolicy.peer import CidrSelector, PeerSelector
from meshpolicy.port import ICMP, MAXIMUM_PORT, PORTLESS_PROTOCOLS, TCP, UDP, PortSpec
from meshpolicy.prefix import parse_address
from meshpolicy.reference import HOST_GUARD, HOST_UNKNOWN, Direction, RuleOrigin
from meshpolicy.rule import Policy, Rule
from meshpolicy.selector import KUBERNETES_SOURCE, LabelSelector, Operator, Requirement, equals, scope_cluster
from meshpolicy.tier import Tier

_ETCD_PORTS: Final = (2379, 2380)
_API_PORT: Final = 6443
"""Where nobody says another."""
_DNS: Final = 53
_DHCP_SERVER: Final = 67
_DHCP_CLIENT: Final = 68
_VRRP: Final = (PortSpec(PORTLESS_PROTOCOLS["VRRP"]),)
"""By which nodes agree who has the API server's address; without it several have it."""
_IGMP: Final = (PortSpec(PORTLESS_PROTOCOLS["IGMP"]),)
_ICMP_ERRORS: Final = ("DestinationUnreachable", "TimeExceeded", "ParameterProblem")
_NODE: Final = LabelSelector((Requirement(RESERVED, "host", Operator.EXISTS),))
_NODES: Final[tuple[PeerSelector, ...]] = (
    *entity_selectors("remote-node", ""),
    *entity_selectors("kube-apiserver", ""),
)


@dataclass(frozen=True, slots=True)
class GuardFacts:
    """What the guard of one node depends on.

    `api_servers` are (address, port) where the API server answers. `mesh_ports` are TCP ports of the mesh's own servers, in
    pods or on nodes, of this cluster or of others; `mesh_node_ports` those on nodes of this cluster. `agent_port` is that
    of the agents and `flow_port` that of their observers (0: none), whom pods of `namespace` in `cluster` ask too.
    `open_ports` the operator keeps open to everyone.
    """

    api_servers: tuple[tuple[str, int], ...] = ()
    is_api_server: bool = False
    kubelet_port: int = 10250
    vxlan_port: int = VXLAN_PORT
    agent_port: int = 9879
    flow_port: int = 4244
    cluster: str = ""
    namespace: str = "kube-system"
    mesh_ports: tuple[int, ...] = (2379, 9880, 32379)
    mesh_node_ports: tuple[int, ...] = (32379,)
    open_ports: tuple[PortSpec, ...] = ()


def guard_policy(facts: GuardFacts) -> Policy:
    """The rules of the guard of a node."""
    return Policy(HOST_GUARD, tuple(_rules(facts)))


def unknown_node_policy() -> Policy:
    """Closes a node in both directions, but for the guard."""
    rules = (
        Rule(RuleOrigin(HOST_UNKNOWN, direction.word), _NODE, direction, (), None, is_host=True)
        for direction in Direction
    )
    return Policy(HOST_UNKNOWN, tuple(rules))


def _rules(facts: GuardFacts) -> Iterator[Rule]:
    servers = tuple(CidrSelector(parse_address(address)) for address, _ in facts.api_servers)
    api_ports = tuple(dict.fromkeys(port for _, port in facts.api_servers)) or (_API_PORT,)
    kubelet = _tcp((facts.kubelet_port,))
    errors = tuple(_one(ICMP, TYPE_NAMES[ICMP][name]) for name in _ICMP_ERRORS)
    overlay = (_one(UDP, facts.vxlan_port),)
    if facts.is_api_server:
        yield _rule("api-server", Direction.INGRESS, None, _tcp(api_ports))
    yield _rule("api-server", Direction.EGRESS, (*_NODES, *servers), _tcp(api_ports))
    yield _rule("kubelet", Direction.INGRESS, (*_NODES, *servers), kubelet)
    yield _rule("kubelet", Direction.EGRESS, _NODES, kubelet)
    for direction in Direction:
        yield _rule("etcd", direction, _NODES, _tcp(_ETCD_PORTS))
        programs = (_programs(facts),) if direction is Direction.INGRESS else ()
        asked = tuple(port for port in (facts.agent_port, facts.flow_port) if port)
        yield _rule("agent", direction, (*_NODES, *programs), _tcp(asked))
        yield _rule("overlay", direction, None, overlay)
        yield _rule("icmp-errors", direction, None, errors)
    yield _rule("mesh", Direction.INGRESS, None, _tcp(facts.mesh_node_ports))
    yield _rule("mesh", Direction.EGRESS, None, _tcp(facts.mesh_ports))
    yield _rule("dns", Direction.EGRESS, None, (_one(UDP, _DNS), _one(TCP, _DNS)))
    yield _rule("vrrp", Direction.INGRESS, _NODES, _VRRP)
    yield _rule("vrrp", Direction.EGRESS, None, _VRRP)
    for direction in Direction:
        yield _rule("igmp", direction, None, _IGMP)
    yield _rule("dhcp", Direction.EGRESS, None, (_one(UDP, _DHCP_SERVER),))
    yield _rule("dhcp", Direction.INGRESS, None, (_one(UDP, _DHCP_CLIENT),))
    if facts.open_ports:
        yield _rule("setting", Direction.INGRESS, None, facts.open_ports)


def _programs(facts: GuardFacts) -> LabelSelector:
    """Where the apiserver and the relay run."""
    found = LabelSelector((equals(KUBERNETES_SOURCE, NAMESPACE_LABEL, facts.namespace),))
    return scope_cluster(found, facts.cluster)


def _rule(name: str, direction: Direction, peers: Sequence[PeerSelector] | None, ports: Iterable[PortSpec]) -> Rule:
    return Rule(
        RuleOrigin(HOST_GUARD, f"{direction.word} {name}"),
        _NODE,
        direction,
        None if peers is None else tuple(peers),
        tuple(ports),
        default_deny=False,
        tier=Tier.GUARD,
        is_host=True,
    )


def _tcp(ports: Iterable[int]) -> tuple[PortSpec, ...]:
    return tuple(_one(TCP, port) for port in ports)


def _one(protocol: int, port: int) -> PortSpec:
    return PortSpec(protocol, port, port)


def parse_open_port(text: str) -> PortSpec:
    """Read PORT/TCP or PORT/UDP; a port alone is TCP. Raises: ValueError."""
    number, _, name = text.partition("/")
    protocol = {"TCP": TCP, "UDP": UDP}.get((name or "TCP").upper())
    if protocol is None or not number.isdecimal() or len(number) > 5 or not 0 < int(number) <= MAXIMUM_PORT:
        raise ValueError(f"{text!r} is no port: write PORT/TCP or PORT/UDP, for instance 22/TCP")
    return _one(protocol, int(number))
