# SPDX-License-Identifier: Apache-2.0
"""What is read follows what the cluster runs, and nothing published is missing on the way."""

from __future__ import annotations

from typing import Any

import pytest

from clustermesh_apiserver.convert.assembly import make_exporters
from clustermesh_apiserver.problems import Problems
from clustermesh_apiserver.run import make_apiserver
from clustermesh_apiserver.settings import ApiserverSettings, CiliumSlices, SourceChoice
from clustermesh_apiserver.source.follow import Source
from clustermesh_apiserver.source.plan import Seen, SourcePlan, make_plan
from clustermesh_apiserver.status.program_status import report_health
from clustermesh_apiserver.tables import Tables
from kube.reflector import Delete, Progress, Synced, Upsert
from meshkit.clock import ManualClock
from meshkit.health import Health, HealthLevel
from meshmodel.keys import Kind
from meshmodel.node import decode
from tests.scripts.apiserver.apiserver_script import Numbers, Sink

PODS = SourcePlan(cilium=False)
ENDPOINTS = SourcePlan(cilium=True)
SLICES = SourcePlan(cilium=True, cilium_slices=True)


def chosen(**changes: Any) -> ApiserverSettings:
    return ApiserverSettings(cluster_name="c1", cluster_id=1, **changes)


@pytest.mark.parametrize(
    ("seen", "before", "after"),
    [
        (Seen(nodes=False, endpoint_slices=False), None, PODS),
        (Seen(nodes=True, endpoint_slices=False), PODS, ENDPOINTS),
        (Seen(nodes=True, endpoint_slices=True), ENDPOINTS, SLICES),
        (Seen(nodes=True, endpoint_slices=False), SLICES, ENDPOINTS),
        (Seen(nodes=False, endpoint_slices=False), ENDPOINTS, ENDPOINTS),
        (Seen(nodes=False, endpoint_slices=True), None, PODS),
    ],
)
def test_auto_reads_what_exists_and_stays_with_cilium(seen: Seen, before: SourcePlan | None, after: SourcePlan) -> None:
    assert make_plan(chosen(), seen, before) == after


def test_flags_decide_whatever_exists() -> None:
    both, none = Seen(nodes=True, endpoint_slices=True), Seen(nodes=False, endpoint_slices=False)
    assert make_plan(chosen(source=SourceChoice.PODS), both, ENDPOINTS) == PODS
    cilium = {"source": SourceChoice.CILIUM}
    assert make_plan(chosen(**cilium, cilium_endpoint_slices=CiliumSlices.OFF), both, None) == ENDPOINTS
    assert make_plan(chosen(**cilium, cilium_endpoint_slices=CiliumSlices.ON), none, None) == SLICES


class World:
    """A source whose listings are given by hand, and everything that its sinks were told."""

    def __init__(self, plan: SourcePlan, **changes: Any) -> None:
        self.tables, self.log = Tables(), list[str]()
        self.source = Source(None, self.tables, Problems(None, ManualClock()), lambda _: plan)  # type: ignore[arg-type]
        self.source.set_plan(plan)
        self.sinks = {kind: Sink(kind, self.log) for kind in Kind}
        self.clock = ManualClock()
        self.exporters = make_exporters(chosen(**changes), self.tables, self.sinks, Numbers(), clock=self.clock)
        self.source.attach(self.exporters)
        self.list("namespaces", {"metadata": {"name": "shop"}})
        self.list("ciliumidentities")

    def list(self, plural: str, *objects: dict[str, Any]) -> None:
        intake = next(intake for intake in self.source.intakes if intake.resource.plural == plural)
        for obj in objects:
            meta = obj["metadata"]
            key = f"{meta['namespace']}/{meta['name']}" if "namespace" in meta else meta["name"]
            intake.take([Upsert(key, intake.strip(obj))])
        intake.take([Synced()])

    def addresses(self) -> list[str]:
        return sorted(key.decode() for key in self.sinks[Kind.IPS].wanted)

    def networks(self) -> dict[str, tuple[str, ...]]:
        wanted = self.sinks[Kind.NODES].wanted
        return {key.decode(): decode(key.decode(), wanted[key], cluster="c1", cluster_id=1).pod_cidrs for key in wanted}

    def deleted(self) -> list[str]:
        return [line.removeprefix("delete ") for line in self.log if line.startswith("delete ")]


def pod(name: str, ip: str) -> dict[str, Any]:
    return {"metadata": {"namespace": "shop", "name": name}, "status": {"podIPs": [{"ip": ip}], "hostIP": "172.18.0.2"}}


