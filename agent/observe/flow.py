# SPDX-License-Identifier: Apache-2.0
"""One flow record, from one datapath event and the tables as they are now. Pure.

Source: fields, verdicts, directions and summaries are those of Hubble's flow message.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Protocol

import msgspec

from agent.datapath.flow_layout import DatapathEvent, EventType, PolicyMatch, TracePoint, TraceReason
from agent.datapath.layout import Direction
from agent.datapath.reasons import Reason
from agent.tables import AgentDB, FrontendKey
from meshmodel import protocol
from meshmodel.identity import LOCAL_SCOPE_CIDR, identity_name, is_reserved
from meshmodel.labels import CLUSTER_LABEL

_FLAGS = (("SYN", 2), ("ACK", 16), ("RST", 4), ("FIN", 1), ("PSH", 8), ("URG", 32), ("ECE", 64), ("CWR", 128))
_POINTS = {TracePoint.TO_ENDPOINT: "to-endpoint", TracePoint.TO_STACK: "to-stack", TracePoint.TO_OVERLAY: "to-overlay"}
_MATCHES = {
    PolicyMatch.NONE: "none",
    PolicyMatch.L3_ONLY: "L3-Only",
    PolicyMatch.L3_L4: "L3-L4",
    PolicyMatch.L4_ONLY: "L4-Only",
    PolicyMatch.ALL: "all",
    PolicyMatch.L3_PROTOCOL: "L3-Proto",
    PolicyMatch.PROTOCOL_ONLY: "Proto-Only",
}
_ICMP = "ICMPv4"
_ICMP_TYPES = {0: "EchoReply", 3: "DestinationUnreachable", 8: "EchoRequest", 11: "TimeExceeded"}
_UNREACHABLE = {0: "(Net)", 1: "(Host)", 3: "(Port)", 4: "(FragmentationNeeded)"}


class FlowVerdict(StrEnum):
    FORWARDED = "FORWARDED"
    DROPPED = "DROPPED"
    REDIRECTED = "REDIRECTED"


class FlowType(StrEnum):
    DROP = "drop"
    TRACE = "trace"
    POLICY_VERDICT = "policy-verdict"


class FlowEnd(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One side of a flow."""

    ip: str
    port: int = 0
    identity: int = 0
    name: str = ""
    namespace: str = ""
    pod: str = ""
    cluster: str = ""
    labels: tuple[str, ...] = ()


