# SPDX-License-Identifier: Apache-2.0
"""Flows as people read them: one line each (compact), a block each (dict), or rows of a table. Pure.

Source: what `hubble observe` prints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from flows.proto import flow_pb2 as pb
from flows.proto import observer_pb2 as observer
from flows.proto import relay_pb2 as relay
from flows.words import identity_text, type_text, verdict_text

NAMES_WIDTH: Final = 50
"""So many characters of a list of nodes are printed."""
SEPARATOR: Final = "-" * 12
_KEYS: Final = ("TIMESTAMP", "NODE", "SOURCE", "DESTINATION", "TYPE", "VERDICT", "SUMMARY")
_GUTTER: Final = "   "
RULE_LABEL: Final = "mesh.clustermesh.io/rule="
"""A label of a `Policy`: the rule that decided, as policies name their rules (`cnp/default/deny ingress[0]`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How flows are printed. `clusters` and `rules` are ours: the cluster before each pod, and the deciding rule."""

    nodes: bool = False
    numeric: bool = False
    policies: bool = False
    clusters: bool = False
    rules: bool = False
    stamp: Callable[[float], str] | None = None


PLAIN: Final = Look()


def stamp(wall_s: float) -> str:
    """`Jan _2 15:04:05.000` in UTC, the day padded with a space."""
    moment = datetime.fromtimestamp(wall_s, UTC)
    return f"{moment:%b} {moment.day:2d} {moment:%H:%M:%S}.{moment.microsecond // 1000:03d}"


def compact_line(flow: pb.Flow, look: Look = PLAIN) -> str:
    """`TIME[ [NODE]]: SRC (SRCID) ARROW DST (DSTID) TYPE VERDICT[ BY POLICY][ STAGED VERDICT BY RULE] (SUMMARY)`.

    A reply has its sides swapped.
    """
    left = f"{_host(flow, look, is_source=True)} ({identity_text(flow.source.identity)})"
    right = f"{_host(flow, look, is_source=False)} ({identity_text(flow.destination.identity)})"
    arrow = "<>"
    if flow.HasField("is_reply"):
        arrow = "->"
        if flow.is_reply.value:
            left, arrow, right = right, "<-", left
    node = f" [{flow.node_name}]" if look.nodes else ""
    decided = f"{verdict_text(flow)}{_by(flow, look)}{_staged(flow)}"
    return f"{_time(flow, look)}{node}: {left} {arrow} {right} {type_text(flow)} {decided} ({_summary(flow)})"


def dict_block(flow: pb.Flow, look: Look = PLAIN) -> str:
    """One `KEY: value` a line, the keys right-aligned."""
    width = max(map(len, _KEYS))
    pairs = zip(_keys(look), cells(flow, look), strict=True)
    return "\n".join(f"{key:>{width}}: {value}" for key, value in pairs)


def cells(flow: pb.Flow, look: Look = PLAIN) -> list[str]:
    """The columns of a table, or the values of a block."""
    found = [_time(flow, look), *([flow.node_name] if look.nodes else [])]
    sides = [_host(flow, look, is_source=True), _host(flow, look, is_source=False)]
    return [*found, *sides, type_text(flow), f"{verdict_text(flow)}{_by(flow, look)}{_staged(flow)}", _summary(flow)]


def table_lines(flows: Iterable[pb.Flow], look: Look = PLAIN) -> list[str]:
    """A header and a row for each flow, columns as wide as they must be."""
    return aligned([_keys(look), *(cells(flow, look) for flow in flows)])


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of equally many cells, each column as wide as it must be."""
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    return [_GUTTER.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def lost_line(answer: observer.GetFlowsResponse, look: Look = PLAIN) -> str:
    """`TIME EVENTS LOST: SOURCE CPU(n) number`."""
    lost, node = answer.lost_events, f" [{answer.node_name}]" if look.nodes else ""
    when = (look.stamp or stamp)(answer.time.ToNanoseconds() / 1e9)
    source = pb.LostEventSource.Name(lost.source)
    return f"{when}{node} EVENTS LOST: {source} CPU({lost.cpu.value}) {lost.num_events_lost}"


def status_line(answer: observer.GetFlowsResponse, look: Look = PLAIN) -> str:
    """What a relay says of nodes: those it cannot ask, and what they answered."""
    event = answer.node_status
    when = (look.stamp or stamp)(answer.time.ToNanoseconds() / 1e9)
    number, names = len(event.node_names), _names(event.node_names)
    match event.state_change:
        case relay.NODE_CONNECTED if event.message:
            return f"{when} [{answer.node_name}]: {names}: {event.message}"
        case relay.NODE_ERROR:
            return f'{when} [{answer.node_name}]: Error "{event.message}" on {number} nodes: {names}'
        case relay.NODE_CONNECTED:
            said = "connected"
        case relay.NODE_UNAVAILABLE:
            said = "unavailable"
        case relay.NODE_GONE:
            said = "gone"
        case _:
            said = "in an unknown state"
    return f"{when} [{answer.node_name}]: {number} nodes are {said}: {names}"


def _names(names: Sequence[str]) -> str:
    """A list of nodes, cut at NAMES_WIDTH characters; the first stands there in full."""
    shown, length = 1, len(names[0]) if names else 0
    while shown < len(names) and length + 2 + len(names[shown]) <= NAMES_WIDTH:
        length += 2 + len(names[shown])
        shown += 1
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" (and {rest} more)" if rest > 0 else "")


def _keys(look: Look) -> list[str]:
    return [key for key in _KEYS if look.nodes or key != "NODE"]


def _time(flow: pb.Flow, look: Look) -> str:
    return (look.stamp or stamp)(flow.time.seconds + flow.time.nanos / 1e9)


def _host(flow: pb.Flow, look: Look, *, is_source: bool) -> str:
    """A side by the best name that is known of it, and its port."""
    if not flow.HasField("IP"):
        return flow.ethernet.source if is_source else flow.ethernet.destination
    end = flow.source if is_source else flow.destination
    service = flow.source_service if is_source else flow.destination_service
    names = flow.source_names if is_source else flow.destination_names
    host = flow.IP.source if is_source else flow.IP.destination
    if not look.numeric:
        if end.pod_name:
            host = _path(end.cluster_name if look.clusters else "", end.namespace, end.pod_name)
        elif service.name:
            host = _path("", service.namespace, service.name)
        elif names:
            host = ",".join(names)
    port = _port(flow.l4, is_source=is_source)
    if not port:
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _path(*parts: str) -> str:
    return "/".join(part for part in parts if part)


def _port(l4: pb.Layer4, *, is_source: bool) -> int:
    match l4.WhichOneof("protocol"):
        case "TCP":
            return l4.TCP.source_port if is_source else l4.TCP.destination_port
        case "UDP":
            return l4.UDP.source_port if is_source else l4.UDP.destination_port
        case "SCTP":
            return l4.SCTP.source_port if is_source else l4.SCTP.destination_port
    return 0


def _by(flow: pb.Flow, look: Look) -> str:
    deciding = (flow.egress_denied_by, flow.ingress_denied_by, flow.egress_allowed_by, flow.ingress_allowed_by)
    policies = [policy for found in deciding for policy in found]
    if not policies or not (look.policies or look.rules):
        return ""
    shown = (_rule(policy) if look.rules else _policy(policy) for policy in policies)
    return f" BY {', '.join(shown)}"


def _staged(flow: pb.Flow) -> str:
    """What staged policies would decide, where one selects the endpoint."""
    if not flow.HasField("staged"):
        return ""
    word = "ALLOWED" if flow.staged.verdict == pb.FORWARDED else pb.Verdict.Name(flow.staged.verdict)
    word = "DENIED" if flow.staged.verdict == pb.DROPPED else word
    return f" STAGED {word} BY {_rule(flow.staged.policy)}"


def _policy(policy: pb.Policy) -> str:
    return f"{policy.name} ({policy.kind})" if policy.kind else policy.name


def _rule(policy: pb.Policy) -> str:
    rules = [label.removeprefix(RULE_LABEL) for label in policy.labels if label.startswith(RULE_LABEL)]
    return rules[0] if rules else _policy(policy)


def _summary(flow: pb.Flow) -> str:
    before = f"IP Trace ID: {flow.ip_trace_id.trace_id}; " if flow.ip_trace_id.trace_id else ""
    after = f"; Auth: {pb.AuthType.Name(flow.auth_type)}" if flow.auth_type else ""
    return f"{before}{flow.Summary}{after}"
