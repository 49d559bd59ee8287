# SPDX-License-Identifier: Apache-2.0
"""Who reads flows as they come: so many at a time, and each only as long as it takes what it is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from meshkit.patience import within

MOST_STREAMS: Final = 64
STALLED_S: Final = 30.0
TELL_S: Final = 1.0


class FlowStream:
    """One reader. `sent` grows with each answer it took; `is_sending` while it is handed one."""

    def __init__(
        self, task: asyncio.Task[object], refuse: Callable[[str], Awaitable[object]], reader: str = ""
    ) -> None:
        self.task, self.refuse, self.reader = task, refuse, reader
        self.sent = 0
        self.is_sending = False
        self.seen, self.since_s = -1, 0.0


class FlowStreams:
    """All readers of one server; `most_of_one` of them may be one that has a name."""

    def __init__(
        self, most: int = MOST_STREAMS, stalled_s: float = STALLED_S, *, most_of_one: int | None = None
    ) -> None:
        self.most, self._stalled_s = most, stalled_s
        self.most_of_one = most if most_of_one is None else most_of_one
        self._open: set[FlowStream] = set()
        self.refused = 0
        self.cut = 0

    def __len__(self) -> int:
        return len(self._open)

    def take(self, refuse: Callable[[str], Awaitable[object]], reader: str = "") -> FlowStream | None:
        """A place for the task that runs; none where all are taken, which is counted. `refuse` ends the call with these words."""
        of_one = sum(stream.reader == reader for stream in self._open) if reader else 0
        if len(self._open) >= self.most or of_one >= self.most_of_one:
            self.refused += 1
            return None
        task = asyncio.current_task()
        assert task is not None
        stream = FlowStream(task, refuse, reader)
        self._open.add(stream)
        return stream

    def leave(self, stream: FlowStream) -> None:
        self._open.discard(stream)

    async def cut_stalled(self, now_s: float) -> None:
        """Called about once a second: who took nothing for too long loses its place, and what was kept for it is let go."""
        for stream in list(self._open):
            if not stream.is_sending or stream.sent != stream.seen:
                stream.seen, stream.since_s = stream.sent, now_s
            elif now_s - stream.since_s >= self._stalled_s:
                self.cut += 1
                self._open.discard(stream)
                await self._cut(stream)

    async def _cut(self, stream: FlowStream) -> None:
        """The client is told when it reads again; the task that waits for it is ended in any case."""
        with suppress(TimeoutError):
            await within(TELL_S, stream.refuse(f"nothing was read for {self._stalled_s:g} s"))
        stream.task.cancel()
