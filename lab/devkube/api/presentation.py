# SPDX-License-Identifier: Apache-2.0
"""The form an answer takes: the objects themselves, a table of them, or their metadata only. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from lab.devkube.api.column import Column
from lab.devkube.api.columns import built_in_columns, custom_columns
from lab.devkube.api.crd import CustomKinds
from lab.devkube.api.objects import Obj
from lab.devkube.api.resource import ApiResource


class Form(StrEnum):
    OBJECT = "object"
    TABLE = "table"
    METADATA = "metadata"


@dataclass(frozen=True, slots=True)
class Presentation:
    """How one client wants one resource. `include` says what a table row carries besides its cells."""

    resource: ApiResource
    form: Form
    include: str
    columns: tuple[Column, ...]
    wall: Callable[[], float]

    def one(self, obj: Obj) -> Obj:
        if self.form is Form.TABLE:
            return self._table([obj], {"resourceVersion": obj["metadata"].get("resourceVersion", "")})
        return _metadata_only(obj) if self.form is Form.METADATA else self._in_version(obj)

    def many(self, items: list[Obj], meta: Obj) -> Obj:
        if self.form is Form.TABLE:
            return self._table(items, meta)
        if self.form is Form.METADATA:
            partial = {"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": meta}
            return partial | {"items": [_metadata_only(item) for item in items]}
        listed: Obj = {"kind": f"{self.resource.kind}List", "apiVersion": self.resource.api_version, "metadata": meta}
        return listed | {"items": [self._in_version(item) for item in items]}

    def in_event(self, obj: Obj, *, first: bool) -> Obj:
        """The object of a watch event; only the first table names its columns."""
        shown = self.one(obj)
        if self.form is Form.TABLE and not first:
            shown["columnDefinitions"] = None
        return shown

    @property
    def is_stored_form(self) -> bool:
        """Whether objects go out byte for byte as they are stored (unless their version differs)."""
        return self.form is Form.OBJECT

    def _in_version(self, obj: Obj) -> Obj:
        wanted = self.resource.api_version
        return obj if obj.get("apiVersion") == wanted else {**obj, "apiVersion": wanted}

    def _table(self, items: list[Obj], meta: Obj) -> Obj:
        return {
            "kind": "Table",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": meta,
            "columnDefinitions": [column.definition() for column in self.columns],
            "rows": [self._row(item) for item in items],
        }

    def _row(self, obj: Obj) -> Obj:
        now = self.wall()
        cells = [column.cell(obj, now) for column in self.columns]
        if self.include == "None":
            return {"cells": cells}
        return {"cells": cells, "object": self._in_version(obj) if self.include == "Object" else _metadata_only(obj)}


def choose(
    resource: ApiResource, accept: str, include: str, custom: CustomKinds, wall: Callable[[], float]
) -> Presentation:
    """The form that an Accept header asks for first."""
    form = Form.OBJECT
    for offer in accept.split(","):
        if "as=Table" in offer:
            form = Form.TABLE
        elif "as=PartialObjectMetadata" in offer:
            form = Form.METADATA
        else:
            continue
        break
    kind = custom.find(resource) if resource.custom else None
    columns = custom_columns(kind.columns) if kind else built_in_columns(resource.kind)
    return Presentation(resource, form, include or "Metadata", columns, wall)


def _metadata_only(obj: Obj) -> Obj:
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}
