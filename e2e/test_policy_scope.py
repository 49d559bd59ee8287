# SPDX-License-Identifier: Apache-2.0
"""The walkthrough's policies once unscoped selectors stay in their own cluster (policy-default-local-cluster)."""

from __future__ import annotations

from collections.abc import Iterator

import orjson
import pytest

from e2e.mesh import CLUSTERS, SYSTEM, Cluster, Mesh
from e2e.policies import in_force, manifest

BOTH = "default-deny.yaml", "rebel-base-from-x-wing.yaml"
FINAL: dict[Cluster, list[str]] = {
    "koornacht": [manifest(name) for name in (*BOTH, "x-wing-to-rebel-base.yaml")],
    "tion": [manifest(name) for name in BOTH],
}
OPT_OUT = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: e2e-any-cluster, namespace: default}
spec:
  endpointSelector: {matchLabels: {name: x-wing}}
  egress:
  - toEndpoints:
    - matchLabels: {name: rebel-base}
      matchExpressions: [{key: io.cilium.k8s.policy.cluster, operator: Exists}]
"""


def switch(mesh: Mesh, position: str) -> None:
    """Both clusters run with the switch in this position, as a user would set it: enable replaces the agents."""
    for cluster in CLUSTERS:
        patch = f'{{"data":{{"policy-default-local-cluster":"{position}"}}}}'
        mesh.kubectl(cluster, "patch", "configmap", "clustermesh-config", "-n", SYSTEM, "--type=merge", "-p", patch)
        mesh.clustermesh("enable", "--context", f"kind-{cluster}", "--service-type", "NodePort")
    for cluster in CLUSTERS:
        mesh.kubectl(cluster, "rollout", "status", "-n", SYSTEM, "daemonset/clustermesh-agent", "--timeout=60s")
        mesh.clustermesh("status", "--context", f"kind-{cluster}", "--wait", "--wait-duration", "60")


@pytest.fixture
def local_by_default(whole: Mesh) -> Iterator[Mesh]:
    try:
        switch(whole, "true")
        yield whole
    finally:
        switch(whole, "false")


def test_the_switch_is_foretold_with_the_peers_that_it_takes_away(mesh: Mesh) -> None:
    with in_force(mesh, FINAL):
        inspect = ("inspect-policy-default-local-cluster", "--context", "kind-koornacht", "-o", "json")
        said = orjson.loads(mesh.clustermesh(*inspect).stdout)
        assert said["policy-default-local-cluster"] is False
        assert said["cilium-network-policies"] == {
            "default/default-deny": True,
            "default/rebel-base-from-x-wing": False,
            "default/x-wing-to-rebel-base": True,
        }
        changes = {change["policy"]: change["lost"] for change in said["changes"]}
        pods = {p["metadata"]["name"] for p in mesh.pods("tion", "name=rebel-base")}
        (lost,) = changes["default/x-wing-to-rebel-base"]
        assert lost["cluster"] == "tion"
        assert set(lost["pods"]) == {f"default/{pod}" for pod in pods}
        assert "k8s:name=rebel-base" in lost["labels"]
        text = mesh.clustermesh("inspect-policy-default-local-cluster", "--plain").stdout
        assert "CiliumNetworkPolicy 1/3" in text
        assert all(pod in text for pod in pods)


def test_unscoped_selectors_stay_at_home_until_they_name_any_cluster(local_by_default: Mesh) -> None:
    mesh = local_by_default
    explain = ("explain", "policy", "--context", "kind-koornacht", "--destination-context", "kind-tion",
               "--from=default/x-wing", "--to=default/rebel-base@tion", "--port=80/TCP", "--output=json")  # fmt: skip
    with in_force(mesh, FINAL):
        mesh.wait_for_answers("koornacht", "Koornacht", "timed out")
        assert set(mesh.answers("koornacht")) == {"Koornacht", "timed out"}
        said = orjson.loads(mesh.clustermesh(*explain, check=False).stdout)
        assert [said[side]["verdict"] for side in ("egress", "ingress")] == ["denied", "allowed"]
        assert said["egress"]["node"]["verdict"] == "denied"
        assert set(mesh.answers("tion", count=8)) == {"timed out"}
        with in_force(mesh, {"koornacht": [OPT_OUT]}):
            mesh.wait_for_answers("koornacht", "Koornacht", "Tion")
    mesh.expect_whole()
