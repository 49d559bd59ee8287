# SPDX-License-Identifier: Apache-2.0
"""A node gets another address, or another Node object, while it carries connections: agents, programs and peers follow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

import pytest

from e2e.mesh import CLUSTERS, Cluster, Mesh, wait_until
from e2e.patient import CLIENT, patient_servers
from e2e.policies import Place, in_pod
from e2e.traffic import BOTH, requests
from lab.topology import UNDERLAY_GATEWAY, cluster_named, node_named

OTHER: Final = "172.18.0.42"
CONNECTIONS: Final = 12
RECONNECT_LIMIT_S: Final = 90.0
"""An agent's connections from an address that is gone end by their keepalive."""
TALK: Final = f"""{CLIENT}
made = [connect() for _ in range({CONNECTIONS})]
names = [ask(one) for one in made]
print(*sorted(set(names)), flush=True)
while True:
    time.sleep(0.2)
    for one, name in zip(made, names):
        try:
            found = ask(one)
        except OSError as exc:
            found = type(exc).__name__
        if found != name:
            print("lost", name, found, flush=True)
    print("round", flush=True)
"""


@pytest.mark.runbook("node-address")
def test_a_node_gets_another_address_and_its_connections_go_on(whole: Mesh) -> None:
    name, node, _ = whole.pod("koornacht", "x-wing")
    with patient_servers(whole), in_pod(whole, Place("koornacht", name), TALK) as lines, moved_back(whole, node):
        wait_until("connections to both clusters talk", lambda: "round" in lines())
        assert lines()[0].split() == sorted(CLUSTERS)
        move(whole, node, node_named(node).address, OTHER)
        rounds = lines().count("round")
        wait_until("every connection talks from the new address", lambda: lines().count("round") > rounds + 10)
        assert [line for line in lines() if line.startswith("lost")] == []
        for cluster in CLUSTERS:
            with requests(whole, cluster, pod=name if cluster == "koornacht" else "") as loop:
                assert set(loop.more(60)) == BOTH
        assert [line for line in lines() if line.startswith("lost")] == []


def test_a_node_object_that_is_deleted_and_made_again_costs_no_connection(whole: Mesh) -> None:
    """`kubectl delete node`, and its kubelet registers again: its pods run on, as clients and as servers of both clusters."""
    with patient_servers(whole), ExitStack() as stack:
        (server, *_) = whole.pods("koornacht", "name=patient")
        node = server["spec"]["nodeName"]
        talks = [
            stack.enter_context(in_pod(whole, Place(cluster, whole.pod(cluster, "x-wing")[0]), TALK))
            for cluster in CLUSTERS
        ]

        def more_rounds(count: int) -> None:
            before = [lines().count("round") for lines in talks]
            wait_until(
                "connections of both clusters talk",
                lambda: all(lines().count("round") >= n + count for lines, n in zip(talks, before, strict=True)),
            )

        more_rounds(1)
        assert [lines()[0].split() for lines in talks] == [sorted(CLUSTERS)] * 2
        found = whole.get("koornacht", "node", node)
        former = found["metadata"]["uid"]
        found["metadata"] = {key: found["metadata"][key] for key in ("name", "labels")}
        whole.kubectl("koornacht", "delete", "node", node)
        try:
            more_rounds(25)
        finally:
            whole.kubectl("koornacht", "create", "-f", "-", input=json.dumps(found))
            status = json.dumps({"status": found["status"]})
            whole.kubectl("koornacht", "patch", "node", node, "--subresource=status", "--type=merge", "-p", status)
        more_rounds(25)
        assert whole.get("koornacht", "node", node)["metadata"]["uid"] != former
        assert whole.get("koornacht", "pod", server["metadata"]["name"])["metadata"]["uid"] == server["metadata"]["uid"]
        for cluster in CLUSTERS:
            with requests(whole, cluster) as loop:
                assert set(loop.more(40)) == BOTH
        assert [line for lines in talks for line in lines() if line.startswith("lost")] == []


@contextmanager
def moved_back(mesh: Mesh, node: str) -> Iterator[None]:
    try:
        yield
    finally:
        move(mesh, node, OTHER, node_named(node).address)


def move(mesh: Mesh, node: str, old: str, new: str) -> None:
    """What an operator does: the new address, the Node object, then the old address goes; the CNI's routes follow."""
    plan = node_named(node)
    cluster: Cluster = "koornacht" if plan.cluster == "koornacht" else "tion"
    mesh.on_node(node, "sysctl", "-q", "-w", "net.ipv4.conf.eth0.promote_secondaries=1")
    mesh.on_node(node, "ip", "addr", "replace", f"{new}/24", "dev", "eth0")
    status = {"addresses": [{"type": "InternalIP", "address": new}, {"type": "Hostname", "address": node}]}
    mesh.kubectl(
        cluster, "patch", "node", node, "--subresource=status", "--type=merge", "-p", json.dumps({"status": status})
    )
    for of in CLUSTERS:
        for seer in cluster_named(of).nodes:
            wait_until(
                f"{seer.name} knows {node} by {new}",
                lambda of=of, seer=seer: known_address(mesh, of, seer.name, f"{plan.cluster}/{node}") == new,
                RECONNECT_LIMIT_S,
            )
    wait_until(f"the programs of {node} are the new address's", lambda: not troubles(mesh, cluster, node))
    for other in cluster_named(plan.cluster).nodes:
        if other != plan:
            mesh.on_node(other.name, "ip", "route", "replace", plan.pod_cidr, "via", new, "dev", "eth0")
    for line in mesh.on_node(node, "ip", "-o", "route", "show", "scope", "link").stdout.splitlines():
        words = line.split()
        if words[2].startswith("lxc"):
            mesh.on_node(node, "ip", "route", "replace", words[0], "dev", words[2], "scope", "link", "src", new)
    mesh.on_node(node, "ip", "addr", "del", f"{old}/24", "dev", "eth0")
    mesh.on_node(node, "ip", "route", "replace", "default", "via", UNDERLAY_GATEWAY, "dev", "eth0")
    for other in cluster_named(plan.cluster).nodes:
        if other != plan:
            mesh.on_node(node, "ip", "route", "replace", other.pod_cidr, "via", other.address, "dev", "eth0")


def known_address(mesh: Mesh, cluster: Cluster, seer: str, node: str) -> str:
    rows = mesh.agent_rest(cluster, seer, "/v1/nodes")
    return next((str(row["address"]) for row in rows if row["name"] == node), "")


def troubles(mesh: Mesh, cluster: Cluster, node: str) -> dict[str, str]:
    """What the agent says is wrong with its programs, devices or listeners."""
    health = mesh.agent_rest(cluster, node, "/v1/status")["health"]
    return {
        name: health[name] for name in health.keys() & {"node devices", "node programs", "rest"} if health[name] != "ok"
    }
