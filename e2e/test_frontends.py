# SPDX-License-Identifier: Apache-2.0
"""A global service for others than pods: processes of a node, pods on its network, and who comes from outside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import pytest

from e2e.mesh import CLUSTERS, IN_TURN, Cluster, Mesh, outcomes, run, wait_until
from lab.netns import command_inside

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


def from_pod(mesh: Mesh, client: Any, target: str) -> Counter[str]:
    script = IN_TURN.format(count=COUNT, limit=2, target=target)
    name = client["metadata"]["name"]
    done = mesh.kubectl("koornacht", "exec", name, "--", "/bin/sh", "-c", script, check=False)
    return outcomes(done.stdout + done.stderr)


def from_outside(mesh: Mesh, target: str) -> Counter[str]:
    """What a machine that is no node gets."""
    script = IN_TURN.format(count=COUNT, limit=2, target=target)
    done = run(command_inside(mesh.names.underlay, ["/bin/sh", "-c", script]), check=False)
    return outcomes(done.stdout + done.stderr)


def test_an_outsider_reaches_backends_that_are_in_the_other_cluster_only(far: Mesh) -> None:
    balancer = wait_until("the balancer has given an address", lambda: addresses(far)[1:])[0]
    for target in (balancer, f"{node_address(far)}:31080"):
        wait_until(f"an outsider gets Tion from {target}", lambda t=target: set(from_outside(far, t)) == {"Tion"})
    rows = far.clustermesh("explain", "service", "default/far", "--context", "kind-koornacht").stdout
    assert "0.0.0.0:31080/TCP" in rows
    far.apply("koornacht", FAR.format(is_global="true", selector=ALL))
    for target in (balancer, f"{node_address(far)}:31080"):
        wait_until(
            f"an outsider gets both from {target}",
            lambda t=target: set(from_outside(far, t)) == {"Koornacht", "Tion"},
        )


def test_a_pod_reaches_the_other_cluster_by_a_node_port_of_any_node(far: Mesh) -> None:
    client = far.pods("koornacht", "name=x-wing")[0]
    own = client["spec"]["nodeName"]
    for node in sorted({own, NODE, "koornacht-worker2"}):
        target = f"{node_address(far, node)}:31080"
        wait_until(
            f"a pod on {own} gets Tion from {target}", lambda t=target: set(from_pod(far, client, t)) == {"Tion"}
        )


def test_external_traffic_policy_local_never_leads_an_outsider_to_another_cluster(far: Mesh) -> None:
    """The proxy drops where the node has no backend."""
    target = f"{node_address(far)}:31080"
    wait_until("an outsider gets Tion", lambda: set(from_outside(far, target)) == {"Tion"})
    local = "spec:\n  externalTrafficPolicy: Local\n"
    far.apply("koornacht", FAR.format(is_global="true", selector=NOBODY).replace("spec:\n", local))
    wait_until("an outsider is dropped", lambda: set(from_outside(far, target)) == {"timed out"}, 60)
    assert set(from_node(far, target)) == {"Tion"}


def test_a_balancer_address_answers_the_ranges_of_its_service(far: Mesh) -> None:
    """Whom it does not answer still gets the other cluster by a node port; the node itself is excepted."""
    client = far.pods("koornacht", "name=x-wing")[0]
    target = wait_until("the balancer has given an address", lambda: addresses(far)[1:])[0]
    own = client["status"]["podIP"]
    for range_, pod, outsider in ((f"{own}/32", "Tion", "timed out"), ("0.0.0.0/0", "Tion", "Tion")):
        ranges = f"spec:\n  loadBalancerSourceRanges: [{range_}]\n"
        far.apply("koornacht", FAR.format(is_global="true", selector=NOBODY).replace("spec:\n", ranges))
        wait_until(f"an outsider: {outsider}", lambda o=outsider: set(from_outside(far, target)) == {o}, 60)
        assert set(from_pod(far, client, target)) == {pod}
        assert set(from_node(far, target)) == {"Tion"}
    assert set(from_outside(far, f"{node_address(far)}:31080")) == {"Tion"}


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
