# SPDX-License-Identifier: Apache-2.0
"""The REST paths of flows: what was seen last and is seen from now on, and the new connections in it. Reads, never writes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from fastapi import Query, Response

from agent.observe.connections import keep_most, new_connections
from agent.tables import AgentDB
from flows.answer import answers, coverage
from flows.document import json_line, read_json
from flows.errors import FilterError, RequestError
from flows.live import LiveFlows
from flows.proto import flow_pb2 as pb
from flows.proto import observer_pb2 as observer
from flows.ring import FlowEntry
from flows.ring_capacity import LARGEST
from flows.text import Look, compact_line, lost_line
from flows.words import EVENT_TYPES
from meshapi.connection import RecentConnections
from meshkit.followers import Followers
from meshkit.rest import NotAnswered, Rest

LAST_DEFAULT: Final = 20
CONNECTIONS_DEFAULT: Final = 1000
MAX_FOLLOWERS: Final = 16
_VERDICTS: Final = tuple(pb.Verdict.keys())
_LOOK: Final = Look(rules=True, clusters=True)


def add_flow_routes(
    rest: Rest, flows: LiveFlows, db: AgentDB, lost: Callable[[], int], wall: Callable[[], float]
) -> None:
    """`lost` counts the kernel's events that never came; `wall` is the time, in seconds since 1970."""
    followers = Followers(MAX_FOLLOWERS)

    @rest.get_stream(
        "/v1/flows", dict[str, Any], "application/x-ndjson", tag="flows", errors={429: "too many followers"}
    )
    async def flows_(
        *,
        type_: str = Query("", alias="type"),
        last: int = Query(LAST_DEFAULT, ge=0, lt=1 << 64),
        follow: bool = False,
        format_: str = Query("json", alias="format", pattern="^(json|text)$"),
        pod: str = "",
        verdict: str = "",
        request: str = "",
    ) -> Response:
        """The last flows of this node, oldest first, each a GetFlowsResponse of Hubble as JSON (or a text) in one line.

        `follow` keeps the answer open. `request` is a whole GetFlowsRequest as JSON; the other parameters are not looked at then.
        """
        try:
            wanted = (
                read_json(request, observer.GetFlowsRequest(), "request")
                if request
                else _request(type_, pod, verdict, last=last, follow=follow)
            )
            reading = flows.read(wanted)
            answer = answers(flows.ring.decode, flows.node_name, wanted.field_mask)
        except (FilterError, RequestError) as exc:
            raise NotAnswered(400, str(exc)) from exc
        render = _as_text if format_ == "text" else _as_json

        async def lines() -> AsyncIterator[bytes]:
            async for found in flows.steps(reading):
                if found:
                    yield b"".join(render(answer(item, number)) for item, number in found)
                await asyncio.sleep(0)
            last = coverage(reading.shortfall(), flows.node_name, int(wall() * 1e9))
            if last is not None and render is _as_json:
                yield render(last)

        media = "text/plain" if format_ == "text" else "application/x-ndjson"
        if not reading.follows:
            return Response(b"".join([part async for part in lines()]), media_type=media)
        return await followers.answer(lines(), media)

    @rest.get("/v1/flows/connections", RecentConnections, tag="flows")
    async def connections(*, most: int = Query(CONNECTIONS_DEFAULT, ge=1, le=LARGEST)) -> RecentConnections:
        """The new connections among the flows that are kept, by pod of this node, direction, peer and port."""
        ring = flows.ring
        items = enumerate(ring.slice(ring.begin, ring.end), ring.begin)
        kept = [ring.decode(item, number) for number, item in items if isinstance(item, FlowEntry)]
        rows, left_out = keep_most(new_connections(kept, lambda address: db.endpoints.get(address) is not None), most)
        return RecentConnections(
            node=db.node_name,
            cluster=db.own,
            since=ring.oldest_ns / 1e9,
            is_whole=ring.begin == 0,
            lost=lost(),
            left_out=left_out,
            connections=rows,
        )


def _request(kind: str, pod: str, verdict: str, *, last: int, follow: bool) -> observer.GetFlowsRequest:
    """Type and verdict exactly; a pod of either side by its namespace and the beginning of its name. Raises: FilterError."""
    wanted = pb.FlowFilter()
    if kind:
        if kind not in EVENT_TYPES:
            raise FilterError("type", f"{kind[:100]!r} is not one of {', '.join(EVENT_TYPES)}")
        wanted.event_type.add(type=EVENT_TYPES[kind])
    if verdict:
        if verdict.upper() not in _VERDICTS:
            raise FilterError("verdict", f"{verdict[:100]!r} is not one of {', '.join(_VERDICTS)}")
        wanted.verdict.append(pb.Verdict.Value(verdict.upper()))
    request = observer.GetFlowsRequest(number=last, follow=follow, whitelist=[wanted] if wanted.ListFields() else [])
    if pod:
        source, destination = pb.FlowFilter(source_pod=[pod]), pb.FlowFilter(destination_pod=[pod])
        source.MergeFrom(wanted)
        destination.MergeFrom(wanted)
        del request.whitelist[:]
        request.whitelist.extend([source, destination])
    if not last and not follow:  # none at all; in a request 0 means all
        request.until.FromNanoseconds(0)
    return request


def _as_json(answer: observer.GetFlowsResponse) -> bytes:
    return json_line(answer).encode() + b"\n"


def _as_text(answer: observer.GetFlowsResponse) -> bytes:
    if answer.WhichOneof("response_types") == "lost_events":
        return (lost_line(answer) + "\n").encode()
    return (compact_line(answer.flow, _LOOK) + "\n").encode()
