# SPDX-License-Identifier: Apache-2.0
"""Whether a cluster reads a peer, from what its programs say. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from clustermesh_cli.peer_rows import describe_peer, is_mirrored
from meshapi.apiserver import ApiserverStatus
from meshapi.installed import APISERVER
from meshapi.peer import RemoteCluster


def session_problem(status: ApiserverStatus, name: str) -> str | None:
    """Why the cluster does not read peer `name`: None when its mirror, and an agent at least, have all of the peer."""
    if is_mirrored(status) and (problem := _problem(APISERVER, status.peers, name)):
        return problem
    if not status.agents:
        return "no agent has answered yet"
    problems = [_problem(agent.node, agent.peers, name) for agent in status.agents]
    return None if None in problems else problems[0]


def _problem(who: str, peers: Iterable[RemoteCluster], name: str) -> str | None:
    peer = next((peer for peer in peers if peer.name == name), None)
    if peer is None:
        return f"{who} does not know {name} yet"
    return None if peer.ready else f"{who}: {describe_peer(peer)}"
