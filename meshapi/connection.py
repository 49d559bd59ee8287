# SPDX-License-Identifier: Apache-2.0
"""The new connections that one node saw last, each side of each pod judged by the node alone. Pure."""

from __future__ import annotations

import msgspec

from meshapi.row import SCHEMA, Row


class ConnectionEnd(Row, kw_only=True):
    """One end. `identity` is 0 while it is not known; `namespace` and `pod` are empty for what is no pod."""

    ip: str
    identity: int
    namespace: str = ""
    pod: str = ""
    cluster: str = ""


class ConnectionRow(Row, kw_only=True):
    """New connections of a pod of this node with one peer to one port: how many, and the last of them.

    `direction` is egress where the pod is the source, ingress where it is the destination. `port` is the destination's after
    translation; of ICMP, the type stands in its place. `last` is wall seconds; `dropped` of the connections were cut.
    """

    direction: str
    source: ConnectionEnd
    destination: ConnectionEnd
    protocol: int
    port: int
    connections: int
    dropped: int
    last: float


class RecentConnections(Row, kw_only=True):
    """What this node's ring of flows holds, from `since` (wall seconds; 0: it is empty) until now.

    `is_whole`: nothing fell out of the ring since the agent began. `lost` events never reached it, since the programs began.
    `left_out` connections were seen and are in no row: there would have been more rows than were asked for.
    """

    schema: int = SCHEMA
    node: str
    cluster: str
    since: float = 0.0
    is_whole: bool = True
    lost: int = 0
    left_out: int = 0
    connections: list[ConnectionRow] = msgspec.field(default_factory=list)
