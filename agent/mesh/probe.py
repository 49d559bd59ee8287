# SPDX-License-Identifier: Apache-2.0
"""Whether pods' packets reach a peer's nodes: the data signal of liveness, independent of any store.

A node whose datapath is ours answers through the overlay, to a small and to a full-sized question; from its first answer
on, to this agent or an earlier one, only that counts, and it is expected of a node on which an agent of ours answers. Any other
node is asked by a TCP connection to its underlay address, where an answer of any kind, a refusal included, means that it is
there. A node that never answered either way, behind a firewall for example, is not judged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from statistics import median
from typing import Final, NamedTuple, Protocol

from agent.datapath.flow_layout import ProbeSize
from agent.datapath.overlay_probe import Overlay
from agent.mesh.tcp_probe import TcpAnswer
from agent.tables import AgentDB
from agent.unwell import LostNode
from meshkit.clock import Clock
from meshmodel.names import ClusterName
from meshpeer.followed import FollowedCluster

INTERVAL_S: Final = 0.5
ANSWER_WAIT_S: Final = 1.0
NODES_A_ROUND: Final = 64
FAILURES_BEFORE_LOST: Final = 2

Reach = Callable[[str], Awaitable[TcpAnswer]]


class ProbeAnswer(Enum):
    """What a node said in one round; the value says what is wrong."""

    WHOLE = ""
    AGENT_ONLY = "its agent answers and its overlay does not; is the overlay's UDP port open in both directions?"
    SMALL_ONLY = "only small packets pass the overlay; the underlay's MTU is smaller than the pods' plus 50"
    NONE = "no answer"


class ProbeReply(NamedTuple):
    """One node's answer in one round, how long it took (None without an answer), and whether the overlay was the way."""

    answer: ProbeAnswer
    rtt_s: float | None = None
    is_overlay: bool = False


class NodeProbe(Protocol):
    """Asks nodes by their underlay addresses."""

    async def ask(self, nodes: Sequence[str]) -> Mapping[str, ProbeReply]:
        """The answer of each of these nodes in this round."""
        ...

    def forget(self, nodes: Iterable[str]) -> None:
        """These are no nodes of peers any more: whoever gets their addresses is asked as if never heard."""
        ...


class OverlayThenTcp:
    """The real probe. `overlay` is None where no kernel datapath is."""

    def __init__(self, overlay: Overlay | None, reach: Reach, clock: Clock) -> None:
        self._overlay, self._reach, self._clock = overlay, reach, clock
        self._by_overlay: set[str] = set(overlay.known()) if overlay is not None else set()
        self._round = 0

    async def ask(self, nodes: Sequence[str]) -> Mapping[str, ProbeReply]:
        """The answer of each of these nodes in this round."""
        self._round += 1
        others = [node for node in nodes if node not in self._by_overlay]
        if self._overlay is None:
            return await self._connect_all(others)
        self._overlay.ask(nodes, self._round)
        said, _ = await asyncio.gather(self._connect_all(others), self._clock.sleep(ANSWER_WAIT_S))
        found = self._overlay.answers(self._round)
        self._by_overlay.update(node for node in found if node in nodes)
        return said | {node: _overlay_reply(found.get(node, {})) for node in nodes if node in self._by_overlay}

    def forget(self, nodes: Iterable[str]) -> None:
        """These are no nodes of peers any more: whoever gets their addresses is asked as if never heard."""
        gone = self._by_overlay.intersection(nodes)
        self._by_overlay -= gone
        if self._overlay is not None:
            self._overlay.forget(gone)

    async def _connect_all(self, nodes: Sequence[str]) -> dict[str, ProbeReply]:
        if len(nodes) == 1:  # no task for what can be waited for here
            return {nodes[0]: await self._connect(nodes[0])}
        replies = await asyncio.gather(*(self._connect(node) for node in nodes))
        return dict(zip(nodes, replies, strict=True))

    async def _connect(self, node: str) -> ProbeReply:
        before_s = self._clock.monotonic()
        answer = await self._reach(node)
        if answer is TcpAnswer.NONE:
            return ProbeReply(ProbeAnswer.NONE)
        if answer is TcpAnswer.AGENT and self._overlay is not None:
            return ProbeReply(ProbeAnswer.AGENT_ONLY, is_overlay=True)
        return ProbeReply(ProbeAnswer.WHOLE, self._clock.monotonic() - before_s)


def _overlay_reply(rtts_s: Mapping[ProbeSize, float]) -> ProbeReply:
    if not rtts_s:
        return ProbeReply(ProbeAnswer.NONE, is_overlay=True)
    answer = ProbeAnswer.WHOLE if ProbeSize.FULL in rtts_s else ProbeAnswer.SMALL_ONLY
    return ProbeReply(answer, rtts_s.get(ProbeSize.SMALL, rtts_s.get(ProbeSize.FULL)), is_overlay=True)


_SILENT: Final = ProbeReply(ProbeAnswer.NONE)


@dataclass(slots=True)
class _Heard:
    """What is remembered of one node: when it last answered whole, and how often it has not since.

    `expected_s` is since when a node that never answered whole should: it has our datapath, and pods' packets do not reach it.
    """

    reached_s: float | None = None
    expected_s: float | None = None
    failures: int = 0
    last: ProbeReply = _SILENT


class HeardNode(NamedTuple):
    """What probing knows of one node: its last reply, how long ago it answered whole (None: never), if it counts as lost.

    `failures` is how many rounds it has not answered whole since, or ever.
    """

    cluster: ClusterName
    ip: str
    reply: ProbeReply
    reached_ago_s: float | None
    is_lost: bool
    failures: int


