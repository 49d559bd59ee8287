# SPDX-License-Identifier: Apache-2.0
"""The schema of the built-in kinds, read out of the `kubernetes` package's model classes.

Nothing else of that package is used by the server.
"""

from __future__ import annotations

import base64
import binascii
import functools
import re
from dataclasses import dataclass
from typing import Any, Literal

from kubernetes.client import models

from lab.devkube.api.error import bad_request
from lab.devkube.api.objects import Obj
from lab.devkube.api.resource import ApiResource

Shape = Literal["one", "list", "map"]

_MODEL_NAMES = {
    "Event": "CoreV1Event",
    "TokenRequest": "AuthenticationV1TokenRequest",
}
_LIST = re.compile(r"^[Ll]ist\[(.*)\]$")
_MAP = re.compile(r"^[Dd]ict[(\[]\w+, ?(.*)[)\]]$")
_PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,), "datetime": (str,), "int": (int,), "bool": (bool,), "float": (int, float),
}  # fmt: skip
_GO_TYPES = {"str": "string", "datetime": "string", "int": "int32", "bool": "bool", "float": "float64"}
_QUANTITIES = frozenset(
    {
        "requests", "limits", "hard", "used", "capacity", "allocatable", "allocatedResources", "overhead", "podFixed",
        "default", "defaultRequest", "max", "min", "maxLimitRequestRatio",
        "averageValue", "divisor", "sizeLimit",
    }
)  # fmt: skip
"""Fields whose text is an amount, which may be written as a number (Kubernetes' Quantity)."""
_ZERO_IS_FINE = frozenset({"bool", "podSelector"})


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a model: its shape, and the element's model or scalar type."""

    name: str
    shape: Shape
    model: type | None
    scalar: str
    required: bool
    description: str


def model_of(resource: ApiResource) -> type | None:
    """The model class of a built-in kind; None for custom kinds."""
    if resource.custom:
        return None
    return _model(_MODEL_NAMES.get(resource.kind, resource.version.capitalize() + resource.kind))


def _model(name: str) -> type | None:
    found = getattr(models, name, None)
    return found if isinstance(found, type) and hasattr(found, "attribute_map") else None


@functools.cache
def fields_of(model: type) -> dict[str, Field]:
    """Fields by their JSON names."""
    described: Obj = getattr(model, "model_fields", {})
    attributes: dict[str, str] = getattr(model, "attribute_map", {})
    types: dict[str, str] = getattr(model, "openapi_types", {})
    found: dict[str, Field] = {}
    for attribute, name in attributes.items():
        shape, element = _shape(types[attribute])
        info = described.get(attribute)
        found[name] = Field(
            name, shape, _model(element), element,
            bool(info is not None and info.is_required()), (info.description if info is not None else "") or "",
        )  # fmt: skip
    return found


def _shape(text: str) -> tuple[Shape, str]:
    if found := _LIST.match(text):
        return "list", found[1]
    if found := _MAP.match(text):
        return "map", found[1]
    return "one", text


def decode(resource: ApiResource, obj: Obj) -> list[str]:
    """Drop nulls and unknown fields from a client's object, in place; the paths of the unknown ones are returned.

    Raises: ApiError 400 for a value of the wrong type, as a typed server would.
    """
    model = model_of(resource)
    if model is None:
        if isinstance(meta := obj.get("metadata"), dict):
            return _decode(resource, models.V1ObjectMeta, meta, "metadata")
        return []
    return _decode(resource, model, obj, "")


def _decode(resource: ApiResource, model: type, obj: Obj, path: str) -> list[str]:
    known, unknown = fields_of(model), []
    for name in list(obj):
        value, here = obj[name], f"{path}.{name}" if path else name
        if name not in known:
            del obj[name]
            unknown.append(here)
        elif value is None:
            del obj[name]
        else:
            if name in _QUANTITIES and known[name].scalar == "str":
                value = obj[name] = _amounts(resource, value, here)
            unknown += _decode_field(resource, known[name], value, here)
    return unknown


def _decode_field(resource: ApiResource, field: Field, value: Any, path: str) -> list[str]:
    if field.shape == "list":
        _require(resource, isinstance(value, list), value, path, "[]" + _GO_TYPES.get(field.scalar, field.scalar))
        places = [(item, f"{path}[{index}]") for index, item in enumerate(value)]
    elif field.shape == "map":
        _require(resource, isinstance(value, dict), value, path, "map[string]" + _GO_TYPES.get(field.scalar, "object"))
        places = [(item, f"{path}.{key}") for key, item in value.items()]
    else:
        places = [(value, path)]
    unknown: list[str] = []
    for item, here in places:
        if field.model is not None:
            _require(resource, isinstance(item, dict), item, here, field.model.__name__)
            unknown += _decode(resource, field.model, item, here)
        elif field.scalar == "bytes":
            _require_base64(resource, item, here)
        elif types := _PYTHON_TYPES.get(field.scalar):
            fits = isinstance(item, types) and (field.scalar == "bool" or not isinstance(item, bool))
            _require(resource, fits or item is None, item, here, _GO_TYPES[field.scalar])
    return unknown


def _amounts(resource: ApiResource, value: Any, path: str) -> Any:
    """The text or texts of one amount or a map of them, where numbers may have been written."""
    if isinstance(value, dict):
        return {key: _amounts(resource, item, f"{path}.{key}") for key, item in value.items() if item is not None}
    _require(resource, isinstance(value, str | int | float) and not isinstance(value, bool), value, path, "Quantity")
    if isinstance(value, float) and not value.is_integer():
        return f"{round(value * 1000)}m"
    return value if isinstance(value, str) else str(int(value))


def _require(resource: ApiResource, fits: bool, value: Any, path: str, wanted: str) -> None:
    if fits:
        return
    names = {str: "string", bool: "bool", int: "number", float: "number", list: "array", dict: "object"}
    raise bad_request(
        f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}: json: cannot '
        f"unmarshal {names.get(type(value), 'null')} into Go struct field {resource.kind}.{path} of type {wanted}"
    )


def _require_base64(resource: ApiResource, value: Any, path: str) -> None:
    _require(resource, isinstance(value, str), value, path, "[]uint8")
    try:
        base64.b64decode(value, validate=True)
    except binascii.Error as exc:
        what = f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}'
        raise bad_request(f"{what}: illegal base64 data in {path}") from exc


def missing_fields(resource: ApiResource, obj: Obj) -> list[str]:
    """Paths of required fields that a client's object lacks, outside its status."""
    model = model_of(resource)
    if model is None:
        return []
    return _missing(model, {name: value for name, value in obj.items() if name not in ("status", "metadata")}, "")


def _missing(model: type, obj: Obj, path: str) -> list[str]:
    found: list[str] = []
    for name, field in fields_of(model).items():
        here = f"{path}.{name}" if path else name
        value = obj.get(name)
        if value is None:
            optional = field.shape != "one" or not _ZERO_IS_FINE.isdisjoint((field.scalar, name))
            if field.required and not optional and (path or name not in ("metadata", "status")):
                found.append(here)
        elif field.model is not None:
            if field.shape == "one":
                found += _missing(field.model, value, here)
            elif field.shape == "list":
                found += [p for i, item in enumerate(value) for p in _missing(field.model, item, f"{here}[{i}]")]
            else:
                found += [p for key, item in value.items() for p in _missing(field.model, item, f"{here}.{key}")]
    return found
