# SPDX-License-Identifier: Apache-2.0
"""Who follows a REST path: how many may at a time, and that each gives its place back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from fastapi import Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from meshkit.rest import NotAnswered


class Followers:
    """The followers of one path, `limit` at most."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._places = asyncio.Semaphore(limit)

    async def answer(self, lines: AsyncIterator[bytes], media_type: str) -> Response:
        """An answer that stays open as long as `lines` come. Raises: NotAnswered 429 when all places are taken."""
        if self._places.locked():
            raise NotAnswered(429, f"{self._limit} followers are connected already")
        await self._places.acquire()
        return _Follow(lines, self._places, media_type)


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
