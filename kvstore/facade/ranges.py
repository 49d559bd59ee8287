# SPDX-License-Identifier: Apache-2.0
"""Range calls: which are answered, at what cost to the client's limits, and how a revocation ends one under way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from typing import Final, TypeAlias

import grpc
import grpc.aio

from kvstore.facade.connections import Connection
from kvstore.facade.grant import ClientLimits
from kvstore.facade.upstream import Upstream
from kvstore.proto import rpc_pb2 as pb
from meshkit.clock import Clock

MAX_RANGE_S: Final = 30.0

# quoted: the class takes parameters in its stubs only
RangeContext: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"


class Ranges:
    """Answers Range requests that the grant covers already; the caller has counted the request."""

    def __init__(self, upstream: Upstream, limits: ClientLimits, clock: Clock) -> None:
        self._upstream, self._limits, self._clock = upstream, limits, clock
        self._unpaged = asyncio.Semaphore(limits.unpaged_at_once)

    async def serve(self, request: pb.RangeRequest, connection: Connection, context: RangeContext) -> bytes:
        """etcd's own answer, with at most a page of keys if the client asked for pages.

        Raises: AioRpcError with what the client is to be told.
        """
        call = _Call()
        connection.begin(call)
        connection.ranges += 1
        try:
            return await call.run(self._ask(request, connection, context))
        finally:
            connection.ranges -= 1
            connection.finish(call)

    async def _ask(self, request: pb.RangeRequest, connection: Connection, context: RangeContext) -> bytes:
        """The client waits in its own places for what it used before, and takes one that all share only to ask."""
        client, remaining_s, whole = connection.client, context.time_remaining(), reads_whole_range(request)
        timeout_s = MAX_RANGE_S if remaining_s is None else min(remaining_s, MAX_RANGE_S)
        request.limit = min(request.limit, self._limits.page_size)
        async with AsyncExitStack() as slots:
            await slots.enter_async_context(client.ranges_at_once)
            if whole:
                await slots.enter_async_context(client.unpaged_at_once)
            await client.bytes.take(0)
            await client.etcd_time.take(0)
            await client.in_flight.wait_for_room()
            if whole:
                await slots.enter_async_context(self._unpaged)
            began = self._clock.monotonic()
            try:
                answer = await self._upstream.range(request.SerializeToString(), timeout_s)
            finally:
                client.etcd_time.reserve(self._clock.monotonic() - began)
            connection.charge(len(answer))  # before the next one is let into the place
            client.in_flight.add(len(answer))
            context.add_done_callback(lambda _: client.in_flight.add(-len(answer)))  # type: ignore[arg-type]
            return answer


def reads_whole_range(request: pb.RangeRequest) -> bool:
    """True if etcd has to hold every key of the range, with its value, to answer.

    A limit does not help when the order or the revisions are chosen: etcd reads all, sorts, and cuts then.
    """
    if not request.range_end or request.count_only:
        return False
    by_key = request.sort_order == pb.RangeRequest.NONE
    by_revision = (
        request.min_mod_revision
        or request.max_mod_revision
        or request.min_create_revision
        or request.max_create_revision
    )
    return request.limit <= 0 or not by_key or bool(by_revision)


class _Call:
    """One Range call under way, so that a revocation can end it."""

    def __init__(self) -> None:
        self._task: asyncio.Task[bytes] | None = None
        self._reason: tuple[grpc.StatusCode, str] | None = None

    async def run(self, work: Awaitable[bytes]) -> bytes:
        self._task = asyncio.ensure_future(work)
        try:
            return await self._task
        except asyncio.CancelledError:
            if self._reason is None:
                raise
            code, text = self._reason
            raise grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details=text) from None

    def end(self, code: grpc.StatusCode, text: str) -> None:
        self._reason = (code, text)
        if self._task is not None:
            self._task.cancel()
