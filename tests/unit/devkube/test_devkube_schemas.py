# SPDX-License-Identifier: Apache-2.0
"""Schemas: structural ones of custom kinds, the models of built-in ones, and protobuf bodies."""

from __future__ import annotations

from typing import Any

import pytest

from lab.devkube.api.crd import CustomKinds
from lab.devkube.api.error import ApiError
from lab.devkube.api.models import decode, missing_fields, model_of
from lab.devkube.api.objects import Obj
from lab.devkube.api.openapi import Documents, index
from lab.devkube.api.protobuf_bodies import decode_body
from lab.devkube.api.resource import BUILT_IN, KEPT, built_in_catalog
from lab.devkube.api.structural import prune, set_schema_defaults, violations


def complaints(schema: Obj, value: Any) -> list[str]:
    return [f"{cause.field}: {cause.text}" for cause in violations({"properties": {"f": schema}}, {"f": value})]


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "integer", "minimum": 1, "maximum": 9}, 5, 10),
        ({"type": "integer"}, 5, True),
        ({"type": "integer"}, 5, "5"),
        ({"type": "number"}, 1.5, "x"),
        ({"type": "string", "enum": ["a", "b"]}, "a", "c"),
        ({"type": "string", "pattern": "^[a-z]+$"}, "abc", "A"),
        ({"type": "string", "maxLength": 3}, "abc", "abcd"),
        ({"type": "string", "format": "ipv4"}, "10.0.0.1", "10.0.0"),
        ({"type": "array", "maxItems": 1, "items": {"type": "string"}}, ["a"], ["a", "b"]),
        ({"type": "array", "items": {"type": "string"}}, ["a"], [1]),
        ({"type": "object", "additionalProperties": {"type": "string"}}, {"k": "v"}, {"k": 1}),
        ({"type": "object", "required": ["a"]}, {"a": 1}, {}),
        ({"type": "string", "nullable": True}, None, 1),
        ({"type": "string"}, "a", None),
        ({"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}]}, "80", True),
        ({"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}, {"a": 1}, {"a": 1, "b": 1}),
        ({"anyOf": [{"required": ["a"]}, {"required": ["b"]}]}, {"b": 1}, {"c": 1}),
        ({"not": {"required": ["a"]}}, {"b": 1}, {"a": 1}),
    ],
)
def test_values_are_checked_against_their_schema(schema: Obj, good: Any, bad: Any) -> None:
    assert complaints(schema, good) == []
    assert complaints(schema, bad) != []


def test_unknown_fields_are_pruned_unless_the_schema_keeps_them() -> None:
    kept = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    inner = {"type": "object", "properties": {"known": {"type": "string"}}}
    schema = {"properties": {"spec": inner, "free": kept, "list": {"items": inner}}}
    value = {
        "apiVersion": "v1", "kind": "X", "metadata": {"name": "x"}, "extra": 1, "free": {"any": {"thing": 1}},
        "spec": {"known": "a", "unknown": 1}, "list": [{"known": "a", "more": 2}],
    }  # fmt: skip
    assert prune(schema, value) == ["extra", "spec.unknown", "list[0].more"]
    assert value["free"] == {"any": {"thing": 1}}
    assert value["metadata"] == {"name": "x"}
    assert value["spec"] == {"known": "a"}


def test_defaults_fill_objects_that_are_there() -> None:
    inner = {"type": "object", "properties": {"a": {"default": 1}}}
    schema = {
        "properties": {"there": inner, "absent": inner, "made": {**inner, "default": {}}, "list": {"items": inner}}
    }
    value: Obj = {"there": {}, "list": [{}, {"a": 2}]}
    set_schema_defaults(schema, value)
    assert value == {"there": {"a": 1}, "made": {"a": 1}, "list": [{"a": 1}, {"a": 2}]}


def resource(kind: str) -> Any:
    return next(r for r in BUILT_IN if r.kind == kind)


def test_built_in_objects_lose_nulls_and_unknown_fields() -> None:
    service = {
        "metadata": {"name": "x", "creationTimestamp": None},
        "spec": {"ports": [{"port": 1, "prt": 2}], "foo": 1},
    }
    assert decode(resource("Service"), service) == ["spec.ports[0].prt", "spec.foo"]
    assert service == {"metadata": {"name": "x"}, "spec": {"ports": [{"port": 1}]}}


@pytest.mark.parametrize(
    ("kind", "obj"),
    [
        ("Deployment", {"spec": {"replicas": "3"}}),
        ("Service", {"spec": {"ports": {"port": 80}}}),
        ("Service", {"spec": {"selector": {"a": 1}}}),
        ("Pod", {"spec": {"hostNetwork": "yes"}}),
        ("Secret", {"data": {"a": "not base64!"}}),
    ],
)
def test_built_in_values_of_the_wrong_type_are_refused(kind: str, obj: Obj) -> None:
    with pytest.raises(ApiError) as raised:
        decode(resource(kind), obj)
    assert raised.value.code == 400


def test_missing_fields_are_named() -> None:
    deployment = {"spec": {"template": {"spec": {"containers": [{"image": "x", "ports": [{"name": "http"}]}]}}}}
    missing = missing_fields(resource("Deployment"), deployment)
    assert missing == [
        "spec.selector", "spec.template.spec.containers[0].name",
        "spec.template.spec.containers[0].ports[0].containerPort",
    ]  # fmt: skip


def test_every_built_in_kind_has_a_model() -> None:
    assert [r.kind for r in (*BUILT_IN, *KEPT) if model_of(r) is None] == []


def test_documents_describe_every_kind_and_resolve_every_reference() -> None:
    catalog = built_in_catalog()
    documents = Documents(catalog, CustomKinds(catalog))
    for where in index(catalog)["paths"]:
        group, version = (where.split("/")[1], where.split("/")[2]) if where.startswith("apis") else ("", "v1")
        document = documents.document(group, version)
        assert document is not None
        schemas = document["components"]["schemas"]
        kinds = {k["kind"] for s in schemas.values() for k in s.get("x-kubernetes-group-version-kind", ())}
        assert {r.kind for r in catalog.in_version(group, version)} <= kinds
        assert _references(document) <= {f"#/components/schemas/{name}" for name in schemas}


def test_documents_say_how_lists_are_merged() -> None:
    catalog = built_in_catalog()
    document = Documents(catalog, CustomKinds(catalog)).document("", "v1")
    assert document is not None
    schemas = document["components"]["schemas"]

    def key(model: str, field: str) -> str | None:
        found: str | None = schemas[f"io.k8s.api.v1.{model}"]["properties"][field].get("x-kubernetes-patch-merge-key")
        return found

    assert key("PodSpec", "containers") == "name"
    assert key("Container", "ports") == "containerPort"
    assert key("ServiceSpec", "ports") == "port"
    assert key("PodStatus", "conditions") == "type"
    assert key("PodSpec", "tolerations") is None


def _references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*(_references(inner) for inner in value.values()))
    return set().union(*(_references(inner) for inner in value)) if isinstance(value, list) else set()


def field(number: int, payload: bytes) -> bytes:
    return bytes([number << 3 | 2, len(payload)]) + payload


def envelope(kind: str, raw: bytes) -> bytes:
    type_meta = field(1, b"v1") + field(2, kind.encode())
    return b"k8s\0" + field(1, type_meta) + field(2, raw)


def test_protobuf_bodies_become_objects() -> None:
    meta = field(1, b"planet") + field(3, b"") + field(11, field(1, b"a") + field(2, b"b")) + field(8, b"")
    decoded = decode_body(envelope("ConfigMap", field(1, meta) + field(2, field(1, b"k") + field(2, b"v"))))
    assert decoded == {
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "planet", "labels": {"a": "b"}}, "data": {"k": "v"},
    }  # fmt: skip


@pytest.mark.parametrize("body", [b"{}", b"k8s\0\x0a\xff", b"k8s\0\x0a", envelope("ConfigMap", b"\x0a\x7f")])
def test_broken_protobuf_is_a_bad_request(body: bytes) -> None:
    with pytest.raises(ApiError) as raised:
        decode_body(body)
    assert raised.value.code == 400


def test_unreadable_protobuf_comes_with_advice() -> None:
    for body in (envelope("CronJob", b""), envelope("ConfigMap", field(9, b"what"))):
        with pytest.raises(ApiError, match="kubectl apply -f -") as raised:
            decode_body(body)
        assert raised.value.code == 415
