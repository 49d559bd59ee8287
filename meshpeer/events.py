# SPDX-License-Identifier: Apache-2.0
"""What happened to followed clusters and to the program that follows them: kept in a journal, answered at /v1/events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

import msgspec
from fastapi import Query, Response

from meshapi.event import (
    EventKind,
    EventLevel,
    MeshEvent,
    MeshLook,
    event_time,
    is_asked_for,
    parse_event_time,
    what_happened,
)
from meshapi.row import encode
from meshkit.clock import Clock
from meshkit.followers import Followers
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
    followers = Followers(MAX_FOLLOWERS)
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
        first = _first(since)

        def keep(event: MeshEvent) -> bool:
            return is_asked_for(event, since=first, kind=kind, cluster=cluster)

        shown = b"".join(_line(event) for event in log.journal.last(limit, keep))
        if not follow:
            return Response(shown, media_type=_MEDIA)
        return await followers.answer(_stream(shown, log.journal.follow(keep)), _MEDIA)


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


def _first(since: str) -> str:
    try:
        return parse_event_time(since) if since else ""
    except ValueError as exc:
        raise NotAnswered(400, f"since: {exc}") from exc


def _line(event: MeshEvent) -> bytes:
    return msgspec.json.encode(event) + b"\n"
