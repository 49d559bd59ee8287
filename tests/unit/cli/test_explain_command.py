# SPDX-License-Identifier: Apache-2.0
"""`explain policy` from clusters that answer, answer something else, or do not answer: what is printed, which exit code."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from explain_world import (
    ADDRESSES,
    CONFIG_MAP,
    DB_SOUTH,
    NODES,
    WEB_NORTH,
    ScriptedApi,
    app,
    deny_all,
    listing,
    pod,
    policy,
    scripted_cluster,
)

from clustermesh_cli.commands.explain import explain, parse_end, parse_packet
from clustermesh_cli.console import Console
from clustermesh_cli.exit_code import CommandError, ExitCode
from clustermesh_cli.live_policy import read_cluster
from meshapi.agent import NameRow, ServicePeersRow
from meshkit.answer_form import AnswerForm
from meshpolicy.port import ICMP, TCP, UDP

WALL_S = 1_767_225_600.0 + 120  # two minutes after the identities were made
PROXY = "/api/v1/namespaces/kube-system/pods/agent-1:9879/proxy/v1"
OPEN_WEB = policy("to-db", "web", egress=[{"toEndpoints": [app("db")]}])


def run(
    *apis: ScriptedApi,
    ends: Sequence[str] = ("shop/web", "shop/db@south"),
    port: str = "80/TCP",
    as_json: bool = False,
    verbose: bool = False,
) -> tuple[ExitCode, str]:
    stream = io.StringIO()
    names = ("kind-north", "kind-south")
    clients = {name: api.client(name) for name, api in zip(names, apis, strict=False)}
    code = explain(
        clients,
        "kube-system",
        ends,
        port,
        Console(plain=True, stream=stream),
        wall_s=WALL_S,
        form=AnswerForm.JSON if as_json else AnswerForm.TABLE,
        verbose=verbose,
    )
    return code, stream.getvalue()


def test_the_text_names_both_ends_the_deciding_rules_and_the_denying_side() -> None:
    code, text = run(scripted_cluster("north", OPEN_WEB), scripted_cluster("south", deny_all("db")))
    assert code == ExitCode.CHECK_FAILED
    lines = text.splitlines()
    assert lines[0] == f"from shop/web-{WEB_NORTH} (cluster north, node north-node, {ADDRESSES[WEB_NORTH]})"
    assert lines[1].strip() == f"identity {WEB_NORTH}, app=web, created 2m ago"
    assert any(line.startswith("OK   egress, judged by north: allowed by cnp/shop/to-db egress[0]") for line in lines)
    assert any(line.startswith("FAIL ingress, judged by south: denied by default") for line in lines)
    assert any(f"identity {DB_SOUTH}, app=db, told by south, confirmed 2s ago" in line for line in lines)
    assert lines[-1] == "RESULT denied by ingress (south); egress allows it"


def test_rules_that_do_not_apply_are_counted_and_listed_for_who_asks() -> None:
    others = policy("others", "web", egress=[{"toEndpoints": [app(name)]} for name in ("cache", "queue")])
    clusters = scripted_cluster("north", OPEN_WEB, others), scripted_cluster("south")
    (_, short), (_, long) = run(*clusters), run(*clusters, verbose=True)
    assert "2 rules of cnp/shop/others not applying (-v shows them)" in short
    assert "others egress[" not in short
    assert all(f"cnp/shop/others egress[{number}]: " in long for number in (0, 1))
    assert "not applying" not in long
    assert all("cnp/shop/to-db egress[0]" in text for text in (short, long))


def test_the_exit_code_is_zero_where_both_sides_allow() -> None:
    code, text = run(scripted_cluster("north"), scripted_cluster("south"))
    assert (code, text.splitlines()[-1]) == (ExitCode.OK, "RESULT allowed by both sides")


def test_a_side_without_its_context_is_not_known_here_and_says_what_to_give() -> None:
    code, text = run(scripted_cluster("north"))
    assert code == ExitCode.DEGRADED
    assert "not known here: give --destination-context" in text
    assert text.splitlines()[-1].startswith("RESULT not known: ingress (south)")


def test_json_says_the_same() -> None:
    _, text = run(scripted_cluster("north", OPEN_WEB), scripted_cluster("south", deny_all("db")), as_json=True)
    said: dict[str, Any] = orjson.loads(text)
    assert (said["verdict"], said["egress"]["verdict"], said["ingress"]["verdict"]) == ("denied", "allowed", "denied")
    assert said["egress"]["deciding-rule"] == "cnp/shop/to-db egress[0]"
    assert said["from"]["identity-age"] == 120
    assert said["egress"]["peer"] == {
        "identity": DB_SOUTH,
        "known": True,
        "labels": said["to"]["identity"]["labels"],
        "told-by": "south",
        "age": 1.5,
    }
    # the scripted node holds no entries: that it drops what the policies allow must be told
    assert said["egress"]["node"]["verdict"] == "denied"
    assert "still denies it" in said["egress"]["remarks"][0]


def test_an_address_of_a_pod_is_that_pod_and_one_of_a_node_is_that_node() -> None:
    _, text = run(scripted_cluster("north"), scripted_cluster("south"), ends=("shop/web", ADDRESSES[DB_SOUTH]))
    assert f"to   shop/db-{DB_SOUTH} (cluster south" in text
    code, text = run(scripted_cluster("north"), scripted_cluster("south"), ends=("shop/web", NODES["south"]))
    assert code == ExitCode.OK
    assert "to   south-node (cluster south" in text
    code, text = run(scripted_cluster("north"), ends=("shop/web", "192.0.2.1"))
    assert code == ExitCode.OK
    assert "to   192.0.2.1 (outside of the mesh)" in text


def test_what_the_agents_were_started_with_counts_before_the_config_map() -> None:
    on = scripted_cluster("north", OPEN_WEB, flags=("--policy-default-local-cluster=true",))
    off = scripted_cluster("north", OPEN_WEB, flags=("--policy-default-local-cluster=false",))
    assert run(on, scripted_cluster("south"))[0] == ExitCode.CHECK_FAILED
    assert run(off, scripted_cluster("south"))[0] == ExitCode.OK
    unsaid = scripted_cluster("north", OPEN_WEB)
    unsaid.answers[CONFIG_MAP] = {"data": {"cluster-name": "north"}}
    assert read_cluster(unsaid.client("kind-north"), "kube-system", "kind-north").default_local_cluster, "on by default"


@pytest.mark.parametrize(
    ("ends", "port", "words"),
    [
        (("web", "shop/db"), "80/TCP", "write NAMESPACE/POD"),
        (("shop/web", "shop/db/x"), "80/TCP", "write NAMESPACE/POD"),
        (("shop/web", "shop/db"), "80/PIGEON", "unknown protocol"),
        (("shop/web", "shop/db"), "70000/TCP", "write PORT/PROTOCOL"),
        (("shop/web", "shop/db"), "smtp", "the destination names http"),
        (("shop/web", "shop/db@mars"), "80/TCP", "north knows no cluster mars: its peers are south"),
    ],
)
def test_what_cannot_be_asked_is_a_usage_error(ends: tuple[str, str], port: str, words: str) -> None:
    with pytest.raises(CommandError, match=words) as caught:
        run(scripted_cluster("north"), ends=ends, port=port)
    assert caught.value.code == ExitCode.USAGE


def test_a_pod_that_is_not_there_is_an_error_that_names_those_that_are() -> None:
    with pytest.raises(CommandError, match=f"no pod shop/cache in north; that namespace has db-70001, web-{WEB_NORTH}"):
        run(scripted_cluster("north"), ends=("shop/cache", "shop/db"))
    with pytest.raises(CommandError, match="no pod shop/cache in south"):
        run(scripted_cluster("north"), ends=("shop/web", "shop/cache@south"))


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        (f"{PROXY}/ips", 503, "agent on north-node does not answer .HTTP 503: no.: see kubectl"),
        ("/api/v1/pods", 403, "needs to read pods, policies and pods/proxy"),
        ("/api/v1/pods", 500, "does not answer: .* try kubectl --context kind-north"),
        (
            "/api/v1/namespaces/kube-system/configmaps/clustermesh-config",
            404,
            "clustermesh enable --context kind-north",
        ),
    ],
)
def test_whatever_does_not_answer_is_one_line_with_what_to_do(path: str, status: int, words: str) -> None:
    north = scripted_cluster("north")
    north.refuse[path] = status
    with pytest.raises(CommandError, match=words) as caught:
        run(north, scripted_cluster("south"))
    assert "\n" not in str(caught.value)


def test_a_cluster_without_agents_or_with_other_agents_is_one_line_too() -> None:
    north = scripted_cluster("north")
    north.answers[f"{PROXY}/ips"] = b'[{"cidr": 5}]'
    with pytest.raises(CommandError, match="cannot read"):
        run(north, scripted_cluster("south"))
    north.answers["/api/v1/namespaces/kube-system/pods"] = {"metadata": {}, "items": []}
    with pytest.raises(CommandError, match="no agent runs on node north-node of kind-north"):
        run(north, scripted_cluster("south"))


def test_ends_and_ports_are_read_as_people_write_them() -> None:
    assert parse_end("shop/web@south") == ("shop", "web", "south")
    assert parse_end("shop/web") == ("shop", "web", "")
    assert parse_end("fd00::1") == "fd00::1"
    assert parse_packet("53/udp", {}) == (UDP, 53)
    assert parse_packet("80", {}) == (TCP, 80)
    assert parse_packet("8/ICMP", {}) == parse_packet("EchoRequest/ICMP", {}) == (ICMP, 8)
    assert parse_packet("HTTP", {"http": (8080, TCP)}) == (TCP, 8080)


def test_a_pod_that_has_ended_is_not_asked_for_and_odd_ports_are_left_out() -> None:
    """Its address may be another pod's by now."""
    cluster = scripted_cluster("north")
    ended, odd = pod(WEB_NORTH), pod(WEB_NORTH)
    ended["metadata"]["name"], ended["status"]["phase"] = "ended", "Succeeded"
    odd["metadata"]["name"] = "odd"
    ports = [{"name": "http", "containerPort": 70000}, {"name": "grpc", "containerPort": 50051, "protocol": "TCP"}]
    odd["spec"]["containers"] = [{"name": "c", "ports": ports}]
    cluster.answers["/api/v1/pods"] = listing(ended, odd, {"metadata": {}})
    (found,) = read_cluster(cluster.client("kind-north"), "kube-system", "kind-north").pods
    assert (found.name, found.named_ports) == ("odd", {"grpc": (50051, 6)})


