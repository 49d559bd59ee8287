# SPDX-License-Identifier: Apache-2.0
"""What probes of a peer's nodes say, and that a firewall is not taken for a dead cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import pytest

from agent.datapath.flow_layout import ProbeSize
from agent.mesh.liveness import Liveness, Signals, decide
from agent.mesh.probe import ANSWER_WAIT_S, NODES_A_ROUND, OverlayThenTcp, ProbeAnswer, Prober, ProbeReply
from agent.mesh.rows import probe_rows, silent_node_problems
from agent.mesh.tcp_probe import TcpAnswer, make_reach
from agent.settings import AgentSettings
from agent.tables import AgentDB, Node, NodeAddress
from meshapi.probe import PathState
from meshkit.clock import ManualClock
from meshkit.http import bind
from meshmodel.names import ClusterId, ClusterName
from meshpeer.followed import FollowedCluster

SOUTH = ClusterName("south")
SILENT = ProbeReply(ProbeAnswer.NONE)


class World:
    def __init__(self, nodes: int = 2) -> None:
        self.clock = ManualClock()
        self.db = AgentDB(ClusterName("north"), ClusterId(1), "n1", "172.18.0.2")
        self.alive: set[str] = set()
        self.asked: list[str] = []
        self.state = FollowedCluster(SOUTH)
        self.small_only: set[str] = set()
        self.rtts_s: dict[str, float] = {}
        self.by_overlay: set[str] = set()
        self.forgotten: set[str] = set()
        self.prober = Prober(self.db, self.clock, self, lost_after_s=AgentSettings.withdraw_after_s)
        with self.db.write():
            for number in range(nodes):
                address = NodeAddress("InternalIP", f"172.18.1.{number}")
                self.db.nodes.put(Node(SOUTH, ClusterId(2), f"s{number:02}", (address,), ()))

    async def ask(self, nodes: Sequence[str]) -> dict[str, ProbeReply]:
        self.asked += nodes
        whole = {node: ProbeReply(ProbeAnswer.WHOLE, self.rtts_s.get(node, 0.002)) for node in nodes}
        said = {node: whole[node] if node in self.alive else SILENT for node in nodes}
        said |= {node: ProbeReply(ProbeAnswer.SMALL_ONLY) for node in nodes if node in self.small_only}
        return {node: reply._replace(is_overlay=node in self.by_overlay) for node, reply in said.items()}

    def forget(self, nodes: Iterable[str]) -> None:
        self.forgotten |= set(nodes)

    def lost(self) -> dict[str, str]:
        return {row.ip: row.reason for row in self.db.lost_nodes.rows()}

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


async def test_nodes_that_never_answered_are_named_until_they_do() -> None:
    world = World(nodes=5)
    world.alive = {"172.18.1.4"}
    for _ in range(9):
        await world.round()
    assert silent_node_problems(world.prober.heard()) == []
    await world.round()
    (said,) = silent_node_problems(world.prober.heard())
    assert said.startswith("peer south: 172.18.1.0, 172.18.1.1, 172.18.1.2 and 1 more nodes never answered a probe, ")
    world.alive |= {"172.18.1.0", "172.18.1.1", "172.18.1.2", "172.18.1.3"}
    await world.round()
    world.alive = set()
    for _ in range(20):
        await world.round()
    assert silent_node_problems(world.prober.heard()) == [], "they count as lost by now, which is said elsewhere"


async def test_a_node_that_only_small_packets_ever_reached_is_lost() -> None:
    world = World()
    world.alive, world.small_only = {"172.18.1.0"}, {"172.18.1.1"}
    for _ in range(10):
        await world.round()
    assert world.lost() == {}
    await world.round()
    assert world.lost() == {"172.18.1.1": ProbeAnswer.SMALL_ONLY.value}
    world.alive, world.small_only = {"172.18.1.0", "172.18.1.1"}, set()
    await world.round()
    assert world.lost() == {}


async def test_one_node_that_answers_keeps_the_peer() -> None:
    world = World()
    world.alive = {"172.18.1.1"}
    await world.round()
    assert (world.state.probes_reached, world.state.probes_total) == (1, 2)
    assert world.liveness() is Liveness.CONNECTED


async def test_the_round_trip_of_a_peer_is_the_median_of_what_answers_whole_and_goes_with_the_last_answer() -> None:
    world = World(nodes=4)
    assert world.state.rtt_s is None
    world.alive = {f"172.18.1.{number}" for number in range(3)}
    world.rtts_s = {"172.18.1.0": 0.001, "172.18.1.1": 0.009, "172.18.1.2": 0.003}
    await world.round()
    assert world.state.rtt_s == 0.003
    world.alive = {"172.18.1.1"}
    await world.round()
    assert world.state.rtt_s == 0.009
    world.alive = set()
    await world.round()
    assert world.state.rtt_s is None


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
        assert await make_reach(port, 0.05)("127.0.0.1") is TcpAnswer.NODE
    finally:
        listener.close()


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (b"HTTP/1.1 401 Unauthorized\r\n\r\n", TcpAnswer.AGENT),
        (b"HTTP/1.1 200 OK\r\n\r\n", TcpAnswer.NODE),
        (b"HTTP", TcpAnswer.NODE),
        (b"", TcpAnswer.NODE),
    ],
)
async def test_who_asks_for_a_token_is_an_agent_and_everybody_else_is_a_node(said: bytes, expected: TcpAnswer) -> None:
    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        assert await make_reach(server.sockets[0].getsockname()[1])("127.0.0.1") is expected


A, B = "172.18.1.0", "172.18.1.1"


async def test_one_node_that_fell_silent_is_lost_after_the_bound_and_back_at_its_first_answer() -> None:
    world = World()
    world.alive = {A, B}
    await world.round()
    world.alive = {B}
    for _ in range(9):
        await world.round()
        assert world.lost() == {}
    await world.round()
    assert world.lost() == {A: "no answer"}
    assert world.liveness() is Liveness.CONNECTED
    world.alive = {A, B}
    await world.round()
    assert world.lost() == {}


async def test_a_node_that_only_small_packets_reach_is_lost_and_the_reason_is_its_mtu() -> None:
    world = World()
    world.alive = {A, B}
    await world.round()
    world.alive, world.small_only = {B}, {A}
    for _ in range(10):
        await world.round()
    assert list(world.lost()) == [A]
    assert "MTU" in world.lost()[A]


async def test_one_lost_packet_after_a_long_turn_makes_no_node_lost() -> None:
    world = World()
    world.alive = {A, B}
    await world.round()
    world.clock.advance(60.0)
    world.alive = set()
    await world.round()
    assert world.lost() == {}


async def test_a_node_that_never_answered_or_is_gone_is_not_lost() -> None:
    world = World()
    world.alive = {A}
    await world.round()
    world.alive = set()
    for _ in range(12):
        await world.round()
    assert list(world.lost()) == [A]
    with world.db.write():
        world.db.nodes.delete((SOUTH, "s00"))
    await world.round()
    assert world.lost() == {}


async def test_nodes_of_a_peer_that_was_removed_are_not_lost_any_more() -> None:
    world = World()
    world.alive = {A, B}
    await world.round()
    world.alive = set()
    for _ in range(12):
        await world.round()
    assert set(world.lost()) == {A, B}
    await world.prober.probe_all([])
    assert world.lost() == {}


class ScriptedOverlay:
    """`sizes` says which questions of a node come back."""

    def __init__(self, sizes: dict[str, frozenset[ProbeSize]], *known: str) -> None:
        self.sizes, self._known = sizes, frozenset(known)
        self.asked: list[tuple[str, int]] = []

    def ask(self, nodes: Iterable[str], round_number: int) -> None:
        self.asked += [(node, round_number) for node in nodes]

    def answers(self, round_number: int) -> dict[str, dict[ProbeSize, float]]:
        asked = [node for node, number in self.asked if number == round_number and node in self.sizes]
        return {node: {size: 0.001 * (size + 1) for size in self.sizes[node]} for node in asked}

    def known(self) -> frozenset[str]:
        return self._known

    def forget(self, nodes: Iterable[str]) -> None:
        self._known -= set(nodes)


BOTH, SMALL = frozenset(ProbeSize), frozenset({ProbeSize.SMALL})


async def one_round(probe: OverlayThenTcp, clock: ManualClock) -> dict[str, ProbeReply]:
    asking = asyncio.ensure_future(probe.ask([A, B]))
    while not asking.done():
        await asyncio.sleep(0)
        clock.advance(ANSWER_WAIT_S)
    return dict(asking.result())


async def answers_of(
    overlay: ScriptedOverlay | None, reached: set[str], agents: frozenset[str] = frozenset(), *, but: Iterable[str] = ()
) -> dict[str, ProbeAnswer]:
    clock = ManualClock()

    async def reach(address: str) -> TcpAnswer:
        if address in agents:
            return TcpAnswer.AGENT
        return TcpAnswer.NODE if address in reached else TcpAnswer.NONE

    probe = OverlayThenTcp(overlay, reach, clock)
    probe.forget(but)
    return {node: reply.answer for node, reply in (await one_round(probe, clock)).items()}


async def test_a_node_that_answers_through_the_overlay_is_judged_by_nothing_else() -> None:
    overlay = ScriptedOverlay({A: BOTH, B: SMALL})
    assert await answers_of(overlay, set()) == {A: ProbeAnswer.WHOLE, B: ProbeAnswer.SMALL_ONLY}


async def test_a_node_that_answered_an_earlier_agent_and_is_silent_now_is_not_saved_by_its_tcp_answer() -> None:
    assert await answers_of(ScriptedOverlay({}, A), {A, B}) == {A: ProbeAnswer.NONE, B: ProbeAnswer.WHOLE}


async def test_a_node_whose_agent_answers_is_expected_to_answer_through_the_overlay() -> None:
    """As where a firewall has let the control plane through, and never a packet of pods."""
    both = frozenset({A, B})
    assert await answers_of(ScriptedOverlay({A: BOTH}), set(), both) == {
        A: ProbeAnswer.WHOLE,
        B: ProbeAnswer.AGENT_ONLY,
    }
    assert await answers_of(None, set(), both) == {A: ProbeAnswer.WHOLE, B: ProbeAnswer.WHOLE}, "no overlay of our own"


async def test_who_gets_the_address_of_a_node_that_is_gone_is_asked_as_if_never_heard() -> None:
    assert await answers_of(ScriptedOverlay({}, A), {A}, but=[A, B]) == {A: ProbeAnswer.WHOLE, B: ProbeAnswer.NONE}
    world = World()
    await world.round()
    with world.db.write():
        world.db.nodes.delete((SOUTH, "s00"))
    await world.round()
    assert world.forgotten == {A}


async def test_nodes_that_should_answer_and_never_did_are_lost_and_with_them_their_peer() -> None:
    """After a restart of the agent too: what answered the former one should answer this one."""
    world = World()
    world.by_overlay = {A, B}
    for _ in range(10):
        await world.round()
        assert (world.lost(), world.liveness()) == ({}, Liveness.CONNECTED)
    await world.round()
    assert set(world.lost()) == {A, B}
    assert world.liveness() is Liveness.WITHDRAWN
    world.alive = {B}
    await world.round()
    assert (set(world.lost()), world.liveness()) == ({A}, Liveness.CONNECTED)


async def test_a_peer_of_which_one_node_need_not_answer_is_not_judged_as_a_whole() -> None:
    world = World()
    world.by_overlay = {A}
    for _ in range(20):
        await world.round()
    assert (set(world.lost()), world.liveness()) == ({A}, Liveness.CONNECTED)


async def test_a_node_without_our_datapath_is_judged_by_its_tcp_answer() -> None:
    assert await answers_of(ScriptedOverlay({}), {A}) == {A: ProbeAnswer.WHOLE, B: ProbeAnswer.NONE}
    assert await answers_of(None, {A}) == {A: ProbeAnswer.WHOLE, B: ProbeAnswer.NONE}


async def test_how_long_an_answer_took_is_told_of_the_way_that_was_taken() -> None:
    clock = ManualClock()

    async def reach(_address: str) -> TcpAnswer:
        clock.advance(0.25)
        return TcpAnswer.NODE

    probe = OverlayThenTcp(ScriptedOverlay({A: BOTH}), reach, clock)
    for _ in range(2):
        said = await one_round(probe, clock)
    assert said[A] == ProbeReply(ProbeAnswer.WHOLE, 0.001, is_overlay=True)
    assert said[B] == ProbeReply(ProbeAnswer.WHOLE, 0.25)


async def test_what_probing_knows_of_every_node_can_be_read() -> None:
    world = World()
    world.alive = {A}
    await world.round()
    world.alive, world.small_only = set(), {A}
    for _ in range(10):
        await world.round()
    first, second = world.prober.heard()
    assert (first.ip, first.reply.answer, first.reached_ago_s, first.is_lost) == (A, ProbeAnswer.SMALL_ONLY, 10.0, True)
    assert (second.ip, second.reply, second.reached_ago_s, second.is_lost) == (B, SILENT, None, False)
    with world.db.write():
        world.db.nodes.put(Node(SOUTH, ClusterId(2), "s99", (NodeAddress("InternalIP", "172.18.1.99"),), ()))
    shown = {row.node: row for row in probe_rows(world.db, world.prober.heard(), {SOUTH: "ready"})}
    assert {name: row.path for name, row in shown.items()} == {
        "s00": PathState.SMALL_ONLY, "s01": PathState.NO_ANSWER, "s99": PathState.NOT_ASKED,
    }  # fmt: skip
    assert (shown["s00"].lost, shown["s00"].reached_ago_s, shown["s00"].session) == (True, 10.0, "ready")
