# SPDX-License-Identifier: Apache-2.0
"""Policies from traffic: they allow what was seen and nothing beside it, and the engine that agents run says so."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from meshmodel.identity import LOCAL_SCOPE_CIDR, NumericIdentity, Reserved
from meshmodel.labels import CLUSTER_LABEL, NAMESPACE_LABEL, Labels, parse_label, sort_labels
from meshpolicy import Engine, PolicyContext
from meshpolicy.documents import load_documents
from meshpolicy.reference import Direction
from meshpolicy.rule import Policy
from meshpolicy.suggest import MOST_ADDRESSES, SeenConnection, suggest


def pod(app: str, cluster: str = "north", namespace: str = "shop", **more: str) -> Labels:
    texts = [f"k8s:{CLUSTER_LABEL}={cluster}", f"k8s:{NAMESPACE_LABEL}={namespace}"]
    texts += [f"k8s:app={app}"] if app else []
    return sort_labels(parse_label(text) for text in (*texts, *(f"k8s:{key}={value}" for key, value in more.items())))


WEB, DB, FAR, OTHER = pod("web"), pod("db"), pod("web", "south"), pod("job", namespace="batch")
NUMBERS = {WEB: 70_000, DB: 70_001, FAR: 140_000, OTHER: 70_002}


def seen(
    own: Labels,
    peer: Labels | None,
    port: int = 80,
    *,
    way: Direction = Direction.INGRESS,
    protocol: int = 6,
    number: int | None = None,
    address: str = "192.0.2.1",
) -> SeenConnection:
    return SeenConnection(way, own, peer, number or NUMBERS.get(peer or (), 0), address, protocol, port)


def spec(*rows: SeenConnection) -> dict[str, object]:
    (policy,) = suggest(rows).policies
    return policy.document["spec"]  # type: ignore[no-any-return]


def engine_of(rows: list[SeenConnection], *, local: bool) -> Engine:
    engine = Engine(PolicyContext("north", local))
    for labels, number in NUMBERS.items():
        engine.set_identity(NumericIdentity(number), labels)
    for item in load_documents([policy.document for policy in suggest(rows).policies], PolicyContext("north", local)):
        assert isinstance(item, Policy), item
        engine.set_policy(item)
    return engine


def test_peers_are_named_with_their_cluster_and_those_with_equal_ports_share_a_rule() -> None:
    rows = [seen(DB, WEB, 5432), seen(DB, FAR, 5432), seen(DB, WEB, 5432), seen(DB, OTHER, 9187)]
    peers = [
        {"matchLabels": {"k8s:app": app, f"k8s:{NAMESPACE_LABEL}": space, f"k8s:{CLUSTER_LABEL}": cluster}}
        for app, space, cluster in (("web", "shop", "north"), ("web", "shop", "south"), ("job", "batch", "north"))
    ]
    assert spec(*rows) == {
        "endpointSelector": {"matchLabels": {"app": "db"}},
        "ingress": [
            {"fromEndpoints": peers[:2], "toPorts": [{"ports": [{"port": "5432", "protocol": "TCP"}]}]},
            {"fromEndpoints": peers[2:], "toPorts": [{"ports": [{"port": "9187", "protocol": "TCP"}]}]},
        ],
    }


def test_each_rule_knows_the_connections_it_came_from() -> None:
    rows = [seen(DB, WEB, 5432), seen(DB, OTHER, 9187), seen(DB, WEB, 8, protocol=1)]
    (policy,) = suggest(rows).policies
    assert sorted(row for rule in policy.rules for row in rule.seen) == sorted(rows)
    assert all(("icmps" in rule.rule) == (rule.seen[0].protocol == 1) for rule in policy.rules)


def test_pods_of_a_workload_with_several_identities_have_one_policy() -> None:
    first, second = pod("web", version="1"), pod("web", version="2")
    found = suggest([seen(first, DB), seen(second, DB), seen(pod("web", namespace="batch"), DB)])
    assert [policy.frame["metadata"] for policy in found.policies] == [
        {"name": "allow-seen-web", "namespace": "batch"},
        {"name": "allow-seen-web", "namespace": "shop"},
    ]


def test_the_world_is_named_by_address_until_there_are_too_many() -> None:
    def out(number: int) -> list[SeenConnection]:
        return [
            seen(WEB, None, 443, way=Direction.EGRESS, number=LOCAL_SCOPE_CIDR + n, address=f"192.0.2.{n}")
            for n in range(number)
        ]

    assert spec(*out(2))["egress"] == [
        {"toCIDR": ["192.0.2.0/32", "192.0.2.1/32"], "toPorts": [{"ports": [{"port": "443", "protocol": "TCP"}]}]}
    ]
    (rule,) = spec(*out(MOST_ADDRESSES + 1))["egress"]  # type: ignore[misc]
    assert rule["toEntities"] == ["world"]


def test_nodes_are_entities_and_what_the_node_sends_to_its_pods_needs_no_rule() -> None:
    assert suggest([seen(WEB, None, number=Reserved.HOST)]) == ((), ())
    (rule,) = spec(seen(WEB, None, number=Reserved.REMOTE_NODE))["ingress"]  # type: ignore[misc]
    assert rule["fromEntities"] == ["remote-node"]
    (rule,) = spec(seen(WEB, None, 6443, way=Direction.EGRESS, number=Reserved.KUBE_APISERVER))["egress"]  # type: ignore[misc]
    assert rule["toEntities"] == ["kube-apiserver"]


def test_what_no_rule_can_name_is_told_and_opens_nothing() -> None:
    bare = sort_labels([parse_label(f"k8s:{NAMESPACE_LABEL}=shop"), parse_label(f"k8s:{CLUSTER_LABEL}=north")])
    found = suggest([seen(bare, WEB), seen(WEB, None, number=71_000), seen(WEB, bare, number=71_001), seen(WEB, None)])
    assert found.policies == ()
    assert [reason for _, reason in found.left_out] == [
        "the pod has no label by which a policy could select it alone",
        "the labels of its peer are not known any more",
        "its peer has no label by which a rule could name it alone",
        "its peer is unknown",
    ]


_PODS = st.sampled_from(list(NUMBERS))
_ROWS = st.lists(
    st.builds(
        lambda own, peer, port, way, protocol: seen(own, peer, port, way=way, protocol=protocol),
        st.sampled_from([WEB, DB, OTHER]),
        _PODS,
        st.integers(1, 5),
        st.sampled_from(list(Direction)),
        st.sampled_from([6, 17, 1, 132]),
    ),
    max_size=12,
)


@given(_ROWS, st.booleans(), st.integers())
def test_all_that_was_seen_is_allowed_and_nothing_else(rows: list[SeenConnection], local: bool, seed: int) -> None:
    """Whatever an unscoped selector means there, and in whatever order the connections came."""
    random.Random(seed).shuffle(rows)
    engine = engine_of(rows, local=local)
    wanted = {(row.direction, row.own, row.peer, row.protocol, row.port) for row in rows}
    closed = {(row.direction, row.own) for row in rows}
    for own in (WEB, DB, OTHER):
        policy = engine.endpoint_policy(NumericIdentity(NUMBERS[own]))
        for way in Direction:
            for peer, number in NUMBERS.items():
                for protocol in (6, 17, 1, 132):
                    for port in range(1, 6):
                        allowed = policy.verdict(way, NumericIdentity(number), protocol, port).allowed
                        expected = (way, own, peer, protocol, port) in wanted or (way, own) not in closed
                        assert allowed is expected, (way, own, peer, protocol, port)
