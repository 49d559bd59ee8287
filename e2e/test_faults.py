# SPDX-License-Identifier: Apache-2.0
"""Programs die, networks break, pods come and go: what was known stays in force, and what comes back is learned again."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

import pytest

from e2e.faults import (
    MAPS,
    command_of,
    kill,
    observed,
    processes_of,
    sampled_maps,
    send,
    wait_for_restart,
)
from e2e.mesh import CLUSTERS, SYSTEM, Cluster, Mesh, is_ready
from e2e.peers import mirrored, peer_seen
from e2e.store import open_store
from e2e.traffic import requests, undisturbed

AGENTS, APISERVER = "k8s-app=clustermesh-agent", "k8s-app=clustermesh-apiserver"
KEEPALIVE_LIMIT_S = 40.0
BEACON = """
apiVersion: v1
kind: Pod
metadata: {name: beacon, labels: {name: beacon}}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: pause, image: pause}]
"""
# on a node: its own processes neither reach a store nor hear from one
NO_STORE = """
table ip e2e {
  chain output { type filter hook output priority -200; tcp dport 2379 drop; }
  chain input { type filter hook input priority -200; tcp sport 2379 drop; }
}
"""
# a server that is told to end closes its door at once; the news of it needs a moment to reach every node
LATE_REQUESTS = 12


def listed_backends(mesh: Mesh, cluster: Cluster, node: str, of: Cluster, *, only_chosen: bool = False) -> list[str]:
    """Addresses of one cluster's backends behind rebel-base that this node knows."""
    (frontend,) = mesh.agent_rest(cluster, node, "/v1/services/default/rebel-base")["frontends"]
    found = [b for b in frontend["backends"] if b["cluster"] == of and (b["chosen"] or not only_chosen)]
    return sorted(b["address"] for b in found)


def known_backends(mesh: Mesh, cluster: Cluster, node: str, of: Cluster) -> list[str]:
    """Those of them that this node sends requests to."""
    return listed_backends(mesh, cluster, node, of, only_chosen=True)


def follows(mesh: Mesh, cluster: Cluster, node: str, other: Cluster) -> bool:
    return peer_seen(mesh, cluster, node, other)["state"] == "ready"


def scale(mesh: Mesh, cluster: Cluster, replicas: int) -> None:
    mesh.kubectl(cluster, "scale", "deployment", "rebel-base", f"--replicas={replicas}")


def test_killing_every_agent_at_once_loses_no_request_and_changes_no_map(whole: Mesh) -> None:
    agents = {cluster: whole.pods(cluster, AGENTS, SYSTEM) for cluster in CLUSTERS}
    assert [len(found) for found in agents.values()] == [3, 3]
    clients = [whole.pod(cluster, "x-wing")[1] for cluster in CLUSTERS]
    with ExitStack() as stack:
        stack.enter_context(undisturbed(whole, rate=40))
        samples = {node: stack.enter_context(sampled_maps(whole, node, MAPS)) for node in clients}
        kill([pid for found in agents.values() for pod in found for pid in processes_of(whole, pod)])
        for cluster, found in agents.items():
            for pod in found:
                wait_for_restart(whole, cluster, pod)
        for cluster, node in zip(CLUSTERS, clients, strict=True):
            other = CLUSTERS[cluster == CLUSTERS[0]]
            whole.wait_until(f"{node} follows {other} again", partial(follows, whole, cluster, node, other))
        changes = {node: {name: len(seen) for name, seen in found.read().items()} for node, found in samples.items()}
    assert changes == {node: dict.fromkeys(MAPS, 1) for node in clients}


def test_an_agent_that_is_down_is_no_reason_to_lose_what_happens_meanwhile(whole: Mesh) -> None:
    """A backend that comes while the agent is dead is used once the agent is back."""
    node = whole.pod("tion", "x-wing")[1]
    (agent,) = (pod for pod in whole.pods("tion", AGENTS, SYSTEM) if pod["spec"]["nodeName"] == node)
    try:
        with undisturbed(whole):
            kill(processes_of(whole, agent))
            scale(whole, "koornacht", 3)
            wait_for_restart(whole, "tion", agent)
            whole.wait_until("all three are known", lambda: len(known_backends(whole, "tion", node, "koornacht")) == 3)
    finally:
        scale(whole, "koornacht", 2)
    whole.wait_until("two are left", lambda: len(known_backends(whole, "tion", node, "koornacht")) == 2)


