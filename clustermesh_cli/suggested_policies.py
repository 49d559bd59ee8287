# SPDX-License-Identifier: Apache-2.0
"""Recent connections as what policies are suggested from, and suggestions as YAML with the flows of each rule. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

import msgspec

from clustermesh_cli.flow_changes import DIRECTIONS, FlowJudge, ends, rows_of
from clustermesh_cli.live_policy import AgentView
from meshapi.connection import ConnectionEnd, ConnectionRow, RecentConnections
from meshapi.row import SCHEMA, Row
from meshapi.shown_times import rfc3339
from meshmodel.identity import NumericIdentity, identity_name
from meshpolicy.reference import Direction
from meshpolicy.suggest import SeenConnection, SuggestedPolicy, Suggestions
from meshpolicy.verdict_changes import packets_text

MOST_TOLD: Final = 5
"""Flows told for each rule; the others are counted."""


class SuggestionReport(Row, kw_only=True):
    """What `policy suggest` found: documents to apply, connections they were made of and are judged by, and what is left out."""

    schema: int = SCHEMA
    cluster: str
    policies: list[Any]
    connections: int = 0
    denied: list[str] = msgspec.field(default_factory=list)
    left_out: list[str] = msgspec.field(default_factory=list)
    warnings: list[str] = msgspec.field(default_factory=list)


class SeenRow(NamedTuple):
    """One row of a node's answer."""

    node: str
    row: ConnectionRow


def seen_connections(
    answers: Iterable[RecentConnections], view: AgentView, namespace: str, since_s: float, *, with_dropped: bool
) -> list[SeenConnection]:
    """Connections of pods of the namespace ("" is every one), the last of which was at `since_s` or later."""
    found = []
    for node, row in rows_of(answers):
        own, other = ends(DIRECTIONS[row.direction], row)
        labels = view.identities.get(NumericIdentity(own.identity))
        if labels is None or row.last < since_s or (namespace and own.namespace != namespace):
            continue
        if not with_dropped and row.dropped >= row.connections:
            continue
        found.append(
            SeenConnection(
                direction=DIRECTIONS[row.direction],
                own=labels,
                peer=view.identities.get(NumericIdentity(other.identity)),
                peer_identity=_number(view, other),
                peer_address=other.ip,
                protocol=row.protocol,
                port=row.port,
                tag=SeenRow(node, row),
            )
        )
    return found


def _number(view: AgentView, end: ConnectionEnd) -> NumericIdentity:
    """The identity that the flow had; where it had none, the one that the address has now."""
    if end.identity:
        return NumericIdentity(end.identity)
    row = view.row_of(end.ip)
    return NumericIdentity(row.identity if row is not None else 0)


def still_denied(judge: FlowJudge, policies: Iterable[SuggestedPolicy]) -> Iterator[str]:
    """What a policy set denies of the connections that the policies were made of, one line for each kind."""
    for each in (seen for policy in policies for rule in policy.rules for seen in rule.seen):
        row = _row(each)
        verdict = judge.verdict(each.direction, row)
        if verdict is not None and not verdict.allowed:
            reason = f"by {verdict.entry.rule}" if verdict.entry is not None else "by default"
            yield f"{flow_text(row)}: {each.direction.word} denied {reason}"


def policy_lines(policy: SuggestedPolicy, dump: Callable[[object], str]) -> Iterator[str]:
    """YAML of the policy; above each rule, as comments, the flows it came from. `dump` makes YAML of a value."""
    yield "---"
    yield from dump(dict(policy.frame)).splitlines()
    for direction in Direction:
        rules = [each for each in policy.rules if each.direction is direction]
        if rules:
            yield f"  {direction.word}:"
        for rule in rules:
            for line in _sources([_row(each) for each in rule.seen]):
                yield f"  # {line}"
            for line in dump([dict(rule.rule)]).splitlines():
                yield f"  {line}"


def _sources(rows: list[ConnectionRow]) -> Iterator[str]:
    counted: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    last: dict[str, float] = {}
    for row in rows:
        text = flow_text(row)
        counted[text] += row.connections
        dropped[text] += row.dropped
        last[text] = max(last.get(text, 0.0), row.last)
    for text, number in counted.most_common(MOST_TOLD):
        cut = f", {dropped[text]} of them dropped" if dropped[text] else ""
        yield f"{text}: {number} connection{'s' * (number > 1)}{cut}, last {rfc3339(last[text])}"
    if (more := len(counted) - MOST_TOLD) > 0:
        yield f"and {more} more pairs of pods"


def left_out_lines(found: Suggestions) -> list[str]:
    """One sentence for each connection that no rule can be written for."""
    return sorted({f"{flow_text(_row(each))}: {reason}" for each, reason in found.left_out})


def flow_text(row: ConnectionRow) -> str:
    """`default/a -> shop/b (south) 80/TCP`."""
    return f"{_end(row.source)} -> {_end(row.destination)} {packets_text(row.protocol, row.port, row.port)}"


def _end(end: ConnectionEnd) -> str:
    name = f"{end.namespace}/{end.pod}" if end.pod else f"{end.ip} ({identity_name(end.identity)})"
    return f"{name} ({end.cluster})" if end.cluster and end.pod else name


def _row(each: SeenConnection) -> ConnectionRow:
    assert isinstance(each.tag, SeenRow)
    return each.tag.row
