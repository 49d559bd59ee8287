# SPDX-License-Identifier: Apache-2.0
"""Ranges of other namespaces' policies within a wide rule have room last in a pod's policy, and close nothing but themselves."""

from __future__ import annotations

from typing import Any

import pytest

from agent.policy.compiler import PolicyCompiler
from agent.policy.fit import fit
from agent.tables import AgentDB, Endpoint, EndpointVerdicts, Identity
from meshmodel.labels import pod_labels
from meshmodel.names import ClusterId, ClusterName
from meshpolicy import Direction, EndpointPolicy, PolicyContext, PolicyRef
from meshpolicy.proxy_ports import ProxyPorts

NORTH = ClusterName("north")
MOST = 40
OWN, FOREIGN, WORLD = "198.51.100.0/24", [f"192.0.2.{n}/32" for n in range(100)], 2
WIDE: dict[str, Any] = {"toCIDRSet": [{"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}]}
HTTP = {"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"http": [{"method": "GET"}]}}
EVERYBODY = {"toEntities": ["all"], "toPorts": [{"ports": [{"port": "443", "protocol": "TCP"}]}]}
ELSEWHERE = {"toCIDR": [OWN], "toPorts": [{"ports": [{"port": "53", "protocol": "UDP"}]}]}


def row_of(allowed: list[dict[str, Any]], denied: list[dict[str, Any]] | None = None) -> tuple[EndpointVerdicts, Any]:
    """What a pod of one namespace has to enforce while a policy of another names a hundred ranges; and their identities."""
    db = AgentDB(NORTH, ClusterId(1))
    context = PolicyContext(NORTH, proxy_ports=ProxyPorts())
    compiler = PolicyCompiler(db, context, lambda _: None, entries_per_pod=MOST)
    with db.write():
        db.identities.put(Identity(300, NORTH, pod_labels({"app": "a"}, "shop", {}, "default", NORTH)))
        db.endpoints.put(Endpoint("10.1.0.1", 1, 9, "", "", 300, "shop", "a"))
    spec: dict[str, Any] = {"egress": allowed} | ({"egressDeny": denied} if denied else {})
    for name, namespace, part in (("own", "shop", spec), ("many", "home", {"egress": [{"toCIDR": FOREIGN}]})):
        kind, meta = "CiliumNetworkPolicy", {"name": name, "namespace": namespace}
        written = {"kind": kind, "metadata": meta, "spec": {"endpointSelector": {}, **part}}
        assert compiler.set_document(written, PolicyRef(kind, namespace, name)).is_valid
    compiler.step()
    row = db.verdicts.get("10.1.0.1")
    assert row is not None
    assert row.policy.size > MOST
    return row, {text: int(number) for text, number in compiler.engine.prefixes().items()}


def allows(policy: EndpointPolicy, peer: int, port: int = 80, protocol: int = 6) -> bool:
    return policy.verdict(Direction.EGRESS, peer, protocol, port).allowed


@pytest.mark.parametrize("more", [{}, {"toPorts": [HTTP]}])
def test_what_the_pods_own_rules_name_has_room_before_ranges_of_other_policies(more: dict[str, Any]) -> None:
    """Also where a proxy looks into it: all of it would have had no room otherwise, and the pod none at all."""
    row, numbers = row_of([{**WIDE, **more}, ELSEWHERE])
    kept = fit(row.policy, MOST, row.own_ranges)
    assert row.own_ranges == {numbers[OWN], numbers["10.0.0.0/8"]}
    assert kept.size <= MOST
    assert allows(kept, WORLD)
    assert allows(kept, numbers[OWN])
    assert allows(kept, numbers[OWN], 53, 17)
    assert not allows(kept, numbers["10.0.0.0/8"])
    assert 0 < sum(allows(kept, numbers[text]) for text in FOREIGN) < len(FOREIGN)


def test_denials_of_ranges_without_room_need_none_where_nothing_is_allowed_to_everybody() -> None:
    row, numbers = row_of(
        [ELSEWHERE, {"toEntities": ["cluster"]}], [{**WIDE, "toPorts": [{"ports": [{"port": "80"}]}]}]
    )
    kept = fit(row.policy, MOST, row.own_ranges)
    assert allows(kept, numbers[OWN], 53, 17)
    assert not allows(kept, numbers[OWN], 80, 17)
    assert allows(kept, 300), "of its own cluster"
    assert not any(allows(kept, numbers[text], 80, 17) for text in FOREIGN)


def test_denials_that_something_allowed_to_everybody_would_show_through_all_have_room_or_nothing_has() -> None:
    row, numbers = row_of([EVERYBODY], [WIDE])
    kept = fit(row.policy, MOST, row.own_ranges)
    assert kept.size == 0
    assert kept.egress_enforced
    assert not any(allows(kept, peer, 443) for peer in (WORLD, 300, *numbers.values()))
    assert allows(row.policy, 300, 443)
