# SPDX-License-Identifier: Apache-2.0
"""A Kubernetes API server in memory, as far as our programs use one. Faults: kinds that lag, watches cut, history lost.

`tests/simulation/test_simulation_kube.py` holds it to the embedded API server of the lab.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import unquote

import orjson

from kube.errors import KubeError, Unreachable, error_for
from kube.resource import NAMESPACES, KubeObject, Resource, object_key
from tests.simulation.kube_objects import ObjectChange, ObjectStore, Selection, lines_for, merge_patch
from tests.simulation.loop import Baton, SimulatedLoop
from tests.simulation.wire import USUAL_S

BOOKMARK_S: Final = 20.0
"""Servers send them about once a minute; most histories are shorter than that."""
MOST_UNREAD: Final = 20
"""Changes of one watch that the server keeps for a slow reader."""
Answer = tuple[int, bytes]


class RefusedRequest(Exception):  # noqa: N818 - an answer, not a fault of ours
    """The server answers with a Status object."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message

    def body(self) -> bytes:
        code = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": self.status}
        return orjson.dumps({**code, "reason": self.reason, "message": self.message})


class KubeServer:
    """One cluster's API. `lag_s` is how long after a change the watches of a kind (by plural) tell of it."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self.loop, self.store = loop, ObjectStore()
        self.is_up = True
        self.lag_s: dict[str, float] = {}
        self.watches: dict[KubeWatch, None] = {}
        self._pages: dict[str, tuple[list[KubeObject], int]] = {}
        self.store.listeners.append(self._changed)

    # ---- what people and controllers do

    def objects(self, resource: Resource) -> list[KubeObject]:
        """Every object of a kind: the truth."""
        return list(self.store.objects(resource).values())

    def apply(self, resource: Resource, manifest: KubeObject) -> KubeObject:
        """The object is exactly this."""
        return self.store.put(resource, manifest)

    def delete(self, resource: Resource, key: str) -> bool:
        return self.store.delete(resource, key) is not None

    # ---- faults

    def cut(self) -> None:
        """Every open watch breaks."""
        for watch in list(self.watches):
            watch.break_off()

    def forget_history(self) -> None:
        """Who resumes is told 410 Gone, and so is who asks for the next page of a listing."""
        self.store.compact()
        self._pages.clear()

    # ---- requests

    def request(self, method: str, path: str, query: Mapping[str, Any], body: bytes | None) -> Answer:
        """One request and its answer, at this instant."""
        if not self.is_up:
            raise Unreachable(f"{method} {path}", detail="connection refused")
        try:
            return self._answer(method, path, query, orjson.loads(body) if body else {})
        except RefusedRequest as refused:
            return refused.status, refused.body()

    def watch(self, path: str, query: Mapping[str, Any], delay: Callable[[], float]) -> KubeWatch:
        """`delay` says how long the reader takes for what it reads next, in seconds.

        Raises: KubeError for a kind that is not served, Unreachable.
        """
        if not self.is_up:
            raise Unreachable(f"GET {path}", detail="connection refused")
        try:
            resource, namespace, _, _ = self._place(path)
        except RefusedRequest as refused:
            raise error_for(f"GET {path}", refused.status, refused.reason, refused.message) from refused
        return KubeWatch(self, resource, _selection(namespace, query), query, delay)

    def _answer(self, method: str, path: str, query: Mapping[str, Any], body: KubeObject) -> Answer:
        parts = path.strip("/").split("/")
        if method == "GET" and (found := self._discovery(parts)) is not None:
            return 200, orjson.dumps(found)
        resource, namespace, name, subresource = self._place(path)
        key = f"{namespace}/{name}" if resource.namespaced else name
        match method:
            case "GET":
                return 200, orjson.dumps(self._need(resource, key) if name else self._list(resource, namespace, query))
            case "POST":
                return 201, orjson.dumps(self._create(resource, namespace, body))
            case "PUT":
                before = self._need(resource, key)
                version = body["metadata"].get("resourceVersion")
                if version and version != before["metadata"]["resourceVersion"]:
                    raise RefusedRequest(409, "Conflict", f"{key}: the object has been modified")
                return 200, orjson.dumps(self.store.put(resource, body))
            case "PATCH":
                before = self._need(resource, key)
                patched = merge_patch(before, {"status": body.get("status")} if subresource else body)
                return 200, orjson.dumps(self.store.put(resource, patched))
            case "DELETE":
                self._need(resource, key)
                return 200, orjson.dumps(self.store.delete(resource, key))
        raise RefusedRequest(405, "MethodNotAllowed", method)

    def _create(self, resource: Resource, namespace: str, body: KubeObject) -> KubeObject:
        if resource.namespaced and self.store.get(NAMESPACES, namespace) is None:
            raise RefusedRequest(404, "NotFound", f'namespaces "{namespace}" not found')
        if self.store.get(resource, object_key(body)) is not None:
            raise RefusedRequest(409, "AlreadyExists", f"{object_key(body)} already exists")
        return self.store.put(resource, body)

    def _need(self, resource: Resource, key: str) -> KubeObject:
        found = self.store.get(resource, key)
        if found is None:
            raise RefusedRequest(404, "NotFound", f'{resource.plural} "{key}" not found')
        return found

    def _list(self, resource: Resource, namespace: str, query: Mapping[str, Any]) -> KubeObject:
        token = str(query.get("continue") or "")
        if token:
            page = self._pages.pop(token, None)
            if page is None:
                self.loop.reached["listing told 410 Gone"] += 1
                raise RefusedRequest(410, "Expired", "The provided continue parameter is too old")
            items, revision = page
        else:
            selection = _selection(namespace, query)
            found = self.store.objects(resource)
            items = [found[key] for key in sorted(found) if selection.has(found[key])]
            revision = self.store.revision
        limit = int(query.get("limit") or 0) or len(items) or 1
        meta = {"resourceVersion": str(revision)}
        if len(items) > limit:
            meta["continue"] = f"{revision}-{len(self._pages)}-{len(items)}"
            self._pages[meta["continue"]] = (items[limit:], revision)
        stripped = [{k: v for k, v in item.items() if k not in ("kind", "apiVersion")} for item in items[:limit]]
        return {"kind": resource.kind + "List", "apiVersion": resource.api_version, "metadata": meta, "items": stripped}

    def _discovery(self, parts: Sequence[str]) -> KubeObject | None:
        group, version = ("", parts[1]) if parts[0] == "api" and len(parts) == 2 else ("", "")
        if parts[0] == "apis" and len(parts) == 3:
            group, version = parts[1], parts[2]
        if not version:
            return None
        found = self.store.served(group, version)
        if not found:
            raise RefusedRequest(404, "NotFound", "the server could not find the requested resource")
        return {"kind": "APIResourceList", "resources": [{"name": r.plural, "kind": r.kind} for r in found]}

    def _place(self, path: str) -> tuple[Resource, str, str, str]:
        """Kind, namespace, name and subresource that a path names; empty where it names none."""
        parts = [unquote(part) for part in path.strip("/").split("/")]
        group, version, rest = ("", parts[1], parts[2:]) if parts[0] == "api" else (parts[1], parts[2], parts[3:])
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2:
            namespace, rest = rest[1], rest[2:]
        resource = self.store.resource_of(group, version, rest[0])
        if resource is None:
            raise RefusedRequest(404, "NotFound", "the server could not find the requested resource")
        name, subresource = (*rest[1:], "", "")[:2]
        return resource, namespace, name, subresource

    def _changed(self, resource: Resource, change: ObjectChange) -> None:
        lag_s = self.lag_s.get(resource.plural, 0.0)
        for watch in self.watches:
            if watch.resource == resource:
                watch.notice(change, lag_s)


class KubeWatch:
    """One client's watch: `read` blocks, as `kube.transport.LineStream` does."""

    def __init__(
        self,
        server: KubeServer,
        resource: Resource,
        selection: Selection,
        query: Mapping[str, Any],
        delay: Callable[[], float],
    ) -> None:
        self.resource, self._server, self._selection, self._delay = resource, server, selection, delay
        loop = self._loop = server.loop
        self._ends_s = loop.time() + float(query["timeoutSeconds"])
        self._bookmark_s = loop.time() + BOOKMARK_S
        self._is_ended = self._is_broken = False
        self._waiting: Baton | None = None
        position = int(query["resourceVersion"])
        self._visible = position
        self._due: list[bytes] = []
        self._coming: deque[ObjectChange] = deque()
        self._last_s = 0.0
        if server.store.is_forgotten(resource, position):
            loop.reached["watch told 410 Gone"] += 1
            gone = RefusedRequest(410, "Expired", f"too old resource version: {position}").body()
            self._due.append(b'{"type":"ERROR","object":%s}\n' % gone)
            self._is_ended = True
            return
        server.watches[self] = None
        for change in server.store.since(resource, position):
            self._show(change)

    def notice(self, change: ObjectChange, lag_s: float) -> None:
        """The kind's watches hear of a change; later if the kind lags. Order within a kind never changes."""
        self._coming.append(change)
        self._last_s = max(self._loop.time() + lag_s, self._last_s)
        if self._last_s <= self._loop.time():
            self._show_next()
        else:
            self._loop.call_at(self._last_s, self._show_next)

    def _show_next(self) -> None:
        self._show(self._coming.popleft())

    def read(self, size: int = 0) -> bytes:
        """Raises: Unreachable if the connection broke."""
        while True:
            if self._is_broken:
                raise Unreachable("watch", detail="connection reset")
            if self._due:
                self._dawdle()
                data, self._due = b"".join(self._due), []
                return data
            now_s = self._loop.time()
            if self._is_ended or now_s >= self._ends_s:
                return b""
            if now_s >= self._bookmark_s:
                self._bookmark_s = now_s + BOOKMARK_S
                self._loop.reached["bookmark of a watch"] += 1
                return self._bookmark()
            self._waiting = Baton(self._loop)
            self._waiting.wait(min(self._ends_s, self._bookmark_s) - now_s)

    def stop(self) -> None:
        self._is_ended = True
        self._wake()

    def break_off(self) -> None:
        """The connection is reset; what was not read is lost."""
        if not self._is_ended and not self._is_broken and self in self._server.watches:
            self._loop.reached["watch of an API server broken"] += 1
        self._is_broken = True
        self._server.watches.pop(self, None)
        self._wake()

    def close(self) -> None:
        self._server.watches.pop(self, None)

    def _dawdle(self) -> None:
        """A slow reader takes its time; one that is too far behind by then is cut off, as the API server does."""
        delay_s = self._delay()
        if delay_s <= USUAL_S[1]:
            return
        self._loop.reached["watch read slowly"] += 1
        Baton(self._loop).wait(delay_s)
        if len(self._due) > MOST_UNREAD:
            self.break_off()
        if self._is_broken:
            raise Unreachable("watch", detail="connection reset while it was read slowly")

    def _show(self, change: ObjectChange) -> None:
        self._visible = change.revision
        if line := lines_for((change,), self._selection):
            self._due.append(line)
            self._wake()

    def _bookmark(self) -> bytes:
        meta = {"resourceVersion": str(self._visible), "creationTimestamp": None}
        mark = {"kind": self.resource.kind, "apiVersion": self.resource.api_version, "metadata": meta}
        return b'{"type":"BOOKMARK","object":%s}\n' % orjson.dumps(mark)

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.wake()


