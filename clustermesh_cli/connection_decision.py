# SPDX-License-Identifier: Apache-2.0
"""Why a connection between two ends is allowed or denied, from what clusters and agents said. Pure.

Each end is judged by its own cluster's policies, as the agent of its own node sees the other end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from clustermesh_cli.live_policy import AgentView, LiveCluster
from meshapi.agent import EndpointRow, PolicyMapRow
from meshmodel.identity import UNKNOWN, NumericIdentity, is_reserved, world_of
from meshmodel.labels import Labels
from meshpolicy.asked import Asked, lets_through, rules_text
from meshpolicy.documents import load_documents
from meshpolicy.engine import Engine
from meshpolicy.errors import PolicyError
from meshpolicy.explain import Half, SideExplanation, explain_side
from meshpolicy.mapstate import ANY_IDENTITY, EntryKey, MatchType, PolicyEntry, lookup
from meshpolicy.peer import ServicePeers, ServiceSelector
from meshpolicy.port import ANY_PROTOCOL, NamedPorts
from meshpolicy.prefix import parse_address, parse_prefix
from meshpolicy.range_shares import without_room
from meshpolicy.rebuild import closed
from meshpolicy.reference import Direction, PolicyKind, PolicyRef, RuleOrigin
from meshpolicy.rule import CidrGroup, Policy


@dataclass(frozen=True, slots=True)
class End:
    """One end of the connection as it was found. Without `live` its cluster's policies are not known here.

    `cluster` is empty for an address outside of the mesh; `view` is the agent of the end's own node, and `services` are who
    the backends of Services are for it, None while that is not known.
    """

    name: str
    cluster: str
    address: str
    node: str = ""
    uses_host_network: bool = False
    named_ports: NamedPorts = field(default_factory=dict)
    live: LiveCluster | None = None
    view: AgentView | None = None
    realised: tuple[PolicyMapRow, ...] = ()
    services: tuple[ServicePeers, ...] | None = None

    @property
    def endpoint(self) -> EndpointRow | None:
        """The end as its agent enforces it; None if it does not."""
        return None if self.view is None or self.uses_host_network else self.view.endpoint_of(self.address)


class Packet(NamedTuple):
    """What the connection begins with; for ICMP the port is the type."""

    protocol: int
    port: int


class Belief(NamedTuple):
    """Which identity an agent gives an address. `told_by` is the cluster it was learned from, `age_s` how long ago that
    cluster last confirmed what it says; both are empty for what the agent sees for itself.
    """

    number: NumericIdentity
    labels: Labels | None
    told_by: str = ""
    age_s: float | None = None

    @property
    def is_known(self) -> bool:
        return self.labels is not None


class Enforced(NamedTuple):
    """What the kernel of the end's node does with the connection at this moment, and by which rule.

    What `is_proxied` is allowed as far as the node's proxy, which judges each request.
    """

    allowed: bool
    rule: str
    revision: int
    is_proxied: bool = False


class SideDecision(NamedTuple):
    """One side: the decision, the two identities it was made of, and what the node really enforces."""

    end: End
    explanation: SideExplanation
    own: Belief | None
    peer: Belief | None
    enforced: Enforced | None = None
    remarks: tuple[str, ...] = ()


class ConnectionDecision(NamedTuple):
    """Both sides; the connection needs both. `allowed` None: a side is not known, and the other one does not deny."""

    egress: SideDecision
    ingress: SideDecision

    @property
    def allowed(self) -> bool | None:
        sides = {side.explanation.allowed for side in self}
        return False if False in sides else None if None in sides else True


def decide(source: End, destination: End, packet: Packet, asked: Asked | None = None) -> ConnectionDecision:
    """Both sides of a new connection, and of what is asked over it."""
    return ConnectionDecision(
        _decide_side(source, destination, Direction.EGRESS, packet, asked),
        _decide_side(destination, source, Direction.INGRESS, packet, asked),
    )


def believe(view: AgentView, address: str, prefixes: Mapping[str, NumericIdentity]) -> Belief:
    """The identity behind an address; `prefixes` are the address ranges that policies name."""
    row = view.row_of(address)
    if row is None or row.origin == "policy":
        host = parse_address(address)
        ranges = [parse_prefix(text) for text in prefixes]
        best = max((r for r in ranges if r.covers(host)), key=lambda r: r.bits, default=None)
        return Belief(NumericIdentity(world_of(address)) if best is None else prefixes[str(best)], ())
    number = NumericIdentity(row.identity if row.identity_known else 0)  # as the kernel is told
    labels = view.identities.get(number, () if number != UNKNOWN and is_reserved(number) else None)
    peer = view.peers.get(row.cluster)
    return Belief(number, labels, row.cluster, None if peer is None else peer.age_s)


def build_engine(live: LiveCluster, view: AgentView, pods: LiveCluster | None = None) -> tuple[Engine, tuple[str, ...]]:
    """The engine of a cluster as one of its agents runs it, and a remark for each policy that has no effect or is kept closed."""
    context = live.policy_context
    engine, remarks = Engine(context), []
    for number, labels in view.identities.items():
        engine.set_identity(number, labels)
    for cluster in (live, *(() if pods is None or pods.name == live.name else (pods,))):
        for pod in cluster.pods:
            row = view.row_of(pod.address) if pod.named_ports and pod.address else None
            if row is not None:
                name = f"{cluster.name}/{pod.namespace}/{pod.name}"
                engine.set_pod_ports(name, NumericIdentity(row.identity), pod.named_ports)
    items = tuple(load_documents(live.documents, context))
    full = without_room((item for item in items if not isinstance(item, PolicyError)), live.settings.limits)
    for document, item in zip(live.documents, items, strict=True):
        if isinstance(item, Policy):
            engine.set_policy(closed(item) if item.key in full else item)
        elif isinstance(item, CidrGroup):
            engine.set_cidr_group(item)
        else:
            remarks.append(f"{_name_of(document)} is not valid and has no effect: {item}")
    remarks.extend(f"{key} is {why}" for key, why in full.items())
    engine.set_names(view.names)
    return engine, tuple(remarks)


def _decide_side(end: End, other: End, direction: Direction, packet: Packet, asked: Asked | None) -> SideDecision:
    if not end.cluster:
        reason = "it is outside of the mesh: no policy is enforced there"
        return SideDecision(end, _plain(direction, True, reason), None, None)
    if end.live is None or end.view is None:
        reason = f"not known here: give --destination-context with a context of cluster {end.cluster}"
        return SideDecision(end, _plain(direction, None, reason), None, None)
    engine, remarks = build_engine(end.live, end.view, other.live)
    if end.services is not None:
        engine.set_services(end.services)
    own = believe(end.view, end.address, {})
    if end.endpoint is not None:
        number = NumericIdentity(end.endpoint.identity)
        own = Belief(number, end.view.identities.get(number), end.cluster)
    peer = believe(end.view, other.address, engine.prefixes())
    if end.uses_host_network:
        return SideDecision(end, _decide_node(end, other, direction, peer.number, packet), own, peer, None, remarks)
    half = Half(engine, own.number, peer.number, end.named_ports)
    judged = _with_unknowns(explain_side(half, direction, *packet), half, own, peer, packet)
    enforced = _enforced(end, direction, peer.number, packet)
    if end.services is None and _names_services(engine, own.number, direction):
        judged = _by_node(judged, enforced)
    if enforced is not None and enforced.is_proxied:
        judged = _by_request(judged, enforced)
    remarks = (*remarks, *_differences(end, judged, enforced))
    if asked is not None and judged.allowed:
        judged = _by_proxy(judged, half, packet, asked)
    return SideDecision(end, judged, own, peer, enforced, remarks)


def _with_unknowns(judged: SideExplanation, half: Half, own: Belief, peer: Belief, packet: Packet) -> SideExplanation:
    """As agent and kernel treat a peer without an identity: no rule that selects peers allows it."""
    assert half.engine is not None
    if not own.is_known:
        if not half.engine.policies():
            return _plain(judged.direction, True, "there are no policies: everything is allowed")
        reason = "denied until the labels of its identity arrive: no rule can be said to select it"
        return judged._replace(allowed=False, deciding=None, match_type=MatchType.NONE, reason=reason)
    if peer.number != UNKNOWN or not judged.enforced:
        return judged
    policy = half.engine.endpoint_policy(half.endpoint, half.named_ports)
    denied = policy.verdict(judged.direction, ANY_IDENTITY, *packet).entry
    opened = policy.verdict(judged.direction, ANY_IDENTITY, ANY_PROTOCOL, 0)
    if opened.allowed and (denied is None or not denied.deny):
        return judged
    reason = "denied: whose address the peer's is has not arrived at this node, and an unknown peer is never allowed"
    return judged._replace(allowed=False, deciding=None, match_type=MatchType.NONE, reason=reason)


def _names_services(engine: Engine, endpoint: NumericIdentity, direction: Direction) -> bool:
    rules = (rule for rule in engine.rules_of(endpoint) if rule.direction is direction)
    return any(isinstance(peer, ServiceSelector) for rule in rules for peer in rule.peers or ())


def _by_node(judged: SideExplanation, enforced: Enforced | None) -> SideExplanation:
    """Who a Service's backends are is known on the node only, so what its kernel does is the answer."""
    if enforced is None:
        reason = "not known: a rule names a Service, and no node says who its backends are"
        return judged._replace(allowed=None, deciding=None, match_type=MatchType.NONE, reason=reason)
    if enforced.allowed == judged.allowed:
        return judged
    by = f" by {enforced.rule}" if enforced.rule else ""
    reason = f"{'allowed' if enforced.allowed else 'denied'} on its node{by}, where backends of Services are known"
    return judged._replace(allowed=enforced.allowed, deciding=None, match_type=MatchType.NONE, reason=reason)


