# SPDX-License-Identifier: Apache-2.0
"""Names, ClusterIPs and NodePorts of a lab, with real packets and no agent in the way."""

from __future__ import annotations

import json
import subprocess

import pytest
from lab_harness import Eventually, Kubectl, on_node
from lab_objects import web

from lab import faults
from lab.names import LabNames
from lab.netns import command_inside
from lab.topology import NODES, UNDERLAY_GATEWAY

pytestmark = pytest.mark.root


@pytest.fixture(scope="module", autouse=True)
def web_service(kubectl: Kubectl) -> None:
    kubectl.apply(*web("web", "from koornacht"))
    kubectl("rollout", "status", "deployment/web", "--timeout=30s")


def curl(kubectl: Kubectl, client: str, target: str) -> str:
    return kubectl.run("exec", client, "--", "curl", "-sS", "--max-time", "2", target).stdout


def test_a_pod_reaches_a_service_by_name(kubectl: Kubectl, client: str) -> None:
    for name in ("web", "web.default", "web.default.svc.cluster.local"):
        assert curl(kubectl, client, name) == "from koornacht"


def test_a_name_that_does_not_exist_is_said_not_to_exist_at_once(kubectl: Kubectl, client: str) -> None:
    done = kubectl.run("exec", client, "--", "curl", "-sS", "--max-time", "2", "nowhere")
    assert "Could not resolve host" in done.stderr
    assert "exit code 6" in done.stderr


def test_every_backend_gets_its_share(kubectl: Kubectl, client: str) -> None:
    script = "for i in $(seq 1 40); do curl -sS -o /dev/null -w '%{remote_ip}\\n' web; done"
    assert kubectl("exec", client, "--", "sh", "-c", script).split() == [_cluster_ip(kubectl)] * 40
    logs = [kubectl("logs", pod, "--tail=-1") for pod in _pods(kubectl)]
    # forty requests, each to one of two backends: none of them is left out (2 in 10^12)
    assert all("curl/" in log for log in logs)


@pytest.mark.parametrize("node", [node.name for node in NODES if node.cluster == "koornacht"])
def test_the_nodes_own_processes_reach_a_cluster_ip(lab: LabNames, kubectl: Kubectl, node: str) -> None:
    assert on_node(lab, node, "curl", "-sS", "--max-time", "2", _cluster_ip(kubectl)).stdout == "from koornacht"


def test_a_node_port_answers_on_every_node_and_from_the_other_cluster(lab: LabNames, kubectl: Kubectl) -> None:
    port = kubectl.get("service", "web")["spec"]["ports"][0]["nodePort"]
    for node in (node for node in NODES if node.cluster == "koornacht"):
        for source in ("tion-worker", node.name):
            done = on_node(lab, source, "curl", "-sS", "--max-time", "2", f"{node.address}:{port}")
            assert done.stdout == "from koornacht", (source, node.name, done.stderr)


def test_a_balancer_address_answers_everybody_and_goes_with_the_type(
    lab: LabNames, kubectl: Kubectl, client: str, eventually: Eventually
) -> None:
    kubectl("patch", "service", "web", "-p", '{"spec": {"type": "LoadBalancer"}}')
    address = eventually(lambda: _balancer_address(kubectl))
    assert address in kubectl("get", "service", "web")
    eventually(lambda: outside(lab, address) == "from koornacht")
    assert curl(kubectl, client, address) == "from koornacht"
    for node in ("koornacht-worker", "tion-worker"):
        assert on_node(lab, node, "curl", "-sS", "--max-time", "2", address).stdout == "from koornacht", node
    local = {"spec": {"externalTrafficPolicy": "Local", "loadBalancerSourceRanges": ["172.18.0.1/32"]}}
    kubectl("patch", "service", "web", "-p", json.dumps(local))
    eventually(lambda: not on_node(lab, "tion-worker", "curl", "-sS", "--max-time", "1", address).stdout)
    assert outside(lab, address) == "from koornacht"
    eventually(lambda: any(UNDERLAY_GATEWAY in kubectl("logs", pod, "--tail=-1") for pod in _pods(kubectl)))
    kubectl("patch", "service", "web", "-p", '{"spec": {"type": "NodePort", "loadBalancerSourceRanges": null}}')
    eventually(lambda: not _balancer_address(kubectl))
    eventually(lambda: not outside(lab, address))


