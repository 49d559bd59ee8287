# SPDX-License-Identifier: Apache-2.0
"""What a Kubernetes Service and its slices mean to the load balancer."""

from __future__ import annotations

from typing import Any

import pytest

from agent.loadbalancer.convert import strip_object, strip_service, strip_slice
from agent.loadbalancer.merge import merge_backends
from agent.loadbalancer.source import KubernetesSource
from agent.loadbalancer.writer import LoadBalancerWriter
from agent.tables import AgentDB, Backend
from kube.reflector import Delete, Synced, Upsert
from meshkit.clock import ManualClock
from meshmodel.annotations import Affinity
from meshmodel.condition import Condition
from meshmodel.names import ClusterId, ClusterName, ServiceName


def service(annotations: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    found = {"clusterIP": "10.0.0.1", "ports": [{"name": "http", "port": 80}], **spec}
    return {"metadata": {"namespace": "t", "name": "s", "annotations": annotations or {}}, "spec": found}


def endpoint_slice(*conditions: dict[str, bool], name: str = "s-1", **changes: Any) -> dict[str, Any]:
    meta = {"namespace": "t", "name": name, "labels": {"kubernetes.io/service-name": "s", **changes.pop("labels", {})}}
    endpoints = [{"addresses": [f"10.1.0.{n}"], "conditions": c} for n, c in enumerate(conditions, 1)]
    ports = [{"name": "http", "port": 8080, "protocol": "TCP"}]
    return {"metadata": meta, "addressType": "IPv4", "ports": ports, "endpoints": endpoints, **changes}


@pytest.mark.parametrize(
    "spec",
    [{"clusterIP": "None"}, {"clusterIP": "none"}, {"clusterIP": ""}, {"type": "ExternalName", "externalName": "x"}],
)
def test_headless_and_external_names_are_not_balanced(spec: dict[str, str]) -> None:
    assert strip_service(service(**spec)) is None


@pytest.mark.parametrize("label", ["service.kubernetes.io/headless", "service.kubernetes.io/service-proxy-name"])
def test_what_a_label_gives_to_somebody_else_is_not_balanced(label: str) -> None:
    item = service()
    assert strip_service(item) is not None
    item["metadata"]["labels"] = {label: ""}
    assert strip_service(item) is None


def test_a_pod_that_ends_and_is_said_to_be_ready_takes_connections() -> None:
    """As a Service with publishNotReadyAddresses has them."""
    found = strip_slice(endpoint_slice({"ready": True, "serving": False, "terminating": True}, {"terminating": True}))
    assert found is not None
    assert [b.condition for b in found.backends] == [Condition.ACTIVE, Condition.TERMINATING]


def test_a_pod_that_is_not_ready_is_known_and_one_that_ends_is_not() -> None:
    gone = {"ready": False, "serving": False, "terminating": True}
    found = strip_slice(endpoint_slice({"ready": False}, {"ready": True}, gone))
    assert found is not None
    assert len(found.backends) == len(found.unready) == 1
    assert found.unready[0] != found.backends[0].address


def test_every_address_is_a_frontend_with_its_kind() -> None:
    item = service(clusterIPs=["10.0.0.1", "fd00::1"], externalIPs=["192.0.2.1"])
    item["status"] = {"loadBalancer": {"ingress": [{"ip": "192.0.2.2"}, {"hostname": "x"}]}}
    row = strip_service(item)
    assert row is not None
    assert [(a.ip, a.kind) for a in row.addresses] == [
        ("10.0.0.1", "ClusterIP"),
        ("192.0.2.2", "LoadBalancer"),
        ("192.0.2.1", "ExternalIP"),
    ]


def test_session_affinity_has_its_timeout() -> None:
    plain = strip_service(service(sessionAffinity="ClientIP"))
    given = strip_service(
        service(sessionAffinity="ClientIP", sessionAffinityConfig={"clientIP": {"timeoutSeconds": 7}})
    )
    assert plain is not None
    assert given is not None
    assert (plain.session_affinity_s, given.session_affinity_s) == (10_800, 7)


def test_an_annotation_that_means_nothing_is_a_problem_and_none() -> None:
    row = strip_service(service({"service.cilium.io/global": "true", "service.cilium.io/affinity": "near"}))
    assert row is not None
    assert (row.is_global, row.affinity) == (True, Affinity.NONE)
    assert any("near" in problem for problem in row.problems)


def test_conditions_decide_who_takes_new_connections() -> None:
    piece = strip_slice(
        endpoint_slice(
            {},
            {"ready": True},
            {"ready": False},
            {"ready": False, "serving": True, "terminating": True},
            {"ready": False, "serving": False, "terminating": True},
        )
    )
    assert piece is not None
    assert [(b.address, b.condition) for b in piece.backends] == [
        ("10.1.0.1", Condition.ACTIVE),
        ("10.1.0.2", Condition.ACTIVE),
        ("10.1.0.4", Condition.TERMINATING),
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"addressType": "IPv6"},
        {"addressType": "FQDN"},
        {"labels": {"kubernetes.io/service-name": ""}},
        {"labels": {"endpointslice.kubernetes.io/managed-by": "endpointslice-mesh-controller.cilium.io"}},
    ],
)
def test_slices_that_are_not_ours_are_ignored(changes: dict[str, Any]) -> None:
    assert strip_slice(endpoint_slice({}, **changes)) is None


