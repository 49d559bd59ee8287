# SPDX-License-Identifier: Apache-2.0
"""Whom the agent asks: pods of its node in the namespace of the service, and nobody else that an EndpointSlice may name."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from agent.backendhealth import feature as health
from agent.backendhealth.feature import BackendHealthFeature
from agent.bootstrap import Facts
from agent.core import Core, open_core
from agent.machine import MemoryHost
from agent.settings import AgentSettings
from agent.tables import Address, Backend, BackendSet, ClaimOrigin, Prefix, Service, ServicePort
from meshkit.clock import ManualClock
from meshmodel.condition import Condition
from meshmodel.health_probe import HealthProbe
from meshmodel.names import ClusterId, ClusterName, ServiceName

NORTH, SOUTH = ClusterName("north"), ClusterName("south")
HERE, NAME = "127.0.0.1", ServiceName("shop", "cart")
FACTS = Facts(NORTH, ClusterId(1), 255, "n1", "172.18.0.2", ("10.1.0.0/24",))


def record(origin: ClaimOrigin, namespace: str, cluster: ClusterName = NORTH) -> Prefix:
    return Prefix(f"{HERE}/32", 65_537, "", cluster, ClusterId(1), origin, "172.18.0.2", namespace, "p")


async def asked(row: Prefix | None) -> tuple[int, BackendHealthFeature]:
    """How often a slice of `shop/cart` with this address makes the agent connect to it, and the feature that was to."""
    calls = 0

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        calls += 1
        await reader.read()
        writer.close()

    server = await asyncio.start_server(count, HERE, 0)
    async with server:
        core = await make_core(row, server.sockets[0].getsockname()[1])
        feature = BackendHealthFeature(core)
        await feature.ask_all()
        await asyncio.sleep(0)
    return calls, feature


async def make_core(row: Prefix | None, port: int) -> Core:
    core = await open_core(AgentSettings(local_etcd="none"), FACTS, None, MemoryHost(), ManualClock())
    ports = (ServicePort("http", 80, "TCP"),)
    service = Service(NAME, (Address("172.20.0.9"),), ports, is_global=True, health_probe=HealthProbe())
    backend = Backend(HERE, port, "TCP", ("http",), Condition.ACTIVE, node="n1")
    with core.db.write():
        core.db.services.put(service)
        core.db.backends.put(BackendSet(NAME, NORTH, ClusterId(1), (backend,)))
        if row is not None:
            core.db.prefixes.put(row)
    return core


async def test_a_pod_of_the_namespace_is_asked() -> None:
    calls, feature = await asked(record(ClaimOrigin.POD, "shop"))
    assert calls == 1
    assert feature.verdicts.failing() == {}


@pytest.mark.parametrize(
    "row",
    [
        None,
        record(ClaimOrigin.POD, "bank"),
        record(ClaimOrigin.NODE, ""),
        record(ClaimOrigin.POD, "shop", SOUTH),
    ],
    ids=["nobody's address", "a pod of another namespace", "a node", "a pod of another cluster"],
)
async def test_a_slice_makes_the_agent_ask_nobody_else(row: Prefix | None) -> None:
    calls, _ = await asked(row)
    assert calls == 0


async def test_both_addresses_of_a_pod_are_asked_and_one_that_is_dead_is_out_alone() -> None:
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), HERE, 0)
    port = server.sockets[0].getsockname()[1]
    core = await make_core(record(ClaimOrigin.POD, "shop"), port)
    ipv4, ipv6 = (Backend(ip, port, "TCP", ("http",), Condition.ACTIVE, node="n1") for ip in (HERE, "::1"))
    wide = BackendSet(NAME, NORTH, ClusterId(1), (ipv6,))
    with core.db.write():
        core.db.backends.put(BackendSet(NAME, NORTH, ClusterId(1), (ipv4,), ipv6=wide))
        core.db.prefixes.put(replace(record(ClaimOrigin.POD, "shop"), prefix="::1/128"))
    feature = BackendHealthFeature(core)
    async with server:
        for _ in range(3):
            await feature.ask_all()
    assert feature.verdicts.failing() == {NAME: ("::1",)}


async def test_an_address_that_went_to_another_namespace_while_it_waited_is_not_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two pods, one asked after the other; while the first answers, the second one's address becomes somebody else's."""
    monkeypatch.setattr(health, "AT_ONCE", 1)
    there = "127.0.0.2"
    calls: list[str] = []
    moved = replace(record(ClaimOrigin.POD, "bank"), prefix=f"{there}/32")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        calls.append(writer.get_extra_info("sockname")[0])
        with core.db.write():
            core.db.prefixes.put(moved)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, (HERE, there), 0)
    ports = {listening.getsockname()[0]: listening.getsockname()[1] for listening in server.sockets}
    core = await make_core(record(ClaimOrigin.POD, "shop"), ports[HERE])
    backends = tuple(Backend(ip, port, "TCP", ("http",), Condition.ACTIVE, node="n1") for ip, port in ports.items())
    with core.db.write():
        core.db.backends.put(BackendSet(NAME, NORTH, ClusterId(1), backends))
        core.db.prefixes.put(replace(moved, namespace="shop"))
    async with server:
        await BackendHealthFeature(core).ask_all()
        await asyncio.sleep(0)
    assert calls == [HERE]
