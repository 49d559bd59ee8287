# SPDX-License-Identifier: Apache-2.0
"""Watches: a replay of what changed since a revision, then every change as it happens, as lines of JSON.

A watch reads from the store's history at its own pace, so a slow client costs no memory; one that falls behind what
the history keeps is told to list again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from random import Random

import orjson

from lab.devkube.api.cluster import Cluster
from lab.devkube.api.error import ApiError, Cause, bad_request, expired, invalid, too_large_revision
from lab.devkube.api.http import Request
from lab.devkube.api.objects import Obj, namespace_of
from lab.devkube.api.presentation import Form, Presentation
from lab.devkube.api.resource import ApiResource
from lab.devkube.api.selectors import Selector, parse_selector
from lab.devkube.api.store import ObjectEvent, ObjectEventType

BOOKMARK_S = 60.0
_SHORTEST_S, _LONGEST_S = 1800, 3600
_INITIAL_END = {"k8s.io/initial-events-end": "true"}


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """What the client asked for. A revision of None means: the present state first."""

    namespace: str | None
    selector: Selector
    revision: int | None
    bookmarks: bool
    initial_events: bool
    timeout_s: float


def watch_options(request: Request, namespace: str | None, resource: ApiResource, rng: Random) -> WatchOptions:
    """Raises ApiError for options that do not go together."""
    revision = parse_revision(request.text("resourceVersion"))
    initial = request.flag("sendInitialEvents")
    match = request.text("resourceVersionMatch")
    if initial and match != "NotOlderThan":
        text = "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
        cause = Cause("resourceVersionMatch", "FieldValueForbidden", text)
        raise invalid(resource, "", [cause])
    return WatchOptions(
        namespace,
        parse_selector(request.text("labelSelector"), request.text("fieldSelector")),
        None if initial else revision or None,
        request.flag("allowWatchBookmarks"),
        initial,
        request.number("timeoutSeconds") or rng.uniform(_SHORTEST_S, _LONGEST_S),
    )


def parse_revision(text: str) -> int | None:
    """None if there is none. Raises ApiError 400 for what is no revision."""
    if not text:
        return None
    if not text.isdecimal():
        raise bad_request(f"Invalid value: {text!r}: strconv.ParseUint: parsing {text!r}: invalid syntax")
    return int(text)


class Stop:
    """Ends a server's watches, all at once, at whatever they wait for."""

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        self._waiting: set[asyncio.Event] = set()

    def request(self) -> None:
        self.requested.set()
        for waiting in self._waiting:
            waiting.set()

    @contextlib.contextmanager
    def waking(self, waiting: asyncio.Event) -> Iterator[None]:
        """Within the block, a request sets this event too."""
        self._waiting.add(waiting)
        try:
            yield
        finally:
            self._waiting.discard(waiting)


class Watch:
    """One client's watch; `stop` ends it from outside."""

    def __init__(
        self, cluster: Cluster, presentation: Presentation, options: WatchOptions, stop: Stop,
        bookmark_s: float = BOOKMARK_S,
    ) -> None:  # fmt: skip
        self._cluster, self._presentation, self._options = cluster, presentation, options
        self._resource = presentation.resource
        self._stop, self._bookmark_s = stop, bookmark_s
        self._changed = asyncio.Event()
        self._sent_columns = False
        self._position = cluster.store.revision

    async def frames(self) -> AsyncIterator[bytes]:
        """Chunks of whole lines."""
        unsubscribe = self._cluster.subscribe(self._notice)
        try:
            yield self._first_frames()
            with self._stop.waking(self._changed):
                async for chunk in self._following():
                    yield chunk
        except ApiError as exc:
            yield self._line("ERROR", orjson.dumps(exc.status()))
        finally:
            unsubscribe()

    async def _following(self) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._options.timeout_s
        bookmark_at = loop.time() + self._bookmark_s
        while not self._stop.requested.is_set() and self._cluster.catalog.is_served(self._resource):
            if (left := min(end, bookmark_at) - loop.time()) > 0:
                await self._wait(left)
            if loop.time() >= end:
                return
            if chunk := self._changes():
                yield chunk
            if loop.time() >= bookmark_at:
                bookmark_at = loop.time() + self._bookmark_s
                if self._options.bookmarks:
                    yield self._bookmark()

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            pass

    def _notice(self, event: ObjectEvent) -> None:
        served = event.resource.key == self._resource.key or not self._cluster.catalog.is_served(self._resource)
        if served:
            self._changed.set()

    def _first_frames(self) -> bytes:
        store, options = self._cluster.store, self._options
        if options.revision is None:
            chosen = self._cluster.select(self._resource, options.namespace, options.selector)
            frames = [self._frame("ADDED", obj) for obj in chosen]
            if options.initial_events and options.bookmarks:
                frames.append(self._bookmark(_INITIAL_END))
            return b"".join(frames)
        if options.revision > store.revision:
            raise too_large_revision(options.revision, store.revision)
        if options.revision < store.oldest(self._resource.key):
            raise expired(options.revision, store.oldest(self._resource.key))
        self._position = options.revision
        return self._changes()

    def _changes(self) -> bytes:
        self._changed.clear()
        store = self._cluster.store
        events = store.events_since(self._resource.key, self._position)
        self._position = store.revision
        return b"".join(frame for event in events if (frame := self._event_frame(event)))

    def _event_frame(self, event: ObjectEvent) -> bytes | None:
        """None for a change that this client does not see; crossing the selection's border adds or deletes."""
        before, after = self._selects(event.old), self._selects(event.object)
        if event.type is ObjectEventType.DELETED:
            return self._frame("DELETED", event.object, event) if before or after else None
        if after:
            return self._frame("MODIFIED" if before else "ADDED", event.object, event)
        if before and event.old is not None:
            meta = {**event.old["metadata"], "resourceVersion": event.object["metadata"]["resourceVersion"]}
            return self._frame("DELETED", {**event.old, "metadata": meta})
        return None

    def _selects(self, obj: Obj | None) -> bool:
        if obj is None or self._options.namespace not in (None, namespace_of(obj)):
            return False
        return self._options.selector.matches(obj)

    def _frame(self, kind: str, obj: Obj, event: ObjectEvent | None = None) -> bytes:
        same_version = obj.get("apiVersion") == self._resource.api_version
        if event is not None and self._presentation.is_stored_form and same_version:
            return self._line(kind, event.object_json())
        shown = self._presentation.in_event(obj, first=not self._sent_columns)
        self._sent_columns = True
        return self._line(kind, orjson.dumps(shown))

    def _bookmark(self, annotations: Obj | None = None) -> bytes:
        meta: Obj = {"resourceVersion": str(self._cluster.store.revision), "creationTimestamp": None}
        if annotations:
            meta["annotations"] = annotations
        mark: Obj = {"kind": self._resource.kind, "apiVersion": self._resource.api_version, "metadata": meta}
        if self._presentation.form is Form.METADATA:  # clients that asked for metadata read nothing else
            return self._line("BOOKMARK", orjson.dumps(self._presentation.one(mark)))
        if self._resource.kind == "Pod":
            mark["spec"] = {"containers": None}
        return self._line("BOOKMARK", orjson.dumps(mark))

    @staticmethod
    def _line(kind: str, obj: bytes) -> bytes:
        return b'{"type":"%s","object":%s}\n' % (kind.encode(), obj)
