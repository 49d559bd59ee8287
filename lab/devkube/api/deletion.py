# SPDX-License-Identifier: Apache-2.0
"""How objects end: grace periods, finalizers, owners and dependents, namespaces, definitions and their objects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from lab.devkube.api.admission import NAMESPACES
from lab.devkube.api.crd import CLEANUP_FINALIZER, CRD_KEY
from lab.devkube.api.error import conflict, forbidden
from lab.devkube.api.objects import (
    Obj,
    copy_object,
    is_deleting,
    items_of,
    metadata,
    name_of,
    namespace_of,
    part,
    timestamp,
    uid_of,
)
from lab.devkube.api.owners import OwnerIndex, owner_uids
from lab.devkube.api.resource import ApiResource, Catalog
from lab.devkube.api.store import ObjectEvent, ObjectEventType, ObjectStore

FOREGROUND_FINALIZER = "foregroundDeletion"
IMMORTAL_NAMESPACES = frozenset({"default", "kube-system", "kube-public"})
_DEFAULT_GRACE_S = 30


class Propagation(StrEnum):
    BACKGROUND = "Background"
    FOREGROUND = "Foreground"
    ORPHAN = "Orphan"


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """How to delete. `uid` and `resource_version` are conditions; a grace period of None means the kind's own."""

    grace_period_s: int | None = None
    uid: str | None = None
    resource_version: str | None = None
    propagation: Propagation = Propagation.BACKGROUND


Commit = Callable[[ObjectEventType, ApiResource, Obj, Obj | None], ObjectEvent]


