# SPDX-License-Identifier: Apache-2.0
"""Which ends of flows are one card of the service map, and which flows one arrow. Pure. Source: the rules of Hubble's map.

One card for each identity; what is outside of clusters is told apart by workload or DNS name, and by whether it sends.
"""

from __future__ import annotations

from typing import Final

from flows.proto import flow_pb2 as pb
from flows.words import RESERVED, identity_text

TITLE_LABELS: Final = ("app", "app.kubernetes.io/name", "name", "functionName", "k8s-app")
_WORLD: Final = frozenset(n for n, name in enumerate(RESERVED) if name.startswith("world"))
_SOURCES: Final = ("k8s:", "cidr:", "reserved:")


def card_of(end: pb.Endpoint, names: list[str], ip: str, *, sends: bool) -> tuple[str, str]:
    """The card of one end of a flow, and its title."""
    if end.identity in _WORLD or not end.identity:
        known = end.workloads[0].name if end.workloads else names[0] if names else ""
        key = known or (identity_text(end.identity) if end.identity else ip)
        return f"{key}-{'sender' if sends else 'receiver'}", key
    title = title_of(end)
    return f"{end.cluster_name}/{end.namespace}/{end.identity}", title


def title_of(end: pb.Endpoint) -> str:
    """The name that people gave it; else the pod's, the workload's or the identity's."""
    labels = dict(_split(label) for label in end.labels)
    for key in TITLE_LABELS:
        if labels.get(key):
            return labels[key]
    if end.workloads:
        return end.workloads[0].name
    return end.pod_name or identity_text(end.identity)


def link_of(flow: pb.Flow, source: str, destination: str, protocol: str, port: int) -> str:
    """The arrow of a flow; "" for an answer, which went the way of the question, and where nobody knows which it is.

    What was dropped is taken for a question, as there was no answer to it.
    """
    asks = not flow.is_reply.value if flow.HasField("is_reply") else flow.verdict == pb.DROPPED
    if not asks:
        return ""
    return f"{source} {protocol} {destination} {port}"


def _split(label: str) -> tuple[str, str]:
    for source in _SOURCES:
        label = label.removeprefix(source)
    key, _, value = label.partition("=")
    return key, value
