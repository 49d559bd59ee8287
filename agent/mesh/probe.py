# SPDX-License-Identifier: Apache-2.0
"""Whether a peer's nodes can be reached at all: the data signal of liveness, independent of any store.

A probe opens a TCP connection to a node's address over the underlay, the path the overlay takes. An answer of any kind, a refusal
included, means that the node is there. A peer that was never reached this way, behind a firewall for example, is not judged
by it: its data signal stays unknown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from agent.tables import AgentDB
from meshkit.clock import Clock
from meshmodel.names import ClusterName
from meshpeer.followed import FollowedCluster

INTERVAL_S = 1.0
TIMEOUT_S = 1.0
NODES_A_ROUND = 8

Reach = Callable[[str], Awaitable[bool]]


class Prober:
    """Probes the nodes of every peer, a few a round, and writes what it found into the session records."""

    def __init__(self, db: AgentDB, clock: Clock, reach: Reach, interval_s: float = INTERVAL_S) -> None:
        self._db, self._clock, self._reach, self._interval_s = db, clock, reach, interval_s
        self._reached_s: dict[ClusterName, float] = {}
        self._round = 0

    async def run(self, states: Callable[[], Iterable[FollowedCluster]]) -> None:
        """Until cancelled."""
        while True:
            await self.probe_all(tuple(states()))
            await self._clock.sleep(self._interval_s)

    async def probe_all(self, states: Iterable[FollowedCluster]) -> None:
        """One round: every state says how many of its nodes answered, and since when none has."""
        self._round += 1
        async with asyncio.TaskGroup() as group:
            for state in states:
                group.create_task(self._probe(state), name=f"probe {state.name}")

    async def _probe(self, state: FollowedCluster) -> None:
        addresses = self._choose(state.name)
        if not addresses:
            return
        answers = await asyncio.gather(*(self._reach(address) for address in addresses))
        state.probes_reached, state.probes_total = sum(answers), len(answers)
        now_s = self._clock.monotonic()
        if any(answers):
            self._reached_s[state.name] = now_s
            state.has_probes, state.data_lost_s = True, None
        elif state.has_probes and state.data_lost_s is None:
            state.data_lost_s = self._reached_s.get(state.name, now_s)

    def _choose(self, cluster: ClusterName) -> tuple[str, ...]:
        """At most a few nodes, others in the next round, so that a large peer costs no more than a small one."""
        nodes = sorted(n.internal_ip for n in self._db.nodes.rows() if n.cluster == cluster and n.internal_ip)
        if len(nodes) <= NODES_A_ROUND:
            return tuple(nodes)
        start = self._round * NODES_A_ROUND % len(nodes)
        return tuple((nodes + nodes)[start : start + NODES_A_ROUND])


def make_reach(port: int, timeout_s: float = TIMEOUT_S) -> Reach:
    """A probe of one TCP port; what listens there does not matter."""

    async def reach(address: str) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                _, writer = await asyncio.open_connection(address, port)
        except ConnectionRefusedError:
            return True
        except (OSError, TimeoutError):
            return False
        writer.transport.abort()
        return True

    return reach
