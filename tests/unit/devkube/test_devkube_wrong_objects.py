# SPDX-License-Identifier: Apache-2.0
"""What a Kubernetes API server refuses, the lab's refuses too, and says which field it is; what it takes is taken."""

from __future__ import annotations

from typing import Any

import pytest

from lab.devkube.api.cluster import Cluster
from lab.devkube.api.error import ApiError

SLICES, POLICIES = "discovery.k8s.io", "networking.k8s.io"
PORT = {"port": 80}


@pytest.fixture
def cluster() -> Cluster:
    return Cluster("10.96.0.0/24")


def service(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "s", "namespace": "default"}, "spec": {"ports": [PORT], **spec}}


def refused(cluster: Cluster, plural: str, obj: dict[str, Any], group: str = "") -> set[str]:
    """The fields that the server names."""
    with pytest.raises(ApiError) as caught:
        cluster.create(plural, obj, group)
    assert caught.value.code == 422
    return {cause["field"] for cause in caught.value.details["causes"]}


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"ports": []}, "spec.ports"),
        ({"ports": [{"port": 0}]}, "spec.ports[0].port"),
        ({"ports": [PORT, {"port": 81, "name": "b"}]}, "spec.ports[0].name"),
        ({"ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "a"}]}, "spec.ports[1].name"),
        ({"ports": [{"port": 80, "name": "a"}, {"port": 80, "name": "b"}]}, "spec.ports[1]"),
        ({"ports": [{"port": 80, "name": "A_b"}]}, "spec.ports[0].name"),
        ({"ports": [{"port": 80, "protocol": "tcp"}]}, "spec.ports[0].protocol"),
        ({"ports": [{"port": 80, "targetPort": 70_000}]}, "spec.ports[0].targetPort"),
        ({"ports": [{"port": 80, "targetPort": "a-name-that-is-long"}]}, "spec.ports[0].targetPort"),
        ({"ports": [{"port": 80, "nodePort": 30_080}]}, "spec.ports[0].nodePort"),
        ({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]}, "spec.ports[0].nodePort"),
        ({"type": "Balancer"}, "spec.type"),
        ({"type": "ExternalName"}, "spec.externalName"),
        ({"type": "ExternalName", "externalName": "a b"}, "spec.externalName"),
        ({"type": "NodePort", "clusterIP": "None"}, "spec.clusterIPs[0]"),
        ({"selector": {"app": "a b"}}, "spec.selector[app]"),
        ({"sessionAffinity": "Cookie"}, "spec.sessionAffinity"),
        ({"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 1}}}, "spec.sessionAffinityConfig"),
        (
            {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86_401}}},
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
        ),
        ({"externalTrafficPolicy": "Local"}, "spec.externalTrafficPolicy"),
        ({"type": "NodePort", "externalTrafficPolicy": "Near"}, "spec.externalTrafficPolicy"),
        ({"internalTrafficPolicy": "Near"}, "spec.internalTrafficPolicy"),
        ({"trafficDistribution": "Near"}, "spec.trafficDistribution"),
        ({"healthCheckNodePort": 30_000}, "spec.healthCheckNodePort"),
        ({"externalIPs": ["127.0.0.1"]}, "spec.externalIPs[0]"),
        ({"externalIPs": ["10.01.0.1"]}, "spec.externalIPs[0]"),
        ({"loadBalancerSourceRanges": ["10.0.0.0/8"]}, "spec.loadBalancerSourceRanges"),
        ({"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.0"]}, "spec.loadBalancerSourceRanges[0]"),
    ],
)
def test_a_wrong_service_is_refused_by_the_field_that_is_wrong(cluster: Cluster, spec: Any, field: str) -> None:
    assert refused(cluster, "services", service(**spec)) == {field}


@pytest.mark.parametrize(
    "spec",
    [
        {"clusterIP": "None", "ports": []},
        {"type": "ExternalName", "externalName": "db.example.org.", "ports": []},
        {"ports": [{"port": 53, "name": "a", "protocol": "UDP"}, {"port": 53, "name": "b"}]},
        {"ports": [{"port": 80, "targetPort": "http-9"}]},
        {"externalIPs": ["192.0.2.7"], "externalTrafficPolicy": "Local"},
        {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "loadBalancerSourceRanges": [" 10.0.0.0/8 "]},
        {"trafficDistribution": "PreferSameZone", "internalTrafficPolicy": "Local"},
    ],
)
def test_an_unusual_service_is_taken(cluster: Cluster, spec: Any) -> None:
    assert cluster.create("services", service(**spec))["spec"]


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({"type": "NodePort"}, {"type": "ClusterIP"}),
        ({"type": "LoadBalancer", "externalTrafficPolicy": "Local"}, {"type": "ClusterIP"}),
        ({"type": "NodePort"}, {"type": "ExternalName", "externalName": "db.example.org"}),
        ({}, {"type": "LoadBalancer"}),
    ],
)
def test_what_the_server_filled_in_is_in_nobodys_way_when_the_type_changes(
    cluster: Cluster, first: Any, then: Any
) -> None:
    made = cluster.create("services", service(**first))
    changed = cluster.update("services", {**made, "spec": {**made["spec"], **then}})
    assert changed["spec"]["type"] == then["type"]
    assert then["type"] == "LoadBalancer" or "nodePort" not in changed["spec"]["ports"][0]


