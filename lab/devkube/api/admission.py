# SPDX-License-Identifier: Apache-2.0
"""What happens to an object between a request and the store: metadata, defaults, addresses, validation."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable

from lab.devkube.api.addresses import ServiceAddresses
from lab.devkube.api.crd import CRD_KEY, CustomKinds, establish
from lab.devkube.api.defaults import set_defaults
from lab.devkube.api.error import Cause, already_exists, bad_request, conflict, forbidden, invalid, not_found
from lab.devkube.api.job_rules import select_own_pods
from lab.devkube.api.objects import Obj, is_deleting, metadata, name_of, namespace_of, part, timestamp
from lab.devkube.api.resource import ApiResource
from lab.devkube.api.service_rules import drop_outdated
from lab.devkube.api.store import ObjectStore
from lab.devkube.api.validation import check

NAMESPACES = ("", "namespaces")
_SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
_DELETION = ("deletionTimestamp", "deletionGracePeriodSeconds")
_SET_BY_SERVER = ("uid", "creationTimestamp", "generation", "selfLink", *_DELETION)
_KEPT = ("uid", "creationTimestamp", "generation", "generateName", "name", "namespace", *_DELETION)
_MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"


class Admission:
    """Turns a wanted object into a storable one, or says why it cannot be."""

    def __init__(
        self,
        store: ObjectStore,
        addresses: ServiceAddresses,
        kinds: CustomKinds,
        wall: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self._store, self._addresses, self._kinds, self._wall, self._rng = store, addresses, kinds, wall, rng

    def for_create(self, resource: ApiResource, obj: Obj) -> Obj:
        """Complete `obj` in place and return it. Raises ApiError."""
        self._set_type(resource, obj)
        meta = obj.setdefault("metadata", {})
        self._set_namespace(resource, meta)
        self._set_name(resource, meta)
        if meta.get("resourceVersion"):
            raise bad_request("resourceVersion should not be set on objects to be created")
        for field in _SET_BY_SERVER:
            meta.pop(field, None)
        if "status" in resource.subresources and resource.kind != "Node":
            obj.pop("status", None)
        self._complete(resource, obj, None)
        if self._store.find(resource.key, namespace_of(obj), name_of(obj)):
            raise already_exists(resource, name_of(obj))
        meta |= {"uid": self._uid(), "creationTimestamp": timestamp(self._wall())}
        if resource.has_generation:
            meta["generation"] = 1
        if resource.kind == "Job" and not resource.custom:
            select_own_pods(obj)
        return obj

    def for_update(self, resource: ApiResource, obj: Obj, old: Obj, subresource: str | None) -> Obj:
        """The object to store: server-owned fields are the old ones. Raises ApiError."""
        before, meta = metadata(old), obj.setdefault("metadata", {})
        if meta.get("resourceVersion") not in (None, "", before["resourceVersion"]):
            raise conflict(resource, name_of(old), _MODIFIED)
        if meta.get("uid") not in (None, "", before["uid"]):
            why = f"Precondition failed: UID in precondition: {meta['uid']}, UID in object meta: {before['uid']}"
            raise conflict(resource, name_of(old), why)
        self._set_type(resource, obj)
        new = self._merged(resource, obj, old, subresource)
        new["metadata"].update({field: before[field] for field in _KEPT if field in before})
        new["metadata"]["resourceVersion"] = before["resourceVersion"]
        if "deletionTimestamp" in before:
            self._check_finalizers(resource, new, old)
        self._complete(resource, new, old)
        if resource.has_generation and _intent(new) != _intent(old):
            new["metadata"]["generation"] = before.get("generation", 0) + 1
        return new

    def _merged(self, resource: ApiResource, obj: Obj, old: Obj, subresource: str | None) -> Obj:
        if subresource == "status":
            kept = dict(metadata(old))
            if not resource.custom:
                kept |= {k: obj["metadata"][k] for k in ("labels", "annotations") if k in obj["metadata"]}
            if fields := obj["metadata"].get("managedFields"):
                kept["managedFields"] = fields
            return {**old, "apiVersion": obj["apiVersion"], "metadata": kept, "status": obj.get("status") or {}}
        meta = {k: v for k, v in obj["metadata"].items() if k not in _SET_BY_SERVER}
        new = {**obj, "metadata": meta}
        if "status" in resource.subresources:
            new.pop("status", None)
            if "status" in old:
                new["status"] = old["status"]
        return new

    def _check_finalizers(self, resource: ApiResource, new: Obj, old: Obj) -> None:
        before = set(metadata(old).get("finalizers") or ())
        if added := set(metadata(new).get("finalizers") or ()) - before:
            text = f"Forbidden: no new finalizers can be added if the object is being deleted: {sorted(added)}"
            raise invalid(resource, name_of(old), [Cause("metadata.finalizers", "FieldValueForbidden", text)])

    def _complete(self, resource: ApiResource, obj: Obj, old: Obj | None) -> None:
        if resource.custom:
            self._kinds.complete(resource, obj)
        else:
            set_defaults(resource.kind, obj)
        if resource.key == ("", "services"):
            drop_outdated(obj, old)
        check(resource, obj, old)
        if resource.key == ("", "services"):
            self._addresses.allocate(resource, obj, old)
        elif resource.key == ("", "pods") and old is None:
            self._check_service_account(resource, obj)
        elif resource.key == CRD_KEY:
            establish(obj, self._wall)

    def _check_service_account(self, resource: ApiResource, pod: Obj) -> None:
        account = part(pod, "spec")["serviceAccountName"]
        if self._store.find(("", "serviceaccounts"), namespace_of(pod), account) is None:
            looked_up = f"error looking up service account {namespace_of(pod)}/{account}"
            why = f'{looked_up}: serviceaccount "{account}" not found'
            raise forbidden(resource, name_of(pod), why)

    def _set_type(self, resource: ApiResource, obj: Obj) -> None:
        if obj.setdefault("kind", resource.kind) != resource.kind:
            raise bad_request(f"{obj['kind']} in the data does not match the expected kind {resource.kind}")
        if obj.setdefault("apiVersion", resource.api_version) != resource.api_version:
            raise bad_request(
                f"the API version in the data ({obj['apiVersion']}) does not match the expected API version "
                f"({resource.api_version})"
            )

    def _set_namespace(self, resource: ApiResource, meta: Obj) -> None:
        if not resource.namespaced:
            meta.pop("namespace", None)
            return
        name = meta.setdefault("namespace", "default")
        space = self._store.find(NAMESPACES, "", name)
        if space is None:
            raise not_found(ApiResource("", "v1", "namespaces", "Namespace", False), name)
        if is_deleting(space):
            why = f"unable to create new content in namespace {name} because it is being terminated"
            raise forbidden(resource, meta.get("name") or meta.get("generateName", ""), why)

    def _set_name(self, resource: ApiResource, meta: Obj) -> None:
        if not meta.get("name") and (prefix := meta.get("generateName")):
            meta["name"] = prefix[:58] + "".join(self._rng.choices(_SUFFIX_LETTERS, k=5))
        if not meta.get("name"):
            text = "Required value: name or generateName is required"
            raise invalid(resource, "", [Cause("metadata.name", "FieldValueRequired", text)])

    def _uid(self) -> str:
        return str(uuid.UUID(int=self._rng.getrandbits(128), version=4))


def _intent(obj: Obj) -> Obj:
    return {field: value for field, value in obj.items() if field not in ("metadata", "status", "apiVersion")}
