# SPDX-License-Identifier: Apache-2.0
"""The files that kind makes the walkthrough's clusters from describe the clusters of the lab."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.topology import CLUSTERS, ClusterPlan

FOLDER = Path(__file__).parents[3] / "deploy/kind"
NETWORKING = {"ipFamily", "podSubnet", "serviceSubnet"}
"""Fields of kind's v1alpha4, of which it refuses unknown ones."""
ROLES = {"control-plane", "worker"}


def read(plan: ClusterPlan) -> Any:
    return yaml.safe_load((FOLDER / f"{plan.name}.yaml").read_text())


@pytest.mark.parametrize("plan", CLUSTERS, ids=lambda plan: plan.name)
def test_kind_makes_the_cluster_of_the_lab(plan: ClusterPlan) -> None:
    found = read(plan)
    assert set(found) == {"kind", "apiVersion", "name", "networking", "nodes"}
    assert (found["kind"], found["apiVersion"]) == ("Cluster", "kind.x-k8s.io/v1alpha4")
    assert f"kind-{found['name']}" == plan.context, "kind's own name for the context"
    assert set(found["networking"]) == NETWORKING
    assert (found["networking"]["podSubnet"], found["networking"]["serviceSubnet"]) == (
        plan.pod_cidr,
        plan.service_cidr,
    )
    assert all(set(node) == {"role"} and node["role"] in ROLES for node in found["nodes"])
    assert [node["role"] for node in found["nodes"]] == [node.role.rstrip("2") for node in plan.nodes]


def test_there_is_a_file_for_each_cluster_of_the_walkthrough_and_no_pod_networks_overlap() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == {plan.name for plan in CLUSTERS}
    first, second = (ip_network(read(plan)["networking"]["podSubnet"]) for plan in CLUSTERS)
    assert not first.overlaps(second)
