# SPDX-License-Identifier: Apache-2.0
"""What the programs answer to pods of their own and of the other cluster: health and metrics, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import pytest

from e2e.mesh import CLUSTERS, SYSTEM, Cluster, Mesh
from meshapi.installed import AGENT_PORT, AGENT_SELECTOR, APISERVER_PORT, APISERVER_SELECTOR, PROBE_PORT

OPEN: Final = {"/healthz", "/readyz", "/metrics"}
FOLLOWERS: Final = 600


def doors(mesh: Mesh, cluster: Cluster) -> Iterator[tuple[str, set[str]]]:
    """Address and port of each program of the cluster, with every path that it knows."""
    agents = mesh.pods(cluster, AGENT_SELECTOR, SYSTEM)
    documents = {
        AGENT_PORT: mesh.agent_rest(cluster, agents[0]["spec"]["nodeName"], "/openapi.json"),
        APISERVER_PORT: mesh.apiserver_rest(cluster, "/openapi.json"),
    }
    paths = {
        port: {re.sub(r"{\w+}", "x", path) for path in document["paths"]} | {"/openapi.json", "/docs", "/"}
        for port, document in documents.items()
    }
    for agent in agents:
        yield f"{agent['status']['podIP']}:{AGENT_PORT}", paths[AGENT_PORT]
    for pod in mesh.pods(cluster, APISERVER_SELECTOR, SYSTEM):
        yield f"{pod['status']['podIP']}:{APISERVER_PORT}", paths[APISERVER_PORT]


def codes(mesh: Mesh, cluster: Cluster, urls: list[str]) -> dict[str, str]:
    """The HTTP status that a pod of the cluster gets from each URL; 000 where nobody answers."""
    script = "for u in $0 $*; do curl -s -o /dev/null --max-time 3 -w '%{http_code} %{url}\n' $u; done"
    done = mesh.kubectl(cluster, "exec", "deployments/x-wing", "--", "/bin/sh", "-c", script, *urls, check=False)
    return {url: code for code, _, url in (line.partition(" ") for line in done.stdout.splitlines())}


@pytest.mark.parametrize("caller", CLUSTERS)
@pytest.mark.parametrize("asked", CLUSTERS)
def test_a_pod_learns_nothing_but_health_and_metrics(mesh: Mesh, caller: Cluster, asked: Cluster) -> None:
    for where, paths in doors(mesh, asked):
        found = codes(mesh, caller, [f"http://{where}{path}" for path in sorted(paths)])
        assert len(found) == len(paths)
        closed = {url: code for url, code in found.items() if url.removeprefix(f"http://{where}") not in OPEN}
        assert len(closed) > 5
        wrong = {url: code for url, code in closed.items() if code not in ("401", "403", "404", "000")}
        assert not wrong
        if caller == asked:
            assert found[f"http://{where}/healthz"] == "200"
            assert "401" in closed.values()


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_metrics_name_no_pod_and_no_policy(mesh: Mesh, cluster: Cluster) -> None:
    pods = [p["metadata"]["name"] for p in mesh.get(cluster, "pods", "-n", "default")["items"]]
    assert pods
    for where, _ in doors(mesh, cluster):
        text = mesh.kubectl(
            cluster, "exec", "deployments/x-wing", "--", "curl", "-s", "--max-time", "5", f"http://{where}/metrics"
        ).stdout
        assert "clustermesh_a" in text
        assert not [name for name in pods if name in text]


def test_six_hundred_idle_connections_leave_probes_and_the_command_alone(mesh: Mesh) -> None:
    """Nobody who is not admitted keeps a connection, and liveness has a port of its own."""
    _, node, _ = mesh.pod("koornacht", "x-wing")
    (agent,) = (p for p in mesh.pods("koornacht", AGENT_SELECTOR, SYSTEM) if p["spec"]["nodeName"] == node)
    address, before = agent["status"]["podIP"], agent["status"]["containerStatuses"][0]["restartCount"]
    script = (
        "import socket,sys,time\n"
        f"held=[socket.create_connection(('{address}',{AGENT_PORT}),5) for _ in range({FOLLOWERS})]\n"
        "print('held',flush=True)\n"
        "sys.stdin.read()\n"
    )
    holder = mesh.start_on_node(node, "python3", "-c", script)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == "held"
        assert mesh.on_node(node, "curl", "-sf", "--max-time", "2", f"http://127.0.0.1:{PROBE_PORT}/healthz").stdout
        assert mesh.agent("koornacht", node, "node", "list", check=True).stdout
    finally:
        holder.communicate(timeout=20)
    (after,) = (p for p in mesh.pods("koornacht", AGENT_SELECTOR, SYSTEM) if p["spec"]["nodeName"] == node)
    assert after["status"]["containerStatuses"][0]["restartCount"] == before
