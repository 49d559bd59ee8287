# SPDX-License-Identifier: Apache-2.0
"""Nodes as peers, as the twin reads them: which nodes a selector means, and where that is not known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from policy_twin import Twin, Who

CLUSTER = "io.cilium.k8s.policy.cluster"


def means_node(twin: Twin, selector: dict[str, Any], peer: Who, direction: str) -> bool | None:
    """Another node, on egress the own one too. None: its labels are not known, and some are asked for."""
    if not peer.is_reserved(*(("remote-node", "host") if direction == "egress" else ("remote-node",))):
        return False
    keys = [*(selector.get("matchLabels") or {}), *(e["key"] for e in selector.get("matchExpressions") or [])]
    if not any(text.startswith("node:") for text in peer.labels):
        return None if keys or twin.scope else True
    clusters = peer.values("node", CLUSTER)
    if twin.scope and not any(key.split(":")[-1] == CLUSTER for key in keys) and twin.scope not in clusters:
        return False
    as_k8s = type(peer)((*peer.labels, *(f"k8s:{CLUSTER}={name}" for name in clusters)))
    return twin.selects(selector, as_k8s, "node")
