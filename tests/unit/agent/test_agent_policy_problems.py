# SPDX-License-Identifier: Apache-2.0
"""What is said of valid policies that have not the effect they state, and of which pods."""

from __future__ import annotations

from typing import Any

from agent.policy.compiler import PolicyCompiler
from agent.policy.rows import policy_list, policy_problems
from agent.tables import AgentDB, Endpoint, Identity
from meshapi.agent import NOT_ENFORCED
from meshmodel.labels import pod_labels
from meshmodel.names import ClusterId, ClusterName
from meshpolicy import PolicyContext, PolicyRef

NORTH = ClusterName("north")


def node() -> tuple[AgentDB, PolicyCompiler]:
    """Seven pods of app web and one of app db."""
    db = AgentDB(NORTH, ClusterId(1))
    compiler = PolicyCompiler(db, PolicyContext(NORTH), lambda _prefixes: None)
    with db.write():
        for number, app in ((300, "web"), (301, "db")):
            db.identities.put(Identity(number, NORTH, pod_labels({"app": app}, "shop", {}, "default", NORTH)))
        for n in range(7):
            db.endpoints.put(Endpoint(f"10.1.0.{n}", n, n, "", "", 300, "shop", f"web-{n}"))
        db.endpoints.put(Endpoint("10.1.0.9", 9, 9, "", "", 301, "shop", "db-0"))
    compiler.step()
    return db, compiler


def put(compiler: PolicyCompiler, name: str, spec: dict[str, Any], kind: str = "CiliumNetworkPolicy") -> None:
    namespace = "" if "Clusterwide" in kind else "shop"
    meta = {"name": name} | ({"namespace": namespace} if namespace else {})
    document = {"apiVersion": "cilium.io/v2", "kind": kind, "metadata": meta, "spec": spec}
    assert compiler.set_document(document, PolicyRef(kind, namespace, name)).is_valid


def test_pods_of_a_rule_that_needs_a_proxy_are_named_and_a_warning_is_not_such_a_thing() -> None:
    db, compiler = node()
    http = {"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"http": [{"method": "GET"}]}}
    put(compiler, "get-only", {"endpointSelector": {"matchLabels": {"app": "db"}}, "ingress": [{"toPorts": [http]}]})
    ping = {"icmps": [{"fields": [{"type": 0}]}]}
    put(compiler, "pings", {"endpointSelector": {}, "ingress": [ping]})
    said, warned = policy_problems(db, compiler.engine)
    assert said.startswith(f"{NOT_ENFORCED}CiliumNetworkPolicy shop/get-only: ")
    assert said.endswith("(pods here: shop/db-0)")
    assert not warned.startswith(NOT_ENFORCED)
    rows = {row.name: row for row in policy_list(db, compiler).policies}
    assert (rows["get-only"].pods, len(rows["get-only"].not_enforced)) == (["shop/db-0"], 1)
    assert (rows["pings"].pods, rows["pings"].not_enforced, len(rows["pings"].problems)) == ([], [], 1)


def test_of_many_pods_five_are_named() -> None:
    db, compiler = node()
    put(compiler, "by-group", {"endpointSelector": {}, "ingress": [{"fromGroups": [{"aws": {}}]}]})
    (said,) = policy_problems(db, compiler.engine)
    assert said.endswith("(pods here: shop/db-0, shop/web-0, shop/web-1, shop/web-2, shop/web-3 and 3 more)")


def test_of_a_host_policy_that_is_enforced_in_part_the_node_is_named() -> None:
    db, compiler = node()
    rule = {"fromGroups": [{"aws": {}}]}
    put(compiler, "whole", {"nodeSelector": {}, "ingress": [{}]}, "CiliumClusterwideNetworkPolicy")
    put(compiler, "part", {"nodeSelector": {}, "ingress": [rule]}, "CiliumClusterwideNetworkPolicy")
    (said,) = policy_problems(db, compiler.engine)
    assert said.startswith(f"{NOT_ENFORCED}CiliumClusterwideNetworkPolicy part: ")
    assert said.endswith("(pods here: the node)")


def test_a_refused_policy_is_named_with_the_reason() -> None:
    db, compiler = node()
    document = {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": "p", "namespace": "shop"},
    }
    row = compiler.set_document(document, PolicyRef("CiliumNetworkPolicy", "shop", "p"))
    assert not row.is_valid
    assert policy_problems(db, compiler.engine) == [f"CiliumNetworkPolicy shop/p refused: {row.message}"]
