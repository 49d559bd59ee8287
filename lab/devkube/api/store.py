# SPDX-License-Identifier: Apache-2.0
"""Objects in memory, one revision counter, and a bounded log of changes that watches replay from.

One event loop owns a store: nothing here is safe to call from another thread.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import orjson

from lab.devkube.api.error import expired
from lab.devkube.api.objects import Obj, ObjectKey, key_of, revision_of
from lab.devkube.api.resource import ApiResource, ResourceKey

log = logging.getLogger(__name__)


class ObjectEventType(StrEnum):
    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"


@dataclass(slots=True)
class ObjectEvent:
    """One change. `object` and `old` are shared with the store and must not be altered.

    A DELETED event's object is the last state, with the revision of the deletion.
    """

    type: ObjectEventType
    resource: ApiResource
    object: Obj
    old: Obj | None = None
    _json: bytes | None = field(default=None, repr=False, compare=False)

    @property
    def revision(self) -> int:
        return revision_of(self.object)

    def object_json(self) -> bytes:
        """The object encoded once, however many watches send it."""
        if self._json is None:
            self._json = orjson.dumps(self.object)
        return self._json


Subscriber = Callable[[ObjectEvent], None]


@dataclass(slots=True)
class _History:
    """Changes of one resource. `lost` is the newest revision that a replay can no longer contain."""

    events: deque[ObjectEvent] = field(default_factory=deque)
    lost: int = 0


class ObjectStore:
    """What is true now and how it came about, per resource."""

    def __init__(self, *, keep_events: int = 10_000, first_revision: int = 1) -> None:
        self.revision = first_revision
        self._first = first_revision
        self._keep = keep_events
        self._objects: dict[ResourceKey, dict[ObjectKey, Obj]] = {}
        self._history: dict[ResourceKey, _History] = {}
        self._subscribers: list[Subscriber] = []
        self._undelivered: deque[ObjectEvent] = deque()
        self._delivering = False

    def objects(self, key: ResourceKey) -> Mapping[ObjectKey, Obj]:
        """All objects of a resource; shared, not to be altered."""
        return self._objects.get(key, {})

    def find(self, key: ResourceKey, namespace: str, name: str) -> Obj | None:
        return self._objects.get(key, {}).get((namespace, name))

    def commit(self, kind: ObjectEventType, resource: ApiResource, obj: Obj, old: Obj | None = None) -> ObjectEvent:
        """Give `obj` the next revision and make it the stored state; the store owns it from here on."""
        self.revision += 1
        obj["metadata"]["resourceVersion"] = str(self.revision)
        objects = self._objects.setdefault(resource.key, {})
        if kind is ObjectEventType.DELETED:
            objects.pop(key_of(obj), None)
        else:
            objects[key_of(obj)] = obj
        event = ObjectEvent(kind, resource, obj, old)
        history = self._history.setdefault(resource.key, _History())
        history.events.append(event)
        if len(history.events) > self._keep:
            history.lost = history.events.popleft().revision
        return event

    def events_since(self, key: ResourceKey, revision: int) -> list[ObjectEvent]:
        """Every later change in order. Raises ApiError 410 if some of them are no longer known."""
        if revision < (oldest := self.oldest(key)):
            raise expired(revision, oldest)
        history = self._history.get(key)
        if history is None:
            return []
        newest_first: list[ObjectEvent] = []
        for event in reversed(history.events):
            if event.revision <= revision:
                break
            newest_first.append(event)
        return newest_first[::-1]

    def oldest(self, key: ResourceKey) -> int:
        """The lowest revision from which nothing is missing."""
        history = self._history.get(key)
        return max(self._first, history.lost if history else 0)

    def subscribe(self, callback: Subscriber) -> Callable[[], None]:
        """Call back after every change, in order of revisions, until the returned function is called."""
        self._subscribers.append(callback)
        return lambda: self._subscribers.remove(callback)

    def publish(self, event: ObjectEvent) -> None:
        """Tell the subscribers. A change made by a subscriber is told to everybody after the present one."""
        self._undelivered.append(event)
        if self._delivering:
            return
        self._delivering = True
        try:
            while self._undelivered:
                self._deliver(self._undelivered.popleft())
        finally:
            self._delivering = False

    def _deliver(self, event: ObjectEvent) -> None:
        for callback in tuple(self._subscribers):
            try:
                callback(event)
            except Exception as exc:
                log.exception("subscriber failed", extra={"key": event.resource.plural, "error": repr(exc)})
