# SPDX-License-Identifier: Apache-2.0
"""What probes of a peer's nodes say, and that a firewall is not taken for a dead cluster."""

from __future__ import annotations

import pytest

from agent.mesh.liveness import Liveness, Signals, decide
from agent.mesh.probe import NODES_A_ROUND, Prober, make_reach
from agent.tables import AgentDB, Node, NodeAddress
from meshkit.clock import ManualClock
from meshkit.http import bind
from meshmodel.names import ClusterId, ClusterName
from meshpeer.followed import FollowedCluster

SOUTH = ClusterName("south")


class World:
    def __init__(self, nodes: int = 2) -> None:
        self.clock = ManualClock()
        self.db = AgentDB(ClusterName("north"), ClusterId(1), "n1", "172.18.0.2")
        self.alive: set[str] = set()
        self.asked: list[str] = []
        self.state = FollowedCluster(SOUTH)
        self.prober = Prober(self.db, self.clock, self._reach)
        with self.db.write():
            for number in range(nodes):
                address = NodeAddress("InternalIP", f"172.18.1.{number}")
                self.db.nodes.put(Node(SOUTH, ClusterId(2), f"s{number:02}", (address,), ()))

    async def _reach(self, address: str) -> bool:
        self.asked.append(address)
        return address in self.alive

    async def round(self) -> None:
        self.clock.advance(1.0)
        await self.prober.probe_all([self.state])

    def liveness(self) -> Liveness:
        signals = Signals(self.state.control_lost_s, self.state.data_lost_s, self.state.has_probes)
        return decide(self.clock.monotonic(), signals, 10.0).liveness


async def test_a_peer_that_never_answered_a_probe_is_not_judged_by_probes() -> None:
    world = World()
    for _ in range(30):
        await world.round()
    assert not world.state.has_probes
    assert world.liveness() is Liveness.CONNECTED


async def test_one_node_that_answers_keeps_the_peer() -> None:
    world = World()
    world.alive = {"172.18.1.1"}
    await world.round()
    assert (world.state.probes_reached, world.state.probes_total) == (1, 2)
    assert world.liveness() is Liveness.CONNECTED


async def test_a_peer_whose_nodes_all_fell_silent_is_withdrawn_after_the_bound_and_back_at_the_first_answer() -> None:
    world = World()
    world.alive = {"172.18.1.0", "172.18.1.1"}
    await world.round()
    last_reached_s = world.clock.monotonic()
    world.alive = set()
    for _ in range(9):
        await world.round()
        assert world.liveness() is Liveness.CONNECTED
    assert world.state.data_lost_s == last_reached_s, (
        "the bound counts from the last answer, not from the first silence"
    )
    await world.round()
    assert world.liveness() is Liveness.WITHDRAWN
    world.alive = {"172.18.1.1"}
    await world.round()
    assert world.liveness() is Liveness.CONNECTED


async def test_a_large_peer_is_probed_a_few_nodes_a_round_and_all_in_turn() -> None:
    world = World(nodes=3 * NODES_A_ROUND)
    for _ in range(3):
        before = len(world.asked)
        await world.round()
        assert len(world.asked) - before == NODES_A_ROUND
    assert len(set(world.asked)) == 3 * NODES_A_ROUND


@pytest.mark.parametrize("listens", [True, False], ids=["accepted", "refused"])
async def test_any_answer_counts_a_refusal_too(listens: bool) -> None:
    (listener,) = bind("127.0.0.1", 0)
    port = int(listener.getsockname()[1])
    if not listens:
        listener.close()
    try:
        assert await make_reach(port)("127.0.0.1")
    finally:
        listener.close()
