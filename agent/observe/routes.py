# SPDX-License-Identifier: Apache-2.0
"""The REST path of flows: what was seen last, and what is seen from now on. Reads, never writes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import msgspec
from fastapi import Query, Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from agent.observe.flow import Flow
from agent.observe.ring import Filter, FlowRing
from agent.observe.text import line
from meshkit.rest import NotAnswered, Rest

LAST_DEFAULT: Final = 20
MAX_FOLLOWERS: Final = 16


def add_flow_routes(rest: Rest, ring: FlowRing) -> None:
    followers = asyncio.Semaphore(MAX_FOLLOWERS)

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

        if followers.locked():
            raise NotAnswered(429, f"{MAX_FOLLOWERS} followers are connected already")
        await followers.acquire()

        async def stream() -> AsyncIterator[bytes]:
            for flow in shown:
                yield render(flow)
            async for flow in ring.follow(keep):
                yield render(flow)

        return _Follow(stream(), followers, media)


class _Follow(StreamingResponse):
    """A response that gives its place back when it ends, also when it never began."""

    def __init__(self, lines: AsyncIterator[bytes], places: asyncio.Semaphore, media_type: str) -> None:
        super().__init__(lines, media_type=media_type)
        self._places = places

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._places.release()


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
