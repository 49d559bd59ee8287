# SPDX-License-Identifier: Apache-2.0
"""What can be done with a resource over HTTP: get, list, watch, create, update, patch, delete."""

from __future__ import annotations

import base64
import binascii

import orjson

from lab.devkube.api.authorizer import Authorizer
from lab.devkube.api.cluster import Cluster
from lab.devkube.api.deletion import DeleteOptions, Propagation
from lab.devkube.api.error import (
    ApiError,
    Cause,
    bad_request,
    expired,
    invalid,
    status_object,
    too_large_revision,
)  # fmt: skip
from lab.devkube.api.escalation import check_grant
from lab.devkube.api.http import Request, Response, Stream, json_response
from lab.devkube.api.models import decode, missing_fields
from lab.devkube.api.objects import Obj, ObjectKey, copy_object, key_of, name_of, uid_of
from lab.devkube.api.patches import APPLY_PATCH, apply_object, patch_object
from lab.devkube.api.presentation import Presentation, choose
from lab.devkube.api.resource import ApiResource
from lab.devkube.api.routes import RequestTarget
from lab.devkube.api.selectors import parse_selector
from lab.devkube.api.watch import BOOKMARK_S, Stop, Watch, parse_revision, watch_options

_STRICT, _IGNORE = "Strict", "Ignore"


class Verbs:
    """The verbs on one cluster, for callers that may use them. `stop` ends all watches."""

    def __init__(self, cluster: Cluster, authorizer: Authorizer, stop: Stop, bookmark_s: float = BOOKMARK_S) -> None:
        self._cluster, self._authorizer, self._stop, self._bookmark_s = cluster, authorizer, stop, bookmark_s

    def handle(self, target: RequestTarget, request: Request) -> Response | Stream:
        """Raises ApiError, 405 for a verb that the path does not have."""
        verb = _verb(target, request)
        if verb not in target.resource.verbs:
            raise method_not_allowed()
        presentation = self.presentation(target.resource, request)
        match verb:
            case "get":
                obj = self._cluster.find(target.resource, target.namespace or "", target.name)
                return json_response(200, presentation.one(obj))
            case "list":
                return self._list(target, request, presentation)
            case "watch":
                options = watch_options(request, target.namespace, target.resource, self._cluster.rng)
                watch = Watch(self._cluster, presentation, options, self._stop, self._bookmark_s)
                return Stream(watch.frames())
            case "create":
                return self._create(target, request, presentation)
            case "update":
                return self._update(target, request, presentation)
            case "patch":
                return self._patch(target, request, presentation)
            case "delete":
                return self._delete(target, request)
            case _:
                return self._delete_collection(target, request, presentation)

    def presentation(self, resource: ApiResource, request: Request) -> Presentation:
        include = request.text("includeObject")
        return choose(resource, request.accept, include, self._cluster.custom, self._cluster.wall)

    def _list(self, target: RequestTarget, request: Request, presentation: Presentation) -> Response:
        store, resource = self._cluster.store, target.resource
        asked = parse_revision(request.text("resourceVersion"))
        if asked is not None and asked > store.revision:
            raise too_large_revision(asked, store.revision)
        selector = parse_selector(request.text("labelSelector"), request.text("fieldSelector"))
        chosen = self._cluster.select(resource, target.namespace, selector)
        revision, after = store.revision, None
        if token := request.text("continue"):
            revision, after = _parse_continue(token)
            if revision < store.oldest(resource.key):
                raise expired(revision, store.oldest(resource.key))
            chosen = [obj for obj in chosen if key_of(obj) > after]
        meta: Obj = {"resourceVersion": str(revision)}
        limit = request.number("limit")
        if limit and len(chosen) > limit:
            meta["continue"] = _continue_token(revision, key_of(chosen[limit - 1]))
            if selector.labels == () and selector.fields == ():
                meta["remainingItemCount"] = len(chosen) - limit
            chosen = chosen[:limit]
        return json_response(200, presentation.many(chosen, meta))

    def _create(self, target: RequestTarget, request: Request, presentation: Presentation) -> Response:
        resource = target.resource
        obj, warnings = self._read(resource, request, request.object())
        self._place(target, obj)
        obj["metadata"].pop("managedFields", None)
        return self._make(resource, request, presentation, obj, warnings)

    def _make(
        self, resource: ApiResource, request: Request, presentation: Presentation, obj: Obj, warnings: list[str]
    ) -> Response:
        check_required(resource, obj)
        check_grant(self._authorizer, request.user, resource, obj, None)
        made = self._cluster.create_as(resource, obj, dry_run=request.is_dry_run)
        return json_response(201, presentation.one(made), warnings)

    def _update(self, target: RequestTarget, request: Request, presentation: Presentation) -> Response:
        resource = target.resource
        obj, warnings = self._read(resource, request, request.object())
        self._place(target, obj)
        return self._store(target, request, presentation, obj, warnings)

    def _patch(self, target: RequestTarget, request: Request, presentation: Presentation) -> Response:
        resource, space = target.resource, target.namespace or ""
        old = self._cluster.store.find(resource.key, space, target.name)
        if request.content_type == APPLY_PATCH:
            return self._apply(target, request, presentation, old)
        if old is None:
            old = self._cluster.find(resource, space, target.name)
        base = {**copy_object(old), "apiVersion": resource.api_version}
        obj, warnings = self._read(resource, request, patch_object(resource, base, request))
        self._place(target, obj)
        return self._store(target, request, presentation, obj, warnings)

    def _apply(self, target: RequestTarget, request: Request, presentation: Presentation, old: Obj | None) -> Response:
        resource = target.resource
        meta: Obj = {"name": target.name} | ({"namespace": target.namespace} if target.namespace else {})
        base = {**(copy_object(old) if old else {"metadata": meta}), "apiVersion": resource.api_version}
        base["kind"] = resource.kind
        wall_s = self._cluster.wall()
        applied = apply_object(
            resource, base, request, target.subresource, custom=self._cluster.custom, wall_s=wall_s
        )  # fmt: skip
        obj, warnings = self._read(resource, request, applied)
        self._place(target, obj)
        if old is not None:
            return self._store(target, request, presentation, obj, warnings)
        return self._make(resource, request, presentation, obj, warnings)

    def _store(
        self, target: RequestTarget, request: Request, presentation: Presentation, obj: Obj, warnings: list[str]
    ) -> Response:
        if not target.subresource:
            check_required(target.resource, obj)
            old = self._cluster.find(target.resource, target.namespace or "", target.name)
            check_grant(self._authorizer, request.user, target.resource, obj, old)
        subresource = "status" if target.subresource == "status" else None
        stored = self._cluster.update_as(target.resource, obj, subresource, dry_run=request.is_dry_run)
        return json_response(200, presentation.one(stored), warnings)

    def _delete(self, target: RequestTarget, request: Request) -> Response:
        resource, space = target.resource, target.namespace or ""
        options, dry_run = delete_options(request)
        obj = self._cluster.delete_as(resource, space, target.name, options, dry_run=dry_run)
        left = self._cluster.store.find(resource.key, space, target.name)
        if resource.kind == "Pod" or (left is not None and not dry_run):
            return json_response(200, obj)
        details = {"name": name_of(obj), "kind": resource.plural, "uid": uid_of(obj)}
        if resource.group:
            details["group"] = resource.group
        return json_response(200, status_object(200, details=details))

    def _delete_collection(self, target: RequestTarget, request: Request, presentation: Presentation) -> Response:
        selector = parse_selector(request.text("labelSelector"), request.text("fieldSelector"))
        options, dry_run = delete_options(request)
        deleted = [
            self._cluster.delete_as(target.resource, space, name, options, dry_run=dry_run)
            for space, name in map(key_of, self._cluster.select(target.resource, target.namespace, selector))
            if self._cluster.store.find(target.resource.key, space, name) is not None
        ]
        return json_response(200, presentation.many(deleted, {"resourceVersion": str(self._cluster.store.revision)}))

    def _read(self, resource: ApiResource, request: Request, obj: Obj) -> tuple[Obj, list[str]]:
        """The object without unknown fields, and warnings about those, as strictly as the client asked for."""
        mode = request.text("fieldValidation") or "Warn"
        unknown = decode(resource, obj)
        if resource.custom:
            unknown += self._cluster.custom.unknown_fields(resource, obj)
        named = [f'unknown field "{path}"' for path in unknown]
        if named and mode == _STRICT:
            what = f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}'
            raise bad_request(f"{what}: strict decoding error: {', '.join(named)}")
        return obj, [] if mode == _IGNORE else named

    def _place(self, target: RequestTarget, obj: Obj) -> None:
        """The object's own name and namespace are those of the path, or the request is wrong."""
        meta = obj.setdefault("metadata", {})
        if not isinstance(meta, dict):
            raise bad_request("metadata of the request's object is not an object")
        if target.resource.namespaced:
            if target.namespace is None:
                raise method_not_allowed()
            if meta.setdefault("namespace", target.namespace) != target.namespace:
                raise bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request"
                )
        if target.name and meta.setdefault("name", target.name) != target.name:
            raise bad_request(
                f"the name of the object ({meta['name']}) does not match the name on the URL ({target.name})"
            )


