# SPDX-License-Identifier: Apache-2.0
"""One query shows a request that leaves koornacht and is dropped in tion, with tion's rule; without a grant it shows nothing."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from e2e.faults import kill, processes_of, wait_for_restart
from e2e.mesh import CLUSTERS, PROGRAMS, SYSTEM, Mesh
from e2e.policies import in_force
from e2e.traffic import undisturbed
from meshapi.installed import RELAY

DENY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: no-x-wing-of-koornacht, namespace: default}
spec:
  endpointSelector: {matchLabels: {name: rebel-base}}
  ingress:
  - fromEntities: [all]
  ingressDeny:
  - fromEndpoints: [{matchLabels: {name: x-wing, io.cilium.k8s.policy.cluster: koornacht}}]
"""


@pytest.fixture(scope="module")
def relays(mesh: Mesh) -> Iterator[Mesh]:
    """Each cluster has a relay, and grants nothing."""
    for cluster in CLUSTERS:
        mesh.clustermesh("enable", "--context", f"kind-{cluster}", "--with-relay")
    for cluster in CLUSTERS:
        mesh.kubectl(cluster, "rollout", "status", "-n", SYSTEM, f"deployment/{RELAY}", "--timeout=90s")
        mesh.clustermesh("status", "--context", f"kind-{cluster}", "--wait", "--wait-duration", "60")
    yield mesh
    mesh.clustermesh("connect", "--destination-context", "kind-tion", "--no-allow-flows", "--no-verify")
    for cluster in CLUSTERS:
        mesh.clustermesh("enable", "--context", f"kind-{cluster}", "--without-relay")
        assert mesh.kubectl(cluster, "get", "-n", SYSTEM, "deployments", RELAY, check=False).returncode


def observed(mesh: Mesh, *words: str) -> list[dict[str, Any]]:
    done = mesh.clustermesh("observe", "--context", "kind-koornacht", "-o", "json", *words, check=False)
    assert done.returncode in (0, 3), done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def _flows(answers: list[dict[str, Any]], cluster: str) -> list[dict[str, Any]]:
    return [a["flow"] for a in answers if "flow" in a and a["node_name"].startswith(f"{cluster}/")]


def test_nodes_and_flows_of_the_own_cluster_come_from_the_relay(relays: Mesh) -> None:
    def connected() -> bool:
        return "Connected Nodes: 3/3" in relays.clustermesh("flows", "status", check=False).stdout

    relays.wait_until("all observers are asked", connected, 30.0)
    assert "Healthcheck (via clustermesh-relay): Ok" in relays.clustermesh("flows", "status").stdout
    listed = relays.clustermesh("flows", "list", "nodes").stdout
    assert [line.split()[:2] for line in listed.splitlines()[1:]] == [
        ["koornacht/koornacht-control-plane", "Connected"],
        ["koornacht/koornacht-worker", "Connected"],
        ["koornacht/koornacht-worker2", "Connected"],
    ]
    relays.answers("koornacht")
    relays.wait_until("flows of the requests", lambda: _flows(observed(relays, "--all"), "koornacht"))
    refused = relays.clustermesh("observe", "--clusters", "tion", check=False)
    assert refused.returncode
    assert "clustermesh connect --allow-flows grants them" in refused.stderr


def test_a_relay_that_is_killed_alone_ends_who_follows_it_and_says_so_and_costs_no_request(relays: Mesh) -> None:
    (pod,) = relays.pods("koornacht", f"k8s-app={RELAY}", SYSTEM)
    environment = {**os.environ, "KUBECONFIG": str(relays.names.kubeconfig("global"))}
    words = (str(PROGRAMS / "clustermesh"), "observe", "--context", "kind-koornacht", "--follow", "-o", "json")
    with (
        undisturbed(relays),
        subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        ) as following,
    ):
        try:
            assert following.stdout is not None
            while '"flow"' not in following.stdout.readline():
                pass
            kill(processes_of(relays, pod))
            said = following.communicate(timeout=30)[1]
        finally:
            following.kill()
        assert following.returncode == 3, said
        assert RELAY in said
        wait_for_restart(relays, "koornacht", pod)

        def is_back() -> bool:
            return bool(_flows(observed(relays, "--last", "5"), "koornacht"))

        relays.wait_until("flows of all nodes again", is_back, 40.0)


def test_a_drop_in_the_other_cluster_is_seen_in_one_query_with_its_rule(relays: Mesh) -> None:
    relays.clustermesh("connect", "--destination-context", "kind-tion", "--allow-flows")
    asked = ("--clusters", "all", "--from-pod", "default/x-wing", "--to-pod", "default/rebel-base", "--since", "2m")
    with in_force(relays, {"tion": [DENY]}):
        relays.wait_for_answers("koornacht", "Koornacht", "timed out")

        def both() -> bool:
            answers = observed(relays, *asked)
            dropped = [flow for flow in _flows(answers, "tion") if flow["verdict"] == "DROPPED"]
            rules = [rule["name"] for flow in dropped for rule in flow.get("ingress_denied_by", ())]
            return bool(_flows(answers, "koornacht")) and "no-x-wing-of-koornacht" in rules

        relays.wait_until("the request and the drop in one answer", both, 40.0)
        told = _flows(observed(relays, "--clusters", "tion", "--all"), "tion")
        assert all("koornacht" in (f["source"]["cluster_name"], f["destination"]["cluster_name"]) for f in told)
