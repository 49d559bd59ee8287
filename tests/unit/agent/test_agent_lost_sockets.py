# SPDX-License-Identifier: Apache-2.0
"""Which backends are told to be gone, and what becomes of a kernel that cannot end sockets."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Collection
from contextlib import asynccontextmanager
from typing import Any

from agent.bootstrap import Facts
from agent.core import open_core
from agent.datapath.errors import KernelError
from agent.datapath.memory import memory_maps
from agent.datapath.socket_end import BackendPlace
from agent.loadbalancer.feature import LoadBalancerFeature
from agent.loadbalancer.lost_sockets import MOST, RETRY_S, LostSockets
from agent.loadbalancer.ops import LoadBalancerTarget
from agent.machine import MemoryHost
from agent.settings import AgentSettings
from agent.tables import Frontend, FrontendKey, Target
from meshkit.clock import ManualClock, settle
from meshkit.supervise import together
from meshmodel.names import ClusterId, ClusterName, ServiceName

KEY = FrontendKey("10.96.0.1", 80, "TCP")
POD, OTHER = Target("10.1.0.1", 80, "TCP", 1), Target("10.2.0.1", 80, "UDP", 2)


def row(*chosen: Target, draining: tuple[Target, ...] = ()) -> Frontend:
    return Frontend(KEY, ServiceName("t", "s"), "ClusterIP", "", chosen, draining)


class Registered:
    """A target, who lives, and what was told to be gone."""

    def __init__(self) -> None:
        self.living: set[Target] = set()
        self.gone: list[Target] = []
        self.target = LoadBalancerTarget(memory_maps({"mesh_backends": 8}), lambda: 0.0, owner_of=self._owner_of)
        self.target.backends.on_gone = self.gone.extend

    def _owner_of(self, target: Target, _service: ServiceName | None) -> str | None:
        return "t/pod" if target in self.living else None


def test_a_backend_whose_address_lives_is_not_told_until_it_goes() -> None:
    world = Registered()
    world.living = {POD}
    world.target.update([row(POD, OTHER)])
    world.target.update([row()])
    assert world.gone == [OTHER]
    world.living.clear()
    world.target.backends.check_kept()
    assert world.gone == [OTHER, POD]


def test_what_drains_is_told_when_it_has_drained() -> None:
    world = Registered()
    world.target.update([row(POD)])
    world.target.update([row(draining=(POD,))])
    assert not world.gone
    world.target.delete([row()])
    assert world.gone == [POD]


def test_who_makes_room_while_its_address_lives_is_not_told() -> None:
    world = Registered()
    pods = [Target(f"10.1.0.{n}", 80, "TCP", 1) for n in range(1, 7)]
    world.living = set(pods)
    world.target.update([row(*pods)])
    world.target.update([row()])
    assert world.target.backends.given_up_total
    assert not world.gone


class Host(MemoryHost):
    def __init__(self) -> None:
        super().__init__()
        self.asked: list[set[str]] = []
        self.refusal: KernelError | None = None

    def end_sockets(self, led: Any, places: Collection[BackendPlace]) -> int:
        self.asked.append({place.address for place in places})
        if self.refusal is not None:
            raise self.refusal
        return len(places)


@asynccontextmanager
async def running(host: Host, clock: ManualClock) -> Any:
    facts = Facts(ClusterName("north"), ClusterId(1), 255, "n1", "192.168.50.11")
    core = await open_core(AgentSettings(local_etcd="none"), facts, None, host, clock)
    feature = LoadBalancerFeature(core)
    task = asyncio.ensure_future(together(feature.tasks()))
    try:
        yield feature
    finally:
        task.cancel()
        await asyncio.wait([task])


async def until(holds: Callable[[], bool]) -> None:
    """A thread does it: no clock of ours moves it."""
    async with asyncio.timeout(5):
        while not holds():
            await settle()


def ended(feature: LoadBalancerFeature) -> float:
    return sum(s.value for m in feature.metrics() for s in m.samples if "sockets_ended" in s.name)


def is_told(feature: LoadBalancerFeature) -> bool:
    return any("by their own time-outs only" in text for text in feature.problems())


async def test_the_agent_ends_sockets_of_backends_that_go_and_counts_them() -> None:
    host, clock = Host(), ManualClock()
    async with running(host, clock) as feature:
        feature.target.update([row(POD, OTHER)])
        feature.target.update([row(OTHER)])
        await until(lambda: ended(feature) == 1)
        assert host.asked == [{POD.address}]


async def test_a_kernel_that_cannot_is_named_and_asked_again() -> None:
    host, clock = Host(), ManualClock()
    host.refusal = KernelError("sock_diag", errno.EOPNOTSUPP)
    async with running(host, clock) as feature:
        feature.target.update([row(POD)])
        feature.target.update([row()])
        await until(lambda: is_told(feature))
        host.refusal = None
        await clock.run_for(RETRY_S)
        await until(lambda: ended(feature) == 1)
        assert host.asked == [{POD.address}] * 2
        assert not is_told(feature)


async def test_a_backend_that_is_back_is_left_alone_by_a_later_attempt() -> None:
    """Whoever has the address and the port now may have been led there since."""
    host, clock = Host(), ManualClock()
    host.refusal = KernelError("sock_diag", errno.EBUSY)
    async with running(host, clock) as feature:
        feature.target.update([row(POD, OTHER)])
        feature.target.update([row()])
        await until(lambda: is_told(feature))
        feature.target.update([row(POD)])
        host.refusal = None
        await clock.run_for(RETRY_S)
        await until(lambda: ended(feature) == 1)
    assert host.asked == [{POD.address, OTHER.address}, {OTHER.address}]


async def test_what_waits_for_a_kernel_that_cannot_is_bounded() -> None:
    clock, asked = ManualClock(), list[int]()

    def refuse(places: Collection[BackendPlace]) -> int:
        asked.append(len(places))
        raise KernelError("sock_diag", errno.EOPNOTSUPP)

    lost = LostSockets(refuse, tuple, clock)
    lost.add([Target(f"10.1.{n // 250}.{n % 250}", 80, "TCP", 1) for n in range(MOST + 100)])
    task = asyncio.ensure_future(lost.run())
    await until(lambda: bool(lost.obstacle))
    await clock.run_for(RETRY_S)
    await until(lambda: len(asked) == 2)
    task.cancel()
    await asyncio.wait([task])
    assert asked == [MOST + 100, MOST]
