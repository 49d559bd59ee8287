# SPDX-License-Identifier: Apache-2.0
"""Fields of a Service that say which of its pods a client may use: requests of pods of every node of the cluster."""

from __future__ import annotations

from collections import Counter
from typing import Final

from e2e.mesh import CLUSTERS, IN_TURN, Cluster, Mesh, outcomes, wait_until

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


def ask(mesh: Mesh, client: str, cluster: Cluster = "koornacht") -> Counter[str]:
    script = IN_TURN.format(count=COUNT, limit=2, target="here")
    done = mesh.kubectl(cluster, "exec", client, "--", "/bin/sh", "-c", script, check=False)
    return outcomes(done.stdout + done.stderr)
