# SPDX-License-Identifier: Apache-2.0
"""Names that pods may ask for; and what holds when the agent or its DNS proxy is killed."""

from __future__ import annotations

import pytest

from e2e.faults import DNS_PROXY, kill, processes_of, proxies_of
from e2e.mesh import SYSTEM, Mesh
from e2e.policies import Place, cilium_policy, in_force, manifest

AGENT = "k8s-app=clustermesh-agent"
TO_DNS = (
    "{toEndpoints: [{matchLabels: {io.kubernetes.pod.namespace: kube-system, k8s-app: kube-dns}}], "
    'toPorts: [{ports: [{port: "53", protocol: ANY}], rules: {dns: [{matchPattern: "*.default.svc.cluster.local"}]}}]}'
)
TO_REBELS = (
    "{toEndpoints: [{matchLabels: {name: rebel-base}, "
    "matchExpressions: [{key: io.cilium.k8s.policy.cluster, operator: Exists}]}]}"
)
ALLOWED, OTHER = "rebel-base.default.svc.cluster.local.", "kube-dns.kube-system.svc.cluster.local."


@pytest.fixture(scope="module")
def x_wing(mesh: Mesh) -> Place:
    return Place("koornacht", mesh.pod("koornacht", "x-wing")[0])


def resolves(mesh: Mesh, source: Place, name: str) -> bool:
    """Whether the pod's resolver finds the name."""
    done = mesh.kubectl(source.cluster, "exec", source.pod, "--", "getent", "hosts", name, check=False)
    return done.returncode == 0


def names(mesh: Mesh, source: Place) -> dict[str, bool]:
    """Which of the two names resolve."""
    return {name: resolves(mesh, source, name) for name in (ALLOWED, OTHER)}


def seen(mesh: Mesh, node: str) -> str:
    """The newest flows of the node."""
    return mesh.agent("koornacht", node, "monitor", "--last", "500").stdout


def reached_by_name(mesh: Mesh, source: Place) -> bool:
    """Whether the service answers under the name that its clients use."""
    words = ("curl", "-sS", "--max-time", "4", "-o", "/dev/null", "http://rebel-base/")
    return mesh.kubectl(source.cluster, "exec", source.pod, "--", *words, check=False).returncode == 0


def test_the_seeds_default_deny_lets_every_name_be_asked_for_and_seen(mesh: Mesh, x_wing: Place) -> None:
    node = mesh.pod("koornacht", "x-wing")[1]
    with in_force(mesh, {"koornacht": [manifest("default-deny.yaml")]}):
        mesh.wait_until("nothing is reached", lambda: not reached_by_name(mesh, x_wing))
        assert names(mesh, x_wing) == {ALLOWED: True, OTHER: True}
        mesh.wait_until(
            "names are seen", lambda: f"dns-request proxy FORWARDED (DNS Query {OTHER} " in seen(mesh, node)
        )


def test_one_may_ask_for_the_names_of_a_list_whoever_is_killed(mesh: Mesh, x_wing: Place) -> None:
    policy = cilium_policy("names", "x-wing", f"egress: [{TO_REBELS}, {TO_DNS}]")
    node = mesh.pod("koornacht", "x-wing")[1]
    with in_force(mesh, {"koornacht": [policy]}):
        mesh.wait_until("one name may be asked for", lambda: names(mesh, x_wing) == {ALLOWED: True, OTHER: False})
        mesh.wait_until("it is reached by its name", lambda: reached_by_name(mesh, x_wing))
        lines = mesh.wait_until("names are seen", lambda: seen(mesh, node))
        assert f"dns-request proxy DROPPED (DNS Query {OTHER} " in lines
        assert "dns-response proxy FORWARDED (DNS Answer " in lines
        (agent,) = [p for p in mesh.pods("koornacht", AGENT, SYSTEM) if p["spec"]["nodeName"] == node]
        kill(processes_of(mesh, agent))
        assert [names(mesh, x_wing) for _ in range(3)] == [{ALLOWED: True, OTHER: False}] * 3, "without an agent"
        mesh.wait_until("the agent is back", lambda: mesh.agent("koornacht", node, "status").returncode == 0, 40.0)
        assert names(mesh, x_wing) == {ALLOWED: True, OTHER: False}
        kill(proxies_of(mesh, "koornacht", node, DNS_PROXY))
        mesh.wait_until("the proxy is back", lambda: resolves(mesh, x_wing, ALLOWED), 10.0)
        assert not resolves(mesh, x_wing, OTHER)
