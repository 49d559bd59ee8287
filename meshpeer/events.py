# SPDX-License-Identifier: Apache-2.0
"""What happened to followed clusters and to the program that follows them: kept in a journal, answered at /v1/events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

import msgspec
from fastapi import Query, Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from meshapi.event import (
    EventKind,
    EventLevel,
    MeshEvent,
    MeshLook,
    event_time,
    parse_event_time,
    what_happened,
)
from meshapi.row import encode
from meshkit.clock import Clock
from meshkit.journal import ENTRIES, Journal
from meshkit.rest import NotAnswered, Rest

LOOK_S: Final = 1.0
ALIVE_S: Final = 10.0
LIMIT: Final = 500
MAX_FOLLOWERS: Final = 16
_MEDIA: Final = "application/x-ndjson"


class EventLog:
    """`look` shows the program as it is; what differs from the look before is an event of `cluster`, `program` and `node`."""

    def __init__(
        self, look: Callable[[], MeshLook], clock: Clock, *, cluster: str, program: str, node: str = ""
    ) -> None:
        self._look, self._clock = look, clock
        self._cluster, self._program, self._node = cluster, program, node
        self._before = MeshLook()
        self.journal: Journal[MeshEvent] = Journal(lambda event: len(encode(event)))

    async def run(self, version: str) -> None:
        """Look again and again, until cancelled; the first event is that the program started."""
        self._append(EventKind.PROGRAM, EventLevel.INFO, "", "start", f"started, version {version}")
        while True:
            self.look()
            await self._clock.sleep(LOOK_S)

    def look(self) -> None:
        """What changed since the look before is kept."""
        after = self._look()
        for happened in what_happened(self._before, after):
            self._append(*happened)
        self._before = after

    def _append(self, kind: EventKind, level: EventLevel, peer: str, subject: str, message: str) -> None:
        event = MeshEvent(
            time=event_time(self._clock.wall()),
            number=self.journal.count + 1,
            cluster=self._cluster,
            program=self._program,
            node=self._node,
            kind=kind,
            level=level,
            peer=peer,
            subject=subject,
            message=message,
        )
        self.journal.extend((event,))


def add_event_routes(rest: Rest, log: EventLog) -> None:
    followers = asyncio.Semaphore(MAX_FOLLOWERS)
    errors = {400: "a parameter cannot be read", 429: "too many followers"}

    @rest.get_stream("/v1/events", MeshEvent, _MEDIA, tag="events", errors=errors)
    async def events(
        *,
        since: str = "",
        kind: str = Query("", pattern=f"^({'|'.join(EventKind)})?$"),
        cluster: str = "",
        limit: int = Query(LIMIT, ge=0, le=ENTRIES),
        follow: bool = False,
    ) -> Response:
        """The newest events, oldest first, one JSON object a line. `since` is an RFC 3339 time, `cluster` any that has a part.

        `follow` keeps the answer open; an empty line now and then says that it stands.
        """
        keep = _filter(since, kind, cluster)
        shown = b"".join(_line(event) for event in log.journal.last(limit, keep))
        if not follow:
            return Response(shown, media_type=_MEDIA)
        if followers.locked():
            raise NotAnswered(429, f"{MAX_FOLLOWERS} followers are connected already")
        await followers.acquire()
        return _Follow(_stream(shown, log.journal.follow(keep)), followers)


async def _stream(shown: bytes, following: AsyncIterator[MeshEvent]) -> AsyncIterator[bytes]:
    yield shown or b"\n"
    pending = asyncio.ensure_future(anext(following))
    try:
        while True:
            done, _ = await asyncio.wait({pending}, timeout=ALIVE_S)
            if not done:
                yield b"\n"
                continue
            yield _line(pending.result())
            pending = asyncio.ensure_future(anext(following))
    finally:
        pending.cancel()


class _Follow(StreamingResponse):
    """A response that gives its place back when it ends, also when it never began."""

    def __init__(self, lines: AsyncIterator[bytes], places: asyncio.Semaphore) -> None:
        super().__init__(lines, media_type=_MEDIA)
        self._places = places

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._places.release()


def _filter(since: str, kind: str, cluster: str) -> Callable[[MeshEvent], bool]:
    try:
        first = parse_event_time(since) if since else ""
    except ValueError as exc:
        raise NotAnswered(400, f"since: {exc}") from exc

    def keep(event: MeshEvent) -> bool:
        return (
            event.time >= first
            and (not kind or event.kind == kind)
            and (not cluster or cluster in (event.cluster, event.peer))
        )

    return keep


def _line(event: MeshEvent) -> bytes:
    return msgspec.json.encode(event) + b"\n"
