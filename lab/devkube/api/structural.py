# SPDX-License-Identifier: Apache-2.0
"""Structural schemas of custom resources: dropping unknown fields, filling defaults, finding wrong values. Pure.

Not evaluated: CEL rules (x-kubernetes-validations) and most string formats.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from typing import Any

import orjson

from lab.devkube.api.error import Cause
from lab.devkube.api.objects import Obj

_ALWAYS_KNOWN = frozenset({"apiVersion", "kind", "metadata"})
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
}


def prune(schema: Obj, value: Any, path: str = "", *, root: bool = True) -> list[str]:
    """Remove what the schema does not know from `value` and return the paths of what was removed."""
    if isinstance(value, list):
        return _prune_items(schema, value, path)
    if not isinstance(value, dict):
        return []
    keep = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    known = schema.get("properties") or {}
    more = schema.get("additionalProperties")
    embedded = root or schema.get("x-kubernetes-embedded-resource")
    removed: list[str] = []
    for field in list(value):
        here = f"{path}.{field}" if path else field
        if field in known:
            removed += [] if embedded and field == "metadata" else prune(known[field], value[field], here, root=False)
        elif isinstance(more, dict):
            removed += prune(more, value[field], here, root=False)
        elif not (keep or more or (embedded and field in _ALWAYS_KNOWN)):
            del value[field]
            removed.append(here)
    return removed


def _prune_items(schema: Obj, values: list[Any], path: str) -> list[str]:
    items = schema.get("items")
    if not isinstance(items, dict):
        return []
    return [p for i, value in enumerate(values) for p in prune(items, value, f"{path}[{i}]", root=False)]


def set_schema_defaults(schema: Obj, value: Any) -> None:
    """Fill in the schema's defaults, inside out of what is there; absent objects without a default stay absent."""
    if isinstance(value, dict):
        for field, known in (schema.get("properties") or {}).items():
            absent = field not in value or (value[field] is None and not known.get("nullable"))
            if "default" in known and absent:
                value[field] = orjson.loads(orjson.dumps(known["default"]))
            if field in value:
                set_schema_defaults(known, value[field])
        if isinstance(more := schema.get("additionalProperties"), dict):
            for field in value.keys() - (schema.get("properties") or {}).keys():
                set_schema_defaults(more, value[field])
    elif isinstance(value, list) and isinstance(items := schema.get("items"), dict):
        for item in value:
            set_schema_defaults(items, item)


def violations(schema: Obj, value: Any, path: str = "") -> Iterator[Cause]:
    """Every place where the value breaks the schema."""
    if value is None:
        if not schema.get("nullable"):
            yield _wrong(path, "null", f'{path} in body must be of type {schema.get("type", "object")}: "null"')
        return
    if not _has_type(schema, value):
        found = _type_name(value)
        yield _wrong(path, found, f'{path} in body must be of type {schema.get("type")}: "{found}"')
        return
    if (allowed := schema.get("enum")) is not None and value not in allowed:
        listed = ", ".join(f'"{one}"' for one in allowed)
        yield Cause(path, "FieldValueNotSupported", f'Unsupported value: "{value}": supported values: {listed}')
    for keyword, check in _KEYWORDS.items():
        if keyword in schema and (complaint := check(schema, schema[keyword], value)):
            yield _wrong(path, value, f"{path} in body {complaint}")
    yield from _combined(schema, value, path)
    if isinstance(value, dict):
        yield from _object_violations(schema, value, path)
    elif isinstance(value, list) and isinstance(items := schema.get("items"), dict):
        for index, item in enumerate(value):
            yield from violations(items, item, f"{path}[{index}]")


def _object_violations(schema: Obj, value: Obj, path: str) -> Iterator[Cause]:
    known = schema.get("properties") or {}
    for field in schema.get("required") or ():
        if field not in value:
            yield Cause(_join(path, field), "FieldValueRequired", "Required value")
    more = schema.get("additionalProperties")
    for field, inner in value.items():
        if not path and field in _ALWAYS_KNOWN:
            continue
        if field in known:
            yield from violations(known[field], inner, _join(path, field))
        elif isinstance(more, dict):
            yield from violations(more, inner, _join(path, field))