def check_required(resource: ApiResource, obj: Obj) -> None:
    """Raises ApiError 422 naming every required field that is missing."""
    if missing := missing_fields(resource, obj):
        causes = [Cause(field, "FieldValueRequired", "Required value") for field in missing]
        raise invalid(resource, str((obj.get("metadata") or {}).get("name", "")), causes)


def delete_options(request: Request) -> tuple[DeleteOptions, bool]:
    """How to delete, from the body or the query, and whether only to pretend."""
    body = request.object()
    conditions = body.get("preconditions") or {}
    grace = request.number("gracePeriodSeconds")
    policy = body.get("propagationPolicy") or request.text("propagationPolicy")
    if body.get("orphanDependents"):
        policy = Propagation.ORPHAN
    try:
        propagation = Propagation(policy or Propagation.BACKGROUND)
    except ValueError:
        raise bad_request(f'invalid propagationPolicy: "{policy}"') from None
    options = DeleteOptions(
        body["gracePeriodSeconds"] if body.get("gracePeriodSeconds") is not None else grace,
        conditions.get("uid"),
        conditions.get("resourceVersion"),
        propagation,
    )
    return options, request.is_dry_run or "All" in (body.get("dryRun") or [])


def method_not_allowed() -> ApiError:
    return ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")


def _verb(target: RequestTarget, request: Request) -> str:
    if target.name:
        verbs = {"GET": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
    else:
        listing = "watch" if request.flag("watch") else "list"
        verbs = {"GET": listing, "POST": "create", "DELETE": "deletecollection"}
    return verbs.get(request.method, "")


def _continue_token(revision: int, last: ObjectKey) -> str:
    return base64.urlsafe_b64encode(orjson.dumps({"rv": revision, "start": list(last)})).decode()


def _parse_continue(token: str) -> tuple[int, ObjectKey]:
    try:
        decoded = orjson.loads(base64.urlsafe_b64decode(token))
        namespace, name = decoded["start"]
        return int(decoded["rv"]), (str(namespace), str(name))
    except (binascii.Error, ValueError, KeyError, TypeError) as exc:
        raise bad_request("continue key is not valid") from exc