def endpoint(name: str, ip: str) -> dict[str, Any]:
    networking = {"addressing": [{"ipv4": ip}], "node": "172.18.0.2"}
    return {
        "metadata": {"namespace": "shop", "name": name},
        "status": {"identity": {"id": 66000}, "networking": networking},
    }


def endpoint_slice(name: str, *endpoints: tuple[str, str]) -> dict[str, Any]:
    entries = [
        {"name": pod_name, "id": 66000, "networking": {"addressing": [{"ipv4": ip}], "node": "172.18.0.2"}}
        for pod_name, ip in endpoints
    ]
    return {"metadata": {"name": name}, "namespace": "shop", "endpoints": entries}


def test_cilium_takes_over_from_pods_without_a_missing_address() -> None:
    world = World(PODS)
    world.list("ipamblocks")
    world.list("nodes", {"metadata": {"name": "n1"}}, {"metadata": {"name": "n2"}})
    world.list("pods", pod("a", "10.1.0.1"), pod("gone", "10.1.0.2"))
    assert world.addresses() == ["10.1.0.1", "10.1.0.2"]
    world.source.set_plan(ENDPOINTS)
    assert {intake.resource.plural for intake in world.source.intakes} >= {"ciliumnodes", "ciliumendpoints"}
    assert not {intake.resource.plural for intake in world.source.intakes} & {"nodes", "pods"}
    assert world.deleted() == []
    world.list("ciliumnodes", {"metadata": {"name": "n1"}})
    world.list("ciliumendpoints", endpoint("a", "10.1.0.1"), endpoint("new", "10.1.0.3"))
    assert world.addresses() == ["10.1.0.1", "10.1.0.3"]
    assert world.deleted() == ["nodes/n2", "ip/10.1.0.2"]


def test_slices_take_over_from_endpoints_and_back_without_a_missing_address() -> None:
    world = World(ENDPOINTS)
    world.list("ciliumnodes")
    world.list("ciliumendpoints", endpoint("a", "10.1.0.1"), endpoint("b", "10.1.0.2"))
    world.source.set_plan(SLICES)
    world.list("ciliumendpointslices", endpoint_slice("ces-1", ("a", "10.1.0.1")))
    assert world.addresses() == ["10.1.0.1"]
    assert world.deleted() == ["ip/10.1.0.2"]
    world.source.set_plan(ENDPOINTS)
    world.list("ciliumendpoints", endpoint("a", "10.1.0.1"), endpoint("b", "10.1.0.2"))
    assert world.addresses() == ["10.1.0.1", "10.1.0.2"]
    assert world.deleted() == ["ip/10.1.0.2"]


@pytest.mark.parametrize("plan", [PODS, ENDPOINTS])
def test_networks_given_by_hand_are_announced_once_whoever_goes(plan: SourcePlan) -> None:
    world = World(plan, pod_cidr=("10.0.0.0/8", "fd00::/48"))
    if not plan.cilium:
        world.list("ipamblocks")
        world.list("pods")
    plural = "ciliumnodes" if plan.cilium else "nodes"
    nodes = [{"metadata": {"name": name}, "spec": {"podCIDRs": ["10.1.0.0/24"]}} for name in ("n2", "n1", "n3")]
    world.list(plural, *nodes)
    assert world.networks() == {"n1": ("10.0.0.0/8", "fd00::/48"), "n2": (), "n3": ()}
    intake = next(intake for intake in world.source.intakes if intake.resource.plural == plural)
    intake.take([Delete("n1", None)])
    assert world.networks() == {"n2": ("10.0.0.0/8", "fd00::/48"), "n3": ()}


def test_nodes_wait_for_calicos_blocks_but_not_for_ever() -> None:
    """Where we may not read them, the nodes are published all the same."""
    world = World(PODS)
    world.list("pods")
    world.list("nodes", {"metadata": {"name": "n1"}, "spec": {"podCIDRs": ["10.1.0.0/24"]}})
    world.clock.advance(29)
    world.exporters.flush()
    assert world.networks() == {}
    world.clock.advance(1)
    world.exporters.flush()
    assert world.networks() == {"n1": ("10.1.0.0/24",)}


def test_a_kind_that_only_makes_records_better_does_not_keep_us_from_being_ready() -> None:
    apiserver = make_apiserver(chosen(), None)  # type: ignore[arg-type]  # nothing is asked of Kubernetes
    apiserver.source.set_plan(PODS)
    apiserver.source.progress = {"pods": Progress(synced=True), "ipamblocks": Progress(failures=3)}
    health = Health()
    report_health(apiserver, health)
    assert health.snapshot()["kubernetes"].level is HealthLevel.DEGRADED
    apiserver.source.progress["pods"] = Progress()
    report_health(apiserver, health)
    assert health.snapshot()["kubernetes"].level is HealthLevel.STARTING