def _by_request(judged: SideExplanation, enforced: Enforced) -> SideExplanation:
    """A connection whose requests are judged one by one: it is let in, and what each of them gets is the proxy's word."""
    by = f" by {enforced.rule}" if enforced.rule else ""
    reason = f"led to the proxy of its node{by}: a request that no rule allows is refused"
    return judged._replace(allowed=True, reason=reason)


def _by_proxy(judged: SideExplanation, half: Half, packet: Packet, asked: Asked) -> SideExplanation:
    """What the proxy of the node does with a request or a name; without rules about such, everything may be asked."""
    assert half.engine is not None
    policy = half.engine.endpoint_policy(half.endpoint, half.named_ports)
    entry = policy.verdict(judged.direction, int(half.peer), *packet).entry
    ports = half.engine.context.proxy_ports
    listener = ports.listener(entry.proxy_port) if entry is not None and ports is not None else None
    if listener is None:
        return judged
    allowed = lets_through(listener, asked)
    reason = f"{asked} is {'allowed' if allowed else 'refused'} by the proxy of its node, which allows: {rules_text(listener)}"
    return judged._replace(allowed=allowed, reason=reason)


def _enforced(end: End, direction: Direction, peer: NumericIdentity, packet: Packet) -> Enforced | None:
    """The kernel's own decision, looked up in the entries it holds."""
    endpoint = end.endpoint
    if endpoint is None:
        return None
    is_on = endpoint.ingress_enforced if direction is Direction.INGRESS else endpoint.egress_enforced
    if not is_on:
        return Enforced(allowed=True, rule="", revision=endpoint.policy_revision or 0)
    entries = _entries(end)
    verdict = lookup(entries, direction, int(peer), *packet)
    allowed = verdict.allowed and verdict.entry is not None
    if peer == UNKNOWN and allowed:
        everything = lookup(entries, direction, ANY_IDENTITY, ANY_PROTOCOL, 0)
        allowed = everything.allowed
    rule = verdict.entry.rule.section if verdict.entry is not None else ""
    is_proxied = allowed and verdict.entry is not None and bool(verdict.entry.proxy_port)
    return Enforced(allowed, rule, endpoint.policy_revision or 0, is_proxied)


