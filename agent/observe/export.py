# SPDX-License-Identifier: Apache-2.0
"""Flows of this node for whoever collects them: which, by the same filters and fields for every place that gets them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

import msgspec

from agent.settings import AgentSettings
from flows.answer import answers
from flows.document import read_json
from flows.errors import RequestError
from flows.live import LiveFlows
from flows.proto import flow_pb2 as pb
from flows.proto import observer_pb2 as observer
from flows.request import check_request
from flows.ring import Decode, Lost
from meshkit.health import Health


class FlowSink(Protocol):
    """A place that gets flows. `name` is what health and metrics call it, `place` what people know it by."""

    name: str
    place: str

    def send(self, found: Sequence[observer.GetFlowsResponse]) -> None:
        """They are there. Called in a thread, one call at a time. Raises: OSError with the reason."""
        ...

    def close(self) -> None:
        """Nothing is held open."""
        ...


def export_request(settings: AgentSettings) -> observer.GetFlowsRequest:
    """What `--flow-export-*` asks for. Raises: RequestError, FilterError for filters and fields that mean nothing."""
    request = observer.GetFlowsRequest(
        follow=True,
        whitelist=_filters("--flow-export-allowlist", settings.flow_export_allowlist),
        blacklist=_filters("--flow-export-denylist", settings.flow_export_denylist),
    )
    request.field_mask.paths.extend(settings.flow_export_fields)
    check_request(request)
    return request


class FlowExport:
    """One place with a reader of the ring of its own, so that a slow one holds up no other."""

    def __init__(self, sink: FlowSink, request: observer.GetFlowsRequest, decode: Decode, health: Health) -> None:
        self.sink, self._request, self._decode, self._health = sink, request, decode, health
        self.sent = self.unsent = 0

    async def run(self, flows: LiveFlows) -> None:
        """Until cancelled. A place that takes nothing is told and tried again; the flows that it missed are counted."""
        answer = answers(self._decode, flows.node_name, self._request.field_mask)
        try:
            async for found in flows.steps(flows.read(self._request)):
                if found:
                    number = sum(1 for item, _ in found if not isinstance(item, Lost))
                    await self._send([answer(item, position) for item, position in found], number)
                await asyncio.sleep(0)
        finally:
            self.sink.close()

    async def _send(self, found: Sequence[observer.GetFlowsResponse], number: int) -> None:
        try:
            await asyncio.to_thread(self.sink.send, found)
        except OSError as exc:
            self.unsent += number
            self._health.degraded(self.sink.name, f"{self.sink.place}: {exc.strerror or exc}")
        else:
            self.sent += number
            self._health.ok(self.sink.name)


def _filters(flag: str, text: str) -> list[pb.FlowFilter]:
    """The filters of a JSON list. Raises: RequestError."""
    if not text:
        return []
    try:
        parts = msgspec.json.decode(text, type=list[msgspec.Raw])
    except msgspec.DecodeError as exc:
        raise RequestError(f'{flag}: {exc}: write a list of filters, as [{{"verdict": ["DROPPED"]}}]') from exc
    return [read_json(bytes(part), pb.FlowFilter(), flag) for part in parts]