def kill_program(mesh: Mesh, pod: Any) -> None:
    kill(processes_of(mesh, pod))


def kill_etcd_only(mesh: Mesh, pod: Any) -> None:
    kill([pid for pid in processes_of(mesh, pod) if command_of(pid) == "etcd"])


def delete_pod(mesh: Mesh, pod: Any) -> None:
    name = pod["metadata"]["name"]
    mesh.kubectl("koornacht", "delete", "pod", "-n", SYSTEM, name, "--grace-period=0", "--force")


@pytest.mark.parametrize("how", [kill_program, kill_etcd_only, delete_pod])
def test_a_store_that_begins_again_empty_takes_no_backend_away(whole: Mesh, how: Callable[[Mesh, Any], None]) -> None:
    """Neither from the peer that reads it nor from its own nodes; what happened meanwhile is learned from the new one."""
    near, far = whole.pod("koornacht", "x-wing")[1], whole.pod("tion", "x-wing")[1]
    (apiserver,) = whole.pods("koornacht", APISERVER, SYSTEM)

    def known() -> tuple[list[str], list[str]]:
        return known_backends(whole, "koornacht", near, "tion"), known_backends(whole, "tion", far, "koornacht")

    def beacon_is_known() -> bool:
        return "beacon" in {ip["name"] for ip in whole.agent_rest("tion", far, "/v1/ips?cluster=koornacht")}

    before = known()
    assert [len(addresses) for addresses in before] == [2, 2]
    try:
        with undisturbed(whole), observed(known) as seen:
            how(whole, apiserver)
            whole.apply("koornacht", BEACON)
            whole.wait_until("tion knows the pod that came meanwhile", beacon_is_known, KEEPALIVE_LIMIT_S)
        assert seen.values == [before]
    finally:
        whole.delete("koornacht", BEACON)
    whole.wait_until("tion knows that it went", lambda: not beacon_is_known())
    whole.wait_until("both are well", lambda: are_well(whole), KEEPALIVE_LIMIT_S)


def agent_on(mesh: Mesh, node: str) -> Any:
    cluster: Cluster = "koornacht" if node.startswith("koornacht") else "tion"
    (agent,) = (pod for pod in mesh.pods(cluster, AGENTS, SYSTEM) if pod["spec"]["nodeName"] == node)
    return agent


@contextmanager
def frozen_agent(mesh: Mesh, node: str) -> Iterator[None]:
    """The node's agent stands still."""
    pids = processes_of(mesh, agent_on(mesh, node))
    assert pids
    send(pids, signal.SIGSTOP)
    try:
        yield
    finally:
        send(pids, signal.SIGCONT)


@contextmanager
def node_without_store(mesh: Mesh, node: str) -> Iterator[None]:
    """The node's agent hears nothing of its own cluster's store: of no pod's identity, not even its own node's."""
    mesh.on_node(node, "nft", NO_STORE)
    try:
        yield
    finally:
        mesh.on_node(node, "nft", "delete table ip e2e", check=False)


