# SPDX-License-Identifier: Apache-2.0
"""How a judged connection reads, for people and as JSON."""

from __future__ import annotations

from typing import Final

from clustermesh_cli.connection_decision import Belief, ConnectionDecision, End, Packet, SideDecision
from clustermesh_cli.console import Console
from meshmodel.identity import identity_name, is_reserved
from meshmodel.labels import (
    CLUSTER_LABEL,
    NAMESPACE_LABEL,
    NAMESPACE_LABELS_PREFIX,
    NODE_KEY,
    SERVICE_ACCOUNT_LABEL,
    Labels,
    labels_text,
)
from meshpolicy.mapstate import MatchType
from meshpolicy.port import PROTOCOL_NAMES

_WORDS: Final = {True: "allowed", False: "denied", None: "not known"}
_EVERY_POD_HAS: Final = (CLUSTER_LABEL, NAMESPACE_LABEL, SERVICE_ACCOUNT_LABEL)


def render(
    decision: ConnectionDecision, packet: Packet, wall_s: float, console: Console, *, verbose: bool = True
) -> None:
    """The two ends, the two sides, the result; one fact a line. Unless `verbose`, rules that do not apply are counted."""
    for word, side in zip(("from", "to"), decision, strict=True):
        console.line(f"{word:<5}{_end_text(side.end)}")
        if side.own is not None:
            console.line(f"     {_belief_text(side.own, _born_s(side), wall_s)}")
    console.line(f"port {_port_text(packet)}")
    console.line()
    for side in decision:
        _render_side(side, console, verbose=verbose)
    console.line(f"RESULT {_result(decision)}")


def _render_side(side: SideDecision, console: Console, *, verbose: bool) -> None:
    said = side.explanation
    mark = {True: console.ok, False: console.fail, None: console.warn}[said.allowed]
    where = f"{said.direction.word}, judged by {side.end.cluster}" if side.end.cluster else said.direction.word
    mark(f"{where}: {said.reason}")
    if side.peer is not None:
        console.line(f"     sees the other end as {_belief_text(side.peer)}")
    if side.enforced is not None:
        does = "allows" if side.enforced.allowed else "drops"
        by = f" by {side.enforced.rule}" if side.enforced.rule else ""
        console.line(f"     node {side.end.node} {does} it now{by} (policy revision {side.enforced.revision})")
    shown = [note for note in said.rules if verbose or note.applies]
    for note in shown:
        console.line(f"     {note.origin}: {note.effect} ({note.reason})")
    hidden = len(said.rules) - len(shown)
    if hidden:
        console.line(
            f"     {hidden} rule{'' if hidden == 1 else 's'} of {_documents(side)} not applying (-v shows them)"
        )
    for remark in side.remarks:
        console.warn(remark)
    console.line()


def _documents(side: SideDecision) -> str:
    names = dict.fromkeys(str(note.origin.policy) for note in side.explanation.rules if not note.applies)
    return next(iter(names)) if len(names) == 1 else f"{len(names)} policies"


def short_labels(labels: Labels) -> list[str]:
    """The labels that tell one pod of a namespace from another."""
    return [
        f"{label.key}={label.value}" if label.value else label.key
        for label in labels
        if label.source != NODE_KEY
        and label.key not in _EVERY_POD_HAS
        and not label.key.startswith(NAMESPACE_LABELS_PREFIX)
    ]


def _result(decision: ConnectionDecision) -> str:
    if decision.allowed:
        return "allowed by both sides"
    stops = [side for side in decision if side.explanation.allowed is decision.allowed]
    parts = [f"{side.explanation.direction.word} ({side.end.cluster})" for side in stops]
    if decision.allowed is None:
        return f"not known: {' and '.join(parts)} was not judged, and the other side allows it"
    lets = [side for side in decision if side.explanation.allowed and side.end.cluster]
    other = f"; {lets[0].explanation.direction.word} allows it" if lets else ""
    return f"denied by {' and '.join(parts)}{other}"


def _end_text(end: End) -> str:
    facts = [f"cluster {end.cluster}" if end.cluster else "outside of the mesh", end.node and f"node {end.node}"]
    address = "" if end.name == end.address else end.address
    return f"{end.name} ({', '.join(part for part in (*facts, address) if part)})"


def _belief_text(belief: Belief, born_s: float | None = None, wall_s: float = 0.0) -> str:
    number = int(belief.number)
    name = f" ({identity_name(number)})" if is_reserved(number) and number else ""
    facts = [f"identity {number}{name}" if number else "unknown: no record or policy names this address"]
    if number and not belief.is_known:
        facts.append("its labels have not arrived")
    facts.extend(short_labels(belief.labels or ()))
    if born_s is not None:
        facts.append(f"created {_age(wall_s - born_s)} ago")
    if belief.age_s is not None:
        facts.append(f"told by {belief.told_by}, confirmed {_age(belief.age_s)} ago")
    return ", ".join(facts)


def _born_s(side: SideDecision) -> float | None:
    if side.own is None or side.end.live is None:
        return None
    return side.end.live.identity_born_s.get(int(side.own.number))


def _age(age_s: float) -> str:
    for size_s, letter in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if age_s >= size_s:
            return f"{age_s / size_s:.0f}{letter}"
    return f"{max(age_s, 0):.0f}s"


def _port_text(packet: Packet) -> str:
    return f"{packet.port}/{PROTOCOL_NAMES.get(packet.protocol, str(packet.protocol))}"


def to_document(decision: ConnectionDecision, packet: Packet, wall_s: float) -> dict[str, object]:
    """Everything `render` says, for -o json. Ages are in seconds; null is "not known" or "does not apply"."""
    source, destination = decision
    return {
        "from": _end_document(source, wall_s),
        "to": _end_document(destination, wall_s),
        "port": packet.port,
        "protocol": PROTOCOL_NAMES.get(packet.protocol, str(packet.protocol)),
        "verdict": _WORDS[decision.allowed],
        "result": _result(decision),
        "egress": _side_document(source),
        "ingress": _side_document(destination),
    }


def _end_document(side: SideDecision, wall_s: float) -> dict[str, object]:
    end, born_s = side.end, _born_s(side)
    return {
        "name": end.name,
        "cluster": end.cluster or None,
        "node": end.node or None,
        "address": end.address,
        "identity": None if side.own is None else _belief_document(side.own),
        "identity-age": None if born_s is None else round(wall_s - born_s, 3),
    }


def _side_document(side: SideDecision) -> dict[str, object]:
    said = side.explanation
    enforced = side.enforced
    return {
        "cluster": side.end.cluster or None,
        "verdict": _WORDS[said.allowed],
        "policy-enforced": said.enforced,
        "reason": said.reason,
        "deciding-rule": None if said.deciding is None else str(said.deciding),
        "match": None if said.match_type is MatchType.NONE else said.match_type.name.replace("_", "-"),
        "peer": None if side.peer is None else _belief_document(side.peer),
        "rules": [{"rule": str(note.origin), "effect": note.effect, "reason": note.reason} for note in said.rules],
        "node": None
        if enforced is None
        else {"verdict": _WORDS[enforced.allowed], "rule": enforced.rule or None, "policy-revision": enforced.revision},
        "remarks": list(side.remarks),
    }


def _belief_document(belief: Belief) -> dict[str, object]:
    return {
        "identity": int(belief.number),
        "known": belief.is_known,
        "labels": labels_text(belief.labels or ()),
        "told-by": belief.told_by or None,
        "age": belief.age_s,
    }
