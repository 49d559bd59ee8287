# SPDX-License-Identifier: Apache-2.0
"""Whether a cluster's mesh is well, from what its programs say. Pure: the same facts give the same verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from certs.validity import KeptCertificates, Validity, date, judge
from clustermesh_cli.peer_rows import MIRROR, PeerRow, describe_peer, is_mirrored, peer_row
from clustermesh_cli.plan.relay_rules import RelayState
from meshapi.agent import NOT_ENFORCED, AgentStatus
from meshapi.apiserver import NOT_SEEN, ApiserverStatus

STORE: Final = "store: "
_PEER: Final = "peer "  # components of an agent's health that stand for one followed cluster each
LEAVING: Final = (
    "this cluster is on its way out of the mesh, its agents detach their nodes: run clustermesh disable again to finish, or "
    "clustermesh enable to stay"
)
_JUDGED: Final = (STORE, NOT_SEEN)
"""Beginnings of what the apiserver says that is more than a warning."""
_TROUBLED: Final = ("degraded", "failed")


@dataclass(frozen=True, slots=True)
class MeshHealth:
    """`problems` in the order a person should read them; well means there is none. `warnings` are about objects of users.

    `withheld` are sentences about what the caller may not see: it was not judged.
    """

    nodes: int
    ready_nodes: int
    peers: tuple[PeerRow, ...]
    problems: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    withheld: tuple[str, ...] = ()
    relay: str = ""
    """What is known of the relay of flows; empty where the cluster has none."""

    @property
    def not_enforced(self) -> tuple[str, ...]:
        """Warnings about valid policies that have not the effect they state."""
        return tuple(warning for warning in self.warnings if warning.startswith(NOT_ENFORCED))

    @property
    def is_well(self) -> bool:
        return not self.problems and not self.not_enforced


def assess(
    status: ApiserverStatus,
    *,
    expected_peers: Mapping[str, object],
    expected_agents: int,
    certificates: Sequence[KeptCertificates] = (),
    notices: Sequence[str] = (),
    distrusted: Sequence[str] = (),
    withheld: Sequence[str] = (),
    is_leaving: bool = False,
    relay: RelayState | None = None,
    now_s: float,
) -> MeshHealth:
    """Compare what is with what should be at `now_s` (wall seconds).

    Well means: every expected agent is ready, and ready with every expected peer; no part of a program is degraded; no
    certificate is refused for its dates; whoever may read is trusted (`distrusted` says who is not); no valid policy is
    without the effect it states; the relay of flows answers, where there is one; nobody began to take the cluster out of the
    mesh (`is_leaving`) and did not finish. What is
    wrong with an object that somebody wrote is a warning.
    """
    states = [judge(now_s, kept) for kept in certificates]
    problems = [
        *([LEAVING] if is_leaving else []),
        *(state.sentence for state in states if state.is_refused),
        *distrusted,
        *_server_problems(status, certificates, now_s),
        *_apiserver_problems(status),
        *_mirror_problems(status, expected_peers),
        *([relay.problem] if relay is not None and relay.problem else []),
    ]
    agents = status.agents
    if len(agents) < expected_agents:
        problems.append(f"{expected_agents - len(agents)} of {expected_agents} agents have not started")
    for agent in agents:
        problems += _agent_problems(agent, expected_peers)
    unheard = [relay.detail] if relay is not None and relay.silent else []
    ending = [state.sentence for state in states if state.validity is Validity.ENDING]
    return MeshHealth(
        nodes=max(expected_agents, len(agents)),
        ready_nodes=sum(1 for agent in agents if agent.ready),
        peers=tuple(peer_row(name, status) for name in sorted({*expected_peers, *_seen(status)})),
        problems=tuple(problems),
        warnings=tuple(
            warning
            for warning in (*ending, *notices, *unheard, *withheld, *_warnings(status))
            if warning not in problems
        ),
        withheld=tuple(withheld),
        relay=relay.detail if relay is not None else "",
    )


def _server_problems(status: ApiserverStatus, certificates: Iterable[KeptCertificates], now_s: float) -> Iterable[str]:
    """An expired certificate that the server shows although its Secret holds another one."""
    shown = status.certificate_not_after
    if (
        shown
        and now_s > shown
        and not any(cert.not_after_s == shown for kept in certificates for cert in kept.certificates)
    ):
        yield (
            f"clustermesh-apiserver serves with a certificate that expired on {date(shown)}: "
            "run clustermesh certs rotate; if the Secret has a newer one, restart deployment/clustermesh-apiserver"
        )


def _apiserver_problems(status: ApiserverStatus) -> Iterable[str]:
    if not status.ready and not status.health:  # it did not answer: who asked says why
        yield from status.problems or ("clustermesh-apiserver is not ready",)
        return
    if not status.ready:
        missing = [kind for kind, done in status.synced.items() if not done]
        yield f"clustermesh-apiserver is not ready{': ' + ', '.join(missing) + ' not yet published' if missing else ''}"
        yield from status.problems
        return
    yield from (problem for problem in status.problems if problem.startswith(_JUDGED))
    said = any(problem.startswith(STORE) for problem in status.problems)
    for name, level in sorted(status.health.items()):
        if level in _TROUBLED and not (name == MIRROR or (name == "store" and said)):
            yield f"clustermesh-apiserver: {name} is {level}; see its log"


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
    own = [problem for problem in status.problems if not problem.startswith(_JUDGED)] if status.ready else []
    agents = (
        problem
        for agent in status.agents
        if agent.ready
        for problem in agent.problems
        if problem not in _degraded_parts(agent)
    )
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
    else:
        yield from (f"{agent.node}: {part}" for part in _degraded_parts(agent))


def _degraded_parts(agent: AgentStatus) -> Iterable[str]:
    """Parts of an agent that serves although they are not whole; its peers are judged by their sessions."""
    judged = {_PEER + peer.name for peer in agent.peers}
    for name, text in sorted(agent.health.items()):
        level, _, message = text.partition(": ")
        if level in _TROUBLED and name not in judged:
            yield f"{name}: {message}"


def _seen(status: ApiserverStatus) -> set[str]:
    mirrored = (peer.name for peer in status.peers)
    return {*mirrored, *(peer.name for agent in status.agents for peer in agent.peers)}
