# SPDX-License-Identifier: Apache-2.0
"""What one tier of ClusterNetworkPolicies says to a packet, for the dumb twin: rule after rule, in order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from tests.support.policy_twin_nodes import means_node

if TYPE_CHECKING:
    from tests.support.policy_twin import Packet, Twin

_STRENGTH = {"Deny": 2, "Accept": 1, "Pass": 0}


class TierVerdict(NamedTuple):
    """Accept, Deny, Pass or None, and the rule. `may_pass`: a rule that passes something on names the peer."""

    verdict: str | None
    rule: tuple[tuple[str, str, str], str] | None
    may_pass: bool


def tier_says(twin: Twin, documents: list[dict[str, Any]], packet: Packet) -> TierVerdict:
    """The first rule that matches by priority and place; of several in one place Deny, then Accept, then Pass.

    Where they say the same, the one that names the most of protocol and port, then the first by name.
    """
    found: list[tuple[Any, ...]] = []
    may_pass = False
    for document in documents:
        spec = document["spec"]
        for place, rule in enumerate(spec[packet.direction]):
            action = rule["action"]
            entries = rule["from" if packet.direction == "ingress" else "to"]
            known = [e for e in entries if twin.is_peer(e, packet.peer, action)]
            if not known:
                continue
            resolved = [
                e for e in known if "nodes" not in e or means_node(twin, e["nodes"], packet.peer, "egress") is not None
            ]
            may_pass |= action == "Pass" and bool(resolved)
            protocols = rule.get("protocols")
            lengths = [0] if protocols is None else [n for p in protocols if (n := twin.tiered_port(p, packet))]
            if not lengths:
                continue
            name = f"{packet.direction}[{place}] {rule['name']}" if "name" in rule else f"{packet.direction}[{place}]"
            origin = (
                ("ClusterNetworkPolicy", "", document["metadata"]["name"]),
                f"{name} ({spec['tier']}, priority {spec['priority']})",
            )
            said = action if len(resolved) == len(known) or action == "Deny" else "Deny"
            found.append((spec["priority"], place, -_STRENGTH[said], -max(lengths), origin, said))
    if not found:
        return TierVerdict(None, None, may_pass)
    best = min(found)
    return TierVerdict(best[5], best[4], may_pass)
