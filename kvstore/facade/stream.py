# SPDX-License-Identifier: Apache-2.0
"""One Watch call of one client: any number of watches, one reader of requests, one writer of answers."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Coroutine
from contextlib import aclosing
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from kvstore.errors import KvError
from kvstore.facade.connections import Connection
from kvstore.facade.grant import ClientLimits, Grant
from kvstore.facade.hub import Hub, HubPool
from kvstore.facade.upstream import Upstream
from kvstore.facade.watcher import NO_WATCH_ID, Watcher
from kvstore.proto import rpc_pb2 as pb
from meshkit.clock import Clock

log = logging.getLogger(__name__)

DENIED_REASON: Final = "rpc error: code = PermissionDenied desc = etcdserver: permission denied"
BUSY_REASON: Final = "rpc error: code = ResourceExhausted desc = etcdserver: too many requests"
DUPLICATE_REASON: Final = "mvcc: duplicate watch ID provided on the WatchStream"
STALLED: Final = "etcdserver: client does not read"

# quoted: the class takes parameters in its stubs only
StreamContext: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"


class WatchStream:
    """Serves one Watch call until the client leaves, or `end` is called."""

    def __init__(
        self,
        context: StreamContext,
        connection: Connection,
        upstream: Upstream,
        hubs: HubPool,
        *,
        limits: ClientLimits,
        clock: Clock,
    ) -> None:
        self._context, self._connection, self._upstream, self._hubs = context, connection, upstream, hubs
        self._limits, self._clock = limits, clock
        self._watchers: dict[int, Watcher] = {}
        self._private: dict[int, asyncio.Task[None]] = {}
        self._control: deque[bytes] = deque()
        self._control_bytes, self._writing_since = 0, math.inf
        self._wake, self._has_room = asyncio.Event(), asyncio.Event()
        self._ended: asyncio.Future[tuple[grpc.StatusCode, str]] = asyncio.get_running_loop().create_future()
        self._next_id = 0

    @property
    def _grant(self) -> Grant:
        return self._connection.grant

    def end(self, code: grpc.StatusCode, text: str) -> None:
        """The call ends with this status, at once, whatever the client does."""
        if not self._ended.done():
            self._ended.set_result((code, text))

    async def serve(self) -> None:
        """The call is over; raises what `context.abort` raises if it was ended by us."""
        connection, tasks = self._connection, list[asyncio.Task[None]]()
        connection.begin(self)
        connection.streams += 1
        connection.client.streams += 1
        try:
            # sent first, since a call whose first answer is cut short could not be given a status any more
            await self._context.send_initial_metadata(())
            parts = (self._read_requests(), self._write_answers(), self._tell_progress(), self._end_if_stalled())
            tasks = [self._start(part, "watch") for part in parts]
            await asyncio.wait([self._ended])
        finally:
            tasks += self._private.values()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for watch_id in list(self._watchers):
                self._forget(watch_id)
            connection.streams -= 1
            connection.client.streams -= 1
            connection.finish(self)
        await self._context.abort(*self._ended.result())

    # ---- requests

    async def _read_requests(self) -> None:
        while True:
            raw = await self._context.read()
            if not isinstance(raw, bytes):
                return  # the client sends no more requests, and still wants answers
            await self._connection.client.requests.take()
            try:
                request = pb.WatchRequest.FromString(raw)
            except DecodeError:
                self.end(grpc.StatusCode.INTERNAL, "grpc: error unmarshalling request")
                return
            match request.WhichOneof("request_union"):
                case "create_request":
                    await self._create(request.create_request)
                case "cancel_request":
                    self._cancel(request.cancel_request.watch_id)
                case "progress_request":
                    self._answer(pb.WatchResponse(header=self._header(self._progress()), watch_id=NO_WATCH_ID))
            await self._wait_for_room()

    async def _wait_for_room(self) -> None:
        limits = self._limits
        while len(self._control) >= limits.control_messages or self._control_bytes >= limits.control_bytes:
            self._has_room.clear()
            await self._has_room.wait()

    async def _create(self, request: pb.WatchCreateRequest) -> None:
        request.key = request.key or b"\0"
        refusal, known = self._refusal(request), self._upstream.header
        is_ahead = not 0 < request.start_revision <= known.revision + 1
        if not known.cluster_id or (is_ahead and not refusal):
            await self._upstream.refresh()  # the answer's header says where the store is now
            refusal = refusal or self._refusal(request)  # other streams of the client may have begun watches meanwhile
        if refusal:
            self._answer(
                pb.WatchResponse(
                    header=self._header(), watch_id=NO_WATCH_ID, created=True, canceled=True, cancel_reason=refusal
                )
            )
            return
        start = request.start_revision if request.start_revision > 0 else self._upstream.header.revision + 1
        watcher = Watcher(self._new_id(request.watch_id), request, start)
        self._watchers[watcher.id] = watcher
        self._connection.watches += 1
        self._connection.client.watches += 1
        hub = None if request.prev_kv else await self._hub(request)
        if watcher.id not in self._watchers:
            return
        self._answer(pb.WatchResponse(header=self._header(), watch_id=watcher.id, created=True))
        if hub is not None and hub.can_serve(start):
            self._attach(watcher, hub)
        else:
            self._go_private(watcher)

    def _refusal(self, request: pb.WatchCreateRequest) -> str:
        if not self._grant.covers(request.key, request.range_end):
            return DENIED_REASON
        if request.watch_id > 0 and request.watch_id in self._watchers:
            return DUPLICATE_REASON
        limits, client = self._limits, self._connection.client
        if len(self._watchers) < limits.watches_per_stream and client.watches < limits.watches_per_client:
            return ""
        client.refuse("watches")
        return BUSY_REASON

    def _new_id(self, wanted: int) -> int:
        if wanted > 0:
            return wanted
        while self._next_id in self._watchers:
            self._next_id += 1
        watch_id, self._next_id = self._next_id, self._next_id + 1
        return watch_id

    def _cancel(self, watch_id: int) -> None:
        if watch_id in self._watchers:
            self._forget(watch_id)
            self._answer(pb.WatchResponse(header=self._header(), watch_id=watch_id, canceled=True))

    # ---- answers

    async def _write_answers(self) -> None:
        in_flight = self._connection.client.in_flight
        while True:
            self._wake.clear()
            while self._control:
                await in_flight.wait_for_room()
                message = self._control.popleft()
                self._control_bytes -= len(message)
                self._has_room.set()
                await self._send(message)
            is_idle = True
            for watcher in list(self._watchers.values()):
                await in_flight.wait_for_room()
                found = self._next_message(watcher)
                if found is not None:
                    is_idle = False
                    watcher.idle_since = self._clock.monotonic()
                    await self._send(found)
            if is_idle and not self._wake.is_set():
                await self._wake.wait()

    def _next_message(self, watcher: Watcher) -> bytes | None:
        if watcher.hub is None or watcher.id not in self._watchers:
            return None
        if watcher.hub.ended is not None:
            self.end(grpc.StatusCode.UNAVAILABLE, f"etcdserver: {watcher.hub.ended}")
            return None
        if watcher.is_too_slow:
            self._detach(watcher)
            self._go_private(watcher)
            return None
        return watcher.take()

    async def _tell_progress(self) -> None:
        """Watches that asked for it and had nothing for a while are told how far they are, again and again."""
        while True:
            await self._clock.sleep(self._limits.progress_s)
            before = self._clock.monotonic() - self._limits.progress_s / 2
            for watcher in self._watchers.values():
                hub = watcher.hub
                if not watcher.request.progress_notify or hub is None or watcher.idle_since > before:
                    continue
                if watcher.cursor == hub.end:  # else it would be told of changes it was not given yet
                    self._answer(pb.WatchResponse(header=self._header(hub.synced), watch_id=watcher.id))

    async def _end_if_stalled(self) -> None:
        """A client that takes no message for a while is sent away: what waits for it is memory of ours."""
        while self._clock.monotonic() - self._writing_since < self._limits.stalled_s:
            await self._clock.sleep(self._limits.stalled_s / 4)
        self._connection.client.refuse("time to read one message")
        self.end(grpc.StatusCode.UNAVAILABLE, STALLED)

    async def _send(self, message: bytes) -> None:
        in_flight, self._writing_since = self._connection.client.in_flight, self._clock.monotonic()
        in_flight.add(len(message))
        try:
            await self._context.write(message)
        finally:
            in_flight.add(-len(message))
            self._writing_since = math.inf
        delay_s = self._connection.charge(len(message))
        if delay_s > 0:
            await self._clock.sleep(delay_s)

    def _answer(self, message: pb.WatchResponse) -> None:
        self._push(message.SerializeToString())

    def _push(self, raw: bytes) -> None:
        self._control.append(raw)
        self._control_bytes += len(raw)
        self._wake.set()

    def _header(self, revision: int | None = None) -> pb.ResponseHeader:
        return self._upstream.header_at(self._upstream.header.revision if revision is None else revision)

    def _progress(self) -> int:
        """A revision up to which every watch of this stream has been given everything."""
        positions = [
            watcher.hub.synced
            if watcher.hub is not None and watcher.cursor == watcher.hub.end
            else watcher.next_revision - 1
            for watcher in self._watchers.values()
        ]
        return min(positions, default=self._upstream.header.revision)

    # ---- where watches get their messages

    async def _hub(self, request: pb.WatchCreateRequest) -> Hub | None:
        owner = None if self._grant.is_per_address else self._connection.client.name
        return await self._hubs.hub(request.key, request.range_end, owner=owner)

    def _attach(self, watcher: Watcher, hub: Hub) -> None:
        watcher.attach(hub)
        hub.join(self._wake.set)
        self._wake.set()

    def _detach(self, watcher: Watcher) -> None:
        hub, watcher.hub = watcher.hub, None
        if hub is not None and all(other.hub is not hub for other in self._watchers.values()):
            hub.leave(self._wake.set)

    def _go_private(self, watcher: Watcher) -> None:
        """An upstream watch of its own, for history older than the shared one and for previous values."""
        connection, client, limits = self._connection, self._connection.client, self._limits
        if (
            connection.private_watches >= limits.private_watches_per_connection
            or client.private_watches >= limits.private_watches_per_client
        ):
            client.refuse("watches of old history or previous values")
            self.end(grpc.StatusCode.RESOURCE_EXHAUSTED, "etcdserver: too many requests")
            return
        connection.private_watches += 1
        client.private_watches += 1
        self._private[watcher.id] = self._start(self._follow(watcher), "private watch")

    async def _follow(self, watcher: Watcher) -> None:
        request = pb.WatchCreateRequest()
        request.CopyFrom(watcher.request)
        request.watch_id, request.fragment, request.start_revision = 0, False, watcher.next_revision
        request.progress_notify = True  # also tells when the watch has caught up and can be shared
        async with aclosing(self._upstream.watch(request)) as answers:
            async for raw, answer in answers:
                if answer.created:
                    continue
                is_progress = not answer.events and not answer.canceled
                if not is_progress or watcher.request.progress_notify:
                    await self._wait_for_room()
                    self._push(watcher.rewrap(raw))
                if answer.canceled:
                    self._forget(watcher.id)
                    return
                last = answer.header.revision if is_progress else answer.events[-1].kv.mod_revision
                watcher.next_revision = max(watcher.next_revision, last + 1)
                if await self._share(watcher):
                    return

    async def _share(self, watcher: Watcher) -> bool:
        """True if the watch has caught up with the shared history and goes on from there."""
        if watcher.request.prev_kv:
            return False
        hub = await self._hub(watcher.request)
        if hub is None or not hub.can_serve(watcher.next_revision) or watcher.id not in self._watchers:
            return False
        self._attach(watcher, hub)
        self._end_private(watcher.id)
        return True

    def _forget(self, watch_id: int) -> None:
        watcher = self._watchers.pop(watch_id)
        self._connection.watches -= 1
        self._connection.client.watches -= 1
        self._detach(watcher)
        self._end_private(watch_id)

    def _end_private(self, watch_id: int) -> None:
        task = self._private.pop(watch_id, None)
        if task is not None:
            self._connection.private_watches -= 1
            self._connection.client.private_watches -= 1
            if task is not asyncio.current_task():
                task.cancel()

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=f"facade {name} {self._connection.address}")
        task.add_done_callback(self._on_done)
        return task

    def _on_done(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, KvError):
            self.end(grpc.StatusCode.UNAVAILABLE, f"etcdserver: {error}")
        elif error is not None:
            log.debug("watch stream broke", extra={"peer": self._grant.name, "error": repr(error)})
            self.end(grpc.StatusCode.UNAVAILABLE, "etcdserver: stream broken")
