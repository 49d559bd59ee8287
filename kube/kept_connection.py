# SPDX-License-Identifier: Apache-2.0
"""Connections that are kept for the next request, and which request may have one that may be closed by now.

A server closes a kept connection when it likes: after a time of silence, or because it ends. A request that meets the
close gets no answer, and nobody can tell it from one that was carried out. What may be done twice is sent again by
`kube.transport`; a POST may not, and gets a connection that was heard just now, or a new one.
"""

from __future__ import annotations

import http.client
import threading
import time
from dataclasses import dataclass
from typing import Any, Final

import urllib3
from urllib3.connection import HTTPConnection
from urllib3.response import HTTPResponse

KEPT_FOR_POST_S: Final = 1.0
"""How long after its last answer a connection is trusted with a POST; servers wait for a minute and more before they close."""


@dataclass(slots=True)
class Exchange:
    """One request: whether it needs a connection nobody used before; afterwards, whether it had a used one."""

    method: str
    needs_new: bool = False
    was_kept: bool = False

    def takes(self, silent_s: float) -> bool:
        """Whether it may have a connection that was last heard so long ago."""
        return not self.needs_new and (self.method != "POST" or silent_s <= KEPT_FOR_POST_S)


class _Current(threading.local):
    exchange: Exchange | None = None


_current: Final = _Current()


class exchanging:  # noqa: N801 - reads as a verb where it is used
    """Within the block, connections of this thread are chosen for this exchange."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def __enter__(self) -> None:
        _current.exchange = self._exchange

    def __exit__(self, *_: object) -> None:
        _current.exchange = None


class _BoundedHead(http.client.HTTPResponse):
    """The socket's limit is for the whole head of an answer; the library has it for each piece that arrives."""

    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._socket = sock

    def begin(self) -> None:
        """Read status and headers. Raises: TimeoutError where they are not complete in time."""
        limit_s = self._socket.gettimeout()
        if limit_s is None:
            super().begin()
            return
        raw: Any = self.fp.raw  # of a buffered reader, which makefile gives
        read, deadline_s = raw.readinto, time.monotonic() + limit_s

        def read_in_time(buffer: Any) -> int | None:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError("timed out")
            self._socket.settimeout(left_s)
            return read(buffer)  # type: ignore[no-any-return]

        raw.readinto = read_in_time
        try:
            super().begin()
        finally:
            del raw.readinto
            self._socket.settimeout(limit_s)


class _KeptConnection(HTTPConnection):
    """Knows when it was last heard. A pool closes a connection that says it is not connected, and opens it anew."""

    response_class = _BoundedHead
    _heard_s: float | None = None

    @property
    def is_connected(self) -> bool:
        exchange = _current.exchange
        if exchange is not None and self._heard_s is not None and not exchange.takes(time.monotonic() - self._heard_s):
            return False
        return super().is_connected

    def request(self, *args: Any, **kwargs: Any) -> None:
        if _current.exchange is not None:
            _current.exchange.was_kept = self._heard_s is not None
        super().request(*args, **kwargs)

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # as urllib3 itself has it
        response = super().getresponse()
        self._heard_s = time.monotonic()
        return response

    def close(self) -> None:
        self._heard_s = None
        super().close()


def keep_account(pool: urllib3.PoolManager) -> None:
    """From now on connections of this pool are chosen by the exchange that wants one."""
    kept: dict[str, Any] = {}
    pool_class: Any
    for scheme, pool_class in pool.pool_classes_by_scheme.items():
        connection = type("KeptConnection", (_KeptConnection, pool_class.ConnectionCls), {})
        kept[scheme] = type("KeptPool", (pool_class,), {"ConnectionCls": connection})
    pool.pool_classes_by_scheme = kept
