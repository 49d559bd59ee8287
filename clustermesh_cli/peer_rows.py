# SPDX-License-Identifier: Apache-2.0
"""One peer as the whole cluster sees it, in one row. Pure: made of what the programs say."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Final

from meshapi.apiserver import ApiserverStatus
from meshapi.peer import RemoteCluster

MIRROR: Final = "mirror"


@dataclass(frozen=True, slots=True)
class PeerRow:
    """A peer in one row.

    `configured` and `connected` count nodes. `session_since` (wall s, 0 = none) and `age_s` are of who talks to the peer
    itself: the mirror where there is one, else the agent whose data is oldest. Probes are summed over the nodes, `rtt_s` is the
    median of what they measure. `state` and `reason` are of the worst session; `reason` is empty while every one is ready.
    """

    name: str
    configured: int
    connected: int
    id: int = 0
    session_since: float = 0.0
    age_s: float | None = None
    probes_reached: int = 0
    probes_total: int = 0
    rtt_s: float | None = None
    state: str = ""
    reason: str = ""


def peer_row(name: str, status: ApiserverStatus) -> PeerRow:
    """What the programs of one cluster know of one peer, together."""
    read = [peer for agent in status.agents for peer in agent.peers if peer.name == name]
    mirrored = [peer for peer in status.peers if peer.name == name]
    talking = mirrored if is_mirrored(status) else read
    away = [peer for peer in (*mirrored, *read) if not peer.ready]
    ages = [peer.age_s for peer in talking if peer.age_s is not None]
    round_trips_s = [peer.rtt_s for peer in read if peer.rtt_s is not None]
    since = [peer.session_since for peer in talking]
    if away:
        state, reason = str(away[0].state), describe_peer(away[0])
    elif not talking:
        state, reason = "unknown", "no program has a session with it yet"
    else:
        state, reason = str(talking[0].state), ""
    return PeerRow(
        name=name,
        configured=len(read),
        connected=sum(1 for peer in read if peer.ready),
        id=max((peer.config.cluster_id for peer in (*mirrored, *read)), default=0),
        session_since=max(since) if since and all(since) else 0.0,
        age_s=max(ages, default=None),
        probes_reached=sum(peer.probes_reached for peer in read),
        probes_total=sum(peer.probes_total for peer in read),
        rtt_s=median(round_trips_s) if round_trips_s else None,
        state=state,
        reason=reason,
    )


def is_mirrored(status: ApiserverStatus) -> bool:
    """Whether the apiserver copies its peers, and agents read the copies."""
    return MIRROR in status.health


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
