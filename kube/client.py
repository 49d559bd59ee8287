# SPDX-License-Identifier: Apache-2.0
"""Single requests to one cluster, on plain dicts. Every method blocks and is bounded; from a loop use `in_thread`."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator, Mapping
from typing import ParamSpec, TypeVar
from urllib.parse import quote

import orjson

from kube.errors import AlreadyExists, Gone, NotFound, ServerFailed
from kube.following import Following
from kube.resource import SERVICE_ACCOUNTS, KubeObject, Resource
from kube.transport import MERGE_PATCH, Query, Transport, refusal

PAGE_SIZE = 500
DEFAULT_TIMEOUT_S = 30.0

_P = ParamSpec("_P")
_R = TypeVar("_R")


async def in_thread(call: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """The result of one blocking call, made in a worker thread."""
    import asyncio  # who has no loop does not load it

    return await asyncio.to_thread(call, *args, **kwargs)


class KubeClient:
    """One cluster's API server. Safe to use from several threads."""

    def __init__(self, transport: Transport, *, context: str = "", timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self.transport, self.context, self.timeout_s = transport, context, timeout_s
        self.following = Following()

    def within(self, timeout_s: float) -> KubeClient:
        """The same cluster, asked with this limit."""
        same = KubeClient(self.transport, context=self.context, timeout_s=timeout_s)
        same.following = self.following
        return same

    @property
    def server(self) -> str:
        return self.transport.server

    def get(self, resource: Resource, name: str, namespace: str | None = None) -> KubeObject | None:
        """The object, or None where it does not exist."""
        try:
            return self._call("GET", resource.path(namespace, name))
        except NotFound:
            return None

    def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
    ) -> builtins.list[KubeObject]:
        """Every object that matches, of one namespace or of all."""
        while True:
            try:
                pages = self.pages(resource, namespace, label_selector=label_selector, field_selector=field_selector)
                return [item for page in pages for item in page["items"] or ()]
            except Gone:  # a page expired: the listing starts over
                continue

    def pages(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        limit: int = PAGE_SIZE,
    ) -> Iterator[KubeObject]:
        """The pages of one listing, each a List object.

        Raises: Gone if the listing took too long and must start over.
        """
        query: dict[str, str | int] = {"limit": limit}
        if label_selector:
            query["labelSelector"] = label_selector
        if field_selector:
            query["fieldSelector"] = field_selector
        while True:
            page = self._call("GET", resource.path(namespace), query=query)
            if not isinstance(page.get("items", ""), list | None) or not isinstance(page.get("metadata"), dict):
                raise ServerFailed(f"GET {resource.path(namespace)}", 200, "NotAList")
            for item in page["items"] or ():
                item.setdefault("kind", resource.kind)
                item.setdefault("apiVersion", resource.api_version)
            yield page
            token = page["metadata"].get("continue")
            if not token:
                return
            query["continue"] = token

    def create(self, resource: Resource, obj: KubeObject, *, is_trial: bool = False) -> KubeObject:
        """A new object. A trial is judged by the server as the real thing, and changes nothing."""
        return self._call("POST", resource.path(_namespace(obj)), query=_trial(is_trial), body=_complete(resource, obj))

    def apply(self, resource: Resource, obj: KubeObject, *, is_trial: bool = False) -> KubeObject:
        """The object exists and has every field that is given; fields not given keep what they have. Trials as in `create`."""
        name, namespace, body = str(obj["metadata"]["name"]), _namespace(obj), _complete(resource, obj)
        try:
            return self.patch_merge(resource, name, body, namespace, is_trial=is_trial)
        except NotFound:
            pass
        try:
            return self.create(resource, obj, is_trial=is_trial)
        except AlreadyExists:
            return self.patch_merge(resource, name, body, namespace, is_trial=is_trial)

    def replace(self, resource: Resource, obj: KubeObject) -> KubeObject:
        """The object is exactly this.

        Raises: Conflict if `metadata.resourceVersion` is given and no longer true.
        """
        path = resource.path(_namespace(obj), str(obj["metadata"]["name"]))
        return self._call("PUT", path, body=_complete(resource, obj))

    def patch_merge(
        self,
        resource: Resource,
        name: str,
        body: KubeObject,
        namespace: str | None = None,
        subresource: str | None = None,
        *,
        is_trial: bool = False,
    ) -> KubeObject:
        """The fields in `body` are set, those given as None are removed (JSON merge patch)."""
        path = resource.path(namespace, name, subresource)
        return self._call("PATCH", path, query=_trial(is_trial), body=body, content_type=MERGE_PATCH)

    def patch_status(
        self, resource: Resource, name: str, status: KubeObject, namespace: str | None = None
    ) -> KubeObject:
        """The given fields of the object's status are set."""
        return self.patch_merge(resource, name, {"status": status}, namespace, "status")

    def delete(self, resource: Resource, name: str, namespace: str | None = None) -> bool:
        """The object is gone or going; False where there was none."""
        try:
            self._call("DELETE", resource.path(namespace, name))
        except NotFound:
            return False
        return True

    def get_path(self, path: str, query: Query | None = None) -> KubeObject:
        """The JSON document at any path of the API.

        Raises: KubeError if the server refuses.
        """
        return self._call("GET", path, query=query)

    def answer_headers(self, path: str) -> dict[str, str]:
        """What stands above the API server's answer to a GET, by names in lower case, whatever its status is."""
        return self.transport.answer_headers(path, timeout_s=self.timeout_s)

    def service_proxy_get(
        self, namespace: str, name: str, port: int | str, path: str, *, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        """What a Service's port answers, through the API server."""
        target = f"services/{quote(f'{name}:{port}', safe=':')}"
        return self._proxy_get(namespace, target, path, headers)

    def pod_proxy_get(
        self, namespace: str, name: str, port: int | str, path: str, *, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        """What a pod's port answers, through the API server."""
        target = f"pods/{quote(f'{name}:{port}', safe=':')}"
        return self._proxy_get(namespace, target, path, headers)

    def has(self, resource: Resource) -> bool:
        """Whether the server knows this kind, as discovery says."""
        path = f"/apis/{resource.group}/{resource.version}" if resource.group else f"/api/{resource.version}"
        try:
            served = self.get_path(path).get("resources") or ()
        except NotFound:
            return False
        return any(entry.get("name") == resource.plural for entry in served)

    def service_account_token(self, namespace: str, name: str, *, audience: str, lifetime_s: int) -> str:
        """A new token of a ServiceAccount for one audience. Raises: KubeError, NotFound without the account."""
        spec = {"audiences": [audience], "expirationSeconds": lifetime_s}
        path = SERVICE_ACCOUNTS.path(namespace, name, "token")
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        token = (self._call("POST", path, body=body).get("status") or {}).get("token")
        if not token:
            raise ServerFailed(f"POST {path}", 201, "NoToken")
        return str(token)

    def _proxy_get(
        self, namespace: str, target: str, path: str, headers: Mapping[str, str] | None
    ) -> tuple[int, bytes]:
        where = f"/api/v1/namespaces/{quote(namespace, safe='')}/{target}/proxy/{path.lstrip('/')}"
        return self.transport.request("GET", where, timeout_s=self.timeout_s, headers=headers)

    def _call(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: KubeObject | None = None,
        content_type: str = "application/json",
    ) -> KubeObject:
        data = None if body is None else orjson.dumps(body)
        status, reply = self.transport.request(
            method, path, query=query, body=data, content_type=content_type, timeout_s=self.timeout_s
        )
        what = f"{method} {path}"
        if status >= 300:
            raise refusal(what, status, reply)
        try:
            document = orjson.loads(reply)
        except orjson.JSONDecodeError as exc:
            raise ServerFailed(what, status, "NotJson", str(exc)) from exc
        if not isinstance(document, dict):
            raise ServerFailed(what, status, "NotAnObject")
        return document


def _trial(is_trial: bool) -> Query | None:
    return {"dryRun": "All"} if is_trial else None


def _namespace(obj: KubeObject) -> str | None:
    namespace = obj["metadata"].get("namespace")
    return str(namespace) if namespace else None


def _complete(resource: Resource, obj: KubeObject) -> KubeObject:
    return {"apiVersion": resource.api_version, "kind": resource.kind, **obj}
