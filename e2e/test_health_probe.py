# SPDX-License-Identifier: Apache-2.0
"""A backend that Kubernetes calls ready and that does not answer leaves new connections in both clusters."""

from __future__ import annotations

from typing import Final

from e2e.mesh import CLUSTERS, Mesh, wait_until

PROBED: Final = """
apiVersion: v1
kind: Service
metadata:
  name: probed
  annotations: {{service.cilium.io/global: "true"{more}}}
spec:
  selector: {{name: rebel-base}}
  ports: [{{port: 80}}]
"""
DEAD: Final = """
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: probed-dead, labels: {kubernetes.io/service-name: probed}}
addressType: IPv4
ports: [{name: "", port: 81, protocol: TCP}]
endpoints:
- {addresses: [%s], nodeName: %s, conditions: {ready: true}}
"""
ALIVE: Final = {"Koornacht", "Tion"}


def test_a_ready_backend_that_does_not_answer_leaves_new_connections_everywhere(whole: Mesh) -> None:
    _, node, dead = whole.pod("koornacht", "x-wing")  # its port 81 is closed
    try:
        for cluster in CLUSTERS:
            whole.apply(cluster, PROBED.format(more=""))
        for cluster in CLUSTERS:
            wait_until("both answer", lambda c=cluster: set(whole.answers(c, 20, target="probed")) == ALIVE)  # type: ignore[misc]
        whole.apply("koornacht", DEAD % (dead, node))
        for cluster in CLUSTERS:
            wait_until("some fail", lambda c=cluster: set(whole.answers(c, 20, target="probed")) - ALIVE)  # type: ignore[misc]
        whole.apply("koornacht", PROBED.format(more=", mesh.clustermesh.io/health-probe: tcp"))
        for cluster in CLUSTERS:
            wait_until("none fails", lambda c=cluster: set(whole.answers(c, 40, target="probed")) == ALIVE)  # type: ignore[misc]
        said = whole.clustermesh("explain", "service", "default/probed").stdout
        assert "it fails its health probe" in said
        assert dead in said
    finally:
        whole.delete("koornacht", DEAD % (dead, node))
        for cluster in CLUSTERS:
            whole.delete(cluster, PROBED.format(more=""))
