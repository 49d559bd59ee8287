# SPDX-License-Identifier: Apache-2.0
"""Which pods are announced when: by what their nodes' agents confirm, whatever comes first, and for as long as they live."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from clustermesh_apiserver.convert.assembly import make_exporters
from clustermesh_apiserver.convert.confirmations import MAX_LISTING_WAIT_S, Confirmations
from clustermesh_apiserver.problems import Problems
from clustermesh_apiserver.settings import ApiserverSettings
from clustermesh_apiserver.source.follow import Source
from clustermesh_apiserver.source.plan import SourcePlan
from clustermesh_apiserver.status.program_status import waiting_problems
from clustermesh_apiserver.tables import Tables
from kube.reflector import Delete, Synced, Upsert
from meshapi.installed import CONFIRMED_PODS, LEASE_PREFIX
from meshkit.clock import ManualClock
from meshmodel import endpointslice, service
from meshmodel.keys import Kind
from tests.scripts.apiserver.apiserver_script import Numbers, Sink

OLD, LEASED, LATER = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z"
GLOBAL = {"service.cilium.io/global": "true"}


class World:
    """An apiserver without its ends: listings are given by hand, and sinks remember what is wanted."""

    def __init__(self) -> None:
        self.tables, self.clock = Tables(), ManualClock()
        self.confirmations = Confirmations(self.tables, now=self.clock.monotonic)
        plan = SourcePlan(cilium=False)
        self.source = Source(
            None, self.tables, Problems(None, ManualClock()), lambda _: plan, confirmations=self.confirmations  # type: ignore[arg-type]
        )  # fmt: skip
        self.source.set_plan(plan)
        self.open_store()

    def open_store(self) -> None:
        """A new store begins empty."""
        self.log: list[str] = []
        self.sinks = {kind: Sink(kind, self.log) for kind in Kind}
        self.private = {kind: Sink(kind, []) for kind in (Kind.IPS, Kind.IDENTITIES)}
        exporters = make_exporters(
            ApiserverSettings(cluster_name="c1", cluster_id=1),
            self.tables,
            self.sinks,
            Numbers(),
            private=self.private,
            clock=self.clock,
            confirmations=self.confirmations,
        )
        self.source.attach(exporters)

    def put(self, plural: str, *objects: dict[str, Any], is_all: bool = False) -> None:
        intake = next(intake for intake in self.source.intakes if intake.resource.plural == plural)
        for obj in objects:
            intake.take([Upsert(key_of(obj), intake.strip(obj))])
        if is_all:
            intake.take([Synced()])

    def delete(self, plural: str, obj: dict[str, Any]) -> None:
        intake = next(intake for intake in self.source.intakes if intake.resource.plural == plural)
        intake.take([Delete(key_of(obj), None)])

    def list_all(self, **objects: list[dict[str, Any]]) -> None:
        """All kinds are listed, in this order: those that are named first, then the others."""
        kinds = (
            "namespaces",
            "nodes",
            "pods",
            "leases",
            "services",
            "endpointslices",
            "ciliumidentities",
            "ipamblocks",
        )
        usual = {"namespaces": [{"metadata": {"name": "shop"}}], "services": [SERVICE]}
        for plural in (*objects, *(kind for kind in kinds if kind not in objects)):
            self.put(plural, *objects.get(plural, usual.get(plural, [])), is_all=True)

    def announced(self) -> tuple[list[str], list[str], list[str]]:
        """Addresses in IP records, in the record of the service, and in records of its slices."""
        ips = sorted(key.decode() for key in self.sinks[Kind.IPS].wanted)
        record = self.sinks[Kind.SERVICES].wanted.get(b"shop/cart")
        backends = service.decode("shop/cart", record, cluster="c1", cluster_id=1).backends if record else {}
        slices = [
            address
            for key, value in self.sinks[Kind.ENDPOINT_SLICES].wanted.items()
            for e in endpointslice.decode(key.decode(), value, cluster="c1", cluster_id=1).endpoints
            for address in e.addresses
        ]
        return ips, sorted(backends), sorted(slices)

    def hidden(self) -> list[str]:
        return sorted(key.decode() for key in self.private[Kind.IPS].wanted)


def key_of(obj: dict[str, Any]) -> str:
    meta = obj["metadata"]
    return f"{meta['namespace']}/{meta['name']}" if "namespace" in meta else str(meta["name"])


SERVICE: dict[str, Any] = {
    "metadata": {"namespace": "shop", "name": "cart", "annotations": GLOBAL},
    "spec": {"clusterIP": "10.96.0.9", "ports": [{"name": "http", "port": 80}]},
}


def node(name: str = "n1", created: str = OLD, address: str = "172.18.0.2") -> dict[str, Any]:
    addresses = [{"type": "InternalIP", "address": address}]
    return {"metadata": {"name": name, "creationTimestamp": created}, "status": {"addresses": addresses}}


def pod(
    name: str = "a", ip: str = "10.1.0.1", uid: str = "u1", on: str = "n1", *, on_host: bool = False
) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "shop", "name": name, "uid": uid},
        "spec": {"nodeName": on, "hostNetwork": on_host},
        "status": {"podIPs": [{"ip": ip}], "hostIP": "172.18.0.2"},
    }


def lease(
    pods: dict[str, str], on: str = "n1", created: str = LEASED, namespace: str = "kube-system"
) -> dict[str, Any]:
    meta = {"namespace": namespace, "name": LEASE_PREFIX + on, "creationTimestamp": created}
    return {"metadata": {**meta, "annotations": {CONFIRMED_PODS: json.dumps(pods)}}, "spec": {"renewTime": LEASED}}


def piece(*addresses: str, is_pod: bool = True) -> dict[str, Any]:
    target = {"targetRef": {"kind": "Pod", "name": "whatever"}} if is_pod else {}
    return {
        "metadata": {"namespace": "shop", "name": "cart-1", "labels": {"kubernetes.io/service-name": "cart"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [ip], "conditions": {"ready": True}, **target} for ip in addresses],
        "ports": [{"name": "http", "port": 8080}],
    }


NOTHING: tuple[list[str], list[str], list[str]] = ([], [], [])


def everywhere(*addresses: str) -> tuple[list[str], list[str], list[str]]:
    return list(addresses), list(addresses), list(addresses)


def test_a_new_pod_is_announced_when_its_nodes_agent_confirms_it_and_our_own_agents_hear_of_it_before() -> None:
    world = World()
    world.list_all(nodes=[node()], leases=[lease({})])
    world.put("pods", pod())
    world.put("endpointslices", piece("10.1.0.1"))
    assert world.announced() == NOTHING
    assert world.hidden() == ["10.1.0.1"]
    assert b'"K8sPodUID":"u1"' in world.private[Kind.IPS].wanted[b"10.1.0.1"]
    world.put("leases", lease({"10.1.0.1": "u1"}))
    assert world.announced() == everywhere("10.1.0.1")
    assert world.hidden() == []
    assert b"K8sPodUID" not in world.sinks[Kind.IPS].wanted[b"10.1.0.1"]


@pytest.mark.parametrize("order", list(itertools.permutations(["pods", "leases", "endpointslices"])))
def test_whatever_comes_first_nothing_is_announced_too_early_or_never(order: tuple[str, ...]) -> None:
    objects = {"pods": pod(), "leases": lease({"10.1.0.1": "u1"}), "endpointslices": piece("10.1.0.1")}
    world = World()
    world.list_all(nodes=[node()], leases=[lease({})])
    for plural in order:
        assert world.announced()[1:] == ([], [])
        world.put(plural, objects[plural])
    assert world.announced() == everywhere("10.1.0.1")


def test_a_confirmed_pod_stays_announced_whatever_becomes_of_the_agent_its_lease_and_the_store() -> None:
    world = World()
    world.list_all(nodes=[node(created=LATER)], leases=[lease({"10.1.0.1": "u1"}), lease({}, on="n2")])
    world.put("pods", pod())
    world.put("endpointslices", piece("10.1.0.1"))
    for happens in (
        lambda: world.put("leases", lease({})),
        lambda: world.delete("leases", lease({})),
        lambda: world.delete("nodes", node()),
        lambda: world.put("pods", {**pod(), "status": {"podIPs": [{"ip": "10.1.0.1"}], "phase": "Running"}}),
        world.open_store,
    ):
        happens()
        assert world.announced() == everywhere("10.1.0.1")
    assert not [line for line in world.log if line.startswith("delete")]


def test_pods_are_announced_at_the_address_their_node_has_now_before_their_kubelet_says_so() -> None:
    world = World()
    world.list_all(nodes=[node()], pods=[pod(), pod("b", "10.1.0.2", "u2", on="n2")])
    hosts = [json.loads(value)["HostIP"] for value in world.sinks[Kind.IPS].wanted.values()]
    assert hosts == ["172.18.0.2", "172.18.0.2"]
    world.put("nodes", node(address="172.18.0.9"))
    hosts_after = {key.decode(): json.loads(v)["HostIP"] for key, v in world.sinks[Kind.IPS].wanted.items()}
    assert hosts_after == {"10.1.0.1": "172.18.0.9", "10.1.0.2": "172.18.0.2"}


def test_another_pod_that_gets_the_address_or_even_the_name_is_confirmed_anew() -> None:
    world = World()
    world.list_all(nodes=[node()], leases=[lease({"10.1.0.1": "u1"})], pods=[pod()])
    world.put("endpointslices", piece("10.1.0.1"))
    assert world.announced() == everywhere("10.1.0.1")
    world.put("pods", pod(uid="u2"))
    world.put("endpointslices", piece("10.1.0.1", "10.1.0.9"))
    assert world.announced() == NOTHING
    world.delete("pods", pod(uid="u2"))
    world.put("pods", pod("b", uid="u3"))
    assert world.announced()[0] == []
    world.put("leases", lease({"10.1.0.1": "u3"}))
    assert world.announced() == everywhere("10.1.0.1")


@pytest.mark.parametrize(
    "renewed",
    ["2026-01-01T00:00:00Z", "2026-01-01T00:10:00.000000Z", "1970-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "soon", ""],
)
def test_an_agents_clock_confirms_nothing_and_takes_nothing_back(renewed: str) -> None:
    """Ten minutes off, years off, or no time at all: what counts is what the Lease names, and that it comes."""
    world = World()

    def said(pods: dict[str, str]) -> dict[str, Any]:
        return {**lease(pods), "spec": {"renewTime": renewed}}

    world.list_all(nodes=[node()], leases=[said({})])
    world.put("pods", pod())
    world.put("endpointslices", piece("10.1.0.1"))
    assert world.announced() == NOTHING
    world.put("leases", said({"10.1.0.1": "u1"}))
    assert world.announced() == everywhere("10.1.0.1")
    world.put("leases", lease({"10.1.0.1": "u1"}))
    world.put("leases", said({"10.1.0.1": "u1"}))
    assert world.announced() == everywhere("10.1.0.1")


def test_a_restarted_program_takes_the_leases_for_what_was_announced() -> None:
    """A pod by uid, or by name where the agent never heard a uid; a name says nothing of a pod that comes later."""
    world = World()
    pods = [pod("a", "10.1.0.1", "u1"), pod("b", "10.1.0.2", "u2"), pod("c", "10.1.0.3", "u3")]
    words = {"10.1.0.1": "u1", "10.1.0.2": "shop/b", "10.1.0.3": "of another", "10.1.0.4": "shop/d"}
    world.list_all(leases=[lease(words)], nodes=[node()], pods=pods)
    assert world.announced()[0] == ["10.1.0.1", "10.1.0.2"]
    world.put("pods", pod("d", "10.1.0.4", "u4"), pod("b", "10.1.0.2", "u5"))
    assert world.announced()[0] == ["10.1.0.1"]


def test_nothing_is_waited_for_where_no_agent_speaks_and_what_is_announced_then_stays() -> None:
    world = World()
    world.list_all(nodes=[node()], pods=[pod()])
    world.put("pods", pod("b", "10.1.0.2", "u2"))
    world.put("leases", lease({}))
    assert world.announced()[0] == ["10.1.0.1", "10.1.0.2"]
    world.put("pods", pod("c", "10.1.0.3", "u3"))
    assert world.announced()[0] == ["10.1.0.1", "10.1.0.2"]
    world.delete("leases", lease({}))
    assert world.announced()[0] == ["10.1.0.1", "10.1.0.2", "10.1.0.3"]


@pytest.mark.runbook("pods-unconfirmed")
@pytest.mark.runbook("no-confirmer")
def test_a_node_of_an_earlier_release_is_not_waited_for_and_named_and_a_new_node_is() -> None:
    world = World()
    nodes = [node("n1", OLD), node("n2", OLD), node("n3", LATER)]
    world.list_all(nodes=nodes, leases=[lease({})])
    world.put(
        "pods", pod("a", "10.1.0.1", "u1", "n2"), pod("b", "10.1.0.2", "u2", "n3"), pod("c", "10.1.0.3", "u3", "n4")
    )
    assert world.announced()[0] == ["10.1.0.1"]
    world.clock.advance(20.0)
    first, second, third = waiting_problems(world.confirmations, world.clock.monotonic(), world.clock.wall())
    assert first.startswith("node n3: 1 pods are not announced to peers since 2027-01-15T08:00:00Z, first shop/b")
    assert "never wrote" in first
    assert second.startswith("node n4")
    assert third.startswith("1 nodes have no agent that confirms pods, first n2")
    world.put("leases", lease({"10.1.0.2": "u2"}, "n3"), lease({"10.1.0.3": "u3"}, "n4"))
    assert world.announced()[0] == ["10.1.0.1", "10.1.0.2", "10.1.0.3"]


@pytest.mark.parametrize("step_s", [3600.0, -3600.0])
def test_a_clock_that_is_set_makes_no_pod_wait_longer_or_shorter(step_s: float) -> None:
    world = World()
    world.list_all(nodes=[node()], leases=[lease({})])
    world.put("pods", pod())
    set_wall_s = world.clock.wall() + step_s
    assert waiting_problems(world.confirmations, world.clock.monotonic(), set_wall_s) == []
    world.clock.advance(20.0)
    (said,) = waiting_problems(world.confirmations, world.clock.monotonic(), set_wall_s + 20.0)
    hour = "09" if step_s > 0 else "07"
    assert f"since 2027-01-15T{hour}:00:00Z" in said


def test_addresses_that_are_no_pods_are_announced_at_once() -> None:
    """Of nodes, of pods on the host network, and of endpoints made by hand."""
    world = World()
    world.list_all(nodes=[node()], leases=[lease({})])
    world.put("endpointslices", piece("172.18.0.2"))
    assert world.announced()[1:] == (["172.18.0.2"], ["172.18.0.2"])
    world.put("endpointslices", piece("203.0.113.7", is_pod=False))
    assert world.announced()[1:] == (["203.0.113.7"], ["203.0.113.7"])
    elsewhere = pod(ip="172.18.0.77", on_host=True)
    world.put("endpointslices", piece("172.18.0.77"))
    assert world.announced()[1:] == ([], [])
    world.put("pods", {**elsewhere, "status": {"podIPs": [{"ip": "172.18.0.77"}], "hostIP": "172.18.0.77"}})
    assert world.announced()[1:] == (["172.18.0.77"], ["172.18.0.77"])


def test_an_address_that_is_called_a_pod_and_is_none_is_not_announced_and_named() -> None:
    world = World()
    world.list_all(nodes=[node()], leases=[lease({})])
    world.put("endpointslices", piece("10.9.9.9"))
    assert waiting_problems(world.confirmations, world.clock.monotonic(), world.clock.wall()) == []
    world.clock.advance(20.0)
    (found,) = waiting_problems(world.confirmations, world.clock.monotonic(), world.clock.wall())
    assert found.endswith("first 10.9.9.9 in shop/cart")
    world.put("pods", pod(ip="10.9.9.9"))
    assert "shop/a" in waiting_problems(world.confirmations, world.clock.monotonic() + 20.0, world.clock.wall())[0]
    assert len(waiting_problems(world.confirmations, world.clock.monotonic() + 20.0, world.clock.wall())) == 1


def test_a_slice_made_by_hand_does_not_tell_of_a_pod_that_waits() -> None:
    world = World()
    world.list_all(nodes=[node()], leases=[lease({})], pods=[pod()])
    world.put("endpointslices", piece("10.1.0.1", is_pod=False))
    assert world.announced() == NOTHING


def test_leases_that_are_forbidden_are_not_waited_for_without_end() -> None:
    world = World()
    for plural in ("namespaces", "nodes", "pods", "services", "endpointslices", "ciliumidentities", "ipamblocks"):
        objects = {"namespaces": [{"metadata": {"name": "shop"}}], "nodes": [node()], "pods": [pod()]}.get(plural, [])
        world.put(plural, *objects, is_all=True)
    assert world.announced()[0] == []
    world.clock.advance(MAX_LISTING_WAIT_S)
    world.source.flush()
    assert world.announced()[0] == ["10.1.0.1"]
    world.put("leases", lease({}), is_all=True)
    assert world.announced()[0] == ["10.1.0.1"]


def test_a_lease_that_is_not_understood_confirms_nothing_and_costs_nothing_else() -> None:
    world = World()
    world.list_all(nodes=[node()], leases=[lease({"10.1.0.1": "u1"})], pods=[pod()])
    for text in ("", "[]", "{", '{"10.1.0.1": 7, "010.1.0.2": "u2", "x": "y"}', "[" * 100_000):
        broken = lease({}, "n9")
        broken["metadata"]["annotations"][CONFIRMED_PODS] = text
        world.put("leases", broken)
    other = lease({"10.1.0.1": "u9"})
    other["metadata"]["name"] = "kube-scheduler"
    world.put("leases", other)
    assert world.announced()[0] == ["10.1.0.1"]
    assert set(world.tables.confirmations.keys()) == {f"kube-system/{LEASE_PREFIX}n1", f"kube-system/{LEASE_PREFIX}n9"}


def test_pods_of_namespaces_that_peers_do_not_hear_of_are_not_missed() -> None:
    world = World()
    private = {"metadata": {"name": "shop", "annotations": {"clustermesh.cilium.io/global": "false"}}}
    world.list_all(namespaces=[private], nodes=[node()], leases=[lease({})], pods=[pod()])
    world.clock.advance(20.0)
    assert world.hidden() == ["10.1.0.1"]
    assert waiting_problems(world.confirmations, world.clock.monotonic(), world.clock.wall()) == []


@pytest.mark.runbook("made-slice")
def test_an_address_of_a_slice_that_no_pod_has_is_named_with_the_slice() -> None:
    world = World()
    world.list_all(nodes=[node()], leases=[lease({})])
    world.put("endpointslices", piece("10.1.0.9"))
    assert waiting_problems(world.confirmations, world.clock.monotonic(), world.clock.wall()) == [], (
        "pods may be slower than their slice"
    )
    world.clock.advance(20.0)
    (said,) = waiting_problems(world.confirmations, world.clock.monotonic(), world.clock.wall())
    assert said.startswith("1 addresses in EndpointSlices are said to be pods, no pod has them")
    assert "first 10.1.0.9 in shop/cart" in said
    world.put("endpointslices", piece("10.1.0.9", is_pod=False))
    assert waiting_problems(world.confirmations, world.clock.monotonic(), world.clock.wall()) == []
    assert world.announced()[1] == ["10.1.0.9"]
    world.put("endpointslices", piece("10.1.0.8"))
    world.clock.advance(20.0)
    assert len(waiting_problems(world.confirmations, world.clock.monotonic(), world.clock.wall())) == 1
    world.delete("endpointslices", piece())
    assert waiting_problems(world.confirmations, world.clock.monotonic(), world.clock.wall()) == []