class Flow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of what happened. `is_reply` None: not known, as for every drop."""

    time_s: float
    type: FlowType
    verdict: FlowVerdict
    source: FlowEnd
    destination: FlowEnd
    protocol: str
    summary: str
    direction: str = ""
    what: str = ""
    reason: int = 0
    is_reply: bool | None = None
    endpoint_id: int = 0
    policy: str = ""
    service: str = ""
    node: str = ""
    length: int = 0
    icmp_type: int = 0


class Rules(Protocol):
    """The name of a policy rule by its number in the maps; "" if it is not known."""

    def __call__(self, rule_id: int, /) -> str: ...


class FlowMaker:
    """Names addresses and identities from the tables; `wall_of` turns the kernel's clock into wall seconds."""

    def __init__(self, db: AgentDB, wall_of: Callable[[int], float], rule_name: Rules) -> None:
        self._db, self._wall_of, self._rule_name = db, wall_of, rule_name

    def make(self, event: DatapathEvent) -> Flow:
        """The record of one event."""
        kind = {EventType.DROP: FlowType.DROP, EventType.POLICY_VERDICT: FlowType.POLICY_VERDICT}.get(
            EventType(event.type), FlowType.TRACE
        )
        is_icmp = event.protocol == protocol.ICMP
        source = self._peer(event.source, 0 if is_icmp else event.source_port, event.source_identity)
        target = self._peer(event.destination, 0 if is_icmp else event.destination_port, event.destination_identity)
        reason = self._reason(event, source, target) if kind is FlowType.DROP else event.reason
        is_reply = event.reason == TraceReason.REPLY if kind is FlowType.TRACE else None
        verdict = _verdict(kind, event)
        if kind is FlowType.POLICY_VERDICT and verdict is not FlowVerdict.DROPPED:
            is_reply = False
        return Flow(
            time_s=self._wall_of(event.timestamp_ns),
            type=kind,
            verdict=verdict,
            source=source,
            destination=target,
            protocol=_protocol(event.protocol),
            summary=_summary(event),
            direction="ingress" if event.direction == Direction.INGRESS else "egress",
            what=_what(kind, event, reason),
            reason=reason,
            is_reply=is_reply,
            endpoint_id=event.endpoint_id,
            policy=self._rule_name(event.rule_id) if event.rule_id else "",
            service=self._service(event),
            node=f"{self._db.own}/{self._db.node_name}",
            length=event.length,
            icmp_type=event.source_port if is_icmp else 0,
        )

    def _peer(self, ip: str, port: int, identity: int) -> FlowEnd:
        row = self._db.prefixes.get(f"{ip}/32" if ":" not in ip else f"{ip}/128")
        number = identity or (row.identity if row is not None else 0)
        known = self._db.identities.get(number)
        cluster = known.cluster if known is not None else (row.cluster if row is not None else "")
        if known is not None:
            cluster = next((label.value for label in known.labels if label.key == CLUSTER_LABEL), cluster)
        is_pod = row is not None and bool(row.namespace)
        return FlowEnd(
            ip=ip,
            port=port,
            identity=number,
            name=identity_name(number) if is_reserved(number) else "",
            namespace=row.namespace if row is not None and is_pod else "",
            pod=row.name if row is not None and is_pod else "",
            cluster=cluster,
            labels=tuple(f"{x.source}:{x.key}={x.value}" for x in known.labels) if known is not None else (),
        )

    def _reason(self, event: DatapathEvent, source: FlowEnd, target: FlowEnd) -> int:
        """A policy drop of a peer whose labels have not arrived has a reason of its own: no rule denied it."""
        remote = source if event.direction == Direction.INGRESS else target
        is_labelled = is_reserved(remote.identity) or remote.identity >= LOCAL_SCOPE_CIDR or remote.labels
        if event.reason == Reason.POLICY_DENIED and not is_labelled:
            return int(Reason.UNKNOWN_IDENTITY)
        return event.reason

    def _service(self, event: DatapathEvent) -> str:
        if not event.frontend_port:
            return ""
        row = self._db.frontends.get(FrontendKey(event.frontend, event.frontend_port, _protocol(event.protocol)))
        return str(row.service) if row is not None else f"{event.frontend}:{event.frontend_port}"


def _verdict(kind: FlowType, event: DatapathEvent) -> FlowVerdict:
    if kind is FlowType.DROP or (kind is FlowType.POLICY_VERDICT and event.reason):
        return FlowVerdict.DROPPED
    return FlowVerdict.FORWARDED


def _what(kind: FlowType, event: DatapathEvent, reason: int) -> str:
    """The TYPE column: drop reason, trace point, or how specific the policy match was."""
    if kind is FlowType.DROP:
        try:
            return Reason(reason).text
        except ValueError:
            return f"Reason {reason}"
    if kind is FlowType.TRACE:
        return _POINTS.get(TracePoint(event.point), "trace")
    direction = "INGRESS" if event.direction == Direction.INGRESS else "EGRESS"
    return f"policy-verdict:{_MATCHES.get(PolicyMatch(event.match), 'none')} {direction}"


def _protocol(number: int) -> str:
    return _ICMP if number == protocol.ICMP else protocol.PROTOCOL_NAMES.get(number, str(number))


def protocol_number(text: str) -> int:
    """The IP protocol that a flow's `protocol` names."""
    if text == _ICMP:
        return protocol.ICMP
    return protocol.PROTOCOL_NUMBERS[text] if text in protocol.PROTOCOL_NUMBERS else int(text)


def _summary(event: DatapathEvent) -> str:
    if event.protocol == protocol.TCP:
        return "TCP Flags: " + ", ".join(name for name, bit in _FLAGS if event.tcp_flags & bit)
    if event.protocol == protocol.ICMP:
        kind = _ICMP_TYPES.get(event.source_port, str(event.source_port))
        return f"ICMPv4 {kind}{_UNREACHABLE.get(event.destination_port, '') if event.source_port == 3 else ''}"
    return _protocol(event.protocol)
