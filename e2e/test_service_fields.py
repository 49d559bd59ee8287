# SPDX-License-Identifier: Apache-2.0
"""Fields of a Service that say which of its pods a client may use: requests of pods of every node of the cluster."""

from __future__ import annotations

from collections import Counter
from typing import Final

from e2e.mesh import CLUSTERS, IN_TURN, Cluster, Mesh, outcomes, run, wait_until
from lab.netns import command_inside

COUNT: Final = 6
REFUSED: Final = "curl error 7"
HERE: Final = """
apiVersion: v1
kind: Service
metadata:
  name: here
  annotations: {{service.cilium.io/global: "true"}}
spec:
  internalTrafficPolicy: {policy}
  selector: {{{selector}}}
  ports: [{{port: 80}}]
"""
BALANCED: Final = """
apiVersion: v1
kind: Service
metadata:
  name: balanced
  annotations: {{service.cilium.io/global: "true"}}
spec:
  type: LoadBalancer
  selector: {{{selector}}}
  ports: [{{port: 80}}]
"""
ALL: Final = "name: rebel-base"
ONE: Final = 'here: "yes"'


def test_internal_traffic_policy_local_leads_to_pods_of_the_clients_node_and_nowhere_else(whole: Mesh) -> None:
    clients = {pod["spec"]["nodeName"]: pod["metadata"]["name"] for pod in whole.pods("koornacht", "name=x-wing")}
    assert len(clients) > 1
    server = whole.pods("koornacht", "name=rebel-base")[0]
    name, node = server["metadata"]["name"], server["spec"]["nodeName"]
    whole.kubectl("koornacht", "label", "pod", name, "here=yes")
    try:
        whole.apply("tion", HERE.format(policy="Cluster", selector=ALL))
        whole.apply("koornacht", HERE.format(policy="Local", selector=ONE))
        for where, client in clients.items():
            expected = {"Koornacht"} if where == node else {REFUSED}
            wait_until(f"a pod on {where} gets {expected}", lambda c=client, e=expected: set(ask(whole, c)) == e)
        whole.apply("koornacht", HERE.format(policy="Cluster", selector=ONE))
        for where, client in clients.items():
            wait_until(f"a pod on {where} gets both", lambda c=client: set(ask(whole, c)) == {"Koornacht", "Tion"})
    finally:
        whole.kubectl("koornacht", "label", "pod", name, "here-")
        for cluster in CLUSTERS:
            whole.delete(cluster, HERE.format(policy="Local", selector=ONE))


def test_a_balancer_address_leads_pods_and_outsiders_to_both_clusters(whole: Mesh) -> None:
    spec = BALANCED.format(selector=ALL)
    try:
        for cluster in CLUSTERS:
            whole.apply(cluster, spec)
        for cluster in CLUSTERS:
            address = wait_until(f"{cluster} gives an address", lambda c=cluster: balancer_address(whole, c))
            clients = [pod["metadata"]["name"] for pod in whole.pods(cluster, "name=x-wing")]
            for client in clients:
                wait_until(
                    f"{client} gets both from {address}",
                    lambda c=cluster, n=client, a=address: set(ask(whole, n, c, a)) == {"Koornacht", "Tion"},
                )
            wait_until(
                f"an outsider gets both from {address}",
                lambda a=address: set(outside(whole, a)) == {"Koornacht", "Tion"},
            )
    finally:
        for cluster in CLUSTERS:
            whole.delete(cluster, spec)


def balancer_address(mesh: Mesh, cluster: Cluster) -> str:
    ingress = mesh.get(cluster, "service", "balanced")["status"]["loadBalancer"].get("ingress") or [{}]
    return str(ingress[0].get("ip", ""))


def outside(mesh: Mesh, address: str) -> Counter[str]:
    """What a machine that is no node gets."""
    script = IN_TURN.format(count=COUNT, limit=2, target=address)
    done = run(command_inside(mesh.names.underlay, ["/bin/sh", "-c", script]), check=False)
    return outcomes(done.stdout + done.stderr)


def ask(mesh: Mesh, client: str, cluster: Cluster = "koornacht", target: str = "here") -> Counter[str]:
    script = IN_TURN.format(count=COUNT, limit=2, target=target)
    done = mesh.kubectl(cluster, "exec", client, "--", "/bin/sh", "-c", script, check=False)
    return outcomes(done.stdout + done.stderr)
