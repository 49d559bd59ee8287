# SPDX-License-Identifier: Apache-2.0
"""How lists of objects are told apart element by element, per kind and field. Pure.

A path is the field names from the object's root, without list positions: ("spec", "template", "spec", "containers").
"""

from __future__ import annotations

from typing import Protocol

from lab.devkube.api.objects import Obj

Path = tuple[str, ...]

_ANYWHERE = {
    "containers": "name", "initContainers": "name", "ephemeralContainers": "name", "volumes": "name", "env": "name",
    "volumeMounts": "mountPath", "volumeDevices": "devicePath", "imagePullSecrets": "name", "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey", "ownerReferences": "uid", "podIPs": "ip", "schedulingGates": "name",
    "resourceClaims": "name",
}  # fmt: skip
_CONTAINER_LISTS = frozenset({"containers", "initContainers", "ephemeralContainers"})
_CONDITIONS = frozenset(
    {
        "Pod", "Node", "Namespace", "Service", "Deployment", "ReplicaSet", "DaemonSet", "StatefulSet", "Job",
        "PersistentVolumeClaim", "PodDisruptionBudget", "HorizontalPodAutoscaler", "APIService",
    }
)  # fmt: skip
_BY_KIND_AND_PATH: dict[tuple[str, Path], str] = {
    ("Service", ("spec", "ports")): "port",
    ("ServiceAccount", ("secrets",)): "name",
    ("Node", ("status", "addresses")): "type",
    ("MutatingWebhookConfiguration", ("webhooks",)): "name",
    ("ValidatingWebhookConfiguration", ("webhooks",)): "name",
}
_SETS = frozenset({"finalizers", "podCIDRs"})
_DEFAULTS = {"protocol": "TCP"}


def strategic_key(kind: str, path: Path) -> str | None:
    """The field by which a strategic merge patch matches elements; None where it replaces the list as a whole."""
    if path and path[-1] == "ports" and len(path) > 1 and path[-2] in _CONTAINER_LISTS:
        return "containerPort"
    if path == ("status", "conditions") and kind in _CONDITIONS:
        return "type"
    return _BY_KIND_AND_PATH.get((kind, path)) or _ANYWHERE.get(path[-1] if path else "")


def is_set(path: Path) -> bool:
    """Whether the list holds plain values that are merged as a set."""
    return bool(path) and path[-1] in _SETS


class ListRules(Protocol):
    """How server-side apply treats the lists of one kind."""

    def keys(self, path: Path) -> tuple[str, ...]:
        """The fields that identify an element; none for a list owned as a whole."""

    def is_set(self, path: Path) -> bool:
        """Whether each value has its own owner."""


class BuiltInRules:
    """List types of the built-in kinds."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def keys(self, path: Path) -> tuple[str, ...]:
        if path == ("status", "conditions"):
            return ("type",)
        key = strategic_key(self._kind, path)
        if key in ("port", "containerPort"):
            return (key, "protocol")
        return (key,) if key else ()

    def is_set(self, path: Path) -> bool:
        return is_set(path)


class SchemaRules:
    """List types as a custom resource's structural schema declares them."""

    def __init__(self, schema: Obj) -> None:
        self._schema = schema

    def keys(self, path: Path) -> tuple[str, ...]:
        if path == ("metadata", "ownerReferences"):
            return ("uid",)
        found = self._at(path)
        return tuple(found.get("x-kubernetes-list-map-keys") or ()) if self._type(found) == "map" else ()

    def is_set(self, path: Path) -> bool:
        return path == ("metadata", "finalizers") or self._type(self._at(path)) == "set"

    @staticmethod
    def _type(schema: Obj) -> str:
        return str(schema.get("x-kubernetes-list-type", "atomic"))

    def _at(self, path: Path) -> Obj:
        schema = self._schema
        for field in path:
            while isinstance(schema.get("items"), dict):
                schema = schema["items"]
            more = schema.get("additionalProperties")
            schema = (schema.get("properties") or {}).get(field) or (more if isinstance(more, dict) else {})
        return schema


def element_key(item: Obj, keys: tuple[str, ...]) -> Obj:
    """The identifying fields of a list element, defaults included."""
    return {key: item.get(key, _DEFAULTS.get(key)) for key in keys}
