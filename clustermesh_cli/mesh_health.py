# SPDX-License-Identifier: Apache-2.0
"""Whether a cluster's mesh is well, from what its programs say. Pure: the same facts give the same verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from meshapi.agent import AgentStatus
from meshapi.apiserver import ApiserverStatus
from meshapi.peer import RemoteCluster

STORE: Final = "store: "


@dataclass(frozen=True, slots=True)
class PeerCount:
    """How many of the nodes that should read a peer are configured for it, and how many have all of it."""

    name: str
    configured: int
    connected: int


@dataclass(frozen=True, slots=True)
class MeshHealth:
    """`problems` in the order a person should read them; well means there is none. `warnings` are somebody's objects."""

    nodes: int
    ready_nodes: int
    peers: tuple[PeerCount, ...]
    problems: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    @property
    def is_well(self) -> bool:
        return not self.problems


def assess(status: ApiserverStatus, *, expected_peers: Mapping[str, object], expected_agents: int) -> MeshHealth:
    """Compare what is with what should be: every expected agent ready, and ready with every expected peer."""
    problems = [*_apiserver_problems(status), *_mirror_problems(status, expected_peers)]
    agents = status.agents
    if len(status.agents) < expected_agents:
        problems.append(f"{expected_agents - len(status.agents)} of {expected_agents} agents have not started")
    for agent in agents:
        problems += _agent_problems(agent, expected_peers)
    ready = sum(1 for agent in agents if agent.ready and not _missing(agent, expected_peers))
    return MeshHealth(
        nodes=max(expected_agents, len(status.agents)),
        ready_nodes=ready,
        peers=tuple(_count(name, agents) for name in sorted({*expected_peers, *_seen(agents)})),
        problems=tuple(problems),
        warnings=tuple(_warnings(status)),
    )


def is_mirrored(status: ApiserverStatus) -> bool:
    """Whether the apiserver copies its peers, and agents read the copies."""
    return "mirror" in status.health


def describe_peer(peer: RemoteCluster) -> str:
    """Why a peer is not ready, right layer first: connection, configuration, synchronisation."""
    if peer.reason:
        return peer.reason
    if not peer.connected:
        return peer.last_error or peer.status or "not connected"
    if peer.config.required and not peer.config.retrieved:
        return "its cluster configuration has not been retrieved"
    missing = [
        kind
        for kind, done in (
            ("nodes", peer.synced.nodes),
            ("services", peer.synced.services),
            ("identities", peer.synced.identities),
            ("endpoints", peer.synced.endpoints),
        )
        if not done
    ]
    return f"synchronization in progress for {', '.join(missing)}" if missing else "not ready"


def _apiserver_problems(status: ApiserverStatus) -> Iterable[str]:
    if not status.ready:
        missing = [kind for kind, done in status.synced.items() if not done]
        yield f"clustermesh-apiserver is not ready{': ' + ', '.join(missing) + ' not yet published' if missing else ''}"
        yield from status.problems
        return
    yield from (problem for problem in status.problems if problem.startswith(STORE))


def _mirror_problems(status: ApiserverStatus, expected: Mapping[str, object]) -> Iterable[str]:
    """Behind a mirror an agent cannot see that a peer is away: the mirror says so."""
    if not is_mirrored(status):
        return
    for name in sorted(set(expected) - {peer.name for peer in status.peers}):
        yield f"clustermesh-apiserver does not mirror cluster {name} yet"
    for peer in status.peers:
        if not peer.ready:
            kept = f"; agents keep what is {peer.age_s:.0f} s old" if peer.age_s is not None else ""
            yield f"clustermesh-apiserver does not mirror cluster {peer.name}: {describe_peer(peer)}{kept}"


def _warnings(status: ApiserverStatus) -> Iterable[str]:
    """What a program that serves complains about: a policy, an annotation, a record; each is named once, whoever says it."""
    own = [problem for problem in status.problems if not problem.startswith(STORE)] if status.ready else []
    agents = (problem for agent in status.agents if agent.ready for problem in agent.problems)
    yield from dict.fromkeys((*own, *agents))


def _agent_problems(agent: AgentStatus, expected: Mapping[str, object]) -> Iterable[str]:
    by_name = {peer.name: peer for peer in agent.peers}
    for name in expected:
        if name not in by_name:
            yield f"{agent.node} does not know peer {name} yet"
    for peer in agent.peers:
        if not peer.ready:
            yield f"{agent.node} is not connected to cluster {peer.name}: {describe_peer(peer)}"
    if not agent.ready:
        yield f"{agent.node} is not ready{': ' + '; '.join(agent.problems) if agent.problems else ''}"


def _missing(agent: AgentStatus, expected: Mapping[str, object]) -> bool:
    ready = {peer.name for peer in agent.peers if peer.ready}
    return not ready >= set(expected)


def _seen(agents: Iterable[AgentStatus]) -> set[str]:
    return {peer.name for agent in agents for peer in agent.peers}


def _count(name: str, agents: Iterable[AgentStatus]) -> PeerCount:
    peers = [peer for agent in agents for peer in agent.peers if peer.name == name]
    return PeerCount(name, len(peers), sum(1 for peer in peers if peer.ready))
