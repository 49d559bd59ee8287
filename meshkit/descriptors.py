# SPDX-License-Identifier: Apache-2.0
"""Waiting for a descriptor that does not block. The event loop watches it only meanwhile.

One that is watched by a reader who does something else has the loop turn without end for as long as there is
something to read.
"""

from __future__ import annotations

import asyncio
from typing import Protocol


class HasDescriptor(Protocol):
    def fileno(self) -> int: ...


async def readable(descriptor: int | HasDescriptor) -> None:
    """Until there is something to read, or its end. One task at a time may wait for a descriptor."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(descriptor, _settle, ready)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)


async def writable(descriptor: int | HasDescriptor) -> None:
    """Until it takes something, or nobody reads it any more. One task at a time may wait for a descriptor."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_writer(descriptor, _settle, ready)
    try:
        await ready
    finally:
        loop.remove_writer(descriptor)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
