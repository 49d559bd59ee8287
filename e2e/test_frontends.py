# SPDX-License-Identifier: Apache-2.0
"""A global service for others than pods: processes of a node, pods on its network, and who comes from outside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

import pytest

from e2e.mesh import CLUSTERS, IN_TURN, Cluster, Mesh, outcomes, wait_until

NODE: Final = "koornacht-worker"
COUNT: Final = 8
REFUSED: Final = "curl error 7"
FAR: Final = """
apiVersion: v1
kind: Service
metadata:
  name: far
  annotations: {{service.cilium.io/global: "{is_global}"}}
spec:
  type: LoadBalancer
  selector: {{{selector}}}
  ports: [{{port: 80, nodePort: 31080}}]
"""
ALL: Final = "name: rebel-base"
NOBODY: Final = "name: nobody"


@pytest.fixture
def far(whole: Mesh) -> Iterator[Mesh]:
    """Service far has backends in tion only."""
    whole.apply("tion", FAR.format(is_global="true", selector=ALL))
    whole.apply("koornacht", FAR.format(is_global="true", selector=NOBODY))
    try:
        yield whole
    finally:
        for cluster in CLUSTERS:
            whole.delete(cluster, FAR.format(is_global="true", selector=ALL))


def from_node(mesh: Mesh, target: str, node: str = NODE) -> Counter[str]:
    done = mesh.on_node(node, "/bin/sh", "-c", IN_TURN.format(count=COUNT, limit=2, target=target), check=False)
    return outcomes(done.stdout + done.stderr)


def addresses(mesh: Mesh, cluster: Cluster = "koornacht") -> list[str]:
    """The service's own address and the balancer's."""
    found = mesh.get(cluster, "service", "far")
    ingress = found["status"]["loadBalancer"].get("ingress") or []
    return [found["spec"]["clusterIP"], *(str(entry["ip"]) for entry in ingress)]


def node_address(mesh: Mesh, node: str = NODE) -> str:
    found = mesh.get("koornacht", "node", node)["status"]["addresses"]
    return next(str(a["address"]) for a in found if a["type"] == "InternalIP")


def test_a_process_of_a_node_reaches_backends_that_are_in_the_other_cluster_only(far: Mesh) -> None:
    wait_until("the balancer has given an address", lambda: len(addresses(far)) == 2)
    for target in (*addresses(far), f"{node_address(far)}:31080"):
        wait_until(f"{NODE} gets Tion from {target}", lambda t=target: set(from_node(far, t)) == {"Tion"})


def test_a_process_of_a_node_is_answered_by_both_clusters_and_refused_when_there_is_nobody(whole: Mesh) -> None:
    service = whole.get("koornacht", "service", "rebel-base")["spec"]["clusterIP"]
    wait_until("both answer", lambda: set(from_node(whole, service)) == {"Koornacht", "Tion"})
    empty = FAR.format(is_global="true", selector=NOBODY)
    try:
        whole.apply("koornacht", empty)
        target = str(whole.get("koornacht", "service", "far")["spec"]["clusterIP"])
        wait_until("it is refused at once", lambda: set(from_node(whole, target)) == {REFUSED})
    finally:
        whole.delete("koornacht", empty)


def test_a_service_that_is_not_global_stays_with_the_clusters_proxy(far: Mesh) -> None:
    target = addresses(far)[0]
    wait_until("the node gets Tion", lambda: set(from_node(far, target)) == {"Tion"})
    far.apply("koornacht", FAR.format(is_global="false", selector=ALL))
    wait_until("the node gets Koornacht", lambda: set(from_node(far, target)) == {"Koornacht"})