@pytest.mark.parametrize("trouble", [frozen_agent, node_without_store])
def test_a_pod_is_announced_when_its_node_enforces_it_and_not_before(
    whole: Mesh, trouble: Callable[[Mesh, str], AbstractContextManager[None]]
) -> None:
    """Peers lose no request meanwhile, status names the node whose word is missing, and the pod serves after that."""
    node, far = "koornacht-worker2", whole.pod("tion", "x-wing")[1]

    def known() -> int:
        return len(known_backends(whole, "tion", far, "koornacht"))

    def third_is_ready() -> bool:
        return sum(is_ready(pod) for pod in whole.pods("koornacht", "name=rebel-base")) == 3

    def is_missed() -> bool:
        status = whole.clustermesh("status", "--context", "kind-koornacht", check=False)
        return f"node {node}: 1 pods are not announced" in status.stdout

    try:
        whole.kubectl("koornacht", "cordon", "koornacht-worker")
        with requests(whole, "tion") as loop:
            with trouble(whole, node):
                scale(whole, "koornacht", 3)
                whole.wait_until("the third is ready", third_is_ready)
                assert sum(p["spec"]["nodeName"] == node for p in whole.pods("koornacht", "name=rebel-base")) == 2
                whole.wait_until("status names the node", is_missed)
                loop.more(60)
                assert known() == 2
            whole.wait_until("tion knows the third", lambda: known() == 3, KEEPALIVE_LIMIT_S)
            found = loop.more(60)
        assert set(found) == {"Koornacht", "Tion"}, found
        assert not is_missed()
    finally:
        whole.kubectl("koornacht", "uncordon", "koornacht-worker")
        scale(whole, "koornacht", 2)
    whole.wait_until("tion knows two again", lambda: known() == 2)


def are_well(mesh: Mesh) -> bool:
    contexts = [("--context", f"kind-{cluster}") for cluster in CLUSTERS]
    return all(mesh.clustermesh("status", *context, check=False).returncode == 0 for context in contexts)


def test_status_names_the_store_that_is_followed_now(whole: Mesh) -> None:
    node = whole.pod("koornacht", "x-wing")[1]
    (apiserver,) = whole.pods("koornacht", APISERVER, SYSTEM)
    kill_etcd_only(whole, apiserver)
    ask = ("endpoint", "status", "-w", "json")
    answer = whole.wait_until("a new store answers", lambda: open_store(whole, "koornacht").etcdctl(*ask).stdout)
    store_id = int(json.loads(answer)[0]["Status"]["header"]["cluster_id"])
    whole.wait_until(
        f"the agent says that it follows {store_id:x}",
        lambda: f"ID: {store_id:x}" in str(peer_seen(whole, "koornacht", node, "tion")["status"]),
    )


@pytest.mark.runbook("peer-cut")
def test_clusters_that_are_cut_off_keep_what_they_know_and_show_its_age(whole: Mesh) -> None:
    """Requests go to what can be reached; nothing is forgotten, and all is as before when the cut is healed."""
    node = whole.pod("tion", "x-wing")[1]
    before = listed_backends(whole, "tion", node, "koornacht")
    assert len(before) == 2
    whole.lab("cut", "koornacht", "tion")
    try:
        whole.wait_for_answers("tion", "Tion", limit_s=KEEPALIVE_LIMIT_S)
        seen = whole.wait_until(
            "tion says that koornacht is lost",
            lambda: (peer := mirrored(whole, "tion", "koornacht"))["state"] == "disconnected" and peer,
            KEEPALIVE_LIMIT_S,
        )
        assert (seen["connected"], bool(seen["reason"])) == (False, True)
        agent = peer_seen(whole, "tion", node, "koornacht")
        assert (agent["state"], "not chosen" in str(agent["reason"])) == ("withdrawn", True), agent
        status = whole.clustermesh("status", "--context", "kind-tion", check=False)
        assert (status.returncode, "not connected to cluster koornacht" in status.stdout) == (3, True), status.stdout
        (apiserver, *_) = whole.pods("tion", "k8s-app=clustermesh-apiserver", SYSTEM)
        tried = whole.kubectl(
            "tion", "-n", SYSTEM, "exec", str(apiserver["metadata"]["name"]), "--",
            "clustermesh-apiserver", "troubleshoot", "koornacht", "--timeout", "1", check=False,
        )  # fmt: skip
        assert (tried.returncode, "unreachable: no answer in 1 s" in tried.stdout) == (4, True), tried.stdout
        age = float(str(seen["age"]))
        whole.wait_until("its age grows", lambda: float(str(mirrored(whole, "tion", "koornacht")["age"])) > age + 2)
        assert listed_backends(whole, "tion", node, "koornacht") == before
    finally:
        whole.lab("heal")
    whole.wait_until(
        "its backends are chosen again",
        lambda: known_backends(whole, "tion", node, "koornacht") == before,
        KEEPALIVE_LIMIT_S,
    )
    whole.wait_until("both are well", lambda: are_well(whole), KEEPALIVE_LIMIT_S)


