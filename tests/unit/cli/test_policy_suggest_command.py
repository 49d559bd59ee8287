# SPDX-License-Identifier: Apache-2.0
"""`policy suggest`: what it prints can be applied, says where each rule is from, and was judged by the flows themselves."""

from __future__ import annotations

import io
from typing import Any

import yaml
from explain_world import ADDRESSES, DB_NORTH, DB_SOUTH, NAMES, WEB_NORTH, WEB_SOUTH, deny_all, policy, scripted_cluster

from clustermesh_cli.commands.policy_suggest import suggest_policies
from clustermesh_cli.console import Console
from clustermesh_cli.exit_code import ExitCode
from meshapi.connection import ConnectionEnd, ConnectionRow, RecentConnections
from meshkit.answer_form import AnswerForm

NOW = 1_700_000_000.0


def row(source: int, target: int, *, direction: str = "ingress", dropped: int = 0, port: int = 5432) -> ConnectionRow:
    ends = [
        ConnectionEnd(ip=ADDRESSES[n], identity=n, namespace="shop", pod=f"{NAMES[n][1]}-{n}", cluster=NAMES[n][0])
        for n in (source, target)
    ]
    return ConnectionRow(
        direction=direction, source=ends[0], destination=ends[1], protocol=6, port=port, connections=3, dropped=dropped,
        last=NOW,
    )  # fmt: skip


def ask(
    *rows: ConnectionRow, live: tuple[Any, ...] = (), form: AnswerForm = AnswerForm.TABLE, **more: Any
) -> tuple[int, str]:
    held = RecentConnections(node="north-node", cluster="north", since=NOW - 60, is_whole=False, connections=list(rows))
    client = scripted_cluster("north", *live, recent=held).client("kind-north")
    stream = io.StringIO()
    fields = {"namespace": "shop", "since_s": NOW - 60, **more}
    code = suggest_policies(client, "kube-system", console=Console(plain=True, stream=stream), form=form, **fields)
    return code, stream.getvalue()


def test_what_is_printed_is_yaml_with_the_flows_of_each_rule() -> None:
    code, text = ask(row(WEB_NORTH, DB_NORTH), row(WEB_SOUTH, DB_NORTH, dropped=2), row(WEB_NORTH, DB_NORTH))
    assert code == ExitCode.OK
    assert text.splitlines()[:2] == [
        "# 1 policy from 9 connections of namespace shop of cluster north",
        "# A direction that a policy has rules for is closed to everything else.",
    ]
    assert (
        "  # shop/web-70000 (north) -> shop/db-70001 (north) 5432/TCP: 6 connections, last 2023-11-14T22:13:20Z" in text
    )
    assert "shop/web-140000 (south) -> shop/db-70001 (north) 5432/TCP: 3 connections, 2 of them dropped" in text
    (document,) = [each for each in yaml.safe_load_all(text) if each]
    assert document["metadata"] == {"name": "allow-seen-db", "namespace": "shop"}
    assert [len(rule["fromEndpoints"]) for rule in document["spec"]["ingress"]] == [2]


def test_what_another_policy_denies_still_is_told(tmp_path: object) -> None:
    deny = policy(
        "no-south", "db", ingressDeny=[{"fromEndpoints": [{"matchLabels": {"io.cilium.k8s.policy.cluster": "south"}}]}]
    )
    code, text = ask(row(WEB_NORTH, DB_NORTH), row(DB_SOUTH, DB_NORTH, dropped=3), live=(deny,))
    assert code == ExitCode.DEGRADED
    assert (
        "# denied even with these policies: shop/db-140001 (south) -> shop/db-70001 (north) 5432/TCP: ingress denied "
        "by cnp/shop/no-south ingressDeny[0]"
    ) in text
    assert ask(row(WEB_NORTH, DB_NORTH, dropped=3), live=(deny_all("db"),))[0] == ExitCode.OK


def test_flows_that_are_too_old_dropped_or_of_another_namespace_can_be_left_out() -> None:
    dropped, passed = row(WEB_SOUTH, DB_NORTH, dropped=3), row(WEB_NORTH, DB_NORTH)
    assert "web-140000" not in ask(dropped, passed, with_dropped=False)[1]
    assert "web-140000" in ask(dropped, passed)[1]
    for more in ({"namespace": "other"}, {"since_s": NOW + 1}):
        assert "no connection of a pod of this cluster was seen" in ask(passed, **more)[1], more


def test_a_node_that_holds_less_than_was_asked_for_says_so_and_json_has_everything() -> None:
    code, text = ask(row(WEB_NORTH, DB_NORTH), since_s=NOW - 600)
    assert "# WARN: north-node holds flows since 2023-11-14T22:12:20Z only" in text
    assert code == ExitCode.OK
    answer = yaml.safe_load(ask(row(WEB_NORTH, DB_NORTH, direction="egress"), form=AnswerForm.JSON)[1])
    assert answer["connections"] == 3
    assert answer["policies"][0]["spec"]["egress"][0]["toPorts"] == [{"ports": [{"port": "5432", "protocol": "TCP"}]}]
