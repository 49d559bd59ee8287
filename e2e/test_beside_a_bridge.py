# SPDX-License-Identifier: Apache-2.0
"""Beside a bridge plugin, and with an overlay port of the operator's choice: services, policy, and a restart under load."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest

from e2e.mesh import CLUSTERS, SYSTEM, Mesh, bring_up, tear_down, wait_until
from e2e.traffic import undisturbed
from tests.support.labs import lab_name

PORT: Final = 8473
SETTINGS: Final = (f"agent.vxlan-port={PORT}", f"apiserver.vxlan-port={PORT}")
CLOSED: Final = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: default}
spec: {podSelector: {matchLabels: {name: rebel-base}}, policyTypes: [Ingress]}
"""


@pytest.fixture(scope="module")
def bridged() -> Iterator[Mesh]:
    """A connected lab whose pods are ports of bridges."""
    name = lab_name("e2e", "p")
    try:
        yield bring_up(name, "--cni", "bridge", settings=SETTINGS)
    finally:
        tear_down(name)


def test_pods_on_a_bridge_have_services_policy_and_agents_that_come_and_go(bridged: Mesh) -> None:
    node = bridged.pod("koornacht", "x-wing")[1]
    rows = bridged.agent_rest("koornacht", node, "/v1/endpoints")
    assert rows
    assert {row["behind"] for row in rows} == {"bridge port"}
    assert bridged.on_node(node, "ip", "-d", "link", "show", "mesh0").stdout.count(f"dstport {PORT}") == 1

    with undisturbed(bridged):  # in both clusters, answered by both
        bridged.kubectl("koornacht", "delete", "pod", "-n", SYSTEM, bridged.agent_pod("koornacht", node))
        wait_until("another agent is ready", lambda: bridged.agent_rest("koornacht", node, "/v1/status")["ready"])

    bridged.apply("tion", CLOSED)
    try:
        for cluster in CLUSTERS:
            bridged.wait_for_answers(cluster, "Koornacht", "timed out", limit_s=30)
    finally:
        bridged.delete("tion", CLOSED)
    bridged.expect_whole()
