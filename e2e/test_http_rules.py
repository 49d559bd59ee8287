# SPDX-License-Identifier: Apache-2.0
"""Rules about requests, within a cluster and across two, on either side; and what holds when Envoy or the agent is killed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from e2e.faults import kill
from e2e.mesh import Cluster, Mesh
from e2e.policies import DROPPED, Place, ask_from, cilium_policy, in_force

DENIED = "403 Access denied"
OK = "200"
REQUESTS = ("GET /client-ip", "GET /public", "POST /client-ip")
FROM_X_WING = "fromEndpoints: [{matchLabels: {name: x-wing, io.cilium.k8s.policy.cluster: koornacht}}]"
TO_REBELS = (
    "toEndpoints: [{matchLabels: {name: rebel-base}, "
    "matchExpressions: [{key: io.cilium.k8s.policy.cluster, operator: Exists}]}]"
)
TO_DNS = "{toEndpoints: [{matchLabels: {io.kubernetes.pod.namespace: kube-system, k8s-app: kube-dns}}]}"


def http(path: str) -> str:
    """Port 80 for GET of one path."""
    rule = f"{{method: GET, path: {path}}}"
    return f'toPorts: [{{ports: [{{port: "80", protocol: TCP}}], rules: {{http: [{rule}]}}}}]'


def table(mesh: Mesh, source: Place, address: str) -> dict[str, str]:
    """The answer to each request: status and, of one that is refused, the body."""
    found = {}
    for request in REQUESTS:
        method, _, path = request.partition(" ")
        format_ = "%{http_code}"
        words = ("curl", "-sS", "--max-time", "4", "-X", method, "-w", f"\n{format_}", f"http://{address}{path}")
        done = mesh.kubectl(source.cluster, "exec", source.pod, "--", *words, check=False)
        body, _, code = done.stdout.rpartition("\n")
        found[request] = f"{code} {body.strip()}" if code == "403" else code if done.returncode == 0 else DROPPED
    return found


def allowed(path: str) -> dict[str, str]:
    """What `table` says where `path` may be got and nothing else."""
    return {request: OK if request == f"GET {path}" else DENIED for request in REQUESTS}


def envoy(mesh: Mesh, cluster: Cluster, node: str) -> int:
    """The process of the node's Envoy."""
    words = (
        "exec",
        "-n",
        "kube-system",
        mesh.agent_pod(cluster, node),
        "--",
        "cat",
        "/run/clustermesh/proxy/envoy.pid",
    )
    return int(mesh.kubectl(cluster, *words).stdout)


@pytest.fixture(scope="module")
def x_wing(mesh: Mesh) -> Iterator[Place]:
    yield Place("koornacht", mesh.pod("koornacht", "x-wing")[0])


@pytest.mark.parametrize("path", ["/client-ip", "/public"])
@pytest.mark.parametrize("cluster", ["koornacht", "tion"])
def test_egress_is_for_one_path_only(mesh: Mesh, x_wing: Place, cluster: Cluster, path: str) -> None:
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
        kill([envoy(mesh, "tion", node)])
        mesh.wait_until("Envoy is back", lambda: table(mesh, x_wing, target) == allowed("/client-ip"), 10.0)


def test_both_ends_look_into_requests_and_outlive_their_agents(mesh: Mesh, x_wing: Place) -> None:
    egress = cilium_policy("http-egress", "x-wing", f"egress: [{{{TO_REBELS}, {http('/client-ip')}}}, {TO_DNS}]")
    ingress = cilium_policy("http-ingress", "rebel-base", f"ingress: [{{{FROM_X_WING}, {http('/.*')}}}]")
    target = mesh.pod("tion", "rebel-base")[2]
    with in_force(mesh, {"koornacht": [egress], "tion": [ingress]}):
        mesh.wait_until("one path may be got", lambda: table(mesh, x_wing, target) == allowed("/client-ip"))
