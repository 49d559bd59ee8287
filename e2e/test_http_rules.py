# SPDX-License-Identifier: Apache-2.0
"""Rules about requests, within a cluster and across two, on either side; and what holds when Envoy or the agent is killed."""

from __future__ import annotations

import pytest

from e2e.faults import ENVOY, kill, processes_of, proxies_of
from e2e.mesh import SYSTEM, Cluster, Mesh
from e2e.policies import DROPPED, Place, ask_from, cilium_policy, in_force
from lab.topology import cluster_named

AGENT = "k8s-app=clustermesh-agent"
DENIED = "403 Access denied"
OK = "answered by the server"
REQUESTS = ("GET /client-ip", "GET /public", "POST /client-ip")
FROM_X_WING = "fromEndpoints: [{matchLabels: {name: x-wing, io.cilium.k8s.policy.cluster: koornacht}}]"
TO_REBELS = (
    "toEndpoints: [{matchLabels: {name: rebel-base}, "
    "matchExpressions: [{key: io.cilium.k8s.policy.cluster, operator: Exists}]}]"
)
TO_DNS = "{toEndpoints: [{matchLabels: {io.kubernetes.pod.namespace: kube-system, k8s-app: kube-dns}}]}"


NODE_PORT = 30555
PLAIN = f"""
apiVersion: v1
kind: Service
metadata: {{name: plain}}
spec: {{type: NodePort, selector: {{name: rebel-base}}, ports: [{{port: 80, nodePort: {NODE_PORT}}}]}}
"""


def http(path: str) -> str:
    """Port 80 for GET of one path."""
    rule = f"{{method: GET, path: {path}}}"
    return f'toPorts: [{{ports: [{{port: "80", protocol: TCP}}], rules: {{http: [{rule}]}}}}]'


def table(mesh: Mesh, source: Place, address: str) -> dict[str, str]:
    """The answer to each request: status and, of one that is refused, the body."""
    found = {}
    for request in REQUESTS:
        method, _, path = request.partition(" ")
        words = ("curl", "-sS", "--max-time", "4", "-X", method, "-w", "\n%{http_code}", f"http://{address}{path}")
        done = mesh.kubectl(source.cluster, "exec", source.pod, "--", *words, check=False)
        body, _, code = done.stdout.rpartition("\n")
        answered = f"{code} {body.strip()}" if code == "403" else OK  # the server knows no such path: 404
        found[request] = answered if done.returncode == 0 else DROPPED
    return found


def allowed(path: str) -> dict[str, str]:
    """What `table` says where `path` may be got and nothing else."""
    return {request: OK if request == f"GET {path}" else DENIED for request in REQUESTS}


@pytest.fixture(scope="module")
def x_wing(mesh: Mesh) -> Place:
    return Place("koornacht", mesh.pod("koornacht", "x-wing")[0])


@pytest.mark.parametrize(("path", "cluster"), [("/client-ip", "koornacht"), ("/public", "tion")])
def test_egress_is_for_one_path_only(mesh: Mesh, x_wing: Place, path: str, cluster: Cluster) -> None:
    policy = cilium_policy("http-egress", "x-wing", f"egress: [{{{TO_REBELS}, {http(path)}}}, {TO_DNS}]")
    target = mesh.pod(cluster, "rebel-base")[2]
    with in_force(mesh, {"koornacht": [policy]}):
        mesh.wait_until("one path may be got", lambda: table(mesh, x_wing, target) == allowed(path))


def test_ingress_is_for_requests_of_one_pod_of_the_peer(mesh: Mesh, x_wing: Place) -> None:
    policy = cilium_policy("http-ingress", "rebel-base", f"ingress: [{{{FROM_X_WING}, {http('/client-ip')}}}]")
    _, node, target = mesh.pod("tion", "rebel-base")
    others = {
        "rebel-base of koornacht": Place("koornacht", mesh.pod("koornacht", "rebel-base")[0]),
        "x-wing of tion": Place("tion", mesh.pod("tion", "x-wing")[0]),
    }
    with in_force(mesh, {"tion": [policy]}):
        mesh.wait_until("one path may be got", lambda: table(mesh, x_wing, target) == allowed("/client-ip"))
        assert set(ask_from(mesh, others, target).values()) == {DROPPED}
        kill(proxies_of(mesh, "tion", node, ENVOY))
        mesh.wait_until("Envoy is back", lambda: table(mesh, x_wing, target) == allowed("/client-ip"), 10.0)


def test_both_ends_look_into_requests_and_outlive_their_agents(mesh: Mesh, x_wing: Place) -> None:
    egress = cilium_policy("http-egress", "x-wing", f"egress: [{{{TO_REBELS}, {http('/client-ip')}}}, {TO_DNS}]")
    ingress = cilium_policy("http-ingress", "rebel-base", f"ingress: [{{{FROM_X_WING}, {http('/.*')}}}]")
    target = mesh.pod("koornacht", "rebel-base")[2]
    node = mesh.pod("koornacht", "x-wing")[1]
    with in_force(mesh, {"koornacht": [egress, ingress]}):
        mesh.wait_until("one path may be got", lambda: table(mesh, x_wing, target) == allowed("/client-ip"))
        seen = mesh.agent("koornacht", node, "monitor", "--last", "500").stdout
        assert "http-request DROPPED (HTTP/1.1 POST" in seen
        assert "http-response FORWARDED (HTTP/1.1 403" in seen
        (agent,) = [p for p in mesh.pods("koornacht", AGENT, SYSTEM) if p["spec"]["nodeName"] == node]
        kill(processes_of(mesh, agent))
        assert table(mesh, x_wing, target) == allowed("/client-ip"), "without an agent"
        mesh.wait_until("the agent is back", lambda: mesh.agent("koornacht", node, "status").returncode == 0, 40.0)
        assert table(mesh, x_wing, target) == allowed("/client-ip")


def test_node_ports_of_the_clusters_own_proxy_lead_to_pods_behind_rules(mesh: Mesh) -> None:
    """It gives the node's address to whom it leads on, to pods of the node and of others in turn."""
    policy = cilium_policy("http-ingress", "rebel-base", f"ingress: [{{fromEntities: [all], {http('/client-ip')}}}]")
    ask = ("curl", "-sS", "--max-time", "4", "-o", "/dev/null", "-w", "%{http_code}", "-X")
    try:
        mesh.apply("koornacht", PLAIN)
        with in_force(mesh, {"koornacht": [policy]}):
            any_node = f"http://{cluster_named('koornacht').nodes[0].address}:{NODE_PORT}/client-ip"
            mesh.wait_until("it leads on", lambda: mesh.on_node("tion-worker", *ask, "GET", any_node).stdout == "404")
            for node in cluster_named("koornacht").nodes:
                page = f"http://{node.address}:{NODE_PORT}/client-ip"
                for method, code in (("GET", "404"), ("POST", "403")):
                    asked = [mesh.on_node("tion-worker", *ask, method, page, check=False).stdout for _ in range(8)]
                    assert asked == [code] * 8, f"{method} {page}"
    finally:
        mesh.delete("koornacht", PLAIN)
