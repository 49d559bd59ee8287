# SPDX-License-Identifier: Apache-2.0
"""Endpoints that somebody made by hand are EndpointSlices soon after, for as long as they exist."""

from __future__ import annotations

from typing import Any

import pytest

from lab.devkube.api.cluster import Cluster
from lab.devkube.controllers.endpoints import Endpoints
from lab.devkube.controllers.endpoints_mirror import EndpointsMirror

GROUP = "discovery.k8s.io"
SUBSET = {
    "addresses": [{"ip": "192.0.2.7"}, {"ip": "fd00::7", "nodeName": "n1"}],
    "notReadyAddresses": [{"ip": "192.0.2.8"}],
    "ports": [{"port": 5432, "name": "sql"}],
}


@pytest.fixture
def cluster() -> Cluster:
    return Cluster("10.96.0.0/24")


def make(cluster: Cluster, *, labels: dict[str, str] | None = None, **spec: Any) -> None:
    meta = {"name": "db", "namespace": "default"}
    cluster.create("services", {"metadata": meta, "spec": {"ports": [{"port": 5432, "name": "sql"}], **spec}})
    cluster.create("endpoints", {"metadata": {**meta, "labels": labels or {}}, "subsets": [SUBSET]})


def settle(cluster: Cluster) -> list[dict[str, Any]]:
    for _ in range(10):
        before = cluster.store.revision
        Endpoints(cluster).reconcile()
        EndpointsMirror(cluster).reconcile()
        if cluster.store.revision == before:
            return sorted(cluster.list("endpointslices", GROUP), key=lambda found: str(found["addressType"]))
    raise AssertionError("the controllers never come to rest")


def test_a_subset_is_a_slice_per_family(cluster: Cluster) -> None:
    make(cluster)
    four, six = settle(cluster)
    assert (four["addressType"], six["addressType"]) == ("IPv4", "IPv6")
    assert [(e["addresses"], e["conditions"]["ready"]) for e in four["endpoints"]] == [
        (["192.0.2.7"], True), (["192.0.2.8"], False),
    ]  # fmt: skip
    assert [(e["addresses"], e["nodeName"]) for e in six["endpoints"]] == [(["fd00::7"], "n1")]
    assert four["ports"] == [{"protocol": "TCP", "name": "sql", "port": 5432}]
    labels = four["metadata"]["labels"]
    assert labels["kubernetes.io/service-name"] == "db"
    assert labels["endpointslice.kubernetes.io/managed-by"] == "endpointslicemirroring-controller.k8s.io"


def test_a_change_is_followed_and_the_end_too(cluster: Cluster) -> None:
    make(cluster)
    assert len(settle(cluster)) == 2
    found = cluster.get("endpoints", "db", "default") or {}
    cluster.update("endpoints", {**found, "subsets": [{**SUBSET, "addresses": [{"ip": "192.0.2.9"}]}]})
    (four,) = settle(cluster)
    assert [e["addresses"] for e in four["endpoints"]] == [["192.0.2.9"], ["192.0.2.8"]]
    cluster.delete("endpoints", "db", "default")
    assert settle(cluster) == []


@pytest.mark.parametrize(
    ("labels", "spec"),
    [
        ({"endpointslice.kubernetes.io/skip-mirror": "true"}, {}),
        ({}, {"type": "ExternalName", "externalName": "db.example.org"}),
    ],
)
def test_what_asks_for_it_is_left_alone(cluster: Cluster, labels: dict[str, str], spec: dict[str, Any]) -> None:
    make(cluster, labels=labels, **spec)
    assert settle(cluster) == []


def test_endpoints_of_a_service_that_selects_pods_are_its_controllers(cluster: Cluster) -> None:
    make(cluster, selector={"app": "db"})
    assert all(
        "mirroring" not in found["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"]
        for found in settle(cluster)
    )
