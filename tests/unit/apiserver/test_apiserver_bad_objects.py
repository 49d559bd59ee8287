# SPDX-License-Identifier: Apache-2.0
"""Objects of any shape: none stops the others, each that counts is counted."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clustermesh_apiserver.convert.assembly import make_exporters
from clustermesh_apiserver.problems import Problems
from clustermesh_apiserver.settings import ApiserverSettings
from clustermesh_apiserver.source.follow import Source
from clustermesh_apiserver.source.intake import Intake
from clustermesh_apiserver.source.plan import SourcePlan
from clustermesh_apiserver.tables import Tables
from kube.reflector import Synced, Upsert
from kubeintent.rows import NodeIntent
from meshkit.clock import ManualClock
from meshmodel.cluster_config import ExportMode
from meshmodel.keys import Kind
from tests.scripts.apiserver.apiserver_script import Numbers, Sink
from tests.support.effort import examples

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    [
        "spec",
        "status",
        "metadata",
        "labels",
        "annotations",
        "clusterIPs",
        "clusterIP",
        "ports",
        "name",
        "port",
        "protocol",
        "selector",
        "type",
        "endpoints",
        "addresses",
        "conditions",
        "ready",
        "serving",
        "hints",
        "forZones",
        "zone",
        "networking",
        "addressing",
        "ipv4",
        "ipv6",
        "node",
        "identity",
        "id",
        "security-labels",
        "ipam",
        "podCIDRs",
        "podIPs",
        "ip",
        "podIP",
        "hostIP",
        "podCIDRs",
        "health",
        "encryption",
        "key",
        "address",
        "nodeInfo",
    ]
)
SHAPED = st.recursive(
    JSON | st.sampled_from(["10.0.0.1", "fd00::1", "10.0.0.0/24", "true", "65600", "TCP", ""]),
    lambda inner: st.dictionaries(FIELDS, inner, max_size=6) | st.lists(inner, max_size=4),
    max_leaves=16,
)


class World:
    """Every kind of both sources, converted into sinks that only remember."""

    def __init__(self, *, cilium: bool) -> None:
        chosen = ApiserverSettings(cluster_name="c1", cluster_id=1, service_export_mode=ExportMode.BOTH, mcs_api=True)
        plan = SourcePlan(cilium=cilium, exports=True)
        self.tables = Tables()
        self.problems = Problems(None, ManualClock())
        self.source = Source(None, self.tables, self.problems, lambda _: plan)  # type: ignore[arg-type]
        self.source.set_plan(plan)
        self.sinks = {kind: Sink(kind, []) for kind in Kind}
        self.exporters = make_exporters(chosen, self.tables, self.sinks, Numbers())
        self.source.attach(self.exporters)
        self.intakes: list[Intake[Any]] = self.source.intakes
        namespace = {"metadata": {"name": "shop", "resourceVersion": "1"}}
        self.give("Namespace", namespace)
        for intake in self.intakes:
            intake.take([Synced()])

    def give(self, kind: str, obj: dict[str, Any]) -> None:
        intake = next(intake for intake in self.intakes if intake.resource.kind == kind)
        meta = obj["metadata"]
        key = f"{meta['namespace']}/{meta['name']}" if "namespace" in meta else meta["name"]
        intake.take([Upsert(key, intake.strip(obj))])


@pytest.mark.parametrize("cilium", [True, False])
@settings(max_examples=examples(25))
@given(data=st.data())
def test_no_object_of_any_shape_raises(cilium: bool, data: st.DataObject) -> None:
    """Law: whatever an object holds beside its name, converting it ends, and the kind goes on."""
    world = World(cilium=cilium)
    for intake in world.intakes:
        obj = data.draw(st.dictionaries(FIELDS, SHAPED, max_size=6))
        meta = obj.get("metadata")
        obj["metadata"] = {**(meta if isinstance(meta, dict) else {}), "name": "x", "resourceVersion": "1"}
        if intake.resource.namespaced:
            obj["metadata"]["namespace"] = "shop"
        world.give(intake.resource.kind, obj)
    for sink in world.sinks.values():
        assert all(isinstance(value, bytes) for value in sink.wanted.values())


def test_an_object_that_cannot_be_converted_is_counted_and_the_next_one_published() -> None:
    """A converter that fails on one row is a fault of ours: the others do not pay for it."""
    world = World(cilium=True)
    broken = NodeIntent("n1", addresses=(), pod_cidrs=(), labels=((7, 7),), source="k8s")  # type: ignore[arg-type]
    world.tables.nodes.put("n1", broken)
    world.source.touch(Kind.NODES, ("n1",))
    world.give("CiliumNode", {"metadata": {"name": "n2"}})
    assert list(world.sinks[Kind.NODES].wanted) == [b"n2"]
    assert "n1" in world.exporters.by_kind[Kind.NODES].failures
    world.give("CiliumNode", {"metadata": {"name": "n1"}, "spec": {}})
    assert world.exporters.by_kind[Kind.NODES].failures == {}
    assert sorted(world.sinks[Kind.NODES].wanted) == [b"n1", b"n2"]


def test_a_bad_value_is_left_out_and_named_and_the_rest_of_its_object_published() -> None:
    world = World(cilium=True)
    meta = {"namespace": "shop", "name": "a", "uid": "u1", "annotations": {"service.cilium.io/global": "true"}}
    service = {"metadata": meta, "spec": {"clusterIP": "10.0.0.1", "ports": [{"port": "http"}, {"port": 80}]}}
    world.give("Service", service)
    world.give(
        "EndpointSlice",
        {
            "metadata": {"namespace": "shop", "name": "a-1", "labels": {"kubernetes.io/service-name": "a"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["010.1.1.3"]}, {"addresses": ["10.1.1.4"]}, {"addresses": ["127.0.0.1"]}],
            "ports": [{"port": 8080}],
        },
    )
    record = orjson.loads(world.sinks[Kind.SERVICES].wanted[b"shop/a"])
    assert record["frontends"] == {"10.0.0.1": {"": {"Protocol": "TCP", "Port": 80}}}
    assert list(record["backends"]) == ["10.1.1.4"]
    assert [(problem.subject, problem.message) for problem in world.problems.current()] == [
        ("endpointslice shop/a-1", "endpoint address: '010.1.1.3' is no IP address"),
        ("endpointslice shop/a-1", "endpoint address: 127.0.0.1 is a loopback address"),
        ("service shop/a", "port: 'http' is no number from 1 to 65535"),
    ]
    world.give("Service", {**service, "spec": {"clusterIP": "10.0.0.1"}})
    assert {problem.subject for problem in world.problems.current()} == {"endpointslice shop/a-1"}


def test_an_object_without_a_name_counts_as_absent_and_is_counted() -> None:
    world = World(cilium=True)
    intake = next(intake for intake in world.intakes if intake.resource.kind == "Service")
    intake.take([Upsert("shop/a", intake.strip({"metadata": {"namespace": "shop"}}))])
    assert world.sinks[Kind.SERVICES].wanted == {}
    assert intake.unreadable == 1
