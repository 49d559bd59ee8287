# SPDX-License-Identifier: Apache-2.0
"""Why a flow was forwarded or dropped, in sentences, and the command that says more. Pure."""

from __future__ import annotations

from shlex import quote
from typing import Final

from flows.proto import flow_pb2 as pb
from flows.words import drop_text, identity_text
from relay.page.flow_rows import ports_of, rule_of, rules_of, side_name

_NOTHING_ALLOWS: Final = pb.POLICY_DENIED
_DENIED: Final = pb.POLICY_DENY


def sentences(flow: pb.Flow) -> list[str]:
    """What decided, then what else is known of the flow."""
    found = [*_decision(flow), *_staged(flow)]
    if flow.destination_service.name:
        service = flow.destination_service
        found.append(f"The client asked for service {service.namespace}/{service.name}.")
    source, destination = flow.source.cluster_name, flow.destination.cluster_name
    if source and destination and source != destination:
        found.append(f"It goes from cluster {source} to cluster {destination}.")
    if flow.node_name:
        found.append(f"Node {flow.node_name} saw it.")
    return found


def _decision(flow: pb.Flow) -> list[str]:
    rules, end = rules_of(flow), _judged(flow)
    if flow.verdict != pb.DROPPED:
        if rules:
            return [f"Allowed by {', '.join(rules)}."]
        return [f"{pb.Verdict.Name(flow.verdict).capitalize()}. The flow names no rule."] if flow.verdict else []
    reason = flow.drop_reason_desc or flow.drop_reason
    if reason == _DENIED or (rules and reason == _NOTHING_ALLOWS):
        return [f"Denied by {', '.join(rules) or 'a rule that denies'}, in force for {end}."]
    if reason == _NOTHING_ALLOWS:
        way = "come in" if flow.traffic_direction == pb.INGRESS else "leave"
        return [f"No rule allows it. Policies select {end}, so only what their rules name may {way}."]
    return [f"Dropped: {drop_text(reason)}."]


def _staged(flow: pb.Flow) -> list[str]:
    if not flow.HasField("staged"):
        return []
    word = {pb.DROPPED: "denied", pb.REDIRECTED: "sent to the proxy"}.get(flow.staged.verdict, "allowed")
    return [f"With the staged policies in force it would be {word} by {rule_of(flow.staged.policy)}."]


def _judged(flow: pb.Flow) -> str:
    is_ingress = flow.traffic_direction == pb.INGRESS
    end, ip = (flow.destination, flow.IP.destination) if is_ingress else (flow.source, flow.IP.source)
    cluster = f" of cluster {end.cluster_name}" if end.cluster_name else ""
    return f"{side_name(end, [], ip)} ({identity_text(end.identity)}){cluster}"


def explain_command(flow: pb.Flow) -> str:
    """`clustermesh explain policy` for these two pods; "" where one side is no pod."""
    source, destination = flow.source, flow.destination
    if not (source.pod_name and destination.pod_name):
        return ""
    protocol, _, port = ports_of(flow)
    command = f"clustermesh explain policy --from {quote(side_name(source, [], ''))} --to {quote(side_name(destination, [], ''))}"
    return f"{command} --port {port}/{protocol}" if port else command
