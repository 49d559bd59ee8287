# SPDX-License-Identifier: Apache-2.0
"""Custom resource definitions: what each adds to the catalog, and the schema its objects must keep to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lab.devkube.api.error import invalid
from lab.devkube.api.objects import Obj, items_of, name_of, part, timestamp
from lab.devkube.api.resource import ApiResource, Catalog
from lab.devkube.api.store import ObjectEvent, ObjectEventType
from lab.devkube.api.structural import prune, set_schema_defaults, violations

CRD_KEY = ("apiextensions.k8s.io", "customresourcedefinitions")
CLEANUP_FINALIZER = "customresourcecleanup.apiextensions.k8s.io"


@dataclass(frozen=True, slots=True)
class CustomKind:
    """One served version of a definition."""

    resource: ApiResource
    schema: Obj
    columns: tuple[Obj, ...]
    definition: str


class CustomKinds:
    """All custom resources that are served; follows the store through `observe` and keeps the catalog in step."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._kinds: dict[ApiResource, CustomKind] = {}

    def observe(self, event: ObjectEvent) -> None:
        if event.resource.key != CRD_KEY:
            return
        wanted = {} if event.type is ObjectEventType.DELETED else {k.resource: k for k in custom_kinds(event.object)}
        for resource in [r for r, k in self._kinds.items() if k.definition == name_of(event.object)]:
            if resource not in wanted:
                del self._kinds[resource]
                self._catalog.remove(resource)
        for resource, kind in wanted.items():
            if self._kinds.get(resource) != kind:
                self._kinds[resource] = kind
                self._catalog.put(resource)

    def find(self, resource: ApiResource) -> CustomKind | None:
        return self._kinds.get(resource)

    def complete(self, resource: ApiResource, obj: Obj) -> None:
        """Prune, default and check an object of a custom kind. Raises ApiError 422 naming the wrong fields."""
        kind = self._kinds.get(resource)
        if kind is None:
            return
        prune(kind.schema, obj)
        set_schema_defaults(kind.schema, obj)
        if causes := list(violations(kind.schema, obj)):
            raise invalid(resource, name_of(obj), causes)

    def unknown_fields(self, resource: ApiResource, obj: Obj) -> list[str]:
        """Remove what the schema does not know and return the paths of what was removed."""
        kind = self._kinds.get(resource)
        return prune(kind.schema, obj) if kind else []


def custom_kinds(definition: Obj) -> list[CustomKind]:
    """What a definition serves, the stored version first."""
    spec, names = definition["spec"], definition["spec"]["names"]
    versions = sorted(items_of(spec, "versions"), key=lambda v: not v.get("storage"))
    found: list[CustomKind] = []
    for version in versions:
        if not version.get("served", True):
            continue
        resource = ApiResource(
            spec["group"],
            version["name"],
            names["plural"],
            names["kind"],
            spec.get("scope") == "Namespaced",
            tuple(names.get("shortNames") or ()),
            tuple(names.get("categories") or ()),
            tuple(s for s in ("status", "scale") if s in part(version, "subresources")),
            custom=True,
            singular=names.get("singular", ""),
        )
        schema = part(part(version, "schema"), "openAPIV3Schema")
        columns = tuple(items_of(version, "additionalPrinterColumns"))
        found.append(CustomKind(resource, schema, columns, name_of(definition)))
    return found


def establish(definition: Obj, wall: Callable[[], float]) -> None:
    """Write the status that clients wait for before they create objects of the new kind."""
    spec = definition["spec"]
    status = definition.setdefault("status", {})
    before = {c["type"]: c for c in items_of(status, "conditions")}
    reasons = {
        "NamesAccepted": ("NoConflicts", "no conflicts found"),
        "Established": ("InitialNamesAccepted", "the initial names have been accepted"),
    }
    now = timestamp(wall())
    status["conditions"] = [
        before.get(kind, {"type": kind, "status": "True", "lastTransitionTime": now, "reason": why, "message": text})
        for kind, (why, text) in reasons.items()
    ]
    status["acceptedNames"] = spec["names"]
    stored = [v["name"] for v in items_of(spec, "versions") if v.get("storage")]
    status["storedVersions"] = sorted({*(status.get("storedVersions") or ()), *stored})
