# SPDX-License-Identifier: Apache-2.0
"""The policy that would allow a flow that policies dropped. Pure."""

from __future__ import annotations

import yaml

from flows.proto import flow_pb2 as pb
from meshmodel.errors import ModelError
from meshmodel.identity import NumericIdentity
from meshmodel.labels import Labels, parse_label, sort_labels
from meshmodel.protocol import PROTOCOL_NUMBERS
from meshpolicy import Engine, PolicyContext
from meshpolicy.documents import load_documents
from meshpolicy.reference import Direction
from meshpolicy.rule import Policy
from meshpolicy.suggest import SeenConnection, suggest
from relay.page.flow_rows import ports_of


def allowing_policy(flow: pb.Flow) -> str:
    """YAML; "" where policies did not drop it for want of a rule, or no rule can name its peer.

    A flow that a rule denies is allowed by no other rule, so nothing is suggested for it.
    """
    if flow.verdict != pb.DROPPED or flow.drop_reason_desc != pb.POLICY_DENIED or not flow.traffic_direction:
        return ""
    is_ingress = flow.traffic_direction == pb.INGRESS
    own, other = (flow.destination, flow.source) if is_ingress else (flow.source, flow.destination)
    try:
        labels, peer = _labels(own), _labels(other) if other.labels else None
    except ModelError:
        return ""
    protocol, port = _packet(flow)
    seen = SeenConnection(
        Direction.INGRESS if is_ingress else Direction.EGRESS,
        labels,
        peer,
        other.identity,
        flow.IP.source if is_ingress else flow.IP.destination,
        protocol,
        port,
    )
    policies = suggest([seen]).policies
    if not policies or not protocol or not _allows(policies[0].document, seen, own.identity):
        return ""
    return str(yaml.safe_dump(policies[0].document, sort_keys=False, default_flow_style=False))


def _allows(document: dict[str, object], seen: SeenConnection, own: int) -> bool:
    """The engine that agents run says so. A range of addresses has no number before its policy is there: it is believed."""
    context = PolicyContext("", default_local_cluster=False)
    engine = Engine(context)
    engine.set_identity(NumericIdentity(own), seen.own)
    if seen.peer is not None:
        engine.set_identity(NumericIdentity(seen.peer_identity), seen.peer)
    for item in load_documents([document], context):
        if not isinstance(item, Policy):
            return False
        engine.set_policy(item)
    if engine.prefixes():
        return True
    policy = engine.endpoint_policy(NumericIdentity(own))
    return policy.verdict(seen.direction, NumericIdentity(seen.peer_identity), seen.protocol, seen.port).allowed


def _packet(flow: pb.Flow) -> tuple[int, int]:
    match flow.l4.WhichOneof("protocol"):
        case "ICMPv4":
            return PROTOCOL_NUMBERS["ICMP"], flow.l4.ICMPv4.type
        case "ICMPv6":
            return PROTOCOL_NUMBERS["ICMPV6"], flow.l4.ICMPv6.type
    name, _, port = ports_of(flow)
    return PROTOCOL_NUMBERS.get(name, 0), port


def _labels(end: pb.Endpoint) -> Labels:
    """Raises: ModelError."""
    return sort_labels(parse_label(text) for text in end.labels)
