# SPDX-License-Identifier: Apache-2.0
"""Flows as the rows that the page shows. Pure."""

from __future__ import annotations

from typing import Final

from flows.proto import flow_pb2 as pb
from flows.text import RULE_LABEL
from flows.words import drop_text, identity_text, type_text
from meshapi.page import FlowRow, FlowSide, HttpCall
from relay.page.cards import card_of, link_of

LONGEST: Final = 256
"""Characters of a text that somebody else chose; the whole flow can be asked for."""
_MOST: Final = 24
"""Labels and names of one end."""


def flow_row(flow: pb.Flow) -> FlowRow:
    """One flow, short enough to be sent for each of many."""
    protocol, source_port, port = ports_of(flow)
    source = _side(flow.source, flow.source_names, flow.IP.source, source_port, sends=True)
    destination = _side(flow.destination, flow.destination_names, flow.IP.destination, port, sends=False)
    service = flow.destination_service if flow.destination_service.name else flow.source_service
    http = flow.l7.http if flow.l7.WhichOneof("record") == "http" else None
    return FlowRow(
        id=flow.uuid,
        time=flow.time.seconds * 1000 + flow.time.nanos / 1e6,
        node=_cut(flow.node_name),
        verdict=_verdict(flow.verdict),
        type=type_text(flow),
        source=source,
        destination=destination,
        link=link_of(flow, source.card, destination.card, protocol, port),
        protocol=protocol,
        direction={pb.INGRESS: "ingress", pb.EGRESS: "egress"}.get(flow.traffic_direction, ""),
        reply=flow.is_reply.value if flow.HasField("is_reply") else None,
        summary=_cut(flow.Summary),
        reason=drop_text(flow.drop_reason_desc or flow.drop_reason) if flow.verdict == pb.DROPPED else "",
        rules=[_cut(rule) for rule in rules_of(flow)[:_MOST]],
        staged=_verdict(flow.staged.verdict) if flow.HasField("staged") else "",
        service=_cut("/".join(filter(None, (service.namespace, service.name)))),
        http=HttpCall(
            method=_cut(http.method), path=_cut(path_of(http.url)), code=http.code, latency_ms=flow.l7.latency_ns / 1e6
        )
        if http is not None
        else None,
        dns=_cut(flow.l7.dns.query) if flow.l7.WhichOneof("record") == "dns" else "",
    )


def ports_of(flow: pb.Flow) -> tuple[str, int, int]:
    """Transport protocol, source port, destination port; 0 for a protocol without ports."""
    match flow.l4.WhichOneof("protocol"):
        case "TCP":
            return "TCP", flow.l4.TCP.source_port, flow.l4.TCP.destination_port
        case "UDP":
            return "UDP", flow.l4.UDP.source_port, flow.l4.UDP.destination_port
        case "SCTP":
            return "SCTP", flow.l4.SCTP.source_port, flow.l4.SCTP.destination_port
        case name:
            return name or "", 0, 0


def rules_of(flow: pb.Flow) -> list[str]:
    """The rules that decided, or the policies where no rule is named."""
    deciding = (*flow.egress_denied_by, *flow.ingress_denied_by, *flow.egress_allowed_by, *flow.ingress_allowed_by)
    return [rule_of(policy) for policy in deciding]


def rule_of(policy: pb.Policy) -> str:
    """The rule that decided, or the policy where no rule is named."""
    rules = [label.removeprefix(RULE_LABEL) for label in policy.labels if label.startswith(RULE_LABEL)]
    whole = "/".join(filter(None, (policy.namespace, policy.name)))
    return rules[0] if rules else f"{policy.kind} {whole}".strip()


def path_of(url: str) -> str:
    """Without scheme, host and query: what endpoints of a server are told apart by."""
    rest = url.partition("://")[2] or url
    path = rest[rest.find("/") :] if "/" in rest else "/"
    return path.partition("?")[0]


def side_name(end: pb.Endpoint, names: list[str], ip: str) -> str:
    """namespace/pod, else a DNS name, else the address, else the identity."""
    if end.pod_name:
        return f"{end.namespace}/{end.pod_name}" if end.namespace else end.pod_name
    return names[0] if names else ip or identity_text(end.identity)


def _side(end: pb.Endpoint, names: object, ip: str, port: int, *, sends: bool) -> FlowSide:
    known = [_cut(str(name)) for name in list(names)[:_MOST]]  # type: ignore[call-overload]
    card, title = card_of(end, known, ip, sends=sends)
    return FlowSide(
        card=_cut(card),
        title=_cut(title),
        name=_cut(side_name(end, known, ip)),
        cluster=_cut(end.cluster_name),
        namespace=_cut(end.namespace),
        pod=_cut(end.pod_name),
        identity=end.identity,
        identity_name=identity_text(end.identity),
        ip=ip,
        port=port,
        labels=[_cut(label) for label in end.labels[:_MOST]],
        names=known,
    )


def _verdict(verdict: pb.Verdict.ValueType) -> str:
    return pb.Verdict.Name(verdict) if verdict in pb.Verdict.values() else str(verdict)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