def slice_of(*endpoints: Any, **fields: Any) -> dict[str, Any]:
    meta = {"name": "s-1", "namespace": "default"}
    return {"metadata": meta, "addressType": "IPv4", "endpoints": list(endpoints), "ports": [PORT], **fields}


@pytest.mark.parametrize(
    ("obj", "field"),
    [
        (slice_of({"addresses": []}), "endpoints[0].addresses"),
        (slice_of({"addresses": ["fd00::1"]}), "endpoints[0].addresses[0]"),
        (slice_of({"addresses": ["010.1.1.3"]}), "endpoints[0].addresses[0]"),
        (slice_of({"addresses": ["169.254.1.1"]}), "endpoints[0].addresses[0]"),
        (slice_of({"addresses": ["10.0.0.1"], "hostname": "a.b"}), "endpoints[0].hostname"),
        (slice_of({"addresses": ["10.0.0.1"], "zone": "a b"}), "endpoints[0].zone"),
        (slice_of({"addresses": ["10.0.0.1"] * 101}), "endpoints[0].addresses"),
        (slice_of(*[{"addresses": ["10.0.0.1"]}] * 1001), "endpoints"),
        (slice_of(addressType="IPv5"), "addressType"),
        (slice_of(addressType=""), "addressType"),
        (slice_of(ports=[{"port": 70_000}]), "ports[0].port"),
        (slice_of(ports=[{"port": 1, "protocol": "udp"}]), "ports[0].protocol"),
        (slice_of(ports=[PORT, {"port": 81}]), "ports[1].name"),
    ],
)
def test_a_wrong_endpoint_slice_is_refused(cluster: Cluster, obj: Any, field: str) -> None:
    assert refused(cluster, "endpointslices", obj, SLICES) == {field}


def policy(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "p", "namespace": "default"}, "spec": {"podSelector": {}, **spec}}


def block(**fields: Any) -> dict[str, Any]:
    return policy(ingress=[{"from": [{"ipBlock": fields}]}])


FROM = "spec.ingress[0].from[0]"


@pytest.mark.parametrize(
    ("obj", "field"),
    [
        (policy(policyTypes=["ingress"]), "spec.policyTypes[0]"),
        (policy(ingress=[{"from": [{}]}]), FROM),
        (policy(ingress=[{"from": [{"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}]}]), FROM),
        (block(cidr="10.0.0.0"), f"{FROM}.ipBlock.cidr"),
        (block(cidr="10.0.0.0/8", **{"except": ["11.0.0.0/16"]}), f"{FROM}.ipBlock.except[0]"),
        (block(cidr="10.0.0.0/8", **{"except": ["10.0.0.0/8"]}), f"{FROM}.ipBlock.except[0]"),
        (block(cidr="10.0.0.0/8", **{"except": ["fd00::/8"]}), f"{FROM}.ipBlock.except[0]"),
        (policy(egress=[{"ports": [{"port": 0}]}]), "spec.egress[0].ports[0].port"),
        (policy(egress=[{"ports": [{"protocol": "ICMP"}]}]), "spec.egress[0].ports[0].protocol"),
        (policy(egress=[{"ports": [{"endPort": 90}]}]), "spec.egress[0].ports[0].endPort"),
        (policy(egress=[{"ports": [{"port": "http", "endPort": 90}]}]), "spec.egress[0].ports[0].endPort"),
        (policy(egress=[{"ports": [{"port": 100, "endPort": 90}]}]), "spec.egress[0].ports[0].endPort"),
        (
            policy(podSelector={"matchExpressions": [{"key": "a", "operator": "In"}]}),
            "spec.podSelector.matchExpressions[0].values",
        ),
        (
            policy(podSelector={"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}),
            "spec.podSelector.matchExpressions[0].values",
        ),
        (
            policy(podSelector={"matchExpressions": [{"key": "a", "operator": "Is"}]}),
            "spec.podSelector.matchExpressions[0].operator",
        ),
        (policy(podSelector={"matchLabels": {"a": "b c"}}), "spec.podSelector.matchLabels[a]"),
    ],
)
def test_a_wrong_network_policy_is_refused(cluster: Cluster, obj: Any, field: str) -> None:
    assert refused(cluster, "networkpolicies", obj, POLICIES) == {field}


def test_an_unusual_network_policy_is_taken(cluster: Cluster) -> None:
    rules = [
        {"ports": [{"port": "http"}, {"port": 1, "endPort": 1}], "from": [{"podSelector": {}, "namespaceSelector": {}}]}
    ]
    egress = [{"to": [{"ipBlock": {"cidr": "10.1.2.3/8", "except": ["10.1.0.0/16"]}}]}]
    assert cluster.create("networkpolicies", policy(ingress=rules, egress=egress), POLICIES)
