# SPDX-License-Identifier: Apache-2.0
"""What the scope inspection says: the three maps that users know, and which pods of which cluster are lost."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import orjson
from explain_world import DB_NORTH, DB_SOUTH, ScriptedApi, app, listing, policy, scripted_cluster

from clustermesh_cli.commands.policy import lint_live
from clustermesh_cli.commands.scope import inspect_scope
from clustermesh_cli.console import Console
from clustermesh_cli.exit_code import ExitCode
from meshkit.answer_form import AnswerForm
from meshmodel.labels import CLUSTER_LABEL

UNSCOPED = policy("to-db", "web", egress=[{"toEndpoints": [app("db")]}])
SCOPED = policy("to-south", "web", egress=[{"toEndpoints": [app("db", **{CLUSTER_LABEL: "south"})]}])
NOBODY = policy("to-cache", "web", egress=[{"toEndpoints": [app("cache")]}])
BROKEN = policy("broken", "web", egress=[{"toPorts": [{"ports": [{"port": "80", "protocol": "PIGEON"}]}]}])


def said(api: ScriptedApi, namespace: str | None = "shop", *, as_json: bool = False) -> str:
    stream = io.StringIO()
    console = Console(plain=True, stream=stream)
    code = inspect_scope(
        api.client("kind-north"), "kube-system", namespace, console, AnswerForm.JSON if as_json else AnswerForm.TABLE
    )
    assert code == ExitCode.OK
    return stream.getvalue()


def test_each_policy_is_marked_and_the_lost_peers_are_named_with_their_pods_and_labels() -> None:
    document: dict[str, Any] = orjson.loads(said(scripted_cluster("north", UNSCOPED, SCOPED, NOBODY), as_json=True))
    assert next(iter(document)) == "schema"
    assert all(name == name.lower() for name in document)
    assert document["cilium-network-policies"] == {"shop/to-cache": True, "shop/to-db": True, "shop/to-south": False}
    assert document["cilium-cluster-wide-network-policies"] == document["network-policies"] == {}
    changes = {change["policy"]: change for change in document["changes"]}
    (lost,) = changes["shop/to-db"]["lost"]
    assert (lost["identity"], lost["cluster"], lost["pods"]) == (DB_SOUTH, "south", [f"shop/db-{DB_SOUTH}"])
    assert "k8s:app=db" in lost["labels"]
    assert changes["shop/to-db"]["kept"] == [DB_NORTH]
    assert changes["shop/to-cache"]["lost"] == []


def test_the_text_counts_unchanged_policies_and_names_what_changes() -> None:
    lines = said(scripted_cluster("north", UNSCOPED, SCOPED)).splitlines()
    assert "WARN CiliumNetworkPolicy 1/2" in lines
    assert "OK   CiliumClusterWideNetworkPolicy 0/0" in lines
    assert "OK     shop/to-south" in lines
    assert any(f"no longer: identity {DB_SOUTH} of cluster south: shop/db-{DB_SOUTH}" in line for line in lines)
    assert any("nobody that exists now" in line for line in said(scripted_cluster("north", NOBODY)).splitlines())


def test_a_policy_that_is_not_valid_changes_nothing() -> None:
    document: dict[str, Any] = orjson.loads(said(scripted_cluster("north", BROKEN), as_json=True))
    assert document["cilium-network-policies"] == {"shop/broken": False}


def test_clusterwide_policies_are_looked_at_with_all_namespaces_only() -> None:
    api = scripted_cluster("north", UNSCOPED)
    wide = {**UNSCOPED, "kind": "CiliumClusterwideNetworkPolicy", "metadata": {"name": "wide"}}
    api.answers["/apis/cilium.io/v2/ciliumclusterwidenetworkpolicies"] = listing(wide)
    one: dict[str, Any] = orjson.loads(said(api, "other", as_json=True))
    assert one["cilium-network-policies"] == one["cilium-cluster-wide-network-policies"] == {}
    every: dict[str, Any] = orjson.loads(said(api, None, as_json=True))
    assert every["cilium-network-policies"] == {"shop/to-db": True}
    assert every["cilium-cluster-wide-network-policies"] == {"wide": True}


def test_lint_asks_a_running_cluster_whom_selectors_select(tmp_path: Path) -> None:
    file = tmp_path / "policies.yaml"
    file.write_bytes(orjson.dumps(SCOPED) + b"\n---\n" + orjson.dumps(NOBODY))
    output = io.StringIO()
    code = lint_live([str(file)], scripted_cluster("north").client("kind-north"), "kube-system", output=output)
    assert code == ExitCode.OK
    selected = [line for line in output.getvalue().splitlines() if "selects nobody" in line]
    assert len(selected) == 1
    assert "to-cache" in selected[0]