@dataclass(slots=True)
class _Cluster:
    nodes: dict[str, _Heard] = field(default_factory=dict)
    reached_s: float = 0.0

    def all_expected_s(self) -> float | None:
        """Since when every node of the peer should answer; None while some need not."""
        known = [heard.expected_s for heard in self.nodes.values()]
        since_s = [since for since in known if since is not None]
        return max(since_s) if since_s and len(since_s) == len(known) else None


class Prober:
    """Probes the nodes of every peer and writes what it found into the session records and the table of lost nodes."""

    def __init__(self, db: AgentDB, clock: Clock, probe: NodeProbe, *, lost_after_s: float) -> None:
        self._db, self._clock, self._probe, self._lost_after_s = db, clock, probe, lost_after_s
        self._clusters: dict[ClusterName, _Cluster] = {}
        self._addresses: frozenset[str] = frozenset()
        self._round = 0

    async def run(self, states: Callable[[], Iterable[FollowedCluster]]) -> None:
        """Until cancelled."""
        while True:
            await self.probe_all(tuple(states()))
            await self._clock.sleep(INTERVAL_S)

    async def probe_all(self, states: Iterable[FollowedCluster]) -> None:
        """One round: every state says how many of its nodes answered, and since when none has."""
        self._round += 1
        kept = tuple(states)
        chosen = {state.name: self._choose(state.name) for state in kept}
        answers = await self._probe.ask([node for nodes in chosen.values() for node in nodes])
        lost: dict[str, LostNode] = {}
        for state in kept:
            lost |= self._note(state, {node: answers[node] for node in chosen[state.name]})
        self._clusters = {state.name: self._clusters[state.name] for state in kept if state.name in self._clusters}
        self._write(lost)
        before, self._addresses = self._addresses, self._addresses_of({state.name for state in kept})
        if gone := before - self._addresses:
            self._probe.forget(gone)

    def _addresses_of(self, clusters: Container[ClusterName]) -> frozenset[str]:
        return frozenset(n.internal_ip for n in self._db.nodes.rows() if n.cluster in clusters)

    def heard(self) -> list[HeardNode]:
        """Every node that was asked, by cluster and address."""
        now_s = self._clock.monotonic()
        return [
            HeardNode(
                cluster,
                ip,
                node.last,
                None if node.reached_s is None else now_s - node.reached_s,
                ip in self._db.lost_nodes,
                node.failures,
            )
            for cluster, known in sorted(self._clusters.items())
            for ip, node in sorted(known.nodes.items())
        ]

    def _note(self, state: FollowedCluster, answers: Mapping[str, ProbeReply]) -> dict[str, LostNode]:
        cluster = self._clusters.setdefault(state.name, _Cluster())
        addresses = {n.internal_ip for n in self._db.nodes.rows() if n.cluster == state.name}
        cluster.nodes = {node: heard for node, heard in cluster.nodes.items() if node in addresses}
        if not answers:
            return {}
        now_s = self._clock.monotonic()
        for node, reply in answers.items():
            heard = cluster.nodes.setdefault(node, _Heard())
            heard.last = reply
            if reply.answer is ProbeAnswer.WHOLE:
                heard.reached_s, heard.failures = now_s, 0
            else:
                heard.failures += 1
                if heard.expected_s is None and (reply.is_overlay or reply.answer is ProbeAnswer.SMALL_ONLY):
                    heard.expected_s = now_s
        reached = [node for node, reply in answers.items() if reply.answer is ProbeAnswer.WHOLE]
        state.probes_reached, state.probes_total = len(reached), len(answers)
        round_trips_s = [rtt_s for node in reached if (rtt_s := answers[node].rtt_s) is not None]
        state.rtt_s = median(round_trips_s) if round_trips_s else None
        if reached:
            cluster.reached_s = now_s
            state.has_probes, state.data_lost_s = True, None
        elif state.has_probes and state.data_lost_s is None:
            state.data_lost_s = cluster.reached_s
        elif not state.has_probes and (since_s := cluster.all_expected_s()) is not None:
            state.has_probes, state.data_lost_s = True, since_s
        return {
            node: LostNode(node, state.name, heard.last.answer.value)
            for node, heard in cluster.nodes.items()
            if self._is_lost(heard, now_s)
        }

    def _is_lost(self, heard: _Heard, now_s: float) -> bool:
        """A node of which no answer is expected is not judged; one unlucky packet makes no node lost."""
        since_s = heard.expected_s if heard.reached_s is None else heard.reached_s
        if since_s is None or heard.failures < FAILURES_BEFORE_LOST:
            return False
        return now_s - since_s >= self._lost_after_s

    def _write(self, lost: Mapping[str, LostNode]) -> None:
        table = self._db.lost_nodes
        gone = [row.ip for row in table.rows() if row.ip not in lost]
        changed = [row for row in lost.values() if table.get(row.ip) != row]
        if gone or changed:
            with self._db.write():
                for ip in gone:
                    table.delete(ip)
                for row in changed:
                    table.put(row)

    def _choose(self, cluster: ClusterName) -> tuple[str, ...]:
        """A bounded number of nodes, others in the next round, so that a large peer costs no more than a small one."""
        nodes = sorted({n.internal_ip for n in self._db.nodes.rows() if n.cluster == cluster and n.internal_ip})
        if len(nodes) <= NODES_A_ROUND:
            return tuple(nodes)
        start = self._round * NODES_A_ROUND % len(nodes)
        return tuple((nodes + nodes)[start : start + NODES_A_ROUND])
