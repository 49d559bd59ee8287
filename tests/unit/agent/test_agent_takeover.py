# SPDX-License-Identifier: Apache-2.0
"""An agent that takes over maps writes addresses before verdicts, and new ranges are treated as before until then."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest

from agent.core import Core
from agent.datapath.layout import IpcacheKey, PolicyKey
from agent.datapath.memory import MemoryMap
from agent.identity.feature import IdentityFeature
from agent.ipcache.feature import IpcacheFeature
from agent.node_agent import make_policy
from agent.policy.feature import PolicyFeature
from meshkit.clock import ManualClock
from meshkit.health import HealthLevel
from meshmodel.identity import Reserved, is_of_range
from meshpolicy import PolicyKind, PolicyRef
from tests.unit.agent.test_agent_node_agent import UsedHost, fill, make_core, running

WIDE, PART = "10.200.0.0/16", "10.200.2.0/24"
REF = PolicyRef(PolicyKind.CILIUM, "d", "p")


class Noting:
    """A map that notes how entries were written: its name, and which."""

    def __init__(self, name: str, real: Any, notes: list[tuple[str, Any]]) -> None:
        self._name, self._real, self._notes = name, real, notes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def update(self, items: Sequence[Any]) -> None:
        self._notes.extend((self._name, key) for key, _ in items)
        self._real.update(items)

    def delete(self, keys: Sequence[Any]) -> None:
        self._notes.extend((f"{self._name} without", key) for key in keys)
        self._real.delete(keys)


def denying(prefix: str) -> dict[str, Any]:
    spec = {"endpointSelector": {}, "ingress": [{"fromEntities": ["all"]}], "ingressDeny": [{"fromCIDR": [prefix]}]}
    metadata = {"namespace": "d", "name": "p"}
    return {"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": metadata, "spec": spec}


def of_ipv6() -> dict[str, Any]:
    """Only the world of IPv6 may come in."""
    found = denying(WIDE)
    found["spec"] = {"endpointSelector": {}, "ingress": [{"fromEntities": ["world-ipv6"]}]}
    return found


async def make_agent(
    host: UsedHost, prefix: str, document: dict[str, Any] | None = None
) -> tuple[Core, PolicyFeature, IpcacheFeature]:
    core = await make_core(host)
    ipcache = IpcacheFeature(core)
    policy = make_policy(core, IdentityFeature(core), ipcache)
    fill(core.db)
    policy.compiler.set_document(document or denying(prefix), REF)
    return core, policy, ipcache


async def run_agent(host: UsedHost, prefix: str, document: dict[str, Any] | None = None) -> PolicyFeature:
    core, policy, ipcache = await make_agent(host, prefix, document)
    assert isinstance(core.clock, ManualClock)
    async with running(core, policy, ipcache):  # verdicts would come first
        await core.clock.run_for(1.0)
    return policy


async def test_addresses_come_before_verdicts_and_new_ranges_are_treated_as_their_addresses_were() -> None:
    host, notes = UsedHost(), list[tuple[str, Any]]()
    await run_agent(host, WIDE)
    names = ("ipcache", "policy", "endpoints_by_address")
    host.maps = dataclasses.replace(host.maps, **{n: Noting(n, getattr(host.maps, n), notes) for n in names})
    policy = await run_agent(host, PART)
    numbers = policy.compiler.engine.prefixes()
    assert set(numbers) == {PART}
    address = notes.index(("ipcache", IpcacheKey(PART)))
    assert {name for name, _ in notes[:address]} == {"policy", "ipcache"}
    assert {key.identity for name, key in notes[:address] if isinstance(key, PolicyKey)} == {numbers[PART]}
    verdict = next(n for n, (name, _) in enumerate(notes) if name in {"policy without", "endpoints_by_address"})
    assert verdict > address
    held = {k.prefix: v.identity for k, v in host.maps.ipcache.items() if is_of_range(v.identity)}
    assert held == numbers


@pytest.mark.parametrize(("prefix", "is_like_ipv6"), [("2001:db8::/32", True), ("192.0.2.0/24", False)])
async def test_a_new_range_is_treated_as_the_world_of_its_family_was(prefix: str, *, is_like_ipv6: bool) -> None:
    host, notes = UsedHost(), list[tuple[str, Any]]()
    await run_agent(host, WIDE, of_ipv6())
    names = ("ipcache", "policy")
    host.maps = dataclasses.replace(host.maps, **{n: Noting(n, getattr(host.maps, n), notes) for n in names})
    policy = await run_agent(host, prefix)
    (number,) = policy.compiler.engine.prefixes().values()
    address = notes.index(("ipcache", IpcacheKey(prefix)))
    before = [key for name, key in notes[:address] if name == "policy" and key.identity == number]
    assert bool(before) is is_like_ipv6


async def test_addresses_wait_and_the_agent_lives_while_the_map_takes_no_copies() -> None:
    host = UsedHost()
    await run_agent(host, WIDE)
    before = host.held()
    assert isinstance(host.maps.policy, MemoryMap)
    host.maps.policy.fail_after(0, for_good=True)
    core, policy, ipcache = await make_agent(host, PART)
    assert isinstance(core.clock, ManualClock)
    async with running(core, policy, ipcache) as agent:
        await core.clock.run_for(5.0)
        assert host.held() == before
        part = core.health.snapshot()["map prefixes"]
        assert (part.level, part.message.partition(":")[0]) == (HealthLevel.DEGRADED, "nothing is written yet")
        host.maps.policy.fail_after(None)
        await core.clock.run_for(2.0)
        assert core.health.snapshot()["map prefixes"].level is HealthLevel.OK
        held = {k.prefix: v.identity for k, v in host.maps.ipcache.items() if is_of_range(v.identity)}
        assert held == policy.compiler.engine.prefixes()
        assert set(held) == {PART}
        assert not agent.reconcilers["endpoints"].status().failed


@pytest.mark.parametrize("ipv6", [False, True])
async def test_outsiders_of_ipv4_are_a_world_of_their_own_where_packets_of_ipv6_are_judged_too(ipv6: bool) -> None:
    core = await make_core(UsedHost(), ipv6=ipv6)
    policy = make_policy(core, IdentityFeature(core), IpcacheFeature(core))
    document = denying(WIDE)
    document["spec"] = {"endpointSelector": {}, "ingressDeny": [{"fromEntities": ["world-ipv4"]}]}
    policy.compiler.set_document(document, REF)
    assert any(Reserved.WORLD in numbers for numbers in policy.compiler.engine.selectors().values()) is ipv6
