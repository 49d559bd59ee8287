# SPDX-License-Identifier: Apache-2.0
"""When a mesh is well, and which words say why it is not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from certs import profile
from certs.authority import Authority
from certs.inspect import parse
from certs.validity import KeptCertificates
from clustermesh_cli.mesh_health import assess
from clustermesh_cli.peer_rows import describe_peer
from meshapi.agent import NOT_ENFORCED, AgentStatus
from meshapi.apiserver import NOT_SEEN, ApiserverStatus
from meshapi.peer import PeerState, RemoteCluster, RemoteClusterConfig, RemoteClusterSynced

NOW = 1_800_000_000.0
DAY = 86_400.0
HOUR = 3_600.0
ALL = RemoteClusterSynced(nodes=True, services=True, identities=True, endpoints=True)
READY = RemoteCluster(
    name="south", ready=True, connected=True, config=RemoteClusterConfig(retrieved=True, cluster_id=2), synced=ALL
)


def agent(node: str, *peers: RemoteCluster, ready: bool = True) -> AgentStatus:
    return AgentStatus(node=node, cluster="north", cluster_id=1, ready=ready, peers=list(peers))


def apiserver(*agents: AgentStatus, ready: bool = True) -> ApiserverStatus:
    return ApiserverStatus(cluster="north", cluster_id=1, ready=ready, agents=list(agents))


def test_every_agent_ready_with_every_expected_peer_is_well() -> None:
    verdict = assess(
        apiserver(agent("a", READY), agent("b", READY)), expected_peers={"south": 2}, expected_agents=2, now_s=NOW
    )
    assert verdict.is_well
    assert [(p.name, p.configured, p.connected) for p in verdict.peers] == [("south", 2, 2)]
    assert (verdict.ready_nodes, verdict.nodes) == (2, 2)


def test_a_mirror_that_lost_a_peer_is_said_although_every_agent_is_ready() -> None:
    status = apiserver(agent("a", READY))
    status.health = {"mirror": "degraded"}
    status.peers = [RemoteCluster(name="south", connected=False, last_error="no route", age_s=12.4)]
    verdict = assess(status, expected_peers={"south": 2, "west": 3}, expected_agents=1, now_s=NOW)
    assert verdict.problems[:2] == (
        "clustermesh-apiserver does not mirror cluster west yet",
        "clustermesh-apiserver does not mirror cluster south: no route; agents keep what is 12 s old",
    )


def test_a_store_that_takes_no_records_is_a_problem_although_the_apiserver_serves() -> None:
    status = apiserver(agent("a", READY))
    status.health, status.problems = {"store": "degraded"}, ["store: etcd is full", "service shop/x: bad annotation"]
    verdict = assess(status, expected_peers={"south": 2}, expected_agents=1, now_s=NOW)
    assert (verdict.problems, verdict.warnings) == (("store: etcd is full",), ("service shop/x: bad annotation",))


def test_pods_that_peers_are_told_nothing_of_are_a_problem() -> None:
    status = apiserver(agent("a", READY))
    status.problems = [f"{NOT_SEEN}2 pods", "1 identities not published: out-of-range"]
    verdict = assess(status, expected_peers={"south": 2}, expected_agents=1, now_s=NOW)
    assert not verdict.is_well
    assert (verdict.problems, verdict.warnings) == ((status.problems[0],), (status.problems[1],))


def test_a_mesh_without_peers_is_well_once_its_programs_are() -> None:
    assert assess(apiserver(agent("a")), expected_peers={}, expected_agents=1, now_s=NOW).is_well


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (apiserver(agent("a", READY), ready=False), "clustermesh-apiserver is not ready"),
        (apiserver(agent("a")), "a does not know peer south yet"),
        (apiserver(AgentStatus(node="a", problems=["connection refused"])), "a is not ready: connection refused"),
        (apiserver(), "1 of 1 agents have not started"),
        (apiserver(agent("a", READY, ready=False)), "a is not ready"),
        (
            apiserver(agent("a", RemoteCluster(name="south", status="tcp timeout"))),
            "a is not connected to cluster south: tcp timeout",
        ),
    ],
    ids=["apiserver", "unknown-peer", "silent-agent", "missing-agent", "agent", "unconnected"],
)
def test_anything_less_is_named(status: ApiserverStatus, words: str) -> None:
    verdict = assess(status, expected_peers={"south": 2}, expected_agents=1, now_s=NOW)
    assert not verdict.is_well
    assert any(words in problem for problem in verdict.problems), verdict.problems


def test_the_first_layer_that_is_wrong_is_the_one_described() -> None:
    connected = RemoteCluster(name="south", connected=True)
    assert describe_peer(connected) == "its cluster configuration has not been retrieved"
    syncing = RemoteCluster(
        name="south",
        connected=True,
        config=RemoteClusterConfig(retrieved=True),
        synced=RemoteClusterSynced(nodes=True, services=True),
    )
    assert describe_peer(syncing) == "synchronization in progress for identities, endpoints"


def test_what_a_serving_agent_complains_about_is_a_warning_named_once() -> None:
    complaint = "policy shop/broken: spec.ingress[0]: unknown field"
    agents = [AgentStatus(node=n, cluster="north", cluster_id=1, ready=True, problems=[complaint]) for n in ("a", "b")]
    status = apiserver(*agents)
    status.problems.append(complaint)
    verdict = assess(status, expected_peers={}, expected_agents=2, now_s=NOW)
    assert verdict.is_well
    assert verdict.warnings == (complaint,)


def test_a_valid_policy_that_is_not_enforced_as_written_is_a_warning_and_never_well() -> None:
    said = f"{NOT_ENFORCED}CiliumNetworkPolicy shop/get-only: http rules cannot be enforced yet (pods here: shop/web)"
    serving = AgentStatus(node="a", cluster="north", cluster_id=1, ready=True, problems=[said])
    verdict = assess(apiserver(serving), expected_peers={}, expected_agents=1, now_s=NOW)
    assert (verdict.warnings, verdict.not_enforced, verdict.problems) == ((said,), (said,), ())
    assert not verdict.is_well


def kept(what: str, issued_s: float, days: float) -> KeptCertificates:
    pem = Authority.create(what, NOW - 400 * DAY).issue(replace(profile.admin("north"), days=days), issued_s).cert_pem
    return KeptCertificates(what, tuple(parse(pem)), "run clustermesh enable")


@pytest.mark.parametrize("what", ["server certificate", "authority of this cluster", "authority of peer south"])
@pytest.mark.parametrize(
    ("issued_s", "days", "sentence"),
    [
        (NOW - DAY - HOUR, 1, "expired on 2027-01-15 07:00 UTC: run clustermesh enable"),
        (NOW + HOUR, 1, "is not valid before 2027-01-15 08:55 UTC: correct the clocks, or run clustermesh enable"),
    ],
)
def test_a_certificate_that_every_verifier_refuses_is_named_with_its_date_and_the_command(
    what: str, issued_s: float, days: float, sentence: str
) -> None:
    verdict = assess(
        apiserver(agent("a")),
        expected_peers={},
        expected_agents=1,
        certificates=[kept(what, issued_s, days)],
        now_s=NOW,
    )
    assert verdict.problems == (f"{what} {sentence}",)


def test_the_last_tenth_of_a_certificates_life_is_a_warning_with_the_date() -> None:
    ending = kept("server certificate", NOW - 9.5 * DAY, 10)
    verdict = assess(apiserver(agent("a")), expected_peers={}, expected_agents=1, certificates=[ending], now_s=NOW)
    assert verdict.is_well
    assert verdict.warnings == (
        "server certificate is in the last tenth of its life and expires on 2027-01-15 20:00 UTC: run clustermesh enable",
    )


def test_an_old_authority_beside_a_good_one_is_no_problem() -> None:
    old, new = kept("ca", NOW - 30 * DAY, 1), kept("ca", NOW, 10)
    both = replace(new, certificates=(*old.certificates, *new.certificates))
    verdict = assess(apiserver(agent("a")), expected_peers={}, expected_agents=1, certificates=[both], now_s=NOW)
    assert (verdict.problems, verdict.warnings) == ((), ())


def test_a_server_that_still_shows_an_expired_certificate_is_a_problem_although_the_secret_has_a_new_one() -> None:
    status = apiserver(agent("a"))
    status.certificate_not_after = NOW - HOUR
    fresh = kept("server certificate", NOW - DAY, 10)
    verdict = assess(status, expected_peers={}, expected_agents=1, certificates=[fresh], now_s=NOW)
    (problem,) = verdict.problems
    assert "serves with a certificate that expired on 2027-01-15 07:00 UTC" in problem


def test_each_degraded_part_of_a_program_that_serves_is_a_problem() -> None:
    serving = agent("a", READY)
    lost = "peer south: node 172.18.0.7 gets no new connections from this node: no answer"
    serving.health = {
        "datapath": "ok",
        "nodes of peers": f"degraded: 1 not reached; {lost}",
        "map services": "degraded: 1 not written; x: full",
        "peer south": "degraded: said by its session",
        "peer north": "degraded: disconnected: own store",
    }
    serving.problems = [lost, "map services: 1 not written; x: full"]
    status = apiserver(serving)
    status.health = {"store": "failed", "kubernetes": "degraded", "publish": "ok"}
    verdict = assess(status, expected_peers={"south": 2}, expected_agents=1, now_s=NOW)
    assert verdict.problems == (
        "clustermesh-apiserver: kubernetes is degraded; see its log",
        "clustermesh-apiserver: store is failed; see its log",
        "a: map services: 1 not written; x: full",
        f"a: nodes of peers: 1 not reached; {lost}",
        "a: peer north: disconnected: own store",
    )
    assert verdict.warnings == (lost,)


def test_a_row_has_the_age_of_the_peers_data_not_of_the_copy_and_the_probes_of_all_nodes() -> None:
    copies = replace_row(READY, age_s=0.2, probes_reached=2, probes_total=3, rtt_s=0.004)
    status = apiserver(agent("a", copies), agent("b", replace_row(copies, rtt_s=0.006)))
    status.health = {"mirror": "degraded"}
    status.peers = [replace_row(READY, ready=False, connected=False, reason="no route", age_s=41.0)]
    (row,) = assess(status, expected_peers={"south": 2}, expected_agents=2, now_s=NOW).peers
    assert (row.id, row.connected, row.age_s, row.probes_reached, row.probes_total) == (2, 2, 41.0, 4, 6)
    assert (row.session_since, row.reason, row.rtt_s) == (0.0, "no route", 0.005)


def test_without_a_mirror_the_row_is_of_the_node_that_is_worst() -> None:
    fresh = replace_row(READY, age_s=1.0, session_since=NOW - 60, state=PeerState.READY)
    stale = replace_row(fresh, age_s=9.0, session_since=NOW - 30)
    (row,) = assess(
        apiserver(agent("a", fresh), agent("b", stale)), expected_peers={}, expected_agents=2, now_s=NOW
    ).peers
    assert (row.age_s, row.session_since, row.state, row.reason) == (9.0, NOW - 30, "ready", "")


def replace_row(peer: RemoteCluster, **changes: Any) -> RemoteCluster:
    return msgspec.structs.replace(peer, **changes)
