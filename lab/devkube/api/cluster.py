# SPDX-License-Identifier: Apache-2.0
"""One Kubernetes cluster's objects in process: what controllers call, and what the HTTP server serves.

Everything passes through here, so that a controller's write and a kubectl's write obey the same rules.
A cluster belongs to one event loop; no method blocks and none may be called from another thread.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from lab.devkube.api.accounts import ServiceAccountTokens
from lab.devkube.api.addresses import ServiceAddresses
from lab.devkube.api.admission import NAMESPACES, Admission
from lab.devkube.api.crd import CustomKinds
from lab.devkube.api.deletion import DeleteOptions, Deletion
from lab.devkube.api.error import not_found
from lab.devkube.api.objects import Obj, copy_object, is_deleting, name_of, namespace_of, uid_of
from lab.devkube.api.owners import OwnerIndex
from lab.devkube.api.resource import ApiResource, built_in_catalog
from lab.devkube.api.selectors import Selector, parse_selector
from lab.devkube.api.store import ObjectEvent, ObjectEventType, ObjectStore, Subscriber
from meshkit.clock import SystemClock

SERVICE_ACCOUNTS = ("", "serviceaccounts")
Objects = list[Obj]
FIRST_NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")


class Cluster:
    """Objects, their rules and their history.

    Objects that go in are copied and objects that come out are copies, so a caller may alter them freely; only the
    objects inside an ObjectEvent are shared and must be left alone. Errors are `ApiError`.
    """

    def __init__(
        self,
        service_cidr: str = "10.96.0.0/16",
        node_port_range: tuple[int, int] = (30000, 32767),
        *,
        keep_events: int = 10_000,
        first_revision: int = 1,
        wall: Callable[[], float] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.wall = wall or SystemClock().wall
        self.rng = rng or random.Random()
        self.catalog = built_in_catalog()
        self.store = ObjectStore(keep_events=keep_events, first_revision=first_revision)
        self.custom = CustomKinds(self.catalog)
        self.addresses = ServiceAddresses(service_cidr, node_port_range)
        self.accounts = ServiceAccountTokens(self._has_account)
        self._owners = OwnerIndex()
        self._admission = Admission(self.store, self.addresses, self.custom, self.wall, self.rng)
        self._deletion = Deletion(self.store, self.catalog, self._owners, self._commit, self.wall)
        for name in FIRST_NAMESPACES:
            self.create("namespaces", {"metadata": {"name": name}})
        self._create_api_service()

    def list(
        self, plural: str, group: str = "", namespace: str | None = None, label_selector: str | None = None
    ) -> Objects:
        """All matching objects, by namespace and name; a namespace of None means all of them."""
        chosen = self.select(self.catalog.by_plural(plural, group), namespace, parse_selector(label_selector or ""))
        return [copy_object(obj) for obj in chosen]

    def get(self, plural: str, name: str, namespace: str = "", group: str = "") -> Obj | None:
        found = self.store.find((group, plural), namespace, name)
        return copy_object(found) if found is not None else None

    def create(self, plural: str, obj: Obj, group: str = "") -> Obj:
        """The object as stored. A namespaced object names its namespace in its metadata (or goes to `default`)."""
        return self.create_as(self.catalog.by_plural(plural, group), obj)

    def update(self, plural: str, obj: Obj, group: str = "", subresource: str | None = None) -> Obj:
        """The object as stored, which is the old one if nothing changed; then there is no event either.

        Raises: ApiError 409 if `obj` carries a resourceVersion that is not the stored one; 404 if it does not exist.
        """
        return self.update_as(self.catalog.by_plural(plural, group), obj, subresource)

    def delete(
        self,
        plural: str,
        name: str,
        namespace: str = "",
        group: str = "",
        *,
        grace_period_s: int | None = None,
        uid: str | None = None,
    ) -> Obj:
        """The last state: with a deletionTimestamp if somebody still has to let go of the object, else it is gone."""
        resource = self.catalog.by_plural(plural, group)
        return self.delete_as(resource, namespace, name, DeleteOptions(grace_period_s, uid))

    def remove(self, plural: str, name: str, namespace: str = "", group: str = "", *, uid: str | None = None) -> None:
        """The object is gone (unless finalizers hold it); what is absent already is fine. The kubelet's last word."""
        current = self.store.find((group, plural), namespace, name)
        if current is not None and uid in (None, uid_of(current)):
            self.delete(plural, name, namespace, group, grace_period_s=0)

    def subscribe(self, callback: Subscriber) -> Callable[[], None]:
        """Call back after every change until the returned function is called. Leave the event's objects unaltered."""
        return self.store.subscribe(callback)

    def service_account_token(self, namespace: str, name: str, audiences: Iterable[str] = ()) -> str:
        """A bearer token of this account, for the API server unless told otherwise. Raises ApiError 404 without it."""
        resource = self.catalog.by_plural(SERVICE_ACCOUNTS[1])
        return self.accounts.token(namespace, name, uid_of(self.find(resource, namespace, name)), audiences)

    def publish_api_server(self, addresses: Iterable[str], port: int) -> None:
        """The Service `kubernetes` in `default` leads to these addresses."""
        ips = list(addresses)
        ports = [{"name": "https", "port": port, "protocol": "TCP"}]
        meta: Obj = {"name": "kubernetes", "namespace": "default"}
        subsets = [{"addresses": [{"ip": ip} for ip in ips], "ports": ports}]
        self._put("endpoints", "", {"metadata": dict(meta), "subsets": subsets})
        endpoints = [{"addresses": [ip], "conditions": {"ready": True}} for ip in ips]
        meta["labels"] = {"kubernetes.io/service-name": "kubernetes"}
        slice_ = {"metadata": meta, "addressType": "IPv4", "endpoints": endpoints, "ports": ports}
        self._put("endpointslices", "discovery.k8s.io", slice_)

    # -- by resource: what the HTTP server uses; objects passed out by these are shared with the store

    def select(self, resource: ApiResource, namespace: str | None, selector: Selector) -> Objects:
        objects = self.store.objects(resource.key)
        keys = sorted(objects) if namespace is None else sorted(key for key in objects if key[0] == namespace)
        return [objects[key] for key in keys if selector.matches(objects[key])]

    def find(self, resource: ApiResource, namespace: str, name: str) -> Obj:
        """Raises ApiError 404 if there is no such object."""
        found = self.store.find(resource.key, namespace if resource.namespaced else "", name)
        if found is None:
            raise not_found(resource, name)
        return found

    def create_as(self, resource: ApiResource, obj: Obj, *, dry_run: bool = False) -> Obj:
        new = self._admission.for_create(resource, copy_object(obj))
        if not dry_run:
            self._commit(ObjectEventType.ADDED, resource, new, None)
        return copy_object(new)

    def update_as(
        self, resource: ApiResource, obj: Obj, subresource: str | None = None, *, dry_run: bool = False
    ) -> Obj:
        meta = obj.get("metadata") or {}
        old = self.find(resource, meta.get("namespace", ""), meta.get("name", ""))
        new = self._admission.for_update(resource, copy_object(obj), old, subresource)
        if dry_run or new == old:
            return copy_object(new)
        held = is_deleting(old) and old["metadata"].get("finalizers")
        if held and self._deletion.finish_if_released(resource, new, old):
            return copy_object(new)
        return copy_object(self._commit(ObjectEventType.MODIFIED, resource, new, old).object)

    def delete_as(
        self, resource: ApiResource, namespace: str, name: str, options: DeleteOptions, *, dry_run: bool = False
    ) -> Obj:
        obj = self.find(resource, namespace, name)
        if dry_run:
            self._deletion.check(resource, obj, options)
            return copy_object(obj)
        return copy_object(self._deletion.delete(resource, obj, options))

    def _commit(self, kind: ObjectEventType, resource: ApiResource, obj: Obj, old: Obj | None) -> ObjectEvent:
        event = self.store.commit(kind, resource, obj, old)
        self.addresses.observe(event)
        self._owners.observe(event)
        self.custom.observe(event)
        self.store.publish(event)
        if resource.key == NAMESPACES and kind is ObjectEventType.ADDED:
            self.create("serviceaccounts", {"metadata": {"name": "default", "namespace": name_of(obj)}})
        self._deletion.follow(event)
        return event

    def _put(self, plural: str, group: str, obj: Obj) -> None:
        if self.get(plural, name_of(obj), namespace_of(obj), group) is None:
            self.create(plural, obj, group)
        else:
            self.update(plural, obj, group)

    def _create_api_service(self) -> None:
        ports = [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443}]
        labels = {"component": "apiserver", "provider": "kubernetes"}
        meta = {"name": "kubernetes", "namespace": "default", "labels": labels}
        self.create("services", {"metadata": meta, "spec": {"clusterIP": self.addresses.api_server, "ports": ports}})

    def _has_account(self, namespace: str, name: str, uid: str) -> bool:
        account = self.store.find(SERVICE_ACCOUNTS, namespace, name)
        return account is not None and uid_of(account) == uid
