# SPDX-License-Identifier: Apache-2.0
"""Names of the world outside: a name server and two hosts that belong to no cluster, and a pod that may ask the one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from e2e.mesh import SYSTEM, Mesh
from e2e.policies import NODE_PORT, Place, cilium_policy, in_force

CLUSTER, NODE = "koornacht", "koornacht-control-plane"
RESOLVER, GOOGLE, GITHUB = "172.18.0.210", "172.18.0.211", "172.18.0.212"
ZONE = f"google.com. 60 IN A {GOOGLE}\ngithub.com. 60 IN A {GITHUB}"
CLIENT = f"""
apiVersion: v1
kind: Pod
metadata: {{name: surfer, namespace: default, labels: {{name: surfer}}}}
spec:
  dnsPolicy: None
  dnsConfig: {{nameservers: [{RESOLVER}]}}
  containers: [{{name: surfer, image: quay.io/cilium/json-mock:v1.3.3}}]
"""
RESOLVED, REFUSED = "resolved", "refused"


def to_resolver(names: str) -> str:
    """The egress rule to the name server for these names."""
    ports = f'toPorts: [{{ports: [{{port: "53", protocol: ANY}}], rules: {{dns: [{names}]}}}}]'
    return f"{{toCIDR: [{RESOLVER}/32], {ports}}}"


@contextmanager
def world(mesh: Mesh) -> Iterator[None]:
    """Hosts outside of every cluster: the name server and the two sites of its zone."""
    device = next(
        line.split()[0].partition("@")[0]
        for line in mesh.on_node(NODE, "ip", "-brief", "address").stdout.splitlines()
        if "172.18.0." in line
    )
    with ExitStack() as stack:
        for address in (RESOLVER, GOOGLE, GITHUB):
            mesh.on_node(NODE, "ip", "address", "add", f"{address}/32", "dev", device)
            stack.callback(mesh.on_node, NODE, "ip", "address", "del", f"{address}/32", "dev", device, check=False)
        programs = (
            ("tests.support.name_server", RESOLVER, ZONE),
            *(
                ("http.server", "--bind", address, "--directory", "/proc/self/task", str(NODE_PORT))
                for address in (GOOGLE, GITHUB)
            ),
        )
        for words in programs:
            process = mesh.start_on_node(NODE, sys.executable, "-u", "-m", *words)
            stack.enter_context(process)
            stack.callback(process.terminate)
            assert process.stdout is not None
            assert process.stdout.readline()
        yield


@pytest.fixture(scope="module")
def surfer(mesh: Mesh) -> Iterator[Place]:
    with world(mesh):
        mesh.apply(CLUSTER, CLIENT)
        try:
            mesh.kubectl(CLUSTER, "wait", "--for=condition=Ready", "pod/surfer", "--timeout=60s")
            yield Place(CLUSTER, "surfer")
        finally:
            mesh.delete(CLUSTER, CLIENT)


def resolved(mesh: Mesh, source: Place) -> dict[str, str]:
    """Which names the pod's resolver finds."""
    found = {}
    for name in ("google.com", "github.com"):
        done = mesh.kubectl(source.cluster, "exec", source.pod, "--", "getent", "ahostsv4", f"{name}.", check=False)
        found[name] = RESOLVED if done.returncode == 0 else REFUSED
    return found


def test_a_name_server_of_the_world_is_asked_for_the_names_of_a_list(mesh: Mesh, surfer: Place) -> None:
    policy = cilium_policy("names", "surfer", f"egress: [{to_resolver('{matchName: google.com}')}]")
    assert resolved(mesh, surfer) == {"google.com": RESOLVED, "github.com": RESOLVED}
    with in_force(mesh, {CLUSTER: [policy]}):
        one = {"google.com": RESOLVED, "github.com": REFUSED}
        mesh.wait_until("one name may be asked for", lambda: resolved(mesh, surfer) == one)


def reached(mesh: Mesh, source: Place, name: str) -> bool:
    """Whether the pod has an answer of the site with this name."""
    words = ("curl", "-s", "-o", "/dev/null", "--max-time", "2", f"http://{name}:{NODE_PORT}/")
    return mesh.kubectl(source.cluster, "exec", source.pod, "--", *words, check=False).returncode == 0


def replace_agent(mesh: Mesh, node: str) -> None:
    """The node has another pod of the agent's, as after an upgrade."""
    old = mesh.agent_pod(CLUSTER, node)

    def others() -> list[str]:
        found = [
            pod for pod in mesh.pods(CLUSTER, "k8s-app=clustermesh-agent", SYSTEM) if pod["spec"]["nodeName"] == node
        ]
        return [str(pod["metadata"]["name"]) for pod in found if pod["metadata"]["name"] != old]

    mesh.kubectl(CLUSTER, "delete", "-n", SYSTEM, "pod", old)
    mesh.wait_until("another agent is there", lambda: bool(others()), 60.0)
    mesh.kubectl(CLUSTER, "wait", "-n", SYSTEM, "--for=condition=Ready", f"pod/{others()[0]}", "--timeout=60s")


def test_a_name_is_reached_that_a_rule_names_and_another_is_only_found(mesh: Mesh, surfer: Place) -> None:
    rules = (to_resolver('{matchPattern: "*"}'), "{toFQDNs: [{matchName: google.com}]}")
    policy = cilium_policy("to-google", "surfer", f"egress: [{', '.join(rules)}]")
    assert reached(mesh, surfer, "github.com")
    with in_force(mesh, {CLUSTER: [policy]}):
        mesh.wait_until("the other site is closed", lambda: not reached(mesh, surfer, "github.com"))
        assert reached(mesh, surfer, "google.com"), "at the first try: it is allowed before the answer is released"
        assert resolved(mesh, surfer) == {"google.com": RESOLVED, "github.com": RESOLVED}
        assert not reached(mesh, surfer, "github.com")
        replace_agent(mesh, mesh.pod(CLUSTER, "surfer")[1])
        assert reached(mesh, surfer, GOOGLE), "the next agent knows what the pod was told, which asks for nothing"
        assert not reached(mesh, surfer, GITHUB)
