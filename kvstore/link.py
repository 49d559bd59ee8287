# SPDX-License-Identifier: Apache-2.0
"""One channel with the certificates it was made with, and when it may be closed after another one took its place."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from kvstore.channel import open_channel
from kvstore.methods import Methods
from kvstore.options import Options, Tls


class StoreLink:
    """Calls go through `methods`. `streams` are open; a retired link is closed when the last of them ended."""

    def __init__(self, targets: Sequence[str], tls: Tls | None, options: Options) -> None:
        self.tls, self._options = tls, options
        self.channel = open_channel(targets, tls, options)
        self.methods = Methods(self.channel)
        self.streams = 0
        self._is_retired = False
        self._closing: asyncio.Task[None] | None = None

    @contextmanager
    def stream(self) -> Iterator[Methods]:
        """The link is not closed by `retire` inside."""
        self.streams += 1
        try:
            yield self.methods
        finally:
            self.streams -= 1
            self._close_if_idle()

    def retire(self) -> None:
        """No call begins on it any more; those under way end first."""
        self._is_retired = True
        self._close_if_idle()

    @property
    def is_closed(self) -> bool:
        """Whether a retired link has gone."""
        return self._closing is not None and self._closing.done()

    async def close(self) -> None:
        """No call is under way and none can be made."""
        if self._closing is not None:
            self._closing.cancel()
            await asyncio.wait([self._closing])
        await self.channel.close()

    def _close_if_idle(self) -> None:
        if self._is_retired and not self.streams and self._closing is None:
            grace_s = self._options.list_timeout_s  # no call but a stream takes longer
            self._closing = asyncio.create_task(self.channel.close(grace_s), name="close replaced channel")