def _decide_node(end: End, other: End, direction: Direction, peer: NumericIdentity, packet: Packet) -> SideExplanation:
    """What the kernel of a node does with the node's own connections: host policies and their guard are in its entries."""
    is_same = (end.cluster, end.node) == (other.cluster, other.node)
    if not end.realised:
        return _plain(direction, True, "it uses its node's network, and no host policy selects the node")
    if is_same and (other.uses_host_network or direction is Direction.EGRESS):
        return _plain(
            direction, True, "what stays on a node, and what a node sends to its own pods, no host policy judges"
        )
    verdict = lookup(_entries(end), direction, int(peer), *packet)
    rule = verdict.entry.rule.section if verdict.entry is not None else ""
    word = "allowed" if verdict.allowed else "denied"
    reason = f"{word} by {rule or 'default'}, as its node enforces host policies"
    return _plain(direction, verdict.allowed, reason)._replace(enforced=True, match_type=verdict.match_type)


def _entries(end: End) -> Mapping[EntryKey, PolicyEntry]:
    return {
        EntryKey(Direction(e.direction), e.identity, e.protocol, e.port, e.port_bits): _entry(e) for e in end.realised
    }


def _entry(entry: PolicyMapRow) -> PolicyEntry:
    origin = RuleOrigin(PolicyRef(PolicyKind.BUILT_IN, "", ""), entry.rule)
    return PolicyEntry(entry.deny, entry.precedence, entry.proxy_port, origin)


def _differences(end: End, judged: SideExplanation, enforced: Enforced | None) -> tuple[str, ...]:
    if enforced is None:
        return (f"node {end.node} enforces nothing for it yet: the agent there has found no interface of this pod",)
    if enforced.allowed == judged.allowed:
        return ()
    does = "allows" if enforced.allowed else "denies"
    by = f" by {enforced.rule}" if enforced.rule else ""
    return (f"node {end.node} still {does} it{by}: its agent has not caught up; ask again, then see its log",)


def _plain(direction: Direction, allowed: bool | None, reason: str) -> SideExplanation:
    return SideExplanation(direction, allowed, False, MatchType.NONE, None, reason, ())


def _name_of(document: Mapping[str, object]) -> str:
    metadata = document.get("metadata")
    facts = metadata if isinstance(metadata, Mapping) else {}
    return "/".join(str(part) for part in (document.get("kind"), facts.get("namespace"), facts.get("name")) if part)
