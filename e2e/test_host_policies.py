# SPDX-License-Identifier: Apache-2.0
"""Host policies on real nodes: a port of a node closes for whom a policy says, and no policy locks a node out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from e2e.mesh import Mesh
from e2e.policies import DROPPED, LIMIT_S, NODE_PORT, OUTSIDE, REACHED, Place, ask, in_force, servers
from lab.topology import cluster_named

NODE, OTHER = "koornacht-worker", "tion-worker"
LABEL = "e2e-host"
HEAD = "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {name: e2e-hosts}\n"
ALL = "[{fromEntities: [all]}]"
DENY_ALL = HEAD + (
    f"spec: {{nodeSelector: {{}}, ingress: [{{}}], egress: [{{}}], ingressDeny: {ALL}, "
    "egressDeny: [{toEntities: [all]}]}\n"
)
ONLY_ITS_PODS = HEAD + (
    f"spec: {{nodeSelector: {{matchLabels: {{{LABEL}: edge}}}}, "
    f'ingress: [{{fromEndpoints: [{{}}], toPorts: [{{ports: [{{port: "{NODE_PORT}", protocol: TCP}}]}}]}}]}}\n'
)


@dataclass(frozen=True)
class Askers:
    """Who asks the server on NODE: a pod of the node, a pod of the other cluster, a node, and an address of nobody."""

    mesh: Mesh
    address: str

    @property
    def target(self) -> str:
        return f"http://{self.address}:{NODE_PORT}/"

    def outcomes(self) -> dict[str, str]:
        mesh, found = self.mesh, {}
        for pod in (*mesh.pods("koornacht", "name=x-wing"), *mesh.pods("koornacht", "name=rebel-base")):
            if pod["spec"]["nodeName"] == NODE:
                found["own pod"] = ask(mesh, Place("koornacht", pod["metadata"]["name"]), {"it": self.target})["it"]
                break
        found["other cluster's pod"] = ask(mesh, Place("tion", mesh.pod("tion", "x-wing")[0]), {"it": self.target})[
            "it"
        ]
        found["node"] = self._from_node()
        found["outside"] = self._from_node("--interface", OUTSIDE)
        return found

    def _from_node(self, *words: str) -> str:
        limit = str(LIMIT_S)
        done = self.mesh.on_node(
            OTHER, "curl", "-sS", "-o", "/dev/null", "--max-time", limit, *words, self.target, check=False
        )
        return {0: REACHED, 28: DROPPED}.get(done.returncode, f"curl error {done.returncode}")

    def become(self, **outcome: str) -> None:
        wanted = {name.replace("_", " "): word for name, word in outcome.items()}
        wanted["other cluster's pod"] = wanted.pop("foreign pod")
        self.mesh.wait_until(f"requests end so: {wanted}", lambda: self.outcomes() == wanted)

    def all_become(self, word: str) -> None:
        self.become(own_pod=word, foreign_pod=word, node=word, outside=word)


@pytest.fixture(scope="module")
def askers(mesh: Mesh) -> Iterator[Askers]:
    (address,) = (node.address for node in cluster_named("koornacht").nodes if node.name == NODE)
    with servers(mesh, [NODE], OTHER):
        yield Askers(mesh, address)


def is_in_touch(mesh: Mesh) -> bool:
    """The kubelet answers, the API server reaches it, and every agent hears its peers."""
    pod = next(p for p in mesh.pods("koornacht", "name=x-wing") if p["spec"]["nodeName"])["metadata"]["name"]
    peers = mesh.agent_rest("koornacht", NODE, "/v1/status")["peers"]
    return mesh.kubectl("koornacht", "exec", pod, "--", "true").returncode == 0 and [p["ready"] for p in peers] == [
        True
    ]


def test_a_port_of_a_node_closes_for_all_but_the_pods_that_a_policy_names_while_the_node_has_the_label(
    whole: Mesh, askers: Askers
) -> None:
    askers.all_become(REACHED)
    with in_force(whole, {"koornacht": [ONLY_ITS_PODS]}):
        whole.kubectl("koornacht", "label", "node", NODE, f"{LABEL}=edge")
        try:
            askers.become(own_pod=REACHED, foreign_pod=DROPPED, node=DROPPED, outside=DROPPED)
            whole.expect_whole()
            assert is_in_touch(whole)
        finally:
            whole.kubectl("koornacht", "label", "node", NODE, f"{LABEL}-")
        askers.all_become(REACHED)


def test_under_a_policy_that_denies_nodes_everything_the_mesh_goes_on_and_the_policy_can_be_taken_away(
    whole: Mesh, askers: Askers
) -> None:
    with in_force(whole, {"koornacht": [DENY_ALL]}):
        askers.all_become(DROPPED)
        whole.expect_whole()
        assert is_in_touch(whole)
        status = whole.clustermesh("status", "--context", "kind-koornacht", "--wait", check=False)
        assert status.returncode == 0, status.stdout
        held = whole.agent("koornacht", NODE, "bpf", "policy", "get", "node", check=False)
        assert "built-in/guard" in held.stdout
        said = whole.clustermesh(
            "explain", "policy", "--context", "kind-koornacht", "--from", OUTSIDE, "--to", askers.address,
            "--port", f"{NODE_PORT}/TCP", "--plain", check=False,
        ).stdout  # fmt: skip
        assert "denied by ccnp/e2e-hosts ingressDeny[0]" in said
    askers.all_become(REACHED)
