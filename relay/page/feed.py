# SPDX-License-Identifier: Apache-2.0
"""A reader's flows as server-sent events: batches, what became of nodes, what was lost, and a sign of life."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Final

from flows.errors import FilterError, RequestError
from flows.proto import observer_pb2 as observer
from flows.proto import relay_pb2 as relay
from meshapi.page import FlowBatch
from meshapi.row import encode
from meshkit.patience import within
from relay.page.flow_rows import flow_row

GATHER_S: Final = 0.1
"""How long flows that come one after the other are gathered into one event."""
LARGEST: Final = 500
"""Flows of one event."""
BEAT_S: Final = 5.0
"""How often a reader hears something where nothing happens."""
_WAITING: Final = 2048
_Answers = AsyncGenerator[observer.GetFlowsResponse, None]


async def events(answers: _Answers) -> AsyncGenerator[bytes, None]:
    """Events until the answers end. A request that is refused is told as an event, since a browser shows no other answer."""
    queue: asyncio.Queue[observer.GetFlowsResponse | Exception | None] = asyncio.Queue(_WAITING)
    pump = asyncio.create_task(_pump(answers, queue), name="flows of a page")
    try:
        yield event("begin", {})
        while True:
            try:
                first = await within(BEAT_S, queue.get())
            except TimeoutError:
                yield event("beat", {})
                continue
            await asyncio.sleep(GATHER_S)
            batch = [first]
            while not queue.empty() and len(batch) < LARGEST:
                batch.append(queue.get_nowait())
            for told in _told(batch):
                yield told
            if batch[-1] is None or isinstance(batch[-1], Exception):
                return
    finally:
        pump.cancel()
        with suppress(asyncio.CancelledError):
            await pump


def event(name: str, data: object) -> bytes:
    """One event; its data is JSON in one line."""
    return b"event: " + name.encode() + b"\ndata: " + encode(data) + b"\n\n"


async def _pump(answers: _Answers, queue: asyncio.Queue[observer.GetFlowsResponse | Exception | None]) -> None:
    try:
        async with aclosing(answers):
            async for answer in answers:
                await queue.put(answer)
        await queue.put(None)
    except (FilterError, RequestError) as exc:
        await queue.put(exc)


def _told(batch: list[observer.GetFlowsResponse | Exception | None]) -> list[bytes]:
    found, rows, lost = [], [], 0
    for item in batch:
        if item is None:
            continue
        if isinstance(item, Exception):
            found.append(event("refused", {"message": str(item)}))
            continue
        match item.WhichOneof("response_types"):
            case "flow":
                rows.append(flow_row(item.flow))
            case "lost_events":
                lost += item.lost_events.num_events_lost
            case "node_status":
                found.append(event("nodes", _node_event(item.node_status)))
    if rows:
        found.append(event("flows", FlowBatch(flows=rows)))
    if lost:
        found.append(event("lost", {"number": lost}))
    return found


def _node_event(told: relay.NodeStatusEvent) -> dict[str, object]:
    state = relay.NodeState.Name(told.state_change).removeprefix("NODE_").lower()
    return {"state": state, "nodes": list(told.node_names), "message": told.message[:500]}
