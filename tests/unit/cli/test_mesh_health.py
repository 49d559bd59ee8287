# SPDX-License-Identifier: Apache-2.0
"""When a mesh is well, and which words say why it is not."""

from __future__ import annotations

import pytest

from clustermesh_cli.mesh_health import assess, describe_peer
from meshapi.agent import AgentStatus
from meshapi.apiserver import ApiserverStatus
from meshapi.peer import RemoteCluster, RemoteClusterConfig, RemoteClusterSynced

ALL = RemoteClusterSynced(nodes=True, services=True, identities=True, endpoints=True)
READY = RemoteCluster(
    name="south", ready=True, connected=True, config=RemoteClusterConfig(retrieved=True, cluster_id=2), synced=ALL
)


def agent(node: str, *peers: RemoteCluster, ready: bool = True) -> AgentStatus:
    return AgentStatus(node=node, cluster="north", cluster_id=1, ready=ready, peers=list(peers))


def apiserver(*agents: AgentStatus, ready: bool = True) -> ApiserverStatus:
    return ApiserverStatus(cluster="north", cluster_id=1, ready=ready, agents=list(agents))


def test_every_agent_ready_with_every_expected_peer_is_well() -> None:
    verdict = assess(apiserver(agent("a", READY), agent("b", READY)), expected_peers={"south": 2}, expected_agents=2)
    assert verdict.is_well
    assert [(p.name, p.configured, p.connected) for p in verdict.peers] == [("south", 2, 2)]
    assert (verdict.ready_nodes, verdict.nodes) == (2, 2)


def test_a_mirror_that_lost_a_peer_is_said_although_every_agent_is_ready() -> None:
    status = apiserver(agent("a", READY))
    status.health = {"mirror": "degraded"}
    status.peers = [RemoteCluster(name="south", connected=False, last_error="no route", age_s=12.4)]
    verdict = assess(status, expected_peers={"south": 2, "west": 3}, expected_agents=1)
    assert verdict.problems[:2] == (
        "clustermesh-apiserver does not mirror cluster west yet",
        "clustermesh-apiserver does not mirror cluster south: no route; agents keep what is 12 s old",
    )


def test_a_store_that_takes_no_records_is_a_problem_although_the_apiserver_serves() -> None:
    status = apiserver(agent("a", READY))
    status.health, status.problems = {"store": "degraded"}, ["store: etcd is full", "service shop/x: bad annotation"]
    verdict = assess(status, expected_peers={"south": 2}, expected_agents=1)
    assert (verdict.problems, verdict.warnings) == (("store: etcd is full",), ("service shop/x: bad annotation",))


def test_a_mesh_without_peers_is_well_once_its_programs_are() -> None:
    assert assess(apiserver(agent("a")), expected_peers={}, expected_agents=1).is_well


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
    verdict = assess(status, expected_peers={"south": 2}, expected_agents=1)
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
    verdict = assess(status, expected_peers={}, expected_agents=2)
    assert verdict.is_well
    assert verdict.warnings == (complaint,)
