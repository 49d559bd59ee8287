# SPDX-License-Identifier: Apache-2.0
"""Who follows a REST path: how many may at a time, and that each gives its place back.

One that takes nothing of what it is sent gives its place back too, after STALLED_S: a pipe that is stopped must not keep others
out. What it has not taken stays a few hundred kilobytes at most, since nothing more is made for it meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Final

from fastapi import Response
from fastapi.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from meshkit.rest import NotAnswered

log = logging.getLogger(__name__)
STALLED_S: Final = 60.0


class Followers:
    """The followers of one path, `limit` at most. `stalled` counts those that were ended since they took nothing."""

    def __init__(self, limit: int, *, stalled_s: float = STALLED_S) -> None:
        self._limit, self._stalled_s = limit, stalled_s
        self._places = asyncio.Semaphore(limit)
        self.stalled = 0

    async def answer(self, lines: AsyncIterator[bytes], media_type: str) -> Response:
        """An answer that stays open as long as `lines` come and are taken. Raises: NotAnswered 429 when all places are taken."""
        if self._places.locked():
            raise NotAnswered(429, f"{self._limit} followers are connected already")
        await self._places.acquire()
        return _Follow(lines, media_type, self)

    async def send(self, send: Send, message: Message) -> None:
        """The message is on its way. Raises: StalledError if the follower takes nothing for `stalled_s`."""
        try:
            async with asyncio.timeout(self._stalled_s):
                await send(message)
        except TimeoutError:
            self.stalled += 1
            raise StalledError from None

    def leave(self) -> None:
        """A place is free again."""
        self._places.release()


class StalledError(Exception):
    """A follower takes nothing."""


class _Follow(StreamingResponse):
    """A response that gives its place back when it ends, also when it never began."""

    def __init__(self, lines: AsyncIterator[bytes], media_type: str, followers: Followers) -> None:
        super().__init__(lines, media_type=media_type)
        self._followers = followers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            await self._followers.send(send, message)

        try:
            await super().__call__(scope, receive, send_in_time)
        except* StalledError:
            log.info("follower that took nothing was ended", extra={"path": scope["path"]})
        finally:
            self._followers.leave()