class Deletion:
    """Removes objects, now or when whoever still needs them agrees, and draws the consequences of every change."""

    def __init__(
        self, store: ObjectStore, catalog: Catalog, owners: OwnerIndex, commit: Commit, wall: Callable[[], float]
    ) -> None:
        self._store, self._catalog, self._owners = store, catalog, owners
        self._commit, self._wall = commit, wall

    def delete(self, resource: ApiResource, obj: Obj, options: DeleteOptions) -> Obj:
        """Start the object's end and return its last state; it is gone at once if nothing holds it."""
        self.check(resource, obj, options)
        finalizers: list[str] = list(metadata(obj).get("finalizers") or ())
        grace_s = _grace(resource, obj, options)
        if options.propagation is Propagation.ORPHAN:
            self._orphan(obj)
        elif options.propagation is Propagation.FOREGROUND and self._blocking(obj):
            finalizers.append(FOREGROUND_FINALIZER)
        if resource.key == CRD_KEY and self._instances(obj):
            finalizers.append(CLEANUP_FINALIZER)
        if not (finalizers or grace_s or resource.key == NAMESPACES):
            return self.remove(resource, obj)
        marked = self._mark(resource, obj, grace_s, finalizers)
        self._spread(resource, marked, options)
        return marked

    def remove(self, resource: ApiResource, obj: Obj, old: Obj | None = None) -> Obj:
        """The object is gone, whatever held it; `old` is the stored state if `obj` is a last change of it."""
        return self._commit(ObjectEventType.DELETED, resource, copy_object(obj), old or obj).object

    def check(self, resource: ApiResource, obj: Obj, options: DeleteOptions) -> None:
        """Raises ApiError if this object may not be deleted, or is not the one that was meant."""
        if options.uid not in (None, uid_of(obj)):
            why = f"Precondition failed: UID in precondition: {options.uid}, UID in object meta: {uid_of(obj)}"
            raise conflict(resource, name_of(obj), why)
        if options.resource_version not in (None, metadata(obj)["resourceVersion"]):
            why = "Precondition failed: ResourceVersion in precondition does not match"
            raise conflict(resource, name_of(obj), why)
        if resource.key == NAMESPACES and name_of(obj) in IMMORTAL_NAMESPACES:
            raise forbidden(resource, name_of(obj), "this namespace may not be deleted")

    def follow(self, event: ObjectEvent) -> None:
        """Draw the consequences of a change that was just stored."""
        if event.type is ObjectEventType.DELETED:
            self._collect_dependents(event.object)
            self._release_owners(event)
            self._finish_namespace(namespace_of(event.object))
            self._finish_definition(event.resource)
        elif event.resource.key == NAMESPACES:
            self._finish_namespace(name_of(event.object))
        elif event.type is ObjectEventType.ADDED and self._is_abandoned(event.object):
            self.delete(event.resource, event.object, DeleteOptions())

    def finish_if_released(self, resource: ApiResource, obj: Obj, old: Obj) -> bool:
        """Remove an object whose end had begun and that nothing holds any longer; says whether it did."""
        meta = metadata(obj)
        if not is_deleting(obj) or meta.get("finalizers") or resource.key == NAMESPACES:
            return False
        if resource.key == ("", "pods") and meta.get("deletionGracePeriodSeconds"):
            return False
        self.remove(resource, obj, old)
        return True

    def _is_abandoned(self, obj: Obj) -> bool:
        uids = owner_uids(obj)
        return bool(uids) and not any(self._owners.is_alive(uid) for uid in uids)

    def _mark(self, resource: ApiResource, obj: Obj, grace_s: int, finalizers: list[str]) -> Obj:
        meta = metadata(obj)
        marked = copy_object(obj)
        marked["metadata"].setdefault("deletionTimestamp", timestamp(self._wall() + grace_s))
        held_s = meta.get("deletionGracePeriodSeconds")
        marked["metadata"]["deletionGracePeriodSeconds"] = grace_s if held_s is None else min(held_s, grace_s)
        if finalizers:
            marked["metadata"]["finalizers"] = sorted(set(finalizers), key=finalizers.index)
        if resource.key == NAMESPACES:
            marked.setdefault("status", {})["phase"] = "Terminating"
        if resource.has_generation and not is_deleting(obj):
            marked["metadata"]["generation"] = meta.get("generation", 0) + 1
        if marked == obj:
            return obj
        return self._commit(ObjectEventType.MODIFIED, resource, marked, obj).object

    def _spread(self, resource: ApiResource, obj: Obj, options: DeleteOptions) -> None:
        if resource.key == NAMESPACES:
            self._empty_namespace(name_of(obj))
        elif resource.key == CRD_KEY:
            for instance_of, instance in self._instances(obj):
                self._delete_quietly(instance_of, instance, DeleteOptions())
        elif options.propagation is Propagation.FOREGROUND:
            for dependent_of, dependent in self._dependents(obj):
                self._delete_quietly(dependent_of, dependent, DeleteOptions(propagation=options.propagation))

    def _delete_quietly(self, resource: ApiResource, obj: Obj, options: DeleteOptions) -> None:
        """As delete, for an object that may have gone or changed while its neighbours were dealt with."""
        current = self._store.find(resource.key, namespace_of(obj), name_of(obj))
        if current is not None and uid_of(current) == uid_of(obj):
            self.delete(resource, current, options)

    def _empty_namespace(self, name: str) -> None:
        for resource in self._catalog:
            if resource.namespaced:
                for obj in [o for (space, _), o in self._store.objects(resource.key).items() if space == name]:
                    self._delete_quietly(resource, obj, DeleteOptions())
        self._finish_namespace(name)

    def _finish_namespace(self, name: str) -> None:
        space = self._store.find(NAMESPACES, "", name) if name else None
        if space is None or not is_deleting(space) or metadata(space).get("finalizers"):
            return
        if self._owners.is_empty(name):
            self.remove(self._catalog.by_plural("namespaces"), space)

    def _finish_definition(self, resource: ApiResource) -> None:
        if not resource.custom or self._store.objects(resource.key):
            return
        definition = self._store.find(CRD_KEY, "", resource.qualified)
        if definition is not None and is_deleting(definition):
            self._drop_finalizer(self._catalog.by_plural(CRD_KEY[1], CRD_KEY[0]), definition, CLEANUP_FINALIZER)

    def _collect_dependents(self, owner: Obj) -> None:
        for resource, dependent in self._dependents(owner):
            if not self._is_abandoned(dependent):
                self._drop_owner(resource, dependent, uid_of(owner))
            else:
                self._delete_quietly(resource, dependent, DeleteOptions())

    def _release_owners(self, event: ObjectEvent) -> None:
        for reference in items_of(metadata(event.object), "ownerReferences"):
            group = str(reference.get("apiVersion", "")).rpartition("/")[0]
            resource = self._catalog.by_kind(group, str(reference.get("kind")))
            if resource is None:
                continue
            namespace = namespace_of(event.object) if resource.namespaced else ""
            owner = self._store.find(resource.key, namespace, str(reference.get("name")))
            if owner is not None and is_deleting(owner) and not self._blocking(owner):
                self._drop_finalizer(resource, owner, FOREGROUND_FINALIZER)

    def _drop_finalizer(self, resource: ApiResource, obj: Obj, finalizer: str) -> None:
        finalizers = metadata(obj).get("finalizers") or []
        if finalizer not in finalizers:
            return
        freed = copy_object(obj)
        freed["metadata"]["finalizers"] = [f for f in finalizers if f != finalizer]
        if not freed["metadata"]["finalizers"]:
            del freed["metadata"]["finalizers"]
        if not self.finish_if_released(resource, freed, obj):
            self._commit(ObjectEventType.MODIFIED, resource, freed, obj)

    def _drop_owner(self, resource: ApiResource, obj: Obj, uid: str) -> None:
        freed = copy_object(obj)
        references = items_of(freed["metadata"], "ownerReferences")
        freed["metadata"]["ownerReferences"] = [r for r in references if r["uid"] != uid]
        if not freed["metadata"]["ownerReferences"]:
            del freed["metadata"]["ownerReferences"]
        self._commit(ObjectEventType.MODIFIED, resource, freed, obj)

    def _orphan(self, owner: Obj) -> None:
        for resource, dependent in self._dependents(owner):
            self._drop_owner(resource, dependent, uid_of(owner))

    def _dependents(self, owner: Obj) -> list[tuple[ApiResource, Obj]]:
        found: list[tuple[ApiResource, Obj]] = []
        for (group, plural), (namespace, name) in self._owners.dependents(uid_of(owner)):
            obj = self._store.find((group, plural), namespace, name)
            if obj is not None:
                found.append((self._catalog.by_plural(plural, group), obj))
        return found

    def _blocking(self, owner: Obj) -> bool:
        uid = uid_of(owner)
        return any(
            reference.get("uid") == uid and reference.get("blockOwnerDeletion")
            for _, dependent in self._dependents(owner)
            for reference in items_of(metadata(dependent), "ownerReferences")
        )

    def _instances(self, definition: Obj) -> list[tuple[ApiResource, Obj]]:
        spec = definition["spec"]
        key = (spec["group"], spec["names"]["plural"])
        objects = list(self._store.objects(key).values())
        return [(self._catalog.by_plural(key[1], key[0]), obj) for obj in objects]


def _grace(resource: ApiResource, obj: Obj, options: DeleteOptions) -> int:
    """Seconds to wait for whoever runs the object; only a pod on a node that has not ended is run by anybody."""
    if resource.key != ("", "pods"):
        return 0
    spec, status = part(obj, "spec"), part(obj, "status")
    if not spec.get("nodeName") or status.get("phase") in ("Succeeded", "Failed"):
        return 0
    if options.grace_period_s is not None:
        return options.grace_period_s
    grace_s = spec.get("terminationGracePeriodSeconds")
    return _DEFAULT_GRACE_S if grace_s is None else int(grace_s)