def _combined(schema: Obj, value: Any, path: str) -> Iterator[Cause]:
    for part in schema.get("allOf") or ():
        yield from violations(part, value, path)
    for keyword in ("anyOf", "oneOf"):
        if schema.get(keyword) and not schema.get("x-kubernetes-int-or-string"):
            matching = sum(not any(violations(part, value, path)) for part in schema[keyword])
            if matching == 0 or (keyword == "oneOf" and matching > 1):
                how = "at least" if keyword == "anyOf" else "one and only"
                yield _wrong(path, value, f"{path} must validate {how} one schema ({keyword})")
    if (refused := schema.get("not")) and not any(violations(refused, value, path)):
        yield _wrong(path, value, f"{path} must not validate the schema (not)")


def _has_type(schema: Obj, value: Any) -> bool:
    if schema.get("x-kubernetes-int-or-string"):
        return isinstance(value, int | str) and not isinstance(value, bool)
    kind = schema.get("type")
    if not kind:
        return True
    if isinstance(value, bool):
        return bool(kind == "boolean")
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES.get(kind, (object,)))


def _type_name(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    return next((name for name, types in _TYPES.items() if isinstance(value, types)), "null")


def _join(path: str, field: str) -> str:
    return f"{path}.{field}" if path else field


def _wrong(path: str, value: Any, why: str) -> Cause:
    shown = orjson.dumps(value).decode() if not isinstance(value, str) else f'"{value}"'
    return Cause(path or "<root>", "FieldValueInvalid", f"Invalid value: {shown[:256]}: {why}")


def _cidr(text: str) -> object:
    """As Go's net.ParseCIDR reads it: a length is needed, bits after it may be set. Raises: ValueError."""
    if not re.search(r"/[0-9]+$", text):
        raise ValueError(text)
    return ipaddress.ip_network(text, strict=False)


def _format(_schema: Obj, limit: Any, value: Any) -> str:
    kinds: dict[str, Callable[[str], object]] = {
        "ipv4": ipaddress.IPv4Address,
        "ipv6": ipaddress.IPv6Address,
        "cidr": _cidr,
    }
    if limit in kinds and isinstance(value, str):
        try:
            kinds[limit](value)
        except ValueError:
            return f'must be of type {limit}: "{value}"'
    return ""


def _minimum(schema: Obj, limit: Any, value: Any) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    low = number and (value < limit or (schema.get("exclusiveMinimum") and value == limit))
    return f"should be greater than or equal to {limit}" if low else ""


def _maximum(schema: Obj, limit: Any, value: Any) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    high = number and (value > limit or (schema.get("exclusiveMaximum") and value == limit))
    return f"should be less than or equal to {limit}" if high else ""


def _sized(
    sized: type[str] | type[list[Any]] | type[dict[Any, Any]], unit: str, *, least: bool
) -> Callable[[Obj, Any, Any], str]:
    def check(_schema: Obj, limit: Any, value: Any) -> str:
        if not isinstance(value, sized) or (len(value) >= limit if least else len(value) <= limit):
            return ""
        return f"should have at {'least' if least else 'most'} {limit} {unit}"

    return check


def _pattern(_schema: Obj, limit: Any, value: Any) -> str:
    if not isinstance(value, str) or re.search(limit, value):
        return ""
    return f"should match '{limit}'"


def _unique(_schema: Obj, limit: Any, value: Any) -> str:
    if not limit or not isinstance(value, list):
        return ""
    seen = [orjson.dumps(item, option=orjson.OPT_SORT_KEYS) for item in value]
    return "shouldn't contain duplicates" if len(set(seen)) < len(seen) else ""


_KEYWORDS: dict[str, Callable[[Obj, Any, Any], str]] = {
    "format": _format,
    "minimum": _minimum,
    "maximum": _maximum,
    "minLength": _sized(str, "chars long", least=True),
    "maxLength": _sized(str, "chars long", least=False),
    "minItems": _sized(list, "items", least=True),
    "maxItems": _sized(list, "items", least=False),
    "minProperties": _sized(dict, "properties", least=True),
    "maxProperties": _sized(dict, "properties", least=False),
    "pattern": _pattern,
    "uniqueItems": _unique,
}
