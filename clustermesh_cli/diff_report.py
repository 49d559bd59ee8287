# SPDX-License-Identifier: Apache-2.0
"""What `clustermesh policy diff` found: each pair and recent connection that is judged differently, and what was not compared.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from meshapi.row import SCHEMA, Row

MOST_LINES: Final = 200


class DiffChange(Row, kw_only=True):
    """What new connections between two ends are judged differently, in one direction. `packets` reads "80/TCP".

    `reason` names the rule that decides now, or the one without which the default does; `rule` is that rule alone.
    """

    direction: str
    source: str = msgspec.field(name="from")
    destination: str = msgspec.field(name="to")
    packets: list[str]
    before: str
    after: str
    reason: str
    rule: str


class DiffFlow(Row, kw_only=True):
    """Recent connections of two ends to one port that would end otherwise: how many, how many of them were dropped.

    `example` is the last of them, seen on `node` at `last`.
    """

    direction: str
    source: str = msgspec.field(name="from")
    destination: str = msgspec.field(name="to")
    packets: str
    connections: int
    dropped: int
    before: str
    after: str
    reason: str
    rule: str
    example: str
    node: str
    last: str


class DiffNode(Row, kw_only=True):
    """A node that told its recent connections: those `since` a moment (empty: it saw none).

    `is_whole`: that is all since its agent began. `lost` of the kernel's events are in no answer, nor are `left_out` of its
    connections, which no answer has room for.
    """

    node: str
    since: str
    is_whole: bool
    lost: int
    left_out: int
    connections: int


class DiffReport(Row, kw_only=True):
    """How many identity `pairs` of `cluster` are judged differently. `errors` are of documents that would have no effect;
    nothing is compared then. `not_enforced` are parts of valid ones that nobody can enforce yet, compared as what they come to.

    `flows` are the recent connections among them, the most first, of `connections_judged`; `connections_unknown` have an end
    that nobody knows any more. `nodes` told theirs, `nodes_missing` did not.
    """

    schema: int = SCHEMA
    cluster: str
    pairs: int = 0
    changes: list[DiffChange] = msgspec.field(default_factory=list)
    flows: list[DiffFlow] = msgspec.field(default_factory=list)
    connections_judged: int = 0
    connections_unknown: int = 0
    nodes: list[DiffNode] = msgspec.field(default_factory=list)
    nodes_missing: list[str] = msgspec.field(default_factory=list)
    errors: list[str] = msgspec.field(default_factory=list)
    not_enforced: list[str] = msgspec.field(default_factory=list)
    warnings: list[str] = msgspec.field(default_factory=list)


def change_lines(report: DiffReport) -> Iterable[str]:
    """One line a change, as many as a person reads; then the same of recent connections."""
    for change in report.changes[:MOST_LINES]:
        yield (
            f"{report.cluster} {change.direction}: from {change.source} to {change.destination}: "
            f"{', '.join(change.packets)}: {change.before} -> {change.after} {change.reason}"
        )
    yield from _more(len(report.changes))
    for flow in report.flows[:MOST_LINES]:
        yield (
            f"{report.cluster} {flow.direction}: {_count(flow.connections, 'recent connection')} "
            f"from {flow.source} to {flow.destination}: {flow.packets}: {flow.before} -> {flow.after} {flow.reason}; "
            f"the last on {flow.node} at {flow.last}: {flow.example}"
        )
    yield from _more(len(report.flows))


def coverage_lines(report: DiffReport) -> Iterable[str]:
    """How far back the recent connections reach."""
    seen = [node for node in report.nodes if node.since]
    yield (
        f"{_count(report.connections_judged, 'recent connection')} of {_count(len(report.nodes), 'node')} judged again"
        + (
            f", {report.connections_unknown} more of ends that are not known any more"
            * bool(report.connections_unknown)
        )
    )
    if seen:
        last = max(seen, key=lambda node: node.since)
        first = min(seen, key=lambda node: node.since)
        whole = sum(node.is_whole for node in seen)
        yield (
            f"they reach back to {last.since} on {last.node}"
            + (f", furthest to {first.since} on {first.node}" if first.node != last.node else "")
            + f"; of {_count(whole, 'node')} to the start of the agent"
        )


def coverage_warnings(report: DiffReport) -> Iterable[str]:
    """What recent connections leave out."""
    for missing in report.nodes_missing:
        yield f"recent connections are not known of {missing}"
    left_out = sum(node.left_out for node in report.nodes)
    if left_out:
        yield f"{_count(left_out, 'recent connection')} of rarer kinds left out: a node tells so many kinds only"
    lost = [node for node in report.nodes if node.lost]
    if lost:
        yield f"{sum(node.lost for node in lost)} events of {_count(len(lost), 'node')} were lost, so connections may be missing"


def sum_line(report: DiffReport) -> str:
    pairs, flows = _count(report.pairs, "pair"), sum(flow.connections for flow in report.flows)
    return f"RESULT {pairs} of {report.cluster} judged differently, and {_count(flows, 'recent connection')}"


def _more(number: int) -> Iterable[str]:
    if number > MOST_LINES:
        yield f"... and {number - MOST_LINES} more"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
