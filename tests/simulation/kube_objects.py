# SPDX-License-Identifier: Apache-2.0
"""The objects of one cluster in memory, with a revision for each change and a history to resume watches from."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from kube.resource import KNOWN, KubeObject, Resource, object_key

CREATED: Final = "2027-01-15T08:00:00Z"


@dataclass(frozen=True, slots=True)
class ObjectChange:
    """One change: the object after it (as it was last, for a deletion) and before it (None: it is new)."""

    revision: int
    kind: str
    obj: KubeObject
    before: KubeObject | None
    line: bytes


class ObjectStore:
    """`hidden` are kinds that the server does not serve. Objects are never changed in place."""

    def __init__(self) -> None:
        self.revision = 100
        self.hidden: set[str] = set()
        self.keep = 10_000
        self._objects: dict[str, dict[str, KubeObject]] = {}
        self._history: dict[str, list[ObjectChange]] = {}
        self._oldest: dict[Resource, int] = {}
        self._changed: dict[str, int] = {}
        self._uids = 0
        self.listeners: list[Callable[[Resource, ObjectChange], None]] = []

    def resource_of(self, group: str, version: str, plural: str) -> Resource | None:
        found = (r for r in KNOWN if (r.group, r.version, r.plural) == (group, version, plural))
        resource = next(found, None)
        return None if resource is None or resource.plural in self.hidden else resource

    def served(self, group: str, version: str) -> list[Resource]:
        return [r for r in KNOWN if (r.group, r.version) == (group, version) and r.plural not in self.hidden]

    def changed(self, *resources: Resource) -> tuple[int, ...]:
        """The revision of the last change of any object of each kind."""
        return tuple([self._changed.get(resource.kind, 0) for resource in resources])

    def objects(self, resource: Resource) -> Mapping[str, KubeObject]:
        return self._objects.get(resource.kind, {})

    def get(self, resource: Resource, key: str) -> KubeObject | None:
        return self._objects.get(resource.kind, {}).get(key)

    def put(self, resource: Resource, obj: KubeObject) -> KubeObject:
        """The object is stored with a new revision, unless it is what is stored already."""
        stored = orjson.loads(orjson.dumps(obj))
        key = object_key(stored)
        before = self.get(resource, key)
        meta = stored["metadata"]
        if before is None:
            self._uids += 1
            meta["uid"], meta["creationTimestamp"] = f"00000000-0000-4000-8000-{self._uids:012d}", CREATED
        else:
            old = before["metadata"]
            meta |= {name: old[name] for name in ("uid", "creationTimestamp", "resourceVersion")}
            if stored == before:
                return before
        stored.setdefault("kind", resource.kind)
        stored.setdefault("apiVersion", resource.api_version)
        self.revision += 1
        meta["resourceVersion"] = str(self.revision)
        self._objects.setdefault(resource.kind, {})[key] = stored
        self._note(resource, "MODIFIED" if before is not None else "ADDED", stored, before)
        return stored

    def delete(self, resource: Resource, key: str) -> KubeObject | None:
        before = self._objects.get(resource.kind, {}).pop(key, None)
        if before is None:
            return None
        self.revision += 1
        last = {**before, "metadata": {**before["metadata"], "resourceVersion": str(self.revision)}}
        self._note(resource, "DELETED", last, before)
        return last

    def since(self, resource: Resource, revision: int) -> list[ObjectChange]:
        history = self._history.get(resource.kind, [])
        return history[bisect_right(history, revision, key=lambda change: change.revision) :]

    def is_forgotten(self, resource: Resource, revision: int) -> bool:
        return revision < self._oldest.get(resource, 0)

    def compact(self) -> None:
        """Nobody can resume from before now."""
        self._oldest = dict.fromkeys(KNOWN, self.revision)
        self._history.clear()

    def _note(self, resource: Resource, kind: str, obj: KubeObject, before: KubeObject | None) -> None:
        line = b'{"type":"%s","object":%s}\n' % (kind.encode(), orjson.dumps(obj))
        self._changed[resource.kind] = self.revision
        change = ObjectChange(self.revision, kind, obj, before, line)
        history = self._history.setdefault(resource.kind, [])
        history.append(change)
        if len(history) > self.keep:
            self._oldest[resource] = history.pop(0).revision
        for listener in self.listeners:
            listener(resource, change)


class Selection:
    """What a list or watch asks for: one namespace or all, labels and fields that must be equal."""

    def __init__(self, namespace: str | None, label_selector: str, field_selector: str) -> None:
        self.namespace = namespace
        self._labels, self._fields = _pairs(label_selector), _pairs(field_selector)

    def has(self, obj: KubeObject | None) -> bool:
        if obj is None or self.namespace not in (None, obj["metadata"].get("namespace")):
            return False
        labels = obj["metadata"].get("labels") or {}
        return all(labels.get(k) == v for k, v in self._labels) and all(_field(obj, k) == v for k, v in self._fields)


def merge_patch(target: Any, patch: Any) -> Any:
    """JSON merge patch: null removes a field. Neither argument is changed."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def _pairs(selector: str) -> list[tuple[str, str]]:
    return [(k, v) for part in selector.split(",") if part for k, _, v in [part.partition("=")]]


def _field(obj: KubeObject, path: str) -> str:
    found: Any = obj
    for part in path.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return str(found or "")


def lines_for(changes: Iterable[ObjectChange], selection: Selection) -> bytes:
    """What a watch sends for these changes: an object that comes into the selection or leaves it is added or deleted."""
    found = []
    for change in changes:
        before, after = selection.has(change.before), selection.has(change.obj) and change.kind != "DELETED"
        if after:
            kind = "MODIFIED" if before else "ADDED"
        elif before:
            kind = "DELETED"
        else:
            continue
        line = change.line
        if kind != change.kind:
            obj = change.obj
            if kind == "DELETED" and change.before is not None:
                version = change.obj["metadata"]["resourceVersion"]
                obj = {**change.before, "metadata": {**change.before["metadata"], "resourceVersion": version}}
            line = b'{"type":"%s","object":%s}\n' % (kind.encode(), orjson.dumps(obj))
        found.append(line)
    return b"".join(found)
