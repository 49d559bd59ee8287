# SPDX-License-Identifier: Apache-2.0
"""`policy diff`: what a file would change, asked of a cluster that answers; and every verdict against asking both engines."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from explain_world import (
    ADDRESSES,
    DB_NORTH,
    DB_SOUTH,
    NAMES,
    NODES,
    WEB_NORTH,
    WEB_SOUTH,
    ScriptedApi,
    app,
    deny_all,
    listing,
    node,
    policy,
    scripted_cluster,
)

from clustermesh_cli.commands.policy_diff import diff
from clustermesh_cli.console import Console
from clustermesh_cli.exit_code import CommandError, ExitCode
from meshapi.agent import ServicePeersRow
from meshapi.connection import ConnectionEnd, ConnectionRow, RecentConnections
from meshapi.row import encode
from meshkit.answer_form import AnswerForm
from meshmodel.labels import CLUSTER_LABEL
from meshpolicy.staged import STAGED_ANNOTATION

NO_FLOWS = "0 recent connections of 1 node judged again"


def run(
    tmp_path: Path, *documents: object, live: tuple[dict[str, object], ...] = (), form: AnswerForm = AnswerForm.TABLE
) -> tuple[ExitCode, list[str]]:
    return ask(tmp_path, scripted_cluster("north", *live), *documents, form=form)


def ask(
    tmp_path: Path, api: ScriptedApi, *documents: object, form: AnswerForm = AnswerForm.TABLE
) -> tuple[ExitCode, list[str]]:
    file = tmp_path / "new.yaml"
    file.write_bytes(b"\n---\n".join(orjson.dumps(document) for document in documents))
    stream = io.StringIO()
    code = diff(str(file), api.client("kind-north"), "kube-system", form, Console(plain=True, stream=stream))
    return code, stream.getvalue().splitlines()


def test_a_new_denial_names_each_pair_the_packets_and_the_cluster(tmp_path: Path) -> None:
    code, lines = run(tmp_path, policy("only-web", "db", ingress=[{"fromEndpoints": [app("web")]}]))
    assert code == ExitCode.OK
    assert (
        "north ingress: from shop/app=db@south to shop/app=db@north: everything: allowed -> denied by default" in lines
    )
    assert not any("from shop/app=web@north to" in line for line in lines), "still allowed"
    assert not any("from host to" in line for line in lines), "a node reaches its own pods"
    assert not any(line.startswith("south") for line in lines), "each cluster judges its own pods"


def test_an_edit_shows_only_the_ports_that_change_and_the_rule(tmp_path: Path) -> None:
    def opened(port: str) -> dict[str, object]:
        ports = [{"ports": [{"port": port, "protocol": "TCP"}]}]
        peers = [app("web", **{"io.cilium.k8s.policy.cluster": "north"})]
        return policy("web", "db", ingress=[{"fromEndpoints": peers, "toPorts": ports}])

    assert run(tmp_path, opened("80"), live=(opened("80"),))[1] == [
        NO_FLOWS,
        "RESULT 0 pairs of north judged differently, and 0 recent connections",
    ]
    assert run(tmp_path, opened("81"), live=(opened("80"),))[1] == [
        "north ingress: from shop/app=web@north to shop/app=db@north: 80/TCP: allowed -> denied without cnp/shop/web ingress[0]",
        "north ingress: from shop/app=web@north to shop/app=db@north: 81/TCP: denied -> allowed by cnp/shop/web ingress[0]",
        NO_FLOWS,
        "RESULT 1 pair of north judged differently, and 0 recent connections",
    ]


def test_what_is_staged_is_not_in_force_and_is_compared_as_if_it_were(tmp_path: Path) -> None:
    staged = policy("only-web", "db", ingress=[{"fromEndpoints": [app("web")]}])
    staged["metadata"] = {**staged["metadata"], "annotations": {STAGED_ANNOTATION: "true"}}  # type: ignore[dict-item]
    denied = "north ingress: from shop/app=db@south to shop/app=db@north: everything: allowed -> denied by default"
    told = "judged as if in force, though staged: cnp/shop/only-web"
    _, of_file = run(tmp_path, staged)
    assert denied in of_file
    assert any(told in line for line in of_file)
    stream, api = io.StringIO(), scripted_cluster("north", staged, deny_all("web"))
    console = Console(plain=True, stream=stream)
    diff("", api.client("kind-north"), "kube-system", AnswerForm.TABLE, console, with_staged=True)
    assert denied in stream.getvalue()
    assert told in stream.getvalue()
    _, unchanged = run(tmp_path, deny_all("web"), live=(staged, deny_all("web")))
    assert unchanged == [NO_FLOWS, "RESULT 0 pairs of north judged differently, and 0 recent connections"]


def test_an_address_range_is_a_peer_also_where_it_was_world_before(tmp_path: Path) -> None:
    egress = policy("out", "db", egress=[{"toCIDR": ["192.0.2.0/24"]}])
    _, lines = run(tmp_path, egress, live=(deny_all("db"),))
    assert lines == [
        "north egress: from shop/app=db@north to 192.0.2.0/24: everything: denied -> allowed by cnp/shop/out egress[0]",
        NO_FLOWS,
        "RESULT 1 pair of north judged differently, and 0 recent connections",
    ]
    to_six = policy("six", "db", egress=[{"toEntities": ["world-ipv6"]}])
    named = policy("out", "db", egress=[{"toCIDR": ["2001:db8::/32"]}])
    _, lines = run(tmp_path, named, live=(to_six,))
    assert lines == [NO_FLOWS, "RESULT 0 pairs of north judged differently, and 0 recent connections"]


def test_a_document_has_the_same_in_parts(tmp_path: Path) -> None:
    egress = policy("out", "db", egress=[{"toCIDR": ["192.0.2.0/24"]}])
    code, lines = run(tmp_path, egress, live=(deny_all("db"),), form=AnswerForm.JSON)
    assert (code, orjson.loads("\n".join(lines))) == (
        ExitCode.OK,
        {
            "schema": 1, "cluster": "north", "pairs": 1, "errors": [], "warnings": [], "not-enforced": [], "flows": [],
            "connections-judged": 0, "connections-unknown": 0, "nodes-missing": [],
            "nodes": [{"node": "north-node", "since": "", "is-whole": True, "lost": 0, "left-out": 0, "connections": 0}],
            "changes": [{
                "direction": "egress", "from": "shop/app=db@north", "to": "192.0.2.0/24", "packets": ["everything"],
                "before": "denied", "after": "allowed", "reason": "by cnp/shop/out egress[0]", "rule": "cnp/shop/out egress[0]",
            }],
        },
    )  # fmt: skip
    code, lines = run(tmp_path, policy("bad", "db", ingres=[{}]), form=AnswerForm.YAML)
    report = yaml.safe_load("\n".join(lines))
    assert (code, report["pairs"], len(report["errors"])) == (ExitCode.CHECK_FAILED, 0, 1)


def test_a_policy_for_whose_ranges_there_is_no_room_is_compared_as_it_will_be_and_told(tmp_path: Path) -> None:
    ranges = [f"10.0.{n >> 8}.{n & 255}" for n in range(32_769)]
    code, lines = run(tmp_path, policy("many", "db", egress=[{"toCIDR": ranges}]))
    assert code == ExitCode.OK
    assert any("cnp/shop/many is kept closed: it names 32769 address ranges" in line for line in lines)
    assert "north egress: from shop/app=db@north to world: everything: allowed -> denied by default" in lines
    assert not any(line.startswith("north egress: from shop/app=db@north to 10.") for line in lines)


def test_what_nobody_can_enforce_yet_is_told_and_compared_as_the_denial_that_it_is(tmp_path: Path) -> None:
    topics = {"ports": [{"port": "9092", "protocol": "TCP"}], "rules": {"kafka": [{"topic": "orders"}]}}
    code, lines = run(tmp_path, policy("topics", "db", ingress=[{"fromEndpoints": [app("web")], "toPorts": [topics]}]))
    assert code == ExitCode.DEGRADED
    told = "cnp/shop/topics: spec.ingress[0].toPorts[0]: a list of kafka rules cannot be enforced yet"
    assert any(f"not enforced: {told}" in line for line in lines)
    denied = "north ingress: from shop/app=web@north to shop/app=db@north: "
    assert [line for line in lines if line.startswith(denied) and "allowed -> denied" in line]


def test_a_document_in_error_is_told_and_compared_with_nothing(tmp_path: Path) -> None:
    code, lines = run(tmp_path, policy("bad", "db", ingres=[{}]))
    assert code == ExitCode.CHECK_FAILED
    assert len(lines) == 1
    assert "unknown field" in lines[0]
    with pytest.raises(CommandError, match="holds no policy"):
        run(tmp_path)


def test_the_objects_of_lists_are_compared_like_documents(tmp_path: Path) -> None:
    objects = [policy(name, name, ingress=[{"fromEndpoints": [app("web")]}]) for name in ("db", "web", "other")]
    alone = run(tmp_path, *objects)
    lists = [{"kind": "List", "items": objects[:2]}, {"kind": "List", "items": objects[2:]}]
    assert run(tmp_path, *lists) == alone
    assert any("denied by default" in line for line in alone[1])
    with pytest.raises(CommandError, match="holds no policy"):
        run(tmp_path, {"kind": "List", "items": [7]})


def end(identity: int) -> ConnectionEnd:
    cluster, name = NAMES[identity]
    return ConnectionEnd(
        ip=ADDRESSES[identity], identity=identity, namespace="shop", pod=f"{name}-{identity}", cluster=cluster
    )


def connections(source: ConnectionEnd, target: ConnectionEnd, **changes: Any) -> ConnectionRow:
    """Three connections that came in on 5432/TCP, one of them dropped."""
    fields = {
        "direction": "ingress",
        "protocol": 6,
        "port": 5432,
        "connections": 3,
        "dropped": 1,
        "last": 1_700_000_000,
    }
    return ConnectionRow(source=source, destination=target, **{**fields, **changes})


def recent(*rows: ConnectionRow, **changes: Any) -> RecentConnections:
    fields = {"node": "north-node", "cluster": "north", "since": 1_699_999_940, "is_whole": False}
    return RecentConnections(connections=list(rows), **{**fields, **changes})


def test_recent_connections_that_would_end_otherwise_are_told_with_number_and_example(tmp_path: Path) -> None:
    rows = (
        connections(end(WEB_NORTH), end(DB_NORTH)),
        connections(end(WEB_SOUTH), end(DB_NORTH), connections=40, dropped=0),
        connections(end(DB_SOUTH), end(DB_NORTH), protocol=1, port=8, connections=2),
    )
    api = scripted_cluster("north", recent=recent(*rows, lost=4, left_out=5))
    only_web = policy("only-web", "db", ingress=[{"fromEndpoints": [app("web", **{CLUSTER_LABEL: "north"})]}])
    _, lines = ask(tmp_path, api, only_web)
    last, denied = "the last on north-node at 2023-11-14T22:13:20Z", "allowed -> denied by default"
    by_number = f"5432/TCP: {denied}; {last}: shop/web-140000 (10.2.1.4) -> shop/db-70001 (10.1.2.4)"
    by_type = f"8/ICMP: {denied}; {last}: shop/db-140001 (10.2.2.4) -> shop/db-70001 (10.1.2.4)"
    assert [line for line in lines if "connection" in line] == [
        f"north ingress: 40 recent connections from shop/app=web@south to shop/app=db@north: {by_number}",
        f"north ingress: 2 recent connections from shop/app=db@south to shop/app=db@north: {by_type}",
        "45 recent connections of 1 node judged again",
        "WARN 5 recent connections of rarer kinds left out: a node tells so many kinds only",
        "WARN 4 events of 1 node were lost, so connections may be missing",
        lines[-1],
    ]
    assert lines[-1].endswith("pairs of north judged differently, and 42 recent connections")
    assert "they reach back to 2023-11-14T22:12:20Z on north-node; of 0 nodes to the start of the agent" in lines, (
        "how long a ring reaches is told"
    )


def test_an_address_outside_is_judged_by_the_ranges_of_each_policy_set(tmp_path: Path) -> None:
    outside = ConnectionEnd(ip="192.0.2.7", identity=2)
    local = ConnectionEnd(ip="198.51.100.1", identity=(1 << 24) + 5)
    row = partial(connections, end(DB_NORTH), direction="egress", port=443)
    api = scripted_cluster("north", deny_all("db"), recent=recent(row(outside), row(local)))
    _, lines = ask(tmp_path, api, policy("out", "db", egress=[{"toCIDR": ["192.0.2.0/24"]}]))
    (line,) = (line for line in lines if "3 recent connections from" in line)
    assert line.startswith("north egress: 3 recent connections from shop/app=db@north to 192.0.2.0/24: 443/TCP: denied")
    assert line.endswith("shop/db-70001 (10.1.2.4) -> 192.0.2.7")


def test_what_is_not_known_any_more_is_counted_and_judged_by_nobody(tmp_path: Path) -> None:
    gone = ConnectionEnd(ip="10.1.9.9", identity=77_777, namespace="shop", pod="gone")
    node = ConnectionEnd(ip=NODES["south"], identity=0)
    rows = (connections(gone, end(DB_NORTH)), connections(end(WEB_NORTH), gone), connections(node, end(DB_NORTH)))
    _, lines = ask(tmp_path, scripted_cluster("north", recent=recent(*rows)), deny_all("db"))
    assert "3 recent connections of 1 node judged again, 6 more of ends that are not known any more" in lines
    assert any("3 recent connections from remote-node to shop/app=db@north" in line for line in lines)


def test_a_node_that_gives_no_answer_is_named_and_the_others_count(tmp_path: Path) -> None:
    api = scripted_cluster("north", recent=recent(connections(end(WEB_NORTH), end(DB_NORTH))))
    pods = "/api/v1/namespaces/kube-system/pods"
    (agent,) = api.answers[pods]["items"]  # type: ignore[index]
    silent = {**agent, "metadata": {**agent["metadata"], "name": "agent-2"}, "spec": {"nodeName": "north-silent"}}
    api.answers[pods] = listing(agent, silent)
    code, lines = ask(tmp_path, api, deny_all("db"))
    assert code == ExitCode.OK
    assert any(line.startswith("WARN recent connections are not known of north-silent: ") for line in lines)
    assert lines[-1].endswith("judged differently, and 3 recent connections")


def test_of_many_agents_each_is_asked_for_less(tmp_path: Path) -> None:
    api = scripted_cluster("north")
    pods = "/api/v1/namespaces/kube-system/pods"
    (agent,) = api.answers[pods]["items"]  # type: ignore[index]
    named = ({**agent["metadata"], "name": f"agent-{n}"} for n in range(1, 101))
    api.answers[pods] = listing(*({**agent, "metadata": metadata} for metadata in named))
    for n in range(1, 101):
        path = f"{pods}/agent-{n}:9879/proxy/v1/flows/connections?most=2000"
        api.answers[path] = encode(recent(connections(end(WEB_NORTH), end(DB_NORTH)), node=f"n{n}"))
    _, lines = ask(tmp_path, api, deny_all("db"))
    assert "300 recent connections of 100 nodes judged again" in lines
    assert lines[-1].endswith("judged differently, and 300 recent connections")


TO_SERVICE = policy("out", "web", egress=[{"toServices": [{"k8sService": {"serviceName": "db", "namespace": "shop"}}]}])


def test_a_rule_that_names_a_service_is_judged_by_the_backends_that_the_agent_knows(tmp_path: Path) -> None:
    backends = ServicePeersRow(
        namespace="shop", name="db", labels={}, identities=[DB_SOUTH], addresses=["192.0.2.9/32"], reserved=[]
    )
    api = scripted_cluster("north", deny_all("web"), services=(backends,))
    _, lines = ask(tmp_path, api, TO_SERVICE)
    by = "everything: denied -> allowed by cnp/shop/out egress[0]"
    assert [line for line in lines if line.startswith("north")] == [
        f"north egress: from shop/app=web@north to shop/app=db@south: {by}",
        f"north egress: from shop/app=web@north to 192.0.2.9/32: {by}",
    ]


def test_an_agent_that_does_not_tell_services_leaves_them_nobody_and_that_is_said(tmp_path: Path) -> None:
    api = scripted_cluster("north", deny_all("web"))
    del api.answers["/api/v1/namespaces/kube-system/pods/agent-1:9879/proxy/v1/policy/services"]
    _, lines = ask(tmp_path, api, TO_SERVICE)
    assert lines[1].startswith("WARN rules that name Services are compared as if no Service had a backend: ")
    assert lines[-1] == "RESULT 0 pairs of north judged differently, and 0 recent connections"


def host_policy(name: str = "nodes", **spec: object) -> dict[str, object]:
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumClusterwideNetworkPolicy",
        "metadata": {"name": name},
        "spec": {"nodeSelector": {}, **spec},
    }


def with_nodes(api: ScriptedApi) -> ScriptedApi:
    """Two more nodes of north: an edge node, and a control plane."""
    api.answers["/api/v1/nodes"] = listing(
        node("north-node", NODES["north"]),
        node("north-edge", "172.18.0.3", role="edge"),
        node("north-plane", "172.18.0.4", **{"node-role.kubernetes.io/control-plane": ""}),
    )
    return api


def test_nodes_that_a_host_policy_selects_are_pairs_with_everybody_but_what_the_guard_keeps_open(
    tmp_path: Path,
) -> None:
    api = with_nodes(scripted_cluster("north"))
    only_web = host_policy(ingress=[{"fromEndpoints": [app("web", **{CLUSTER_LABEL: "north"})]}])
    code, lines = ask(tmp_path, api, only_web)
    assert code == ExitCode.OK
    nodes = [line for line in lines if " to node" in line]
    assert {line.partition(" to ")[2].partition(":")[0] for line in nodes} == {
        "nodes north-edge, north-node",
        "node north-plane",
    }
    (denied,) = (line for line in nodes if "from shop/app=db@north to nodes north-edge" in line)
    assert "80" in denied
    assert "allowed -> denied" in denied
    assert not any("from shop/app=web@north to" in line for line in nodes), "still allowed"
    assert not any("from host to" in line for line in nodes), "what stays on a node is not judged"
    by_node = {line.partition(" to ")[2].partition(":")[0]: line for line in nodes if "from world to" in line}
    assert "0-32378/TCP, 32380-65535/TCP" in by_node["nodes north-edge, north-node"]
    assert "0-6442/TCP, 6444-32378/TCP" in by_node["node north-plane"], "the API server is there"


def test_a_host_policy_changes_only_the_nodes_that_it_selects(tmp_path: Path) -> None:
    closed = host_policy(nodeSelector={"matchLabels": {"role": "edge"}}, ingress=[{}])
    _, lines = ask(tmp_path, with_nodes(scripted_cluster("north")), closed)
    nodes = {line.partition(" to ")[2].partition(":")[0] for line in lines if " to node" in line}
    assert nodes == {"node north-edge"}
    _, lines = ask(tmp_path, with_nodes(scripted_cluster("north", closed)), closed)
    assert lines == [NO_FLOWS, "RESULT 0 pairs of north judged differently, and 0 recent connections"]
    opened = host_policy(
        "more", nodeSelector={"matchLabels": {"role": "edge"}}, ingress=[{"fromEndpoints": [app("db")]}]
    )
    _, lines = ask(tmp_path, with_nodes(scripted_cluster("north", closed)), opened)
    (line, _) = (line for line in lines if " to node" in line)
    assert line.startswith("north ingress: from shop/app=db@north to node north-edge: ")
    assert line.endswith("denied -> allowed by ccnp/more ingress[0]")


def test_recent_connections_of_pods_with_nodes_are_judged_by_both(tmp_path: Path) -> None:
    """By the node that the address is of, wherever the pod is; not what a node sends to its own pods."""
    edge, own = ConnectionEnd(ip="172.18.0.3", identity=6), ConnectionEnd(ip=NODES["north"], identity=1)
    rows = (
        connections(end(WEB_NORTH), edge, direction="egress", port=9100, connections=5, dropped=0),
        connections(edge, end(DB_NORTH), connections=7),
        connections(end(WEB_NORTH), own, direction="egress", port=9100, connections=2, dropped=0),
        connections(own, end(DB_NORTH), connections=9),
    )
    api = with_nodes(scripted_cluster("north", recent=recent(*rows)))
    _, lines = ask(tmp_path, api, host_policy(ingress=[{}], egress=[{}]))
    flows = [line.partition(";")[0] for line in lines if "recent connections from" in line]
    assert flows == [
        "north egress: 7 recent connections from node north-edge to shop/app=db@north: 5432/TCP: allowed -> denied by default",
        "north ingress: 5 recent connections from shop/app=web@north to node north-edge: 9100/TCP: allowed -> denied by default",
        "north ingress: 2 recent connections from shop/app=web@north to node north-node: 9100/TCP: allowed -> denied by default",
    ]
    kubelet = connections(end(WEB_NORTH), edge, direction="egress", port=9879, connections=5, dropped=0)
    api = with_nodes(scripted_cluster("north", recent=recent(kubelet)))
    _, lines = ask(tmp_path, api, host_policy(ingress=[{}]))
    assert any("recent connections from shop/app=web@north to node north-edge" in line for line in lines)


def test_what_nodes_are_compared_without_is_said(tmp_path: Path) -> None:
    closed = host_policy(ingress=[{}])
    _, lines = run(tmp_path, closed)
    (warning,) = (line for line in lines if line.startswith("WARN"))
    assert "the guard's defaults" in warning
    api = scripted_cluster("north")
    del api.answers["/api/v1/nodes"]
    _, lines = ask(tmp_path, api, closed)
    (warning,) = (line for line in lines if line.startswith("WARN"))
    assert warning.startswith("WARN host policies are not compared: the cluster has no Node object")
    assert lines[-1] == "RESULT 0 pairs of north judged differently, and 0 recent connections"