def test_two_slices_of_one_address_add_their_ports_and_names() -> None:
    one = (Backend("10.1.0.1", 80, "TCP", ("a",), Condition.TERMINATING),)
    two = (Backend("10.1.0.1", 80, "TCP", ("b",)), Backend("10.1.0.1", 81, "TCP", ("c",)))
    assert merge_backends([one, two]) == (
        Backend("10.1.0.1", 80, "TCP", ("a", "b")),
        Backend("10.1.0.1", 81, "TCP", ("c",)),
    )


def test_objects_become_whole_contributions_and_vanish_with_their_objects() -> None:
    db = AgentDB(ClusterName("north"), ClusterId(1))
    source = KubernetesSource(db, LoadBalancerWriter(db), ManualClock())
    synced: list[str] = []
    source.take_slices([Upsert("t/s-1", strip_slice(endpoint_slice({}, {})))], lambda: synced.append("slices"))
    source.take_services([Upsert("t/s", strip_service(service())), Synced()], lambda: synced.append("services"))
    assert synced == ["services"]
    (row,) = db.frontends.rows()
    assert [t.address for t in row.chosen] == ["10.1.0.1", "10.1.0.2"]
    source.take_slices([Upsert("t/s-2", strip_slice(endpoint_slice({}, name="s-2")))], lambda: None)
    source.take_slices([Delete("t/s-1", None)], lambda: None)
    (row,) = db.frontends.rows()
    assert [t.address for t in row.chosen] == ["10.1.0.1"]
    source.take_services([Upsert("t/s", strip_service(service(type="ExternalName")))], lambda: None)
    assert list(db.frontends.rows()) == []
    assert db.backends.get((ServiceName("t", "s"), db.own)) is not None


def test_policies_see_headless_services_which_are_not_balanced() -> None:
    db = AgentDB(ClusterName("north"), ClusterId(1))
    source = KubernetesSource(db, LoadBalancerWriter(db), ManualClock())
    headless = service(clusterIP="None", clusterIPs=["None"])
    headless["metadata"]["labels"] = {"app": "web"}
    source.take_objects([Upsert("t/s", strip_object(headless)), Synced()], lambda: None)
    row = db.labelled_services.get(ServiceName("t", "s"))
    assert row is not None
    assert (row.labels, row.is_global) == ((("app", "web"),), False)
    assert not len(db.services)
    source.take_objects([Upsert("t/s", strip_object(service(type="ExternalName")))], lambda: None)
    assert not len(db.labelled_services)
    source.take_objects([Upsert("t/s", strip_object(service()))], lambda: None)
    assert len(db.services) == len(db.labelled_services) == 1
    source.take_objects([Delete("t/s", None)], lambda: None)
    assert len(db.services) == len(db.labelled_services) == 0