TO_SERVICE = policy("out", "web", egress=[{"toServices": [{"k8sService": {"serviceName": "db", "namespace": "shop"}}]}])


@pytest.mark.parametrize("backends", [[DB_SOUTH], []])
def test_a_rule_that_names_a_service_is_judged_by_the_backends_that_the_agent_knows_as_by_policy_diff(
    backends: list[int],
) -> None:
    row = ServicePeersRow(namespace="shop", name="db", labels={}, identities=backends, addresses=[], reserved=[])
    code, text = run(scripted_cluster("north", TO_SERVICE, services=(row,)), scripted_cluster("south"))
    (judged,) = (line for line in text.splitlines() if "egress, judged by north" in line)
    if backends:
        assert code == ExitCode.OK
        assert judged.startswith("OK   egress, judged by north: allowed by cnp/shop/out egress[0]")
    else:
        assert code == ExitCode.CHECK_FAILED
        assert judged.startswith("FAIL egress, judged by north: denied by default: ")


def test_where_the_agent_does_not_tell_services_the_kernel_of_the_node_answers() -> None:
    api = scripted_cluster("north", TO_SERVICE)
    del api.answers[f"{PROXY}/policy/services"]
    code, text = run(api, scripted_cluster("south"))
    assert code == ExitCode.CHECK_FAILED
    assert "egress, judged by north: denied by default" in text