class KubeLink:
    """One process's connection to an API server: `kube.transport.Transport` with delays and faults of the wire."""

    server = "https://kubernetes.simulated"

    def __init__(self, server: KubeServer, blocking: Any, delay: Callable[[], float]) -> None:
        self._server, self.blocking, self._delay = server, blocking, delay
        self.is_up = True
        self.lose_answers = 0
        self._watches: list[KubeWatch] = []

    def request(
        self, method: str, path: str, *, query: Mapping[str, Any] | None = None, body: bytes | None = None,
        content_type: str = "", timeout_s: float = 30.0, headers: Mapping[str, str] | None = None,
    ) -> Answer:  # fmt: skip
        """Raises: Unreachable where the request or its answer is lost."""
        del content_type, headers
        self._travel(f"{method} {path}", timeout_s)
        answer = self._server.request(method, path, query or {}, body)
        if self.lose_answers:
            self.lose_answers -= 1
            self._server.loop.reached["answer of an API server lost"] += 1
            raise Unreachable(f"{method} {path}", detail="connection reset before the answer")
        self._travel(f"{method} {path}", timeout_s)
        return answer

    def stream(
        self, path: str, *, query: Mapping[str, Any], read_timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> KubeWatch:
        """Raises: KubeError."""
        del headers
        self._travel(f"GET {path}", read_timeout_s)
        watch = self._server.watch(path, query, self._delay)
        self._watches = [each for each in self._watches if each in self._server.watches] + [watch]
        return watch

    def heal(self) -> None:
        self.is_up = True

    def cut(self, *, is_up: bool) -> None:
        """Open watches of this process break; nothing gets through until the link is up."""
        self.is_up = is_up
        for watch in self._watches:
            watch.break_off()

    def _travel(self, what: str, timeout_s: float) -> None:
        if self.is_up and (delay_s := self._delay()) > 0:
            baton = Baton(self._server.loop)
            baton.wait(min(delay_s, timeout_s))
        if not self.is_up:
            raise Unreachable(what, detail="no route")


def _selection(namespace: str, query: Mapping[str, Any]) -> Selection:
    return Selection(namespace or None, str(query.get("labelSelector") or ""), str(query.get("fieldSelector") or ""))


__all__ = ["KubeError", "KubeLink", "KubeServer", "KubeWatch"]
