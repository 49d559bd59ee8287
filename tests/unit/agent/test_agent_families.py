# SPDX-License-Identifier: Apache-2.0
"""Frontends of both families: one writer, maps apart, and what is so of one says nothing about the other."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

import pytest

from agent.bootstrap import Facts
from agent.core import open_core
from agent.datapath.errors import MapFullError
from agent.datapath.layout import BackendKey
from agent.datapath.memory import MemoryMaps, memory_maps
from agent.exposition import collect_metrics
from agent.loadbalancer.comparison import compare_services
from agent.loadbalancer.families import FamiliesTarget
from agent.loadbalancer.follower import AddressFollower
from agent.loadbalancer.known_addresses import KnownAddresses
from agent.loadbalancer.writer import LoadBalancerWriter
from agent.machine import MemoryHost
from agent.policy.services import ServiceResolver
from agent.reports import IPV6_MAP_NAMES, MAP_NAMES
from agent.settings import AgentSettings
from agent.tables import (
    Address,
    AgentDB,
    Backend,
    ClaimOrigin,
    Frontend,
    FrontendKey,
    LabelledService,
    Prefix,
    Service,
    ServicePort,
    Target,
)
from meshkit.clock import ManualClock
from meshmodel.names import ClusterId, ClusterName, ServiceName

NAME = ServiceName("test", "echo")
NORTH = ClusterName("north")
FACTS = Facts(NORTH, ClusterId(1), 255, "n1", "192.168.50.11")


class Killed(BaseException):
    """The process ends here."""


def row(address: str, *backends: str, affinity_s: int = 0) -> Frontend:
    targets = tuple(Target(backend, 8080, "TCP", 1) for backend in backends)
    return Frontend(FrontendKey(address, 80, "TCP"), NAME, "ClusterIP", "", targets, session_affinity_s=affinity_s)


BEFORE = (row("10.0.0.1", "10.1.0.1", "10.1.0.2"), row("fd00:20::1", "fd00:1::1", "fd00:1::2"), row("fd00:20::2"))
AFTER = (
    row("10.0.0.1", "10.1.0.3"),
    row("fd00:20::1", "fd00:1::2", "fd00:1::3", affinity_s=9),
    row("fd00:20::3", "fd00:1::1"),
)


def opened(maps: MemoryMaps) -> FamiliesTarget:
    target = FamiliesTarget(maps, lambda: 0.0)
    target.restore()
    return target


def prune(target: FamiliesTarget, rows: tuple[Frontend, ...]) -> None:
    wanted: Any = {each.key: each for each in rows}
    for _ in target.prune(wanted):
        pass


def held(maps: MemoryMaps) -> list[str]:
    found = []
    for one in (maps.of_ipv4, maps.of_ipv6):
        assert one is not None
        names = {key.id: value for key, value in one.backends.items()}
        found += sorted(f"{k} {names[v.backend_id]}" if k.slot else f"{k} {v}" for k, v in one.services.items())
        found += sorted(f"{k.service_id} {names[k.backend_id].address}" for k, _ in one.members.items())
        found += sorted(map(str, names.values()))
    return found


def kill_after(maps: MemoryMaps, writes: int) -> None:
    left = [writes]

    def counted(check: Callable[[Any], None]) -> Callable[[Any], None]:
        def write(key: Any) -> None:
            check(key)
            left[0] -= 1
            if left[0] == 0:
                raise Killed

        return write

    for one in (maps.of_ipv4, maps.of_ipv6):
        assert one is not None
        for each in one:
            written: Any = each
            written.on_write = counted(written.on_write)


def test_an_agent_that_is_killed_at_any_write_leaves_no_hole_and_the_next_one_ends_where_none_was_killed() -> None:
    whole = memory_maps(ipv6=True)
    target = opened(whole)
    assert not target.update(BEFORE)
    assert not target.update(AFTER)
    prune(target, AFTER)
    writes = 1
    while True:
        maps = memory_maps(ipv6=True)
        target = opened(maps)
        target.update(BEFORE)
        kill_after(maps, writes)
        try:
            target.update(AFTER)
            prune(target, AFTER)
        except Killed:
            pass
        else:
            break
        maps.check()
        target = opened(maps)
        assert not target.update(AFTER)
        prune(target, AFTER)
        maps.check()
        assert held(maps) == held(whole)
        assert not compare_services(maps, AFTER, target.kept_states())
        writes += 1
    assert writes > 15


def test_a_full_map_of_one_family_refuses_nothing_of_the_other() -> None:
    maps = memory_maps({"mesh_services6": 2}, ipv6=True)
    failed = opened(maps).update(BEFORE)
    assert {key: type(error) for key, error in failed.items()} == {BEFORE[1].key: MapFullError}
    assert len(list(maps.services.items())) == 3


def test_without_maps_of_ipv6_its_frontends_are_refused_and_the_others_written() -> None:
    maps = memory_maps()
    failed = opened(maps).update(BEFORE)
    assert {key.address for key in failed if isinstance(key, FrontendKey)} == {"fd00:20::1", "fd00:20::2"}
    assert len(list(maps.services.items())) == 3


def test_what_others_change_in_maps_of_ipv6_is_found_by_their_names_and_put_back() -> None:
    maps = memory_maps(ipv6=True)
    target = opened(maps)
    target.update(BEFORE)
    assert not compare_services(maps, BEFORE, target.kept_states())
    assert maps.services6 is not None
    maps.services6.delete([key for key, _ in maps.services6.items() if not key.slot])
    assert {each.place for each in compare_services(maps, BEFORE, target.kept_states())} >= {"services6"}
    target.doubt()
    prune(target, BEFORE)
    target.update(BEFORE)
    assert not compare_services(maps, BEFORE, target.kept_states())


async def test_maps_of_ipv6_are_counted_where_there_are_any() -> None:
    core = await open_core(AgentSettings(local_etcd="none"), FACTS, None, MemoryHost(ipv6=True), ManualClock())
    names = {s.labels.get("map") for m in collect_metrics(core, (), {}) for s in m.samples if "map_entries" in s.name}
    assert names == {*MAP_NAMES, *IPV6_MAP_NAMES}


def prefix(text: str, origin: ClaimOrigin = ClaimOrigin.POD) -> Prefix:
    return Prefix(text, 70_000, "", NORTH, ClusterId(1), origin, name="p", namespace="test")


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        (Address("fd00:1::10", "LoadBalancer"), "belongs to pod"),
        (Address("fd00:7::1", "LoadBalancer"), "lies in the pod network fd00:7::/64"),
        (Address("fd00:9::1", "ExternalIP"), "is not in a range that is allowed"),
        (Address("fe80::1", "LoadBalancer"), "is loopback, link-local"),
        (Address("fd00:8::1", "ExternalIP"), ""),
        (Address("fd00:9::1", "LoadBalancer"), ""),
    ],
)
def test_an_address_of_ipv6_that_is_somebodys_is_no_services(address: Address, problem: str) -> None:
    db = AgentDB(NORTH, ClusterId(1), "n1")
    writer = LoadBalancerWriter(db, [ip_network("fd00:8::/48")], is_dual=True)
    with db.write():
        db.prefixes.put(prefix("fd00:1::10/128"))
        db.prefixes.put(prefix("fd00:7::/64", ClaimOrigin.POD_CIDR))
        writer.set_service(Service(NAME, (Address("fd00:20::1"), address), (ServicePort("", 80, "TCP"),)))
    told = db.service_problems.get(NAME)
    assert problem in (" ".join(told.problems) if told is not None else "")
    assert (told is None) == (problem == "")
    assert (db.frontends.get(FrontendKey(address.ip, 80, "TCP")) is None) == (problem != "")


def test_connections_to_a_pod_of_ipv6_go_on_until_its_address_goes() -> None:
    db, maps = AgentDB(NORTH, ClusterId(1), "n1"), memory_maps(ipv6=True)
    writer = LoadBalancerWriter(db, is_dual=True)
    target = FamiliesTarget(maps, lambda: 0.0, owner_of=KnownAddresses(db).owner_of)
    follower = AddressFollower(db, writer, target.backends)
    service = Service(NAME, (Address("10.0.0.1"), Address("fd00:20::1")), (ServicePort("", 80, "TCP"),))
    with db.write():
        db.prefixes.put(prefix("fd00:1::1/128"))
        writer.set_service(service)
        writer.set_backends(NAME, NORTH, ClusterId(1), [Backend("fd00:1::1", 8080, "TCP")], 0.0)
    target.update(list(db.frontends.rows()))
    follower.step()
    with db.write():
        writer.set_backends(NAME, NORTH, ClusterId(1), (), 0.0)
    target.update(list(db.frontends.rows()))
    assert maps.backends6 is not None
    ((key, _),) = maps.backends6.items()
    follower.step()
    assert maps.backends6.get(BackendKey(key.id)) is not None, "its pod is there"
    with db.write():
        db.prefixes.delete("fd00:1::1/128")
    follower.step()
    assert maps.backends6.get(BackendKey(key.id)) is None


def test_a_policy_for_a_service_means_its_backends_of_both_families() -> None:
    db = AgentDB(NORTH, ClusterId(1), "n1")
    backends = [Backend(ip, 8080, "TCP") for ip in ("10.1.0.1", "fd00:1::1", "2001:db8::1")]
    with db.write():
        db.labelled_services.put(LabelledService(NAME, ()))
        db.prefixes.put(prefix("fd00:1::1/128"))
        LoadBalancerWriter(db, is_dual=True).set_backends(NAME, NORTH, ClusterId(1), backends, 0.0)
    (found,) = ServiceResolver(db).look_up("")
    assert found.identities == {70_000}
    assert {str(each) for each in found.addresses} == {"10.1.0.1/32", "2001:db8::1/128"}
