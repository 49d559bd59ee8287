# SPDX-License-Identifier: Apache-2.0
"""Flow records as compact lines. Pure. Source: `hubble observe`, compact form."""

from __future__ import annotations

from datetime import UTC, datetime

from agent.observe.flow import Flow, FlowEnd, FlowType, FlowVerdict

_DECISIONS = {FlowVerdict.FORWARDED: "ALLOWED", FlowVerdict.REDIRECTED: "ALLOWED", FlowVerdict.DROPPED: "DENIED"}


def line(flow: Flow, *, with_node: bool = False, with_policy: bool = False, with_cluster: bool = False) -> str:
    """`TIME[ [NODE]]: SRC (SRCID) ARROW DST (DSTID) TYPE VERDICT (SUMMARY)`, with both sides swapped for replies."""
    arrow = "<>" if flow.is_reply is None else "<-" if flow.is_reply else "->"
    left, right = (flow.destination, flow.source) if flow.is_reply else (flow.source, flow.destination)
    node = f" [{flow.node}]" if with_node else ""
    verdict = _DECISIONS[flow.verdict] if flow.type is FlowType.POLICY_VERDICT else flow.verdict.value
    by = f" BY {flow.policy}" if with_policy and flow.policy else ""
    sides = f"{side(left, with_cluster=with_cluster)} {arrow} {side(right, with_cluster=with_cluster)}"
    return f"{stamp(flow.time_s)}{node}: {sides} {flow.what} {verdict}{by} ({flow.summary})"


def stamp(wall_s: float) -> str:
    """`Jan _2 15:04:05.000` in UTC, the day padded with a space."""
    moment = datetime.fromtimestamp(wall_s, UTC)
    return f"{moment:%b} {moment.day:2d} {moment:%H:%M:%S}.{moment.microsecond // 1000:03d}"


def side(peer: FlowEnd, *, with_cluster: bool = False) -> str:
    """Name or address, port, identity; `cluster/` in front of a pod where asked for."""
    if peer.pod:
        host = f"{peer.namespace}/{peer.pod}"
        host = f"{peer.cluster}/{host}" if with_cluster and peer.cluster else host
    else:
        host = peer.ip
    if peer.port:
        host = f"[{host}]:{peer.port}" if ":" in host else f"{host}:{peer.port}"
    return f"{host} ({peer.name or f'ID:{peer.identity}'})"