def test_a_pod_that_is_its_own_backend_reaches_itself(kubectl: Kubectl) -> None:
    kubectl.apply(*web("alone", "itself", replicas=1))
    kubectl("rollout", "status", "deployment/alone", "--timeout=30s")
    assert kubectl("exec", "deploy/alone", "--", "curl", "-sS", "--max-time", "2", "alone") == "itself"


def test_a_service_without_backends_refuses_and_recovers(kubectl: Kubectl, client: str, eventually: Eventually) -> None:
    kubectl.apply(*web("empty", "back again", replicas=0))
    kubectl("rollout", "status", "deployment/empty", "--timeout=30s")
    eventually(
        lambda: "exit code 7" in kubectl.run("exec", client, "--", "curl", "-sS", "--max-time", "2", "empty").stderr
    )
    kubectl("scale", "deployment", "empty", "--replicas", "1")
    eventually(lambda: curl(kubectl, client, "empty") == "back again")


def test_pods_of_the_other_cluster_are_not_reachable_without_a_mesh(
    lab: LabNames, kubectl: Kubectl, client: str
) -> None:
    other = Kubectl(lab, "tion")
    other.apply(*web("web", "from tion", replicas=1))
    other("rollout", "status", "deployment/web", "--timeout=30s")
    address = other.get("pods", "-l", "name=web")["items"][0]["status"]["podIP"]
    assert other("exec", "deploy/web", "--", "curl", "-sS", address) == "from tion"
    done = kubectl.run("exec", client, "--", "curl", "-sS", "--max-time", "1", address)
    assert "exit code 28" in done.stderr


def test_the_api_server_is_reached_from_pods_and_authenticates_them(kubectl: Kubectl, client: str) -> None:
    account = "/var/run/secrets/kubernetes.io/serviceaccount"
    url = "https://kubernetes.default.svc/api/v1/namespaces/default"
    known = f'curl -sS --cacert {account}/ca.crt -H "Authorization: Bearer $(cat {account}/token)" {url}'
    assert '"kind":"Namespace"' in kubectl("exec", client, "--", "sh", "-c", known).replace(" ", "")
    unknown = f"curl -sS -o /dev/null -w '%{{http_code}}' --cacert {account}/ca.crt {url}"
    assert kubectl("exec", client, "--", "sh", "-c", unknown) == "401"


def test_a_cut_is_a_silence_until_it_is_healed(lab: LabNames) -> None:
    def ping(source: str, target: str) -> bool:
        return on_node(lab, source, "ping", "-c1", "-W1", target).returncode == 0

    assert ping("koornacht-worker", "172.18.0.6")
    try:
        faults.cut(lab, "koornacht", "tion")
        assert not ping("koornacht-worker", "172.18.0.6")
        assert ping("koornacht-worker", "172.18.0.2"), "a cluster stays whole"
        faults.heal(lab, "koornacht-worker", "tion")
        assert ping("koornacht-worker", "172.18.0.6")
        assert not ping("koornacht-worker2", "172.18.0.6"), "only what was named is healed"
    finally:
        faults.heal(lab)
    assert faults.cuts(lab) == []
    assert ping("koornacht-worker2", "172.18.0.6")


def _cluster_ip(kubectl: Kubectl) -> str:
    return str(kubectl.get("service", "web")["spec"]["clusterIP"])


def _balancer_address(kubectl: Kubectl) -> str:
    ingress = kubectl.get("service", "web")["status"]["loadBalancer"].get("ingress") or [{}]
    return str(ingress[0].get("ip", ""))


def outside(lab: LabNames, address: str) -> str:
    """What a machine that is no node gets from the address."""
    command = command_inside(lab.underlay, ["curl", "-sS", "--max-time", "1", address])
    return subprocess.run(command, text=True, capture_output=True, timeout=20, check=False).stdout


def _pods(kubectl: Kubectl) -> list[str]:
    return [item["metadata"]["name"] for item in kubectl.get("pods", "-l", "name=web")["items"]]
