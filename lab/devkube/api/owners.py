# SPDX-License-Identifier: Apache-2.0
"""Who belongs to whom, by ownerReferences, so that removing an owner finds its dependents without a search."""

from __future__ import annotations

from collections import Counter

from lab.devkube.api.objects import Obj, ObjectKey, items_of, key_of, metadata, uid_of
from lab.devkube.api.resource import ResourceKey
from lab.devkube.api.store import ObjectEvent, ObjectEventType

Dependent = tuple[ResourceKey, ObjectKey]


class OwnerIndex:
    """Follows the store through `observe`; also counts objects per namespace, for the end of a namespace."""

    def __init__(self) -> None:
        self._dependents: dict[str, set[Dependent]] = {}
        self._alive: set[str] = set()
        self._in_namespace: Counter[str] = Counter()

    def observe(self, event: ObjectEvent) -> None:
        reference = (event.resource.key, key_of(event.object))
        if event.old is not None:
            for uid in owner_uids(event.old):
                self._forget(uid, reference)
        if event.type is ObjectEventType.DELETED:
            self._alive.discard(uid_of(event.object))
            self._in_namespace[reference[1][0]] -= 1
            return
        for uid in owner_uids(event.object):
            self._dependents.setdefault(uid, set()).add(reference)
        if event.type is ObjectEventType.ADDED:
            self._alive.add(uid_of(event.object))
            self._in_namespace[reference[1][0]] += 1

    def dependents(self, uid: str) -> list[Dependent]:
        return sorted(self._dependents.get(uid, ()))

    def is_alive(self, uid: str) -> bool:
        return uid in self._alive

    def is_empty(self, namespace: str) -> bool:
        return self._in_namespace[namespace] <= 0

    def _forget(self, uid: str, reference: Dependent) -> None:
        if left := self._dependents.get(uid):
            left.discard(reference)
            if not left:
                del self._dependents[uid]


def owner_uids(obj: Obj) -> list[str]:
    return [str(reference.get("uid", "")) for reference in items_of(metadata(obj), "ownerReferences")]
