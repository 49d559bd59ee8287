# SPDX-License-Identifier: Apache-2.0
"""What a tenant gains by node ports whose EndpointSlices it wrote by hand: kube-proxy sends its packets wherever they say."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from e2e.forged import SENDER, VXLAN_PORT, Victim, drops, victim
from e2e.mesh import Mesh, is_ready
from lab.topology import cluster_named

Rows = list[tuple[str, str, str, str]]
PORTS = (30471, 30472)
NODE_PORT = """
apiVersion: v1
kind: Service
metadata: {{name: hop-{port}}}
spec: {{type: NodePort, ports: [{{port: 80, protocol: {protocol}, nodePort: {port}}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: hop-{port}, labels: {{kubernetes.io/service-name: hop-{port}}}}}
addressType: IPv4
ports: [{{name: "", port: {target_port}, protocol: {protocol}}}]
endpoints: [{{addresses: ["{target}"]}}]
---
"""
SHUT = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: shut}
spec: {podSelector: {matchLabels: {name: rebel-base}}, policyTypes: [Ingress], ingress: []}
"""


@pytest.fixture(scope="module")
def ours(mesh: Mesh) -> Iterator[Victim]:
    with victim(mesh, "koornacht") as found:
        yield found


def test_no_number_of_node_ports_makes_a_pods_packet_a_tunnel_packet(mesh: Mesh, ours: Victim, attacks: Rows) -> None:
    """From the pod's node, under whose address it goes on, to a node port of the victim's, and there to the overlay."""
    pods = [pod for pod in mesh.pods("koornacht", "name=x-wing") if pod["spec"]["nodeName"] != ours.node]
    sender, first = pods[0]["metadata"]["name"], pods[0]["spec"]["nodeName"]
    (address,) = (node.address for node in cluster_named("koornacht").nodes if node.name == first)
    (dns,) = (pod["status"]["podIP"] for pod in mesh.pods("koornacht", "k8s-app=kube-dns", "kube-system"))
    identity = str(mesh.agent_rest("koornacht", ours.node, f"/v1/ip/{dns}")["identity"])
    text = "".join(
        NODE_PORT.format(port=port, protocol="UDP", target=ours.node_address, target_port=target_port)
        for port, target_port in zip(PORTS, (PORTS[1], VXLAN_PORT), strict=True)
    )
    script = SENDER.replace(f"(towards, {VXLAN_PORT})", f"(towards, {PORTS[0]})")
    send = ("exec", sender, "--", "python3", "-c", script, dns, ours.address, "hopped", "", address, identity)
    try:
        mesh.apply("koornacht", text)

        def is_refused() -> bool:
            mesh.kubectl("koornacht", *send)
            return "Encapsulation traffic is prohibited" in drops(mesh, "koornacht", ours.node)

        mesh.wait_until("the victim's node refuses it", is_refused)
        assert not ours.hears("hopped")
    finally:
        mesh.delete("koornacht", text)
    by = "datapath: Encapsulation traffic is prohibited"
    attacks.append(("tenant", "VXLAN through node ports of two nodes", by, "nothing"))


def test_a_node_port_opens_no_policy(mesh: Mesh, attacks: Rows) -> None:
    """Of a pod on the node that is asked: kube-proxy gives the sender that node's address."""
    (target, *_) = [pod for pod in mesh.pods("koornacht", "name=rebel-base") if is_ready(pod)]
    (address,) = (n.address for n in cluster_named("koornacht").nodes if n.name == target["spec"]["nodeName"])
    ip = target["status"]["podIP"]
    text = NODE_PORT.format(port=PORTS[0], protocol="TCP", target=ip, target_port=80)
    door = f"{address}:{PORTS[0]}"
    try:
        mesh.apply("koornacht", text)
        mesh.wait_until(
            "the node port leads there", lambda: set(mesh.answers("koornacht", 4, target=door)) == {"Koornacht"}
        )
        mesh.apply("koornacht", SHUT)
        mesh.wait_until("the pod is shut", lambda: set(mesh.answers("koornacht", 4, 1, target=ip)) == {"timed out"})
        assert set(mesh.answers("koornacht", 8, 1, target=door)) == {"timed out"}
        assert set(mesh.answers("tion", 8, 1, target=door)) == {"timed out"}
    finally:
        mesh.delete("koornacht", SHUT)
        mesh.delete("koornacht", text)
        mesh.expect_whole()
    attacks.append(("tenant", "a node port of a pod that is shut", "datapath: world, not the node", "nothing"))
