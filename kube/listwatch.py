# SPDX-License-Identifier: Apache-2.0
"""List, then watch, then list again when the server has forgotten where we were. Runs in a thread of its own.

What must hold: nothing that was reported is ever silently forgotten (what vanished while we were away is reported as
deleted after the next listing), nothing is reported twice for one resource version, and a server that is down costs a
few attempts a minute.
Source: spec of the Kubernetes API, "Efficient detection of changes".
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

import orjson

from kube.client import PAGE_SIZE, KubeClient
from kube.errors import Gone, KubeError, NotFound, ServerFailed, Silent, Unreachable, error_for
from kube.following import Progress
from kube.resource import KubeObject, Resource, object_key
from kube.transport import LineStream

log = logging.getLogger(__name__)

T = TypeVar("T")

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
MAX_LINE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Upsert(Generic[T]):
    """The object exists and looks like this."""

    key: str
    obj: T


@dataclass(frozen=True, slots=True)
class Delete(Generic[T]):
    """The object is gone; this is how it looked last."""

    key: str
    obj: T


@dataclass(frozen=True, slots=True)
class Synced:
    """Everything that existed at the first listing has been reported."""


Change: TypeAlias = Upsert[T] | Delete[T] | Synced
Emit: TypeAlias = Callable[[list["Change[T]"]], None]


@dataclass(frozen=True, slots=True)
class Timing:
    """How patient a reflector is. Units: seconds."""

    minimum_backoff_s: float = 0.5
    maximum_backoff_s: float = 30.0
    minimum_watch_s: float = 1.0
    watch_s: tuple[int, int] = (300, 600)
    silence_s: float = (
        90.0  # then the watch is asked for again: a server that is there answers, however quiet the kind is
    )
    absent_s: float = 10.0  # of a kind that comes later, objects count from then on: policies are among them


class ListWatch(Generic[T]):
    """The thread's side of one reflector."""

    def __init__(
        self,
        client: KubeClient,
        resource: Resource,
        strip: Callable[[KubeObject], T],
        *,
        namespace: str | None = None,
        field_selector: str = "",
        label_selector: str = "",
        optional: bool = False,
        timing: Timing | None = None,
    ) -> None:
        self._client, self._resource, self._strip = client, resource, strip
        self._namespace, self._optional = namespace, optional
        self._selectors = {"fieldSelector": field_selector, "labelSelector": label_selector}
        self._timing, self._blocking = timing or Timing(), client.transport.blocking
        self._known: dict[str, tuple[str, T]] = {}
        self._stop = self._blocking.make_flag()
        self._stream: LineStream | None = None
        self._delay_s = self._timing.minimum_backoff_s
        self.progress = Progress()

    def stop(self) -> None:
        """`run` returns soon, from whatever it is doing."""
        self._stop.set()
        stream = self._stream
        if stream is not None:
            stream.stop()

    def run(self, emit: Emit[T]) -> None:
        """Reports until `stop`. A failure of the server is never raised, only waited out."""
        while not self._stop.is_set():
            started = self._blocking.monotonic()
            try:
                if not self.progress.resource_version:
                    self._list(emit)
                self._watch(emit)
            except Gone as exc:
                self._note(exc)
                self.progress.resource_version = ""
            except NotFound as exc:
                self._absent(exc, emit)
            except KubeError as exc:
                self._fail(exc)
            else:
                self._delay_s = self._timing.minimum_backoff_s
            self._stop.wait(
                max(0.0, self._timing.minimum_watch_s * self._jitter() - (self._blocking.monotonic() - started))
            )

    def _list(self, emit: Emit[T]) -> None:
        self.progress.lists += 1
        seen: set[str] = set()
        version = ""
        for page in self._client.pages(
            self._resource,
            self._namespace,
            field_selector=self._selectors["fieldSelector"],
            label_selector=self._selectors["labelSelector"],
            limit=PAGE_SIZE,
        ):
            if self._stop.is_set():
                return
            version = version or str(page["metadata"].get("resourceVersion") or "")
            changes: list[Change[T]] = []
            for obj in page["items"] or ():
                seen.add(object_key(obj))
                changes += self._upsert(obj)
            emit(changes)
        gone: list[Change[T]] = [
            Delete(key, self._known.pop(key)[1]) for key in [key for key in self._known if key not in seen]
        ]
        self._connected(version)
        self._mark_synced(gone)
        emit(gone)

    def _watch(self, emit: Emit[T]) -> None:
        if self._stop.is_set():
            return
        query: dict[str, str | int] = {name: value for name, value in self._selectors.items() if value}
        query |= {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self.progress.resource_version,
            "timeoutSeconds": self._blocking.rng.randint(*self._timing.watch_s),
        }
        path = self._resource.path(self._namespace)
        stream = self._client.transport.stream(path, query=query, read_timeout_s=self._timing.silence_s)
        self._stream = stream
        self._connected(self.progress.resource_version)
        try:
            if self._stop.is_set():  # stop() may have come before there was a stream to wake
                return
            for lines in _lines(stream):
                if self._stop.is_set():
                    return
                self._take(lines, emit)
        except Silent:  # no failure: bookmarks come only where the revision moved
            return
        except Unreachable:
            if not self._stop.is_set():
                raise
        finally:
            self._stream = None
            stream.close()

    def _take(self, lines: list[bytes], emit: Emit[T]) -> None:
        changes: list[Change[T]] = []
        try:
            for line in lines:
                changes += self._event(line)
        finally:
            if changes:
                emit(changes)
        self._delay_s = self._timing.minimum_backoff_s

    def _event(self, line: bytes) -> list[Change[T]]:
        try:
            event = orjson.loads(line)
            kind, obj = event["type"], event["object"]
            if kind == "ERROR":
                code, reason = int(obj.get("code") or 0), str(obj.get("reason") or "")
                raise error_for(f"watch {self._resource.plural}", code or 500, reason, str(obj.get("message") or ""))
            version = str(obj["metadata"]["resourceVersion"])
            if kind == "BOOKMARK":
                changes: list[Change[T]] = []
            elif kind == "DELETED":
                changes = self._delete(obj)
            else:
                changes = self._upsert(obj)
        except (orjson.JSONDecodeError, KeyError, TypeError) as exc:
            raise ServerFailed(f"watch {self._resource.plural}", reason="BadEvent", detail=repr(exc)) from exc
        self.progress.resource_version = version
        return changes

    def _upsert(self, obj: KubeObject) -> list[Change[T]]:
        key, meta = object_key(obj), obj["metadata"]
        version = str(meta.get("resourceVersion", ""))
        known = self._known.get(key)
        if known is not None and known[0] == version:
            return []
        obj.setdefault("kind", self._resource.kind)
        obj.setdefault("apiVersion", self._resource.api_version)
        meta.pop("managedFields", None)
        annotations = meta.get("annotations")
        if annotations:
            annotations.pop(LAST_APPLIED, None)
        stripped = self._strip(obj)
        self._known[key] = (version, stripped)
        return [Upsert(key, stripped)]

    def _delete(self, obj: KubeObject) -> list[Change[T]]:
        key = object_key(obj)
        known = self._known.pop(key, None)
        return [Delete(key, known[1])] if known is not None else []

    def _mark_synced(self, changes: list[Change[T]]) -> None:
        if not self.progress.synced:
            self.progress.synced = True
            changes.append(Synced())

    def _absent(self, exc: KubeError, emit: Emit[T]) -> None:
        """The kind itself is not there: for an optional kind that is an answer, the same as there being no objects."""
        self.progress.resource_version = ""
        if not self._optional:
            self._fail(exc)
            return
        self._connected("")
        self._delay_s = self._timing.minimum_backoff_s
        changes: list[Change[T]] = [Delete(key, obj) for key, (_, obj) in self._known.items()]
        self._known.clear()
        self.progress.absent = True
        self._mark_synced(changes)
        emit(changes)
        self._stop.wait(self._timing.absent_s * self._jitter())

    def _connected(self, version: str) -> None:
        progress = self.progress
        if progress.failures:
            log.info("kubernetes listing works again", extra={"key": self._resource.plural})
        progress.connected, progress.absent, progress.failures = True, False, 0
        progress.last_error, progress.resource_version = "", version

    def _note(self, exc: KubeError) -> None:
        self.progress.last_error = str(exc)

    def _fail(self, exc: KubeError) -> None:
        progress = self.progress
        self._note(exc)
        progress.connected = False
        progress.failures += 1
        delay_s = self._delay_s * self._jitter()
        self._delay_s = min(self._delay_s * 2, self._timing.maximum_backoff_s)
        if progress.failures == 1:
            facts = {"key": self._resource.plural, "delay_s": round(delay_s, 2), "error": str(exc)}
            log.warning("kubernetes watch failed, retrying", extra=facts)
        self._stop.wait(delay_s)

    def _jitter(self) -> float:
        return self._blocking.rng.uniform(0.5, 1.0)


def _lines(stream: LineStream) -> Iterator[list[bytes]]:
    """Whole lines as they come; what follows the last newline waits for more."""
    rest = b""
    while True:
        data = stream.read()
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        if len(rest) > MAX_LINE_BYTES:
            raise ServerFailed("watch", reason="TooLarge", detail="one event is larger than 64 MiB")
        if lines:
            yield [line for line in lines if line]
