# SPDX-License-Identifier: Apache-2.0
"""Why a connection is allowed or denied: the deciding rule of each side, and what every other rule says to it."""

from __future__ import annotations

from collections.abc import Iterator
from types import MappingProxyType
from typing import Final, NamedTuple

from meshmodel.identity import NumericIdentity
from meshpolicy.engine import Engine
from meshpolicy.mapstate import MatchType, Verdict, precedence
from meshpolicy.node_peer import is_unlabelled_node, peer_text, selects_nodes
from meshpolicy.peer import FqdnSelector, ServiceSelector
from meshpolicy.port import EVERYTHING, L4Key, NamedPorts, PortSpec
from meshpolicy.reference import Direction, RuleOrigin
from meshpolicy.rule import Rule
from meshpolicy.tier import Tier

_NO_EFFECT: Final = "does not apply"


class Half(NamedTuple):
    """One end of a connection as its own cluster's agents see it.

    `endpoint` is judged, `peer` is the other end. An engine None means that this cluster's policies are not known.
    """

    engine: Engine | None
    endpoint: NumericIdentity
    peer: NumericIdentity
    named_ports: NamedPorts = MappingProxyType({})


class RuleNote(NamedTuple):
    """What one rule that selects the endpoint says to this connection."""

    origin: RuleOrigin
    effect: str
    """"allows", "denies", "passes on", "would allow" (its restriction cannot be enforced yet) or "does not apply"."""
    reason: str

    @property
    def applies(self) -> bool:
        """Whether the rule's peers and ports include this connection."""
        return self.effect != _NO_EFFECT


class SideExplanation(NamedTuple):
    """One side's decision. `allowed` None: not known."""

    direction: Direction
    allowed: bool | None
    enforced: bool
    match_type: MatchType
    deciding: RuleOrigin | None
    reason: str
    rules: tuple[RuleNote, ...]


class Explanation(NamedTuple):
    """Both sides; the connection needs both."""

    egress: SideExplanation
    ingress: SideExplanation

    @property
    def allowed(self) -> bool | None:
        """Whether the connection is possible; None if a side is not known and none denies."""
        sides = (self.egress.allowed, self.ingress.allowed)
        if False in sides:
            return False
        return None if None in sides else True


def explain(source: Half, destination: Half, protocol: int, port: int) -> Explanation:
    """Both sides of a connection from source.endpoint to destination.endpoint."""
    return Explanation(
        explain_side(source, Direction.EGRESS, protocol, port),
        explain_side(destination, Direction.INGRESS, protocol, port),
    )


def explain_side(half: Half, direction: Direction, protocol: int, port: int) -> SideExplanation:
    """What one end decides, by which rule, and why the other rules did not."""
    engine = half.engine
    if engine is None:
        reason = "the policies of this cluster are not known here"
        return SideExplanation(direction, None, False, MatchType.NONE, None, reason, ())
    policy = engine.endpoint_policy(half.endpoint, half.named_ports)
    verdict = policy.verdict(direction, int(half.peer), protocol, port)
    enforced = policy.side(direction).enforced
    rules = [rule for rule in engine.rules_of(half.endpoint) if rule.direction is direction]
    notes = tuple(_note(rule, engine, half, L4Key(protocol, port, 16)) for rule in rules)
    applying = [rule for rule, note in zip(rules, notes, strict=True) if note.applies]
    deciding = verdict.entry.rule if verdict.entry is not None else None
    reason = _reason(verdict, notes, enforced=enforced, direction=direction) + _passed_by(applying)
    return SideExplanation(direction, verdict.allowed, enforced, verdict.match_type, deciding, reason, notes)


def _reason(verdict: Verdict, notes: tuple[RuleNote, ...], *, enforced: bool, direction: Direction) -> str:
    if not enforced:
        return f"no policy selects the endpoint for {direction.word}: everything is allowed"
    if verdict.entry is not None:
        word = "allowed" if verdict.allowed else "denied"
        return f"{word} by {verdict.entry.rule} ({verdict.match_type.name.replace('_', '-')})"
    if any(note.effect == "would allow" for note in notes):
        return "denied by default: the rule that would allow it restricts more than can be enforced yet"
    return f"denied by default: {len(notes)} rules select the endpoint for {direction.word} and none allows this"


def _passed_by(rules: list[Rule]) -> str:
    """Which Admin rule left the decision to the next tier."""
    first = min((rule for rule in rules if rule.tier is Tier.ADMIN), key=_order, default=None)
    return f", passed on by {first.origin}" if first is not None and first.passes else ""


def _order(rule: Rule) -> tuple[int, int, RuleOrigin]:
    return rule.level, -precedence(rule.level, deny=rule.deny, passes=rule.passes), rule.origin


def _note(rule: Rule, engine: Engine, half: Half, packet: L4Key) -> RuleNote:
    reason = _mismatch(rule, engine, half, packet)
    if reason:
        return RuleNote(rule.origin, _NO_EFFECT, reason)
    plain = "denies" if rule.deny else "passes on" if rule.passes else "allows"
    effect = "would allow" if rule.unenforced else plain
    return RuleNote(rule.origin, effect, "peer and port match")


def _mismatch(rule: Rule, engine: Engine, half: Half, packet: L4Key) -> str:
    if rule.peers == ():
        return "it names no peer"
    if rule.peers is not None and not any(half.peer in engine.selected_by(peer, deny=rule.deny) for peer in rule.peers):
        if any(isinstance(peer, FqdnSelector) for peer in rule.peers):
            names = " or ".join(str(peer) for peer in rule.peers if isinstance(peer, FqdnSelector))
            return f"no pod of the node was told that {names} has the peer's address"
        if any(isinstance(peer, ServiceSelector) for peer in rule.peers) and not tuple(engine.services()):
            return f"who {' or '.join(str(peer) for peer in rule.peers)} is, only the node knows"
        if any(map(selects_nodes, rule.peers)) and is_unlabelled_node(engine.labels_of(half.peer) or ()):
            return "which labels the node has is not known here"
        return f"the peer is not {' or '.join(dict.fromkeys(map(peer_text, rule.peers)))}"
    if rule.ports is None:
        return ""
    keys = (key for spec in rule.ports for key in _keys(spec, engine, half, rule.direction))
    if any(key == EVERYTHING or key.covers(packet) for key in keys):
        return ""
    return f"the port is not {' or '.join(map(str, dict.fromkeys(rule.ports))) or 'any'}"


def _keys(spec: PortSpec, engine: Engine, half: Half, direction: Direction) -> Iterator[L4Key]:
    if not spec.name:
        yield from spec.map_keys()
        return
    ports = {name.lower(): port for name, port in half.named_ports.items()}
    if direction is Direction.EGRESS:
        yield from (key for found in engine.resolve_egress_port(spec, half.peer) for key in found.map_keys())
    elif (own := spec.resolved(ports)) is not None:
        yield from own.map_keys()


def render(explanation: Explanation) -> str:
    """The explanation as people read it, one line per fact."""
    words = {True: "allowed", False: "denied", None: "not known"}
    lines = [f"connection: {words[explanation.allowed]}"]
    for side in explanation:
        lines.append(f"{side.direction.word}: {words[side.allowed]}: {side.reason}")
        lines.extend(f"  {note.origin}: {note.effect} ({note.reason})" for note in side.rules)
    return "\n".join(lines)
