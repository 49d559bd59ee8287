# SPDX-License-Identifier: Apache-2.0
"""Which pods a selector means, and which nodes a pod may go to."""

from __future__ import annotations

import pytest

from lab.devkube.controllers.selecting import obstacle

LABELS = {"name": "x-wing", "tier": "front"}
TAINT = {"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}
TAINTED = {"metadata": {"name": "n", "labels": {"disk": "ssd"}}, "spec": {"taints": [TAINT]}}


@pytest.mark.parametrize(
    "toleration",
    [
        {"operator": "Exists"},
        {"key": TAINT["key"], "operator": "Exists"},
        {"key": TAINT["key"], "operator": "Exists", "effect": "NoSchedule"},
        {"key": TAINT["key"], "operator": "Equal"},
    ],
)
def test_a_tolerated_taint_is_no_obstacle(toleration: dict[str, str]) -> None:
    assert obstacle({"tolerations": [toleration]}, TAINTED) == ""


def test_obstacles_are_named_in_the_schedulers_words() -> None:
    other_effect = {"tolerations": [{"key": TAINT["key"], "operator": "Exists", "effect": "NoExecute"}]}
    assert obstacle(other_effect, TAINTED) == f"node(s) had untolerated taint {{{TAINT['key']}: }}"
    assert "selector" in obstacle({"nodeSelector": {"disk": "nvme"}, "tolerations": [{"operator": "Exists"}]}, TAINTED)
