# SPDX-License-Identifier: Apache-2.0
"""Which patch a request carries, applied to an object. Pure but for the clock it is given."""

from __future__ import annotations

from lab.devkube.api.crd import CustomKinds
from lab.devkube.api.error import bad_request, unsupported_media_type
from lab.devkube.api.http import Request
from lab.devkube.api.merge_keys import BuiltInRules, ListRules, SchemaRules
from lab.devkube.api.objects import Obj, timestamp
from lab.devkube.api.patch_apply import Applier, server_side_apply
from lab.devkube.api.patch_merge import json_patch, merge_patch
from lab.devkube.api.patch_strategic import strategic_merge
from lab.devkube.api.resource import ApiResource

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"


def patch_object(resource: ApiResource, obj: Obj, request: Request) -> Obj:
    """A patched copy of the object, for the three patches that need an object to start from. Raises ApiError."""
    accepted = [JSON_PATCH, MERGE_PATCH, *([] if resource.custom else [STRATEGIC_PATCH]), APPLY_PATCH]
    kind = request.content_type
    if kind == JSON_PATCH:
        return json_patch(obj, request.document())
    if kind == MERGE_PATCH:
        merged: Obj = merge_patch(obj, request.object())
        return merged
    if kind == STRATEGIC_PATCH and not resource.custom:
        return strategic_merge(resource.kind, obj, request.object())
    raise unsupported_media_type(kind, accepted)


def apply_object(
    resource: ApiResource, obj: Obj, request: Request, subresource: str, *, custom: CustomKinds, wall_s: float
) -> Obj:
    """The object as the applier wants it. Raises ApiError 409 for another's fields, 400 without a manager's name."""
    manager = request.text("fieldManager")
    if not manager:
        raise bad_request(
            "PatchOptions.meta.k8s.io is invalid: fieldManager: Required value: is required for apply patch"
        )
    patch = parse_applied(request)
    for field in ("apiVersion", "kind"):
        if patch.get(field) != obj[field]:
            raise bad_request(f"invalid object: {field} is {patch.get(field)!r}, expected {obj[field]!r}")
    kind = custom.find(resource) if resource.custom else None
    rules: ListRules = SchemaRules(kind.schema) if kind else BuiltInRules(resource.kind)
    applier = Applier(manager, request.flag("force"), timestamp(wall_s), subresource)
    return server_side_apply(obj, patch, rules, applier)


def parse_applied(request: Request) -> Obj:
    """The applied configuration. Raises ApiError 400 if it carries managed fields."""
    patch = request.object()
    if (patch.get("metadata") or {}).get("managedFields"):
        raise bad_request("metadata.managedFields must be nil")
    return patch
