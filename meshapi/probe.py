# SPDX-License-Identifier: Apache-2.0
"""Whether pods' packets of one node reach the nodes of other clusters, as its agent's probes found. Pure."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from meshapi.row import SCHEMA, Row


class PathState(StrEnum):
    """What came back from a node in the last round: both sizes, only the small one, nothing, or no round yet."""

    WHOLE = "whole"
    SMALL_ONLY = "small-only"
    NO_ANSWER = "no-answer"
    NOT_ASKED = "not-asked"


class ProbeRow(Row, kw_only=True):
    """One node of a peer. `way` is overlay, or tcp for a node that never answered through it. Units: seconds.

    `lost`: it gets no new connections from the asking node. `session` is the state of the session with its cluster.
    """

    cluster: str
    node: str
    address: str
    path: PathState
    way: str = ""
    rtt_s: float | None = msgspec.field(default=None, name="rtt")
    reached_ago_s: float | None = msgspec.field(default=None, name="reached-ago")
    lost: bool = False
    session: str = ""


class NodeProbes(Row, kw_only=True):
    """All nodes of all peers, as seen from one node."""

    schema: int = SCHEMA
    cluster: str
    node: str
    targets: list[ProbeRow]
