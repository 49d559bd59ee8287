# SPDX-License-Identifier: Apache-2.0
"""What host policies do not reach on a node is said in its status, of its policies and on their objects."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from agent.datapath.memory import memory_maps
from agent.datapath.netlink import AddressedDevice
from agent.policy.reach import HostReach, unreached
from agent.policy.rows import policy_list
from agent.policy.shortfall import find_shortfalls, with_limits
from agent.tables import THE_NODE, Endpoint
from meshkit.clock import ManualClock
from tests.unit.agent.test_agent_host_policy import REF, Agent

ETH1 = AddressedDevice(3, "eth1", "", ("198.51.100.9/24",))
SAID = "traffic over device eth1 (198.51.100.9/24) is not judged"
FAILURE = "this kernel takes no programs of netfilter (Invalid argument)"
POD = Endpoint("10.244.0.5", 1, 7, "", "", 300, "shop", "web-0")


class Machine:
    def __init__(self, devices: Sequence[AddressedDevice] = (), failure: str = "") -> None:
        self.devices, self.failure = devices, failure

    def unwatched(self) -> Sequence[AddressedDevice]:
        return self.devices

    def delivery_failure(self) -> str:
        return self.failure


def judged() -> Agent:
    agent = Agent(memory_maps())
    agent.node("edge")
    agent.host_policy()
    agent.compiler.step()
    return agent


def reach_of(agent: Agent, machine: Machine) -> HostReach:
    """After it looked once."""

    async def look() -> HostReach:
        clock = ManualClock()
        made, seen = HostReach(agent.db, machine, clock), asyncio.Event()
        task = asyncio.create_task(made.follow(seen.set))
        async with asyncio.timeout(5):
            if machine.devices or machine.failure:
                await seen.wait()
        task.cancel()
        return made

    return asyncio.run(look())


@pytest.mark.parametrize(
    ("device", "is_told"),
    [
        (ETH1, True),
        (AddressedDevice(4, "docker0", "bridge", ("172.17.0.1/16",)), True),
        (AddressedDevice(5, "cni0", "bridge", ("10.244.0.1/24", "fd00::1/64")), False),
        (AddressedDevice(6, "kube-ipvs0", "dummy", ("172.20.0.1/32",)), False),
        (AddressedDevice(7, "lxc1", "veth", ("169.254.1.1/32",)), False),
        (AddressedDevice(8, "wg0", "wireguard", ("fd01::9/64",)), True),
    ],
)
def test_a_device_is_named_unless_all_that_comes_by_it_is_judged_elsewhere(
    device: AddressedDevice, is_told: bool
) -> None:
    assert bool(unreached([device], [POD])) == is_told


def test_a_node_without_host_policies_says_nothing() -> None:
    agent = Agent(memory_maps())
    agent.node("edge")
    assert HostReach(agent.db, Machine([ETH1], FAILURE), ManualClock()).limits() == []


def test_the_node_its_policies_and_their_objects_say_what_is_not_judged() -> None:
    agent = judged()
    reach = reach_of(agent, Machine([ETH1], FAILURE))
    device, service = reach.limits()
    assert device == SAID
    assert service.endswith(f"not at all otherwise: {FAILURE}")
    (row,) = policy_list(agent.db, agent.compiler, reach.limits()).policies
    assert (row.not_enforced, row.pods) == ([device, service], ["the node"])
    engine = agent.compiler.engine
    assert find_shortfalls(agent.db, engine, with_limits({}, reach.limits()))[REF] == f"the node: {device}; {service}"
    both = with_limits({THE_NODE.address: "the policy map is full"}, [device])
    assert find_shortfalls(agent.db, engine, both)[REF] == f"the node: the policy map is full; {device}"
    assert find_shortfalls(agent.db, engine, with_limits({}, [])) == {}


def test_a_policy_of_other_nodes_or_of_pods_does_not_say_so() -> None:
    agent = judged()
    agent.host_policy(nodeSelector={"matchLabels": {"role": "core"}}, ingress=[{}])
    (row,) = policy_list(agent.db, agent.compiler, [SAID]).policies
    assert row.not_enforced == []


def test_a_device_that_appears_is_heard_of_at_the_next_look() -> None:
    async def scenario() -> None:
        clock, machine, rung = ManualClock(), Machine(), asyncio.Event()
        reach = HostReach(judged().db, machine, clock)
        task = asyncio.create_task(reach.follow(rung.set))
        async with asyncio.timeout(5):
            await clock.run_for(5.0)
            assert reach.limits() == []
            machine.devices = [ETH1]
            while not rung.is_set():
                await clock.run_for(1.0)
        assert reach.limits() == [SAID]
        task.cancel()

    asyncio.run(scenario())
