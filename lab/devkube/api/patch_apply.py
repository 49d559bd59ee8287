# SPDX-License-Identifier: Apache-2.0
"""Server-side apply: an applier owns the fields it names, and lets go of those it names no longer. Pure.

Owners are tracked for appliers only; other writes change values without taking ownership.
Source: fieldsV1 of metadata.managedFields: "f:<field>", "k:<key object>", "v:<value>", "." for the element itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from lab.devkube.api.error import ApiError
from lab.devkube.api.merge_keys import ListRules, Path, element_key
from lab.devkube.api.objects import Obj, copy_object, items_of, metadata

FieldPath = tuple[str, ...]
_IDENTITY = frozenset(
    {"name", "namespace", "creationTimestamp", "uid", "resourceVersion", "managedFields", "generation"}
)


@dataclass(frozen=True, slots=True)
class Applier:
    """Who applies, and whether it takes fields from others. `time` is the timestamp for its entry."""

    name: str
    force: bool
    time: str
    subresource: str = ""

    def is_entry(self, entry: Obj) -> bool:
        return (entry["manager"], entry["operation"], entry.get("subresource", "")) == (
            self.name, "Apply", self.subresource,
        )  # fmt: skip


def server_side_apply(obj: Obj, patch: Obj, rules: ListRules, applier: Applier) -> Obj:
    """The object as the applier wants it. Raises ApiError 409 naming the fields that belong to somebody else."""
    result, wanted = copy_object(obj), _intent(patch)
    entries = items_of(metadata(result), "managedFields")
    mine = [entry for entry in entries if applier.is_entry(entry)]
    others = [entry for entry in entries if not applier.is_entry(entry)]
    owned = _field_set(wanted, rules, ())
    paths = set(_leaves(owned))
    _check_conflicts(result, wanted, paths, others, applier)
    if applier.force:
        others = [kept for entry in others if (kept := _without(entry, _taken(result, wanted, paths)))]
    held_by_others = {path for entry in others for path in _leaves(entry.get("fieldsV1", {}))}
    for previous in mine:
        for path in sorted(_leaves(previous.get("fieldsV1", {})), key=len, reverse=True):
            if path not in paths and path not in held_by_others:
                _drop(result, path)
    result = dict(_overlay(result, wanted, rules, ()))
    unchanged = bool(mine) and mine[0].get("fieldsV1") == owned
    entry: Obj = {"manager": applier.name, "operation": "Apply", "apiVersion": obj["apiVersion"]}
    entry |= {"fieldsType": "FieldsV1"}
    entry |= {"time": mine[0]["time"] if unchanged else applier.time, "fieldsV1": owned}
    if applier.subresource:
        entry["subresource"] = applier.subresource
    metadata(result)["managedFields"] = [*others, entry]
    return result


def _intent(patch: Obj) -> Obj:
    wanted = {field: value for field, value in patch.items() if field not in ("apiVersion", "kind")}
    meta = {field: value for field, value in (patch.get("metadata") or {}).items() if field not in _IDENTITY}
    wanted["metadata"] = meta or None
    return {field: value for field, value in wanted.items() if value is not None}


def _check_conflicts(obj: Obj, wanted: Obj, paths: set[FieldPath], others: list[Obj], applier: Applier) -> None:
    if applier.force:
        return
    taken = _taken(obj, wanted, paths)
    causes = [
        {
            "reason": "FieldManagerConflict",
            "message": f'conflict with "{entry["manager"]}" using {entry.get("apiVersion", "")}',
            "field": "." + ".".join(step[2:] for step in path),
        }
        for entry in others if entry["operation"] == "Apply"
        for path in _leaves(entry.get("fieldsV1", {})) if path in taken
    ]  # fmt: skip
    if causes:
        listed = "\n".join(f"{cause['message']}: {cause['field']}" for cause in causes)
        text = f"Apply failed with {len(causes)} conflict{'s' if len(causes) > 1 else ''}: {listed}"
        raise ApiError(409, "Conflict", text, {"causes": causes})


def _taken(obj: Obj, wanted: Obj, paths: set[FieldPath]) -> set[FieldPath]:
    """The fields that applying would change."""
    return {path for path in paths if path[-1] != "." and _find(obj, path) != _find(wanted, path)}


def _without(entry: Obj, taken: set[FieldPath]) -> Obj | None:
    left = [path for path in _leaves(entry.get("fieldsV1", {})) if path not in taken]
    if not left:
        return None
    fields: Obj = {}
    for path in left:
        here = fields
        for step in path:
            here = here.setdefault(step, {})
    return {**entry, "fieldsV1": fields}


def _field_set(value: Any, rules: ListRules, path: Path) -> Obj:
    if isinstance(value, dict):
        return {f"f:{field}": _field_set(inner, rules, (*path, field)) for field, inner in value.items()}
    if isinstance(value, list):
        if keys := rules.keys(path):
            return {_element(item, keys): {".": {}} | _field_set(item, rules, path) for item in value}
        if rules.is_set(path):
            return {"v:" + orjson.dumps(item).decode(): {} for item in value}
    return {}


def _element(item: Obj, keys: tuple[str, ...]) -> str:
    return "k:" + orjson.dumps(element_key(item, keys)).decode()


def _leaves(fields: Obj, prefix: FieldPath = ()) -> Iterator[FieldPath]:
    for step, inner in fields.items():
        if inner:
            yield from _leaves(inner, (*prefix, step))
        else:
            yield (*prefix, step)


def _is_element(item: Any, step: str) -> bool:
    wanted = orjson.loads(step[2:])
    return isinstance(item, dict) and element_key(item, tuple(wanted)) == wanted


def _find(obj: Any, path: FieldPath) -> Any:
    for step in path:
        if step == ".":
            return obj
        if step.startswith("f:"):
            obj = obj.get(step[2:]) if isinstance(obj, dict) else None
        elif step.startswith("k:"):
            obj = next((item for item in obj or [] if _is_element(item, step)), None)
        else:
            value = orjson.loads(step[2:])
            obj = value if value in (obj or []) else None
    return obj


def _drop(obj: Obj, path: FieldPath) -> None:
    """Remove one field, and the containers that it leaves empty."""
    parent, step = _find(obj, path[:-1]), path[-1]
    if step == "." and len(path) > 1:
        _drop(obj, path[:-1])
    elif step.startswith("f:") and isinstance(parent, dict):
        parent.pop(step[2:], None)
        if not parent and len(path) > 1 and path[-2].startswith("f:"):
            _drop(obj, path[:-1])
    elif step.startswith("k:") and isinstance(parent, list):
        parent[:] = [item for item in parent if not _is_element(item, step)]
    elif step.startswith("v:") and isinstance(parent, list):
        value = orjson.loads(step[2:])
        parent[:] = [item for item in parent if item != value]


def _overlay(target: Any, wanted: Any, rules: ListRules, path: Path) -> Any:
    if isinstance(wanted, dict):
        merged = dict(target) if isinstance(target, dict) else {}
        for field, value in wanted.items():
            merged[field] = _overlay(merged.get(field), value, rules, (*path, field))
        return merged
    if not isinstance(wanted, list):
        return wanted
    if keys := rules.keys(path):
        merged_items = list(target or [])
        for item in wanted:
            step = _element(item, keys)
            place = next((i for i, one in enumerate(merged_items) if _is_element(one, step)), None)
            if place is None:
                merged_items.append(item)
            else:
                merged_items[place] = _overlay(merged_items[place], item, rules, path)
        return merged_items
    if rules.is_set(path):
        return [*(target or []), *(value for value in wanted if value not in (target or []))]
    return wanted
