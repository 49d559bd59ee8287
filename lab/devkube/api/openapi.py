# SPDX-License-Identifier: Apache-2.0
"""OpenAPI v3 documents per group version: what kubectl explains, validates and computes patches from. Pure."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from lab.devkube.api.crd import CustomKinds
from lab.devkube.api.merge_keys import strategic_key
from lab.devkube.api.models import Field, fields_of, model_of
from lab.devkube.api.objects import Obj
from lab.devkube.api.resource import ApiResource, Catalog

EMPTY_V2_TYPE = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
"""The type of /openapi/v2; an empty body of it is a valid document and all that old clients need."""

_WRITE_PARAMETERS = ("dryRun", "fieldManager", "fieldValidation", "force")
_MODEL_PREFIX = re.compile(r"^[A-Z][a-z]*V\d+(?=[A-Z])|^V\d+(?=[A-Z])")
_META_MODELS = frozenset(
    {
        "V1ObjectMeta",
        "V1OwnerReference",
        "V1ManagedFieldsEntry",
        "V1LabelSelector",
        "V1LabelSelectorRequirement",
        "V1Condition",
        "V1ListMeta",
    }
)
_SCALARS: dict[str, Obj] = {
    "int": {"type": "integer"},
    "bool": {"type": "boolean"},
    "float": {"type": "number"},
    "datetime": {"type": "string", "format": "date-time"},
    "bytes": {"type": "string", "format": "byte"},
    "object": {"type": "string", "format": "int-or-string"},
}
_KINDS_OF_CONTAINERS = {"V1Container": "containers", "V1EphemeralContainer": "ephemeralContainers"}


def index(catalog: Catalog) -> Obj:
    """Where the documents are; the hash in each address changes with its content, so that clients may keep it."""
    paths: Obj = {}
    for group, versions in catalog.versions().items():
        for version in versions:
            where = f"apis/{group}/{version}" if group else f"api/{version}"
            resources = repr(catalog.in_version(group, version))
            digest = hashlib.sha256(f"{catalog.generation}{resources}".encode()).hexdigest()[:32].upper()
            paths[where] = {"serverRelativeURL": f"/openapi/v3/{where}?hash={digest}"}
    return {"paths": paths}


class Documents:
    """Documents made on demand and kept until the catalog changes."""

    def __init__(self, catalog: Catalog, custom: CustomKinds) -> None:
        self._catalog, self._custom = catalog, custom
        self._generation = -1
        self._made: dict[tuple[str, str], Obj] = {}

    def document(self, group: str, version: str) -> Obj | None:
        """None if the group version is not served."""
        if self._generation != self._catalog.generation:
            self._made.clear()
            self._generation = self._catalog.generation
        if (group, version) not in self._made:
            resources = self._catalog.in_version(group, version)
            if not resources:
                return None
            self._made[(group, version)] = self._make(resources)
        return self._made[(group, version)]

    def _make(self, resources: list[ApiResource]) -> Obj:
        schemas = _Schemas()
        paths: Obj = {}
        for resource in resources:
            kind = {"group": resource.group, "version": resource.version, "kind": resource.kind}
            path = _path(resource)
            paths[path] = {"patch": _operation(resource, "patch", kind)}
            paths[path.removesuffix("/{name}")] = {"post": _operation(resource, "post", kind)}
            schemas.add_kind(resource, kind, self._custom)
        info = {"title": "Kubernetes (development server)", "version": "dev"}
        return {"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": schemas.found}}


class _Schemas:
    """The components of one document."""

    def __init__(self) -> None:
        self.found: Obj = {}

    def add_kind(self, resource: ApiResource, kind: Obj, custom: CustomKinds) -> None:
        model = model_of(resource)
        if model is not None:
            self.found[self._component(model, resource.kind)]["x-kubernetes-group-version-kind"] = [kind]
            return
        known = custom.find(resource)
        schema: Obj = {"type": "object"} | _described(known.schema if known else {})
        properties = dict(schema.get("properties") or {})
        properties |= {"apiVersion": {"type": "string"}, "kind": {"type": "string"}}
        properties["metadata"] = {"allOf": [self._reference("V1ObjectMeta", _meta_model(), "")]}
        schema |= {"properties": properties, "x-kubernetes-group-version-kind": [kind]}
        name = ".".join(reversed(resource.group.split(".")))
        self.found[f"{name}.{resource.version}.{resource.kind}"] = schema

    def _component(self, model: type, kind: str) -> str:
        name = _component_name(model)
        if name not in self.found:
            schema: Obj = {"type": "object", "properties": {}}
            self.found[name] = schema
            if text := (model.__doc__ or "").strip().split("\n")[0]:
                schema["description"] = text
            fields = fields_of(model)
            schema["properties"] = {field.name: self._property(field, model, kind) for field in fields.values()}
            if required := [field.name for field in fields.values() if field.required]:
                schema["required"] = required
        return name

    def _property(self, field: Field, model: type, kind: str) -> Obj:
        if field.model is not None:
            element: Obj = self._reference(field.scalar, field.model, kind)
            single: Obj = {"allOf": [element]}
        else:
            element = single = dict(_SCALARS.get(field.scalar, {"type": "string"}))
        if field.shape == "map":
            made: Obj = {"type": "object", "additionalProperties": element}
        elif field.shape == "list":
            made = {"type": "array", "items": element} | _merge_hints(field, model, kind)
        else:
            made = single
        return made | ({"description": field.description} if field.description else {})

    def _reference(self, _name: str, model: type, kind: str) -> Obj:
        return {"$ref": f"#/components/schemas/{self._component(model, kind)}"}


def _merge_hints(field: Field, model: type, kind: str) -> Obj:
    """Which field keys the list, so that clients compute the patches that the server understands."""
    owner = model.__name__
    if owner in _KINDS_OF_CONTAINERS:
        path: tuple[str, ...] = (_KINDS_OF_CONTAINERS[owner], field.name)
    elif owner.endswith("Status"):
        path, kind = ("status", field.name), owner.removeprefix("V1").removesuffix("Status")
    elif owner == "V1ServiceSpec":
        path, kind = ("spec", field.name), "Service"
    elif owner == "V1ServiceAccount":
        path, kind = (field.name,), "ServiceAccount"
    else:
        path = ("", field.name)
    key = strategic_key(kind, path)
    if key is None:
        return {}
    strategy = "merge,retainKeys" if field.name == "volumes" else "merge"
    return {"x-kubernetes-patch-merge-key": key, "x-kubernetes-patch-strategy": strategy}


def _component_name(model: type) -> str:
    plain = _MODEL_PREFIX.sub("", model.__name__)
    place = "io.k8s.apimachinery.pkg.apis.meta.v1" if model.__name__ in _META_MODELS else "io.k8s.api.v1"
    return f"{place}.{plain}"


def _meta_model() -> type:
    pod = model_of(ApiResource("", "v1", "pods", "Pod"))
    found = fields_of(pod)["metadata"].model if pod else None
    if found is None:
        raise LookupError("the client library has no model of object metadata")
    return found


def _described(schema: Obj) -> Obj:
    """A custom schema as it is, with a type everywhere, which `explain` insists on."""

    def typed(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        made = {key: inner for key, inner in value.items() if key not in ("properties", "items")}
        if isinstance(properties := value.get("properties"), dict):
            made["properties"] = {name: typed(inner) for name, inner in properties.items()}
        if isinstance(items := value.get("items"), dict):
            made["items"] = typed(items)
        made.setdefault("type", "string" if value.get("x-kubernetes-int-or-string") else "object")
        return made

    described: Obj = typed(schema)
    return described


def _path(resource: ApiResource) -> str:
    base = f"/apis/{resource.group}/{resource.version}" if resource.group else f"/api/{resource.version}"
    space = "/namespaces/{namespace}" if resource.namespaced else ""
    return f"{base}{space}/{resource.plural}/{{name}}"


def _operation(resource: ApiResource, action: str, kind: Obj) -> Obj:
    parameters = [{"name": name, "in": "query", "schema": {"type": "string"}} for name in _WRITE_PARAMETERS]
    return {
        "operationId": f"{action}{resource.kind}",
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": kind,
        "parameters": parameters,
        "responses": {},
    }
