# SPDX-License-Identifier: Apache-2.0
"""All objects of one kind, as changes on the event loop: everything that exists, a mark, then every change.

The blocking work is in a thread of its own per reflector (`listwatch`); changes cross over in order and in batches, and
a loop that cannot follow slows the thread down instead of filling memory.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Generic, TypeAlias, TypeVar

from kube.client import KubeClient
from kube.following import Progress
from kube.listwatch import Change, Delete, ListWatch, Synced, Timing, Upsert
from kube.resource import KubeObject, Resource
from meshkit.patience import within

__all__ = ["Change", "Delete", "Handler", "Progress", "Reflector", "Synced", "Timing", "Upsert"]

T = TypeVar("T")

Handler: TypeAlias = Callable[[Sequence[Change[T]]], None]

MAX_BATCH = 1_000
MAX_WAITING = 20_000
STOP_WAIT_S = 2.0


class Reflector(Generic[T]):
    """One kind of object of one cluster, kept up to date.

    `strip` turns an object into what the program keeps of it (it may change the dict it is given); it runs in the
    reflector's thread. With `optional`, a kind that the server does not know counts as having no objects.
    """

    def __init__(
        self,
        client: KubeClient,
        resource: Resource,
        *,
        strip: Callable[[KubeObject], T],
        namespace: str | None = None,
        field_selector: str = "",
        label_selector: str = "",
        optional: bool = False,
        timing: Timing | None = None,
    ) -> None:
        self.resource, self._blocking, self._following = resource, client.transport.blocking, client.following
        self._list_watch: ListWatch[T] = ListWatch(
            client,
            resource,
            strip,
            namespace=namespace,
            field_selector=field_selector,
            label_selector=label_selector,
            optional=optional,
            timing=timing,
        )

    @property
    def progress(self) -> Progress:
        return self._list_watch.progress

    async def run(self, handler: Handler[T]) -> None:
        """Calls `handler` on this loop with each batch, until cancelled or until the handler raises. Runs once."""
        crossing = _Crossing(asyncio.get_running_loop(), handler)
        self._following.begin(self.resource.plural, self.progress)
        self._blocking.start(partial(self._work, crossing), f"reflector-{self.resource.plural}")
        try:
            await crossing.ended
        finally:
            self._following.end(self.progress)
            crossing.close()
            self._list_watch.stop()
            # a thread in the middle of a connect or a page ends by its own time-out; it can report nothing any more
            with suppress(TimeoutError):
                await within(STOP_WAIT_S, crossing.thread_done.wait())

    def _work(self, crossing: _Crossing[T]) -> None:
        try:
            self._list_watch.run(crossing.send)
        except Exception as exc:  # a bug in strip: it must end the program's task, not only this thread
            crossing.call(crossing.end, exc)
        crossing.call(crossing.thread_done.set)


class _Crossing(Generic[T]):
    """From the thread to the loop: one wake-up for however many changes are waiting."""

    def __init__(self, loop: asyncio.AbstractEventLoop, handler: Handler[T]) -> None:
        self._loop, self._handler = loop, handler
        self._waiting: list[Change[T]] = []
        self._room = threading.Condition()
        self._scheduled = self._closed = False
        self.ended: asyncio.Future[None] = loop.create_future()
        self.thread_done = asyncio.Event()

    def send(self, changes: list[Change[T]]) -> None:
        if not changes:
            return
        with self._room:
            self._room.wait_for(lambda: self._closed or len(self._waiting) < MAX_WAITING)
            if self._closed:
                return
            self._waiting += changes
            if self._scheduled:
                return
            self._scheduled = True
        self.call(self._deliver)

    def close(self) -> None:
        with self._room:
            self._closed = True
            self._waiting.clear()
            self._room.notify_all()

    def call(self, target: Callable[..., None], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(target, *args)
        except RuntimeError:  # the loop is closed: nobody listens any more
            self.close()

    def _deliver(self) -> None:
        with self._room:
            batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
            self._scheduled = bool(self._waiting)
            self._room.notify_all()
            if self._closed:
                return
        if self._scheduled:
            self._loop.call_soon(self._deliver)
        try:
            self._handler(batch)
        except Exception as exc:  # handed to whoever awaits run()
            self.end(exc)

    def end(self, exc: Exception) -> None:
        if not self.ended.done():
            self.ended.set_exception(exc)
