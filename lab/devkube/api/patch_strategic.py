# SPDX-License-Identifier: Apache-2.0
"""Strategic merge patch: merge patch that knows how the lists of built-in kinds are keyed. Pure.

Source: directives `$patch`, `$retainKeys`, `$setElementOrder/<list>`, `$deleteFromPrimitiveList/<list>`.
"""

from __future__ import annotations

from typing import Any

from lab.devkube.api.error import bad_request
from lab.devkube.api.merge_keys import Path, is_set, strategic_key
from lab.devkube.api.objects import Obj

_ORDER = "$setElementOrder/"
_DELETE = "$deleteFromPrimitiveList/"


def strategic_merge(kind: str, obj: Obj, patch: Obj) -> Obj:
    """The object with the patch laid over it. Raises ApiError 400 for a list element without its key."""
    merged = _merge_object(kind, obj, patch, ())
    return merged if merged is not None else {}


def _merge_object(kind: str, target: Any, patch: Obj, path: Path) -> Obj | None:
    """None if the patch asks for the object's removal."""
    directive = patch.get("$patch")
    if directive == "delete":
        return None
    if directive == "replace":
        return {field: value for field, value in patch.items() if field != "$patch"}
    merged: Obj = dict(target) if isinstance(target, dict) else {}
    if (retained := patch.get("$retainKeys")) is not None:
        merged = {field: value for field, value in merged.items() if field in retained}
    for field, value in patch.items():
        if field.startswith(_DELETE):
            name = field.removeprefix(_DELETE)
            merged[name] = [one for one in merged.get(name) or [] if one not in value]
    for field, value in patch.items():
        if not field.startswith("$"):
            _merge_field(kind, merged, value, (*path, field))
    for field, order in patch.items():
        if field.startswith(_ORDER):
            _set_order(kind, merged, order, (*path, field.removeprefix(_ORDER)))
    return merged


def _merge_field(kind: str, merged: Obj, value: Any, path: Path) -> None:
    field = path[-1]
    if value is None:
        merged.pop(field, None)
    elif isinstance(value, dict):
        inner = _merge_object(kind, merged.get(field), value, path)
        if inner is None:
            merged.pop(field, None)
        else:
            merged[field] = inner
    elif isinstance(value, list):
        merged[field] = _merge_list(kind, merged.get(field) or [], value, path)
    else:
        merged[field] = value


def _merge_list(kind: str, target: list[Any], patch: list[Any], path: Path) -> list[Any]:
    if is_set(path):
        return target + [value for value in patch if value not in target]
    key = strategic_key(kind, path)
    if key is None or not all(isinstance(item, dict) for item in patch):
        return patch
    if any(item.get("$patch") == "replace" for item in patch):
        return [item for item in patch if "$patch" not in item]
    merged = list(target)
    for item in patch:
        if key not in item:
            raise bad_request(f"map: {item} does not contain declared merge key: {key}")
        _merge_element(kind, merged, item, key, path)
    return merged


def _merge_element(kind: str, merged: list[Any], item: Obj, key: str, path: Path) -> None:
    place = next((i for i, one in enumerate(merged) if one.get(key) == item[key]), None)
    result = _merge_object(kind, merged[place] if place is not None else {}, item, path)
    if place is None:
        if result is not None:
            merged.append(result)
    elif result is None:
        del merged[place]
    else:
        merged[place] = result


def _set_order(kind: str, merged: Obj, order: list[Any], path: Path) -> None:
    """Elements the order names come as it says; elements it does not know keep their place behind their neighbours."""
    field, key = path[-1], strategic_key(kind, path)
    if key is None or not isinstance(merged.get(field), list):
        return
    places = {item.get(key): place for place, item in enumerate(order) if isinstance(item, dict)}
    ranked: list[tuple[int, Any]] = []
    last = -1
    for item in merged[field]:
        last = places.get(item.get(key), last)
        ranked.append((last, item))
    merged[field] = [item for _, item in sorted(ranked, key=lambda pair: pair[0])]
