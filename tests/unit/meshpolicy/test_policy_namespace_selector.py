# SPDX-License-Identifier: Apache-2.0
"""A namespaceSelector selects pods of namespaces: what has no namespace satisfies none, however negative it is."""

from __future__ import annotations

from typing import Any

import pytest

from meshpolicy.evaluate import evaluate_case


@pytest.mark.parametrize("scope", ["", "north"])
@pytest.mark.parametrize(
    "expression",
    [{"key": "team", "operator": "NotIn", "values": ["red"]}, {"key": "team", "operator": "DoesNotExist"}],
)
def test_the_world_is_in_no_namespace(expression: dict[str, Any], scope: str) -> None:
    pod = ["k8s:io.kubernetes.pod.namespace=x", "k8s:io.cilium.k8s.policy.cluster=north"]
    policy = {
        "kind": "NetworkPolicy",
        "metadata": {"name": "p", "namespace": "x"},
        "spec": {"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {"matchExpressions": [expression]}}]}]},
    }
    answer = evaluate_case(
        {
            "cluster": "north",
            "scope": scope,
            "ids": {
                "pod": pod,
                "other": [*pod, "k8s:app=b"],
                "world": ["reserved:world"],
                "node": ["reserved:remote-node"],
            },
            "policies": [policy],
            "flows": [[peer, "pod", "TCP", 80] for peer in ("other", "world", "node")],
        }
    )
    assert answer == {"errors": [], "verdicts": [["allowed", "allowed"], ["allowed", "denied"], ["allowed", "denied"]]}