def test_an_agent_that_is_asked_for_no_service_does_not_tell_any() -> None:
    api = scripted_cluster("north", OPEN_WEB)
    del api.answers[f"{PROXY}/policy/services"]
    assert run(api, scripted_cluster("south"))[0] == ExitCode.OK


@pytest.mark.parametrize(("labels", "code"), [(["example.org"], ExitCode.OK), ([], ExitCode.CHECK_FAILED)])
def test_an_address_that_the_agent_means_by_a_name_is_judged_by_the_rules_for_that_name(
    labels: list[str], code: ExitCode
) -> None:
    to_name = policy("out", "web", egress=[{"toFQDNs": [{"matchName": "example.org"}]}])
    told = NameRow(ADDRESSES[WEB_NORTH], "example.org", "203.0.113.7", 30.0, labels)
    found, text = run(scripted_cluster("north", to_name, names=(told,)), ends=("shop/web", "203.0.113.7"))
    (judged,) = (line for line in text.splitlines() if "egress, judged by north" in line)
    assert found == code
    assert ("allowed by cnp/shop/out egress[0]" in judged) == bool(labels)


def test_where_the_agent_keeps_no_names_nobody_has_one() -> None:
    api = scripted_cluster("north", OPEN_WEB)
    del api.answers[f"{PROXY}/fqdn/cache"]
    assert run(api, scripted_cluster("south"))[0] == ExitCode.OK
