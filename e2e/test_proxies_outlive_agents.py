# SPDX-License-Identifier: Apache-2.0
"""Requests and names of pods go on, none fails, while the agent of their node is replaced."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from e2e.faults import kill, proxies_of
from e2e.mesh import SYSTEM, Mesh
from e2e.policies import Place, cilium_policy, in_force

AGENT, PROXIES = "k8s-app=clustermesh-agent", "k8s-app=clustermesh-proxies"
TO_DNS = (
    "{toEndpoints: [{matchLabels: {io.kubernetes.pod.namespace: kube-system, k8s-app: kube-dns}}], "
    'toPorts: [{ports: [{port: "53", protocol: ANY}], rules: {dns: [{matchPattern: "*.default.svc.cluster.local"}]}}]}'
)
TO_REBELS = (
    "{toEndpoints: [{matchLabels: {name: rebel-base}, "
    "matchExpressions: [{key: io.cilium.k8s.policy.cluster, operator: Exists}]}], "
    'toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{method: GET, path: /}]}}]}'
)
ASK = """
while [ ! -e /tmp/enough ]; do
  getent hosts rebel-base.default.svc.cluster.local. >/dev/null && echo name || echo no name
  curl -sS --max-time 4 -o /dev/null -w 'GET %{http_code}\n' "http://$0/" || true
  curl -sS --max-time 4 -o /dev/null -w 'POST %{http_code}\n' -X POST "http://$0/" || true
done
"""


@pytest.fixture(scope="module")
def x_wing(mesh: Mesh) -> Place:
    return Place("koornacht", mesh.pod("koornacht", "x-wing")[0])


@contextmanager
def asked(mesh: Mesh, source: Place, address: str) -> Iterator[Counter[str]]:
    """The pod asks for a name and for pages without end; afterwards, what came of it."""
    found: Counter[str] = Counter()
    mesh.kubectl(source.cluster, "exec", source.pod, "--", "rm", "-f", "/tmp/enough")
    words = ("kubectl", "exec", source.pod, "--", "sh", "-c", ASK, address)
    environment = {**os.environ, "KUBECONFIG": str(mesh.names.kubeconfig(source.cluster))}
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as asking:
        try:
            yield found
        finally:
            mesh.kubectl(source.cluster, "exec", source.pod, "--", "touch", "/tmp/enough")
            said, _ = asking.communicate(timeout=30)
            found.update(said.splitlines())


def on_node(mesh: Mesh, selector: str, node: str) -> str:
    """The pod of this kind on the node, by uid."""
    return next(
        (str(p["metadata"]["uid"]) for p in mesh.pods("koornacht", selector, SYSTEM) if p["spec"]["nodeName"] == node),
        "",
    )


def test_no_request_and_no_name_fails_while_the_agent_is_replaced(mesh: Mesh, x_wing: Place) -> None:
    policy = cilium_policy("outlive", "x-wing", f"egress: [{TO_REBELS}, {TO_DNS}]")
    _, node, _ = mesh.pod("koornacht", "x-wing")
    address = mesh.pod("tion", "rebel-base")[2]
    with in_force(mesh, {"koornacht": [policy]}):
        with asked(mesh, x_wing, address) as warm:
            mesh.wait_until("the agent is well", lambda: mesh.agent("koornacht", node, "status").returncode == 0)
        assert set(warm) == {"name", "GET 200", "POST 403"}
        proxies, agent = (on_node(mesh, selector, node) for selector in (PROXIES, AGENT))
        with asked(mesh, x_wing, address) as found:
            mesh.kubectl("koornacht", "rollout", "restart", "-n", SYSTEM, "daemonset/clustermesh-agent")
            mesh.kubectl("koornacht", "rollout", "status", "-n", SYSTEM, "daemonset/clustermesh-agent", "--timeout=90s")
            mesh.wait_until("the agent is well", lambda: mesh.agent("koornacht", node, "status").returncode == 0, 40.0)
        assert on_node(mesh, AGENT, node) != agent
        assert on_node(mesh, PROXIES, node) == proxies
        assert set(found) == {"name", "GET 200", "POST 403"}, found
        assert found["GET 200"] > 20


def test_proxies_that_are_replaced_are_back_and_do_what_the_policies_say(mesh: Mesh, x_wing: Place) -> None:
    policy = cilium_policy("outlive", "x-wing", f"egress: [{TO_REBELS}, {TO_DNS}]")
    _, node, _ = mesh.pod("koornacht", "x-wing")
    address = mesh.pod("tion", "rebel-base")[2]

    def is_right() -> bool:
        with asked(mesh, x_wing, address) as found:
            mesh.agent("koornacht", node, "status")
        return set(found) == {"name", "GET 200", "POST 403"}

    with in_force(mesh, {"koornacht": [policy]}):
        mesh.wait_until("the policy is in force", is_right)
        kill(proxies_of(mesh, "koornacht", node, ""))
        mesh.wait_until("the proxies are back", is_right, 20.0)
        mesh.kubectl("koornacht", "delete", "pods", "-n", SYSTEM, "-l", PROXIES)
        mesh.wait_until("the proxies are back", is_right, 30.0)
        status = mesh.agent("koornacht", node, "status")
        assert status.returncode == 0, status.stdout