def test_a_node_that_is_cut_off_disturbs_no_other(whole: Mesh) -> None:
    """The control plane of tion serves nobody's requests: without it everything goes on."""
    assert not [p for p in whole.pods("tion", "name=rebel-base") if p["spec"]["nodeName"] == "tion-control-plane"]
    try:
        with undisturbed(whole):
            whole.lab("cut", "tion-control-plane", "koornacht")
            whole.wait_until(
                "the node has noticed",
                lambda: peer_seen(whole, "tion", "tion-control-plane", "koornacht")["state"] == "withdrawn",
                KEEPALIVE_LIMIT_S,
            )
    finally:
        whole.lab("heal")
    whole.wait_until(
        "the node is back",
        lambda: peer_seen(whole, "tion", "tion-control-plane", "koornacht")["state"] == "ready",
        KEEPALIVE_LIMIT_S,
    )


@pytest.mark.parametrize("client", CLUSTERS)
def test_scaling_to_nothing_moves_all_requests_and_scaling_back_returns_them(whole: Mesh, client: Cluster) -> None:
    with requests(whole, client) as loop:
        try:
            scale(whole, "koornacht", 0)
            whole.wait_for_answers(client, "Tion")
            before = loop.so_far()
            assert set(loop.more(30) - before) == {"Tion"}
        finally:
            scale(whole, "koornacht", 2)
        whole.kubectl("koornacht", "rollout", "status", "deployment/rebel-base", "--timeout=60s")
        before = loop.so_far()
        whole.wait_until("both answer again", lambda: set(loop.so_far() - before) >= {"Koornacht", "Tion"})
        found = loop.stop()
    assert set(found) <= {"Koornacht", "Tion", "curl error 7"}, found
    assert found["curl error 7"] <= LATE_REQUESTS, found


def test_a_pod_deleted_under_load_is_replaced_and_at_most_its_last_moment_is_seen(whole: Mesh) -> None:
    name, _, address = whole.pod("koornacht", "rebel-base")
    node = whole.pod("tion", "x-wing")[1]
    with requests(whole, "koornacht") as near, requests(whole, "tion") as far:
        whole.kubectl("koornacht", "delete", "pod", name)
        whole.kubectl("koornacht", "rollout", "status", "deployment/rebel-base", "--timeout=60s")

        def is_replaced() -> bool:
            known = known_backends(whole, "tion", node, "koornacht")
            return len(known) == 2 and address not in known

        whole.wait_until("tion knows the new pod and not the old one", is_replaced)
        marks = [loop.so_far() for loop in (near, far)]
        for loop, mark in zip((near, far), marks, strict=True):
            assert set(loop.more(30) - mark) == {"Koornacht", "Tion"}
            found = loop.stop()
            assert set(found) <= {"Koornacht", "Tion", "curl error 7"}, found
            assert found["curl error 7"] <= LATE_REQUESTS, found


def test_a_rollout_of_pods_that_take_their_time_to_end_loses_no_request(whole: Mesh) -> None:
    """They serve for two seconds after Kubernetes said that they end: nobody sends them a new connection by then."""

    def set_hook(hook: object) -> None:
        spec = {"spec": {"containers": [{"name": "rebel-base", "lifecycle": hook}]}}
        whole.kubectl("koornacht", "patch", "deployment", "rebel-base", "-p", json.dumps({"spec": {"template": spec}}))
        whole.kubectl("koornacht", "rollout", "status", "deployment/rebel-base", "--timeout=60s")

    def has_old_pods() -> bool:
        return len(whole.get("koornacht", "pods", "-l", "name=rebel-base")["items"]) > 2

    try:
        set_hook({"preStop": {"sleep": {"seconds": 2}}})
        whole.wait_until("pods that end at once are gone", lambda: not has_old_pods())
        with undisturbed(whole, rate=40):
            whole.kubectl("koornacht", "rollout", "restart", "deployment/rebel-base")
            whole.kubectl("koornacht", "rollout", "status", "deployment/rebel-base", "--timeout=60s")
            whole.wait_until("pods of before are gone", lambda: not has_old_pods())
    finally:
        set_hook(None)
