# SPDX-License-Identifier: Apache-2.0
"""JSON merge patch (RFC 7396) and JSON patch (RFC 6902)."""

from __future__ import annotations

from typing import Any

import jsonpatch

from lab.devkube.api.error import ApiError, bad_request
from lab.devkube.api.objects import Obj, copy_object


def merge_patch(target: Any, patch: Any) -> Any:
    """The target with the patch laid over it; null removes a field. The arguments stay as they are."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for field, value in patch.items():
        if value is None:
            merged.pop(field, None)
        else:
            merged[field] = merge_patch(merged.get(field), value)
    return merged


def json_patch(obj: Obj, operations: Any) -> Obj:
    """The object after all operations. Raises ApiError 422 if one of them does not apply, 400 if they are no patch."""
    try:
        patched = jsonpatch.JsonPatch(operations).apply(copy_object(obj))
    except (jsonpatch.InvalidJsonPatch, TypeError) as exc:
        raise bad_request(f"invalid JSON patch: {exc}") from exc
    except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException) as exc:
        text = f"the server rejected our request due to an error in our request: {exc}"
        raise ApiError(422, "Invalid", text) from exc
    if not isinstance(patched, dict):
        raise ApiError(422, "Invalid", "the patched document is not an object")
    return patched
