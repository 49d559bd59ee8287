# SPDX-License-Identifier: Apache-2.0
"""Nodes as peers, as the twin reads them: which nodes a selector means, and where that is not known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.support.policy_twin_outside import WORLDS

if TYPE_CHECKING:
    from tests.support.policy_twin import Twin, Who

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


def is_judged(twin: Twin, who: Who) -> bool:
    """Whether policies can be about it; about the own node, whether one is."""
    if not who.is_reserved("host"):
        return not who.is_reserved(*WORLDS, "remote-node", "kube-apiserver")
    specs = (spec for d in twin.documents for spec in ([d["spec"]] if "spec" in d else []) + d.get("specs", []))
    return any("nodeSelector" in spec and is_of_kind(twin, spec, who) for spec in specs)


def is_of_kind(twin: Twin, spec: dict[str, Any], who: Who) -> bool:
    """Whether a spec about pods is asked for one, or one about nodes for a node that it selects."""
    if "nodeSelector" not in spec or not who.is_reserved("host"):
        return "nodeSelector" not in spec and not who.is_reserved("host")
    clusters = who.values("node", CLUSTER)
    known = type(who)((*who.labels, *(f"k8s:{CLUSTER}={name}" for name in clusters)))
    return twin.selects(spec["nodeSelector"], known, "node")
