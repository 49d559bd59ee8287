# SPDX-License-Identifier: Apache-2.0
"""The REST paths of flows: what was seen last and is seen from now on, and the new connections in it. Reads, never writes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Final

import msgspec
from fastapi import Query, Response

from agent.observe.connections import keep_most, new_connections
from agent.observe.flow import Flow
from agent.observe.ring import CAPACITY, Filter, FlowRing
from agent.observe.text import line
from agent.tables import AgentDB
from meshapi.connection import RecentConnections
from meshkit.followers import Followers
from meshkit.rest import Rest

LAST_DEFAULT: Final = 20
CONNECTIONS_DEFAULT: Final = 1000
MAX_FOLLOWERS: Final = 16


def add_flow_routes(rest: Rest, ring: FlowRing, db: AgentDB, lost: Callable[[], int]) -> None:
    """`lost` counts the kernel's events that never came."""
    followers = Followers(MAX_FOLLOWERS)

    @rest.get_stream("/v1/flows", Flow, "application/x-ndjson", tag="flows", errors={429: "too many followers"})
    async def flows(
        *,
        type_: str = Query("", alias="type"),
        last: int = Query(LAST_DEFAULT, ge=0),
        follow: bool = False,
        format_: str = Query("json", alias="format", pattern="^(json|text)$"),
        pod: str = "",
        verdict: str = "",
    ) -> Response:
        """The last flows of this node, oldest first, one JSON object (or text line) a line; `follow` keeps the answer open."""
        keep = _filter(type_, pod, verdict)
        render = _as_text if format_ == "text" else _as_json
        shown = ring.last(last, keep)
        media = "text/plain" if format_ == "text" else "application/x-ndjson"
        if not follow:
            return Response(b"".join(render(flow) for flow in shown), media_type=media)
        return await followers.answer(_lines(shown, ring.follow(keep), render), media)

    @rest.get("/v1/flows/connections", RecentConnections, tag="flows")
    async def connections(*, most: int = Query(CONNECTIONS_DEFAULT, ge=1, le=CAPACITY)) -> RecentConnections:
        """The new connections among the flows that are kept, by pod of this node, direction, peer and port."""
        kept = ring.last(ring.capacity, lambda _flow: True)
        rows, left_out = keep_most(new_connections(kept, lambda address: db.endpoints.get(address) is not None), most)
        return RecentConnections(
            node=db.node_name,
            cluster=db.own,
            since=kept[0].time_s if kept else 0.0,
            is_whole=ring.seen == len(kept),
            lost=lost(),
            left_out=left_out,
            connections=rows,
        )


async def _lines(
    shown: Iterable[Flow], following: AsyncIterator[Flow], render: Callable[[Flow], bytes]
) -> AsyncIterator[bytes]:
    for flow in shown:
        yield render(flow)
    async for flow in following:
        yield render(flow)


def _filter(kind: str, pod: str, verdict: str) -> Filter:
    """Type and verdict exactly; a pod by the beginning of `namespace/name`."""

    def keep(flow: Flow) -> bool:
        if kind and flow.type.value != kind:
            return False
        if verdict and flow.verdict.value != verdict.upper():
            return False
        names = (f"{side.namespace}/{side.pod}" for side in (flow.source, flow.destination))
        return not pod or any(name.startswith(pod) for name in names)

    return keep


def _as_json(flow: Flow) -> bytes:
    return msgspec.json.encode(flow) + b"\n"


def _as_text(flow: Flow) -> bytes:
    return (line(flow, with_policy=True, with_cluster=True) + "\n").encode()
